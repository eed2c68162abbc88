"""normalize: wide columns of user_profiles become JSON, and come back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import batch_options, database, json_option, local_option, print_json, require_migrated
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.style import counted, print_failures

if TYPE_CHECKING:
    from profiles_schema.operations.batch_job import Progress
    from profiles_schema.operations.normalize import Status

_SHOWN = 50

_with_batch_options = batch_options("profiles", "a sign-up waits 250 ms for a lock")


@click.group(
    cls=Verbs,
    epilog=examples(
        "profiles-schema normalize status", "profiles-schema normalize run", "profiles-schema normalize contract"
    ),
)
def normalize() -> None:
    """Move the 106 known wide columns of user_profiles to its JSON groups; verify, drop and restore them."""


@normalize.command("status", epilog=examples("profiles-schema normalize status"))
@local_option
@json_option
def show_status(local: bool, as_json: bool) -> None:
    """Show the present phase and the next step."""
    from profiles_schema.operations.normalize import status

    with database(local=local) as connection:
        require_migrated(connection)
        found = status(connection)
    if as_json:
        print_json(found.as_dict())
        return
    click.echo(f"phase      {found.phase}")
    click.echo(f"columns    {found.columns} recorded and in the table, {found.found} not recorded")
    click.echo(f"profiles   about {found.profiles}")
    if found.columns:
        click.echo(f"in step    {'yes' if found.in_step else 'NO: the trigger is missing, disabled or changed'}")
    if found.due is not None:
        click.echo(
            f"period     converted {found.converted_at:%Y-%m-%d %H:%M %Z}, verification until {found.due:%Y-%m-%d %H:%M %Z}"
        )
    if found.job:
        click.echo(f"job        {found.job}")
    if found.kept:
        click.echo(f"kept       {found.kept} JSON values set aside in profiles_internal.kept_json")
    click.echo(f"next       {_next(found)}")


def _next(found: Status) -> str:
    if found.phase in {"found", "expanded"} or (found.columns and not found.in_step and found.phase != "restoring"):
        return "profiles-schema normalize run"
    return {
        "none": "nothing: there are no wide columns",
        "converted": "profiles-schema normalize verify, then profiles-schema normalize contract",
        "restoring": "profiles-schema normalize restore",
        "contracted": "nothing: the columns are dropped (profiles-schema normalize restore brings them back)",
    }[found.phase]


@normalize.command(
    "run",
    epilog=examples("profiles-schema normalize run --dry-run", "profiles-schema normalize run --max-rate 500"),
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it should take, and change nothing.")
@_with_batch_options
@local_option
@json_option
def run(dry_run: bool, batch_size: int, target_ms: int, max_rate: float | None, local: bool, as_json: bool) -> int:  # noqa: PLR0917 - click passes them by name
    """Copy the values of the wide columns to the JSON groups.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`; exit 1 if a profile could not be
    converted.
    """
    from profiles_schema.operations import normalize as operation
    from profiles_schema.operations.batch_job import Limits

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        if dry_run:
            forecast = operation.forecast(connection, batch_rows=batch_size)
            connection.rollback()
            if as_json:
                print_json(forecast)
            else:
                click.echo(
                    f"{forecast['columns']} wide columns in {forecast['profiles']} profiles; nothing was changed"
                )
                click.echo(f"it should take {forecast['seconds'][0]:.0f} to {forecast['seconds'][1]:.0f} s")
                click.echo(f"locks: {forecast['locks']}")
            return 0
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "normalize run",
            lambda stopped: operation.convert(connection, limits=limits, stopped=stopped),
            as_json=as_json,
        )
    return _finish(done, "converted", local=local, as_json=as_json)


@normalize.command("restore", epilog=examples("profiles-schema normalize restore"))
@_with_batch_options
@local_option
@json_option
def restore(batch_size: int, target_ms: int, max_rate: float | None, local: bool, as_json: bool) -> int:
    """Restore the dropped columns, filled from the JSON; exit 1 if a profile could not be restored."""
    from profiles_schema.operations import normalize as operation
    from profiles_schema.operations.batch_job import Limits

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "normalize restore",
            lambda stopped: operation.restore(connection, limits=limits, stopped=stopped),
            as_json=as_json,
        )
    return _finish(done, "restored", local=local, as_json=as_json)


def _finish(done: Progress, word: str, *, local: bool, as_json: bool) -> int:
    """Say what was done, and what comes next; the exit code."""
    from profiles_schema.operations.normalize import status

    with database(local=local) as connection:
        found = status(connection)
    changed = done.counts.get(word, 0)
    if as_json:
        print_json({"changed": changed, "failed": done.failed, **found.as_dict()})
        return int(bool(done.failed))
    click.echo(f"{word} {counted(changed, 'profile')}" if done.job else "nothing to do")
    print_failures(done.failed, "profile")
    click.echo(f"next: {_next(found)}")
    return int(bool(done.failed))


@normalize.command(
    "verify", epilog=examples("profiles-schema normalize verify", "profiles-schema normalize verify --json")
)
@local_option
@json_option
def verify(local: bool, as_json: bool) -> int:
    """Compare every wide column with the JSON, profile by profile; print the differences, and exit 1 if there are any."""
    from profiles_schema.operations import normalize as operation

    with database(local=local) as connection:
        require_migrated(connection)
        found = operation.Differences()
        done = run_job(
            "normalize verify",
            lambda stopped: operation.verify(connection, differences=found, stopped=stopped),
            as_json=as_json,
            remark="; nothing was changed",
        )
    with database(local=local) as connection:
        phase = operation.status(connection).phase
    different = done.counts.get("different", 0)
    wrong = int(bool(different or done.failed))
    if as_json:
        print_json(
            {
                "total": done.total, "profiles": done.done, "different": different, "failed": done.failed,
                "differences": [asdict(each) for each in found.named], "columns": found.columns, "phase": phase,
                "state": done.state,
            }
        )  # fmt: skip
        return wrong
    if phase in {"none", "found", "contracted"}:
        click.echo({"contracted": "the wide columns are dropped", "none": "there are no wide columns"}.get(
            phase, "there are unrecorded wide columns: profiles-schema normalize run"
        ))  # fmt: skip
        return 0
    click.echo(f"{done.done} profiles compared, {different} values differ")
    print_failures(done.failed, "profile")
    for each in found.named[:_SHOWN]:
        click.echo(f"  {each.user_id}  {each.column}  column {_quote(each.old)}  JSON {_quote(each.new)}")
    if different > _SHOWN:
        click.echo(f"  … and {different - _SHOWN} more; --json names up to 1000 of them, and counts them by column")
    if different and phase == "expanded":
        click.echo("not all profiles are converted yet: profiles-schema normalize run")
    return wrong


@normalize.command(
    "contract",
    epilog=examples("profiles-schema normalize contract", "profiles-schema normalize contract --now"),
)
@click.option("--now", is_flag=True, help="Do not wait for the end of the verification period.")
@local_option
@json_option
def contract(now: bool, local: bool, as_json: bool) -> int:
    """Drop the wide columns, if every row proves equal and the verification period is over; exit 1 if not."""
    from profiles_schema.operations import normalize as operation

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        before = operation.status(connection)
        connection.rollback()
        done = run_job(
            "normalize contract",
            lambda stopped: operation.contract(connection, now=now, stopped=stopped),
            as_json=as_json,
            remark="; no column is dropped",
        )
    dropped = before.columns if done.job else 0
    if as_json:
        print_json({"dropped": dropped, "profiles": done.done})
    elif dropped:
        click.echo(f"{done.done} profiles compared, no difference; {dropped} columns dropped")
    else:
        click.echo("nothing to do: there are no wide columns")
    return 0


def _quote(value: str | None) -> str:
    return "NULL" if value is None else repr(value)
