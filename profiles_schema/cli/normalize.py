"""normalize: wide columns of user_profiles become JSON, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import batch_options, database, json_option, local_option, print_json, require_migrated
from profiles_schema.cli.progress import INTERRUPTED, Step, Work, at_work
from profiles_schema.cli.style import counted, styled

if TYPE_CHECKING:
    from profiles_schema.operations.batches import Progress
    from profiles_schema.operations.normalize import Status, Verification

_SHOWN = 50

_with_batch_options = batch_options("profiles", "a sign-up waits 250 ms for a lock")


@click.group(
    cls=Verbs,
    epilog=examples(
        "profiles-schema normalize status", "profiles-schema normalize run", "profiles-schema normalize contract"
    ),
)
def normalize() -> None:
    """Move the 106 known wide columns of user_profiles into its JSON groups; drop them once that is proved; bring them back."""


@normalize.command("status", epilog=examples("profiles-schema normalize status"))
@local_option
@json_option
def show_status(local: bool, as_json: bool) -> None:
    """Say where the normalization stands, and what comes next."""
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
@click.option("--dry-run", is_flag=True, help="Say what would be done, and how long it should take; change nothing.")
@_with_batch_options
@local_option
@json_option
def run(dry_run: bool, batch_size: int, target_ms: int, max_rate: float | None, local: bool, as_json: bool) -> int:  # noqa: PLR0917 - click passes them by name
    """Copy the values of the wide columns into the JSON groups.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`; exit 1 if a profile could not be
    converted.
    """
    from profiles_schema.operations import normalize as operation

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        if dry_run:
            plan = operation.plan(connection, batch_rows=batch_size)
            connection.rollback()
            if as_json:
                print_json(plan)
            else:
                click.echo(f"{plan['columns']} wide columns in {plan['profiles']} profiles; nothing was changed")
                click.echo(f"it should take {plan['seconds'][0]:.0f} to {plan['seconds'][1]:.0f} s")
                click.echo(f"locks: {plan['locks']}")
            return 0
        with at_work("normalize", "profiles", _step) as work:
            steps = operation.convert(
                connection, batch_rows=batch_size, target_ms=target_ms, max_rate=max_rate, stopped=work.stopped
            )
            progress = _followed(work, steps)
        found = operation.status(connection)
    return _told(progress, found, "converted", "profiles-schema normalize run", as_json=as_json)


@normalize.command("restore", epilog=examples("profiles-schema normalize restore"))
@_with_batch_options
@local_option
@json_option
def restore(batch_size: int, target_ms: int, max_rate: float | None, local: bool, as_json: bool) -> int:
    """Bring the dropped columns back, filled from the JSON; exit 1 if a profile could not be restored."""
    from profiles_schema.operations import normalize as operation

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        with at_work("restore", "profiles", _step) as work:
            steps = operation.restore(
                connection, batch_rows=batch_size, target_ms=target_ms, max_rate=max_rate, stopped=work.stopped
            )
            progress = _followed(work, steps)
        found = operation.status(connection)
    return _told(progress, found, "restored", "profiles-schema normalize restore", as_json=as_json)


def _followed(work: Work, steps: Iterator[Progress]) -> Progress | None:
    last = None
    for last in steps:
        work.show(last)
    return last


def _step(progress: Progress) -> Step:
    state = progress.state
    if state == "paused":
        state += f": profiles-schema jobs resume {progress.job_id}"
    return Step(progress.done, progress.total, progress.rows_per_second, progress.eta_seconds, state)


def _told(progress: Progress | None, found: Status, done: str, again: str, *, as_json: bool) -> int:
    if progress is not None and progress.state == "stopped":
        click.echo(f"stopped after {progress.done} of {progress.total} profiles; go on with: {again}", err=True)
        return INTERRUPTED
    failed = dict(progress.failed) if progress else {}
    if as_json:
        changed = progress.changed if progress else 0
        print_json({"changed": changed, "failed": failed, **found.as_dict()})
    else:
        if progress is None:
            click.echo("nothing to do")
        else:
            click.echo(f"{done} {counted(progress.changed, 'profile')}")
        for code, profiles in failed.items():
            click.echo(f"{styled('failed', 'problem')} for {counted(profiles, 'profile')}: SQLSTATE {code}")
        click.echo(f"next: {_next(found)}")
    return int(bool(failed))


@normalize.command(
    "verify", epilog=examples("profiles-schema normalize verify", "profiles-schema normalize verify --json")
)
@local_option
@json_option
def verify(local: bool, as_json: bool) -> int:
    """Compare every wide column with the JSON, profile by profile; exit 1 and the differences if there are any."""
    from profiles_schema.operations import normalize as operation

    with database(local=local) as connection:
        require_migrated(connection)
        with at_work("verify", "profiles", _verify_step) as work:
            result = _verified(work, operation.verify(connection, stopped=work.stopped))
        phase = operation.status(connection).phase
    if result is None or result.state == "stopped":
        click.echo("stopped; nothing was changed", err=True)
        return INTERRUPTED
    if as_json:
        print_json({**asdict(result), "phase": phase})
        return int(bool(result.different))
    if phase in {"none", "found", "contracted"}:
        click.echo({"contracted": "the wide columns are dropped", "none": "there are no wide columns"}.get(
            phase, "there are wide columns that nobody recorded: profiles-schema normalize run"
        ))  # fmt: skip
        return 0
    click.echo(f"{result.profiles} profiles compared, {result.different} values differ")
    for each in result.differences[:_SHOWN]:
        click.echo(f"  {each.user_id}  {each.column}  column {_quoted(each.old)}  JSON {_quoted(each.new)}")
    if result.different > _SHOWN:
        click.echo(
            f"  … and {result.different - _SHOWN} more; --json names up to 1000 of them, and counts them by column"
        )
    if result.different and phase == "expanded":
        click.echo("not all profiles are converted yet: profiles-schema normalize run")
    return int(bool(result.different))


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
        with at_work("verify", "profiles", _verify_step) as work:
            result = _verified(work, operation.contract(connection, now=now, stopped=work.stopped))
    if result is not None and result.state == "stopped":
        click.echo("stopped; no column is dropped", err=True)
        return INTERRUPTED
    dropped = before.columns if result is not None else 0
    if as_json:
        print_json({"dropped": dropped, "profiles": result.profiles if result else 0})
    elif dropped:
        click.echo(f"{result.profiles if result else 0} profiles compared, no difference; {dropped} columns dropped")
    else:
        click.echo("nothing to do: there are no wide columns")
    return 0


def _verified(work: Work, steps: Iterator[Verification]) -> Verification | None:
    last = None
    for last in steps:
        work.show(replace(last, differences=[]))  # one line each; the result names them
    return last


def _verify_step(progress: Verification) -> Step:
    left = progress.total - progress.profiles
    eta = left / progress.profiles_per_second if progress.profiles_per_second else None
    return Step(progress.profiles, progress.total, progress.profiles_per_second, eta, progress.state)


def _quoted(value: str | None) -> str:
    return "NULL" if value is None else repr(value)
