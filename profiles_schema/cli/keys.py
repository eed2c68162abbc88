"""keys: encrypt the API keys of users, see which are, rotate the keys that encrypt them, and ask providers about them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import batch_options, database, json_option, local_option, print_json
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.style import counted, print_failures
from profiles_schema.settings import RECORDED_BY_MISTAKE

if TYPE_CHECKING:
    from uuid import UUID

    from profiles_schema.operations.batch_job import Progress
    from profiles_schema.operations.keys import KeysStatus

_REMAINS = "plain text remains in old pages until VACUUM FULL, and in WAL and backups until the keys are replaced at the provider"

_tables_option = click.option(
    "--table", metavar="NAME", help="One table, with its schema if that is not public; by default all with API keys."
)
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
        "profiles-schema keys generate", "profiles-schema keys encrypt --dry-run", "profiles-schema keys status",
        "profiles-schema keys rotate", "profiles-schema keys validate --provider openai",
    ),
)  # fmt: skip
def keys() -> None:
    """Generate encryption keys, encrypt the API keys of users, rotate what encrypts them, and validate them.

    PROFILES_ENCRYPTION_KEYS holds the key ring, ID:KEY,ID:KEY: the first key encrypts, all decrypt. Instead,
    PROFILES_ENCRYPTION_KEYS_FILE names a file with it, or PROFILES_ENCRYPTION_KMS_KEYS holds one that AWS KMS has encrypted.
    """


@keys.command(
    "generate", epilog=examples("profiles-schema keys generate", "profiles-schema keys generate --id 2027-spring")
)
@click.option(
    "--id", "key_id", metavar="ID", help="Its id, up to 64 of A-Z a-z 0-9 _ -; by default the day and four digits."
)
@click.option("--kms", metavar="KEY", help="Let AWS KMS make it, encrypted under this key of KMS (id, ARN or alias).")
def generate(key_id: str | None, kms: str | None) -> None:
    """Print a new entry for the key ring, ID:KEY, and nothing else on stdout."""
    from profiles_schema.operations import keys as operation

    if kms:
        click.echo(operation.generate_wrapped(kms, key_id))
        click.echo(
            "Put it first into PROFILES_ENCRYPTION_KMS_KEYS, and leave the others in: they still decrypt.", err=True
        )
        return
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
    from profiles_schema.key_providers import keys_from_environment
    from profiles_schema.operations import keys as operation
    from profiles_schema.operations.batch_job import Limits

    ring = keys_from_environment().ring()
    with database(local=local, writes=True) as connection:
        if dry_run:
            forecast = operation.forecast(connection, ring, table=table, batch_rows=batch_size)
            before = operation.status(connection, table=table)
            if as_json:
                print_json(forecast | before.as_dict())
            else:
                _print_forecast(forecast, before)
            return 0
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "keys encrypt",
            lambda stopped: operation.encrypt(connection, ring, table=table, limits=limits, stopped=stopped),
            as_json=as_json,
        )
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
    "rotate", epilog=examples("profiles-schema keys rotate --dry-run", "profiles-schema keys rotate --max-rate 200")
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it should take, and change nothing.")
@_tables_option
@batch_options("rows", "a session that uses a row of the batch waits for it")
@local_option
@json_option
def rotate(  # noqa: PLR0917 - click passes them by name
    dry_run: bool,
    table: str | None,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    local: bool,
    as_json: bool,
) -> int:
    """Encrypt by the first key of the ring what is under another one, while the application works.

    Can be interrupted and run again at any time. Exit 1 if something is left under an old key.
    """
    from profiles_schema.key_providers import keys_from_environment
    from profiles_schema.operations import key_rotation as operation
    from profiles_schema.operations.batch_job import Limits
    from profiles_schema.operations.keys import status

    ring = keys_from_environment().ring()
    with database(local=local, writes=True) as connection:
        if dry_run:
            forecast = operation.forecast_rotation(connection, ring, table=table, batch_rows=batch_size)
            if as_json:
                print_json(forecast | status(connection, table=table).as_dict())
            else:
                shortest, longest = forecast["seconds"]
                click.echo(f"{counted(forecast['rows'], 'row')} under old keys; nothing was changed")
                if forecast["rows"]:
                    click.echo(f"it should take {shortest:.0f} to {longest:.0f} s\nlocks: {forecast['locks']}")
            return 0
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "keys rotate",
            lambda stopped: operation.rotate(connection, ring, table=table, limits=limits, stopped=stopped),
            as_json=as_json,
        )
    with database(local=local) as connection:
        after = status(connection, table=table)
    if as_json:
        counts = {name: done.counts.get(name, 0) for name in ("rotated", "damaged")}
        print_json({**counts, "failed": done.failed, **after.as_dict()})
    else:
        click.echo(
            f"{counted(done.counts.get('rotated', 0), 'value')} of {after.table} are under key {ring.ids[0]} now"
        )
        if done.counts.get("damaged"):
            click.echo(f"{counted(done.counts['damaged'], 'value')} did not open and stay as they are")
        print_failures(done.failed, "row")
        if after.old and not done.counts.get("damaged") and not done.failed:
            click.echo(f"{counted(after.old, 'value')} are under old keys: their rows were in use; run this again")
        _print_removable(after)
    return int(bool(after.old))


@keys.command(
    "validate",
    epilog=examples("profiles-schema keys validate --older-than 7", "profiles-schema keys validate --provider openai"),
)
@click.option("--provider", metavar="NAME", help="Keys of this provider only: openai, anthropic or unsplash.")
@click.option("--user", "user_id", type=click.UUID, metavar="ID", help="Keys of this user only.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Not those that were checked since.")
@click.option(
    "--max-rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N requests per second."
)
@click.option(
    "--disable-after",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Disable a key that its provider has refused (HTTP 401) N times in a row.",
)
@click.option(
    "--base-url", "base_urls", multiple=True, metavar="PROVIDER=URL", help="Ask a provider at another address."
)
@local_option
@json_option
def validate(  # noqa: PLR0917 - click passes them by name
    provider: str | None,
    user_id: UUID | None,
    older_than: float | None,
    max_rate: float | None,
    disable_after: int,
    base_urls: tuple[str, ...],
    local: bool,
    as_json: bool,
) -> int:
    """Ask providers whether they take the keys of users, and keep the answers (needs extra validate).

    Can be interrupted at any time; go on with --older-than. Exit 1 if a key was refused or did not open.
    """
    from profiles_schema.cli.key_validation import validate_keys

    return validate_keys(
        provider=provider, user_id=user_id, older_than=older_than, max_rate=max_rate, disable_after=disable_after,
        base_urls=base_urls, local=local, as_json=as_json,
    )  # fmt: skip


@keys.command(
    "status", epilog=examples("profiles-schema keys status", "profiles-schema keys status --unused k20270101-1a2b")
)
@_tables_option
@click.option("--unused", "key_id", metavar="ID", help="Exit 1 if anything is encrypted by this key: may it go?")
@local_option
@json_option
def show_status(table: str | None, key_id: str | None, local: bool, as_json: bool) -> int:
    """Count what is encrypted, and with which key.

    Exit 1 if something is in plain text, its key is not in the ring, or a key changed under its id.
    """
    from profiles_schema.operations.keys import status

    with database(local=local) as connection:
        found = status(connection, table=table)
    if as_json:
        print_json(found.as_dict())
    else:
        _print_status(found)
        if key_id:
            used = found.uses[key_id]
            click.echo(
                f"key {key_id}: {counted(used, 'value')} encrypted by it; it {'must stay' if used else 'may go'}"
            )
    if key_id:
        return int(bool(found.uses[key_id]))
    return int(bool(found.unencrypted or found.unknown or found.changed))


def _print_removable(found: KeysStatus) -> None:
    for key_id in found.removable:
        click.echo(f"key {key_id} may go: nothing here is encrypted by it (backups from before are)")


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
    for changed in found.changed:
        click.echo(f"key {changed} in the ring is ANOTHER ONE than was first used under this id")
    _print_removable(found)
    if found.changed:
        click.echo(f"next: put the former key back, and give the new one an id of its own. {RECORDED_BY_MISTAKE}")
    elif found.unencrypted:
        click.echo("next: profiles-schema keys encrypt")
    elif found.unknown:
        click.echo("next: put the missing keys back into PROFILES_ENCRYPTION_KEYS, behind the first")
    elif found.old:
        click.echo("next: profiles-schema keys rotate")
