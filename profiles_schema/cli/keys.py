"""keys: encrypt the API keys of users, and see which are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import batch_options, database, json_option, local_option, print_json
from profiles_schema.cli.progress import at_work, say_stopped
from profiles_schema.cli.style import counted, print_failures

if TYPE_CHECKING:
    from profiles_schema.operations.batch_job import Progress
    from profiles_schema.operations.keys import KeysStatus

_REMAINS = "plain text remains in old pages until VACUUM FULL, and in WAL and backups until the keys are replaced at the provider"

_table_option = click.option(
    "--table",
    default="user_api_keys",
    show_default=True,
    metavar="NAME",
    help="The table, with its schema if that is not public.",
)


@click.group(
    cls=Verbs,
    epilog=examples(
        "profiles-schema keys generate", "profiles-schema keys encrypt --dry-run", "profiles-schema keys status"
    ),
)
def keys() -> None:
    """Generate encryption keys, encrypt the API keys of users, and see which are encrypted.

    PROFILES_ENCRYPTION_KEYS holds the key ring, ID:KEY,ID:KEY: the first key encrypts, all decrypt.
    """


@keys.command(
    "generate", epilog=examples("profiles-schema keys generate", "profiles-schema keys generate --id 2027-spring")
)
@click.option(
    "--id", "key_id", metavar="ID", help="Its id, up to 64 of A-Z a-z 0-9 _ -; by default the day and four digits."
)
def generate(key_id: str | None) -> None:
    """Print a new entry for the key ring, ID:KEY, and nothing else on stdout."""
    from profiles_schema.operations import keys as operation

    click.echo(operation.generate(key_id))
    click.echo(
        "Keep it where your secrets are. Put it first into the ring, and leave the others in: they still decrypt.\n"
        "Without showing it:\n"
        '  export PROFILES_ENCRYPTION_KEYS="$(profiles-schema keys generate)'
        '${PROFILES_ENCRYPTION_KEYS:+,$PROFILES_ENCRYPTION_KEYS}"',
        err=True,
    )


@keys.command(
    "encrypt",
    epilog=examples(
        "profiles-schema keys encrypt --dry-run", "profiles-schema keys encrypt --table legacy.api_keys --max-rate 200"
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it should take, and change nothing.")
@_table_option
@batch_options("rows", "a session that uses a row of the batch waits for it")
@local_option
@json_option
def encrypt(  # noqa: PLR0917 - click passes them by name
    dry_run: bool,
    table: str,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    local: bool,
    as_json: bool,
) -> int:
    """Encrypt API keys that are in the table in plain text, also in a database that was never migrated.

    Can be interrupted and run again at any time; envelopes stay as they are. Exit 1 if a value remains that is neither
    NULL nor an envelope.
    """
    from profiles_schema.encryption import KeyRing
    from profiles_schema.operations import keys as operation
    from profiles_schema.operations.batch_job import Limits, Progress

    ring = KeyRing.from_environment()
    with database(local=local, writes=True) as connection:
        if dry_run:
            forecast = operation.forecast(connection, ring, table=table, batch_rows=batch_size)
            before = operation.status(connection, table=table)
            if as_json:
                print_json(forecast | before.as_dict())
            else:
                _print_forecast(forecast, before)
            return 0
        with at_work("keys encrypt", as_json=as_json) as work:
            done = work.follow(
                operation.encrypt(
                    connection, ring, table=table, limits=Limits(batch_size, target_ms, max_rate), stopped=work.stopped
                )
            ) or Progress("encrypt")  # fmt: skip
    if done.state == "stopped":
        return say_stopped(done, "profiles-schema keys encrypt")
    with database(local=local) as connection:
        after = operation.status(connection, table=table)
    if as_json:
        counts = {name: done.counts.get(name, 0) for name in ("encrypted", "emptied")}
        print_json({**counts, "failed": done.failed, **after.as_dict()})
    else:
        _print_result(done, after)
    return int(bool(after.unencrypted))


def _print_forecast(forecast: dict[str, Any], found: KeysStatus) -> None:
    if rows := forecast["rows"]:
        shortest, longest = forecast["seconds"]
        plain = sum(column.plain for column in found.columns.values())
        click.echo(f"{plain} values in plain text, in {rows} rows of {found.table}; nothing was changed")
        click.echo(f"it should take {shortest:.0f} to {longest:.0f} s")
        click.echo(f"locks: {forecast['locks']}")
    else:
        _print_nothing(found)
    _print_left(found, blank="blank values would become NULL")


def _print_result(done: Progress, after: KeysStatus) -> None:
    if not done.total:
        _print_nothing(after)
    else:
        rows = done.done - sum(done.failed.values())
        click.echo(
            f"encrypted {counted(done.counts.get('encrypted', 0), 'value')} in {counted(rows, 'row')} of {after.table}"
        )
        if done.counts.get("emptied"):
            click.echo(f"{done.counts['emptied']} blank values became NULL")
        print_failures(done.failed, "row")
        plain = sum(column.plain for column in after.columns.values())
        if plain and not done.failed and not after.without_user:
            click.echo(
                f"{plain} values are in plain text still: their rows were in use, or came in meanwhile; run this again"
            )
    _print_left(after)
    if done.counts.get("encrypted"):
        click.echo(_REMAINS)


def _print_nothing(found: KeysStatus) -> None:
    envelopes = sum(sum(c.envelopes.values()) + sum(c.unknown.values()) for c in found.columns.values())
    why = "; its CHECKs admit nothing but envelopes" if found.guarded else ""
    click.echo(f"nothing to do: {envelopes} values of {found.table} are encrypted{why}")


def _print_left(found: KeysStatus, blank: str = "") -> None:
    """What a person has to look at."""
    for count, what in (
        (sum(c.blank for c in found.columns.values()) if blank else 0, blank),
        (sum(c.too_long for c in found.columns.values()), "values are too long for an envelope and stay as they are"),
        (sum(c.damaged for c in found.columns.values()), "values look like damaged envelopes and stay as they are"),
        (found.without_user, "values are of rows without user_id and stay as they are"),
    ):
        if count:
            click.echo(f"{count} {what}")


@keys.command(
    "status", epilog=examples("profiles-schema keys status", "profiles-schema keys status --table legacy.api_keys")
)
@_table_option
@local_option
@json_option
def show_status(table: str, local: bool, as_json: bool) -> int:
    """Count what is encrypted with which key; exit 1 if a value is in plain text or its key is not in the ring."""
    from profiles_schema.operations.keys import status

    with database(local=local) as connection:
        found = status(connection, table=table)
    if as_json:
        print_json(found.as_dict())
    else:
        _print_status(found)
    return int(bool(found.unencrypted or found.unknown))


def _print_status(found: KeysStatus) -> None:
    click.echo(f"table      {found.table}")
    click.echo(f"ring       {', '.join(found.ring) or 'PROFILES_ENCRYPTION_KEYS is not set'}")
    for name, column in found.columns.items():
        words = [f"{column.null} NULL", f"{column.plain} plain text"]
        words += [f"{rows} by key {key_id}" for key_id, rows in sorted(column.envelopes.items())]
        words += [f"{rows} by key {key_id}, NOT IN THE RING" for key_id, rows in sorted(column.unknown.items())]
        others = asdict(column)
        words += [
            f"{others[kind]} {kind.replace('_', ' ')}" for kind in ("blank", "too_long", "damaged") if others[kind]
        ]
        click.echo(f"{name:<18} {', '.join(words)}")
    if found.unencrypted:
        click.echo("next: profiles-schema keys encrypt")
    elif found.unknown:
        click.echo("next: put the missing keys back into PROFILES_ENCRYPTION_KEYS, behind the first")
