"""progress: count user_progress anew from sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import (
    batch_options,
    database,
    json_option,
    local_option,
    print_json,
    require_migrated,
)
from profiles_schema.cli.progress import INTERRUPTED, Step, at_work
from profiles_schema.cli.style import counted, styled

if TYPE_CHECKING:
    from profiles_schema.operations.batches import Progress


@click.group(
    cls=Verbs, epilog=examples("profiles-schema progress recount --dry-run", "profiles-schema progress recount")
)
def progress() -> None:
    """Compare the progress of users with their sessions, and count anew what differs."""


@progress.command(
    "recount",
    epilog=examples("profiles-schema progress recount --dry-run", "profiles-schema progress recount --max-rate 200"),
)
@click.option("--dry-run", is_flag=True, help="Say whose progress differs, and in what; change nothing.")
@batch_options("users", "a session of a user of the batch that ends meanwhile waits for it")
@local_option
@json_option
def recount(  # noqa: PLR0917 - click passes them by name
    dry_run: bool, batch_size: int, target_ms: int, max_rate: float | None, local: bool, as_json: bool
) -> int:
    """Count the progress of users anew where it is not what their ended sessions say.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`. Points and words are no part of it.
    Exit 1 if a user could not be counted; with --dry-run, if anything differs.
    """
    from profiles_schema.operations import batches
    from profiles_schema.operations import recount as operation

    with database(local=local, writes=not dry_run) as connection:
        require_migrated(connection)
        if dry_run:
            plan = operation.plan(connection)
            connection.rollback()
            _print_plan(plan, as_json=as_json)
            return int(bool(plan["differing"]))
        last = batches.Progress(0, 0)
        with at_work("progress recount", "users", _step) as work:
            for last in operation.recount(
                connection, batch_users=batch_size, target_ms=target_ms, max_rate=max_rate, stopped=work.stopped
            ):
                work.show(last)
    if last.state == "stopped":
        click.echo(
            f"stopped after {last.done} of {last.total} users; go on with: profiles-schema progress recount", err=True
        )
        return INTERRUPTED
    if as_json:
        print_json({"recounted": last.changed, "failed": dict(last.failed)})
    else:
        click.echo(f"counted the progress of {counted(last.changed, 'user')} anew")
        for code, users in last.failed.items():
            click.echo(f"{styled('failed', 'problem')} for {counted(users, 'user')}: SQLSTATE {code}")
    return int(bool(last.failed))


def _step(progress: Progress) -> Step:
    state = progress.state
    if state == "paused":
        state += f": profiles-schema jobs resume {progress.job_id}"
    return Step(progress.done, progress.total, progress.rows_per_second, progress.eta_seconds, state)


def _print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    click.echo(f"users whose progress is not what their sessions say: {plan['differing']}; nothing was changed")
    if plan["differing"]:
        click.echo(f"locks: {plan['locks']}")
        click.echo("the first ones, and what differs:")
        for user, columns in plan["sample"]:
            click.echo(f"  {user}  {', '.join(columns)}")
