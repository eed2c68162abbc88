"""backfill: create the profiles that are missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json, require_migrated
from profiles_schema.cli.progress import INTERRUPTED, Step, at_work
from profiles_schema.cli.style import counted, styled

if TYPE_CHECKING:
    from profiles_schema.operations.backfill import Progress


@click.command(
    cls=Verb,
    epilog=examples(
        "profiles-schema backfill --dry-run",
        "profiles-schema backfill --max-rate 500",
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and how long it should take; change nothing.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    metavar="USERS",
    help="Users in the first batch; later ones follow the target.",
)
@click.option(
    "--target-ms",
    type=click.IntRange(5, 200),
    default=100,
    show_default=True,
    metavar="MS",
    help="How long a batch should take; a sign-up waits 250 ms for a lock.",
)
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), metavar="USERS", help="Most users per second.")
@click.option(
    "--remove-gone",
    is_flag=True,
    help="Where users follow a table of your own: remove those whose row is gone, even if they are many.",
)
@click.option(
    "--erase-deleted",
    is_flag=True,
    help="Also erase users who were deleted before the tables were taken over. This cannot be undone.",
)
@local_option
@json_option
def backfill(  # noqa: PLR0917 - click passes them by name
    dry_run: bool,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    remove_gone: bool,
    erase_deleted: bool,
    local: bool,
    as_json: bool,
) -> int:
    """Create the profiles and progress that are missing, and repair what recorded failures left undone.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`; exit 1 if a user could not be
    given a profile.
    """
    from profiles_schema.operations import backfill as operation

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        if dry_run:
            plan = operation.plan(connection, batch_users=batch_size)
            connection.rollback()
            _print_plan(plan, as_json=as_json, erase_deleted=erase_deleted)
            return 0

        progress = operation.Progress()
        with at_work("backfill", "users", _step) as work:
            for progress in operation.backfill(
                connection,
                batch_users=batch_size,
                target_ms=target_ms,
                max_rate=max_rate,
                remove_gone=remove_gone,
                erase_deleted=erase_deleted,
                stopped=work.stopped,
            ):
                work.show(progress)
    if progress.state == "stopped":
        click.echo(
            f"stopped after {progress.users} of {progress.total} users; go on with: profiles-schema backfill", err=True
        )
        return INTERRUPTED
    if as_json:
        print_json(asdict(progress))
    else:
        _print_result(progress)
    if progress.gone:
        click.echo(
            f"{counted(progress.gone, 'user')} have no row any more in the table that they come from: more than one in ten. If that is"
            " meant, remove them and their profiles with: profiles-schema backfill --remove-gone",
            err=True,
        )
    return int(bool(progress.failed or progress.gone))


def _print_result(progress: Progress) -> None:
    done = [f"created {counted(progress.created, 'profile')}"]
    if progress.completed:
        done.append(f"added the progress of {counted(progress.completed, 'user')}")
    done.append(f"repaired {counted(progress.repaired, 'profile')} that had not followed their user")
    if progress.erased:
        done.append(f"erased {counted(progress.erased, 'deleted user')}")
    click.echo("; ".join(done))
    if progress.left_columns:
        click.echo(f"columns of the application were left as they are: {', '.join(progress.left_columns)}")
    if progress.followed or progress.released:
        click.echo(
            f"followed {counted(progress.followed, 'row')} of the table of users;"
            f" removed {counted(progress.released, 'user')} without one"
        )
    for code, users in progress.failed.items():
        click.echo(f"{styled('failed', 'problem')} for {counted(users, 'user')}: SQLSTATE {code}")


def _step(progress: Progress) -> Step:
    state = progress.state
    if state == "paused":
        state += f": profiles-schema jobs resume {progress.job_id}"
    return Step(progress.users, progress.total, progress.users_per_second, progress.eta_seconds, state)


def _print_plan(plan: dict[str, Any], *, as_json: bool, erase_deleted: bool) -> None:
    if as_json:
        print_json(plan)
        return
    if plan.get("not_followed"):
        click.echo(f"rows of the table of users that are no users yet: {plan['not_followed']}")
    click.echo(f"users without profile or progress: {plan['missing']}; nothing was changed")
    erased = plan.get("to_erase", 0) + (plan.get("found_deleted", 0) if erase_deleted else 0)
    if erased:
        click.echo(f"deleted users whose personal data would be erased, irrevocably: {erased}")
        if plan["left_columns"]:
            click.echo(f"columns of the application would be left as they are: {', '.join(plan['left_columns'])}")
    if plan.get("found_deleted") and not erase_deleted:
        click.echo(
            f"users who were deleted before the tables were taken over: {plan['found_deleted']}; their personal data stays,"
            " unless: profiles-schema backfill --erase-deleted"
        )
    if plan["missing"]:
        shortest, longest = plan["seconds"]
        click.echo(f"it should take {shortest:.0f} to {longest:.0f} s")
        click.echo(f"locks: {plan['locks']}")
        click.echo("the first ones:")
        for user, username in plan["sample"]:
            click.echo(f"  {user}  {username}")
