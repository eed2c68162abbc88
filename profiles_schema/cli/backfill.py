"""backfill: create the profiles that are missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.options import database, json_option, local_option, print_json, require_migrated
from profiles_schema.cli.progress import INTERRUPTED, Step, asked_to_stop, shown

if TYPE_CHECKING:
    from profiles_schema.operations.backfill import Progress


@click.command()
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
@local_option
@json_option
def backfill(  # noqa: PLR0917 - click passes them by name
    dry_run: bool,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    remove_gone: bool,
    local: bool,
    as_json: bool,
) -> int:
    """Create the profiles and progress that are missing, and repair what recorded failures left undone.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`; exit 1 if a user could not be
    given a profile.
    """
    from profiles_schema.operations import backfill as operation

    with database(local=local) as connection:
        require_migrated(connection)
        if dry_run:
            plan = operation.plan(connection, batch_users=batch_size)
            connection.rollback()
            _print_plan(plan, as_json=as_json)
            return 0

        progress = operation.Progress()
        with asked_to_stop() as stopped, shown("backfill", "users", _step) as show:
            for progress in operation.backfill(
                connection,
                batch_users=batch_size,
                target_ms=target_ms,
                max_rate=max_rate,
                remove_gone=remove_gone,
                stopped=stopped,
            ):
                show(progress)
    if progress.state == "stopped":
        click.echo(
            f"stopped after {progress.users} of {progress.total} users; go on with: profiles-schema backfill", err=True
        )
        return INTERRUPTED
    if as_json:
        print_json(asdict(progress))
    else:
        click.echo(
            f"created {progress.created} profiles; repaired {progress.repaired} that had not followed their user"
        )
        if progress.followed or progress.released:
            click.echo(
                f"followed {progress.followed} rows of the table of users; removed {progress.released} users without one"
            )
        for code, users in progress.failed.items():
            click.echo(f"failed for {users} users: SQLSTATE {code}")
    if progress.gone:
        click.echo(
            f"{progress.gone} users have no row any more in the table that they come from: more than one in ten. If that is"
            " meant, remove them and their profiles with: profiles-schema backfill --remove-gone",
            err=True,
        )
    return int(bool(progress.failed or progress.gone))


def _step(progress: Progress) -> Step:
    state = progress.state
    if state == "paused":
        state += f": profiles-schema jobs resume {progress.job_id}"
    return Step(progress.users, progress.total, progress.users_per_second, progress.eta_seconds, state)


def _print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    if plan.get("not_followed"):
        click.echo(f"{plan['not_followed']} rows of the table of users are no users yet")
    click.echo(f"{plan['missing']} users are without profile or progress; nothing was changed")
    if plan["missing"]:
        shortest, longest = plan["seconds"]
        click.echo(f"it should take {shortest:.0f} to {longest:.0f} s")
        click.echo(f"locks: {plan['locks']}")
        click.echo("the first ones:")
        for user, username in plan["sample"]:
            click.echo(f"  {user}  {username}")
