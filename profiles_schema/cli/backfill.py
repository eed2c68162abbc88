"""backfill: create the profiles that are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import (
    batch_options,
    database,
    json_option,
    local_option,
    print_json,
    require_migrated,
)
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.style import counted, print_failures

_COUNTS = ("created", "completed", "repaired", "erased", "followed", "released", "gone")


@click.command(
    cls=Verb,
    epilog=examples(
        "profiles-schema backfill --dry-run",
        "profiles-schema backfill --max-rate 500",
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it should take, and change nothing.")
@batch_options("users", "a sign-up waits 250 ms for a lock")
@click.option(
    "--remove-gone",
    is_flag=True,
    help="Also remove many users whose row in your own table of users is gone.",
)
@click.option(
    "--erase-deleted",
    is_flag=True,
    help="Also erase users who were deleted before the tables were adopted. This cannot be undone.",
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
    """Create missing profiles and progress, and repair what recorded failures left undone.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`; exit 1 if a user could not
    get a profile.
    """
    from profiles_schema.operations import backfill as operation
    from profiles_schema.operations.batch_job import Limits

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        if dry_run:
            forecast = operation.forecast(connection, batch_rows=batch_size)
            connection.rollback()
            _print_forecast(forecast, as_json=as_json, erase_deleted=erase_deleted)
            return 0

        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "backfill",
            lambda stopped: operation.backfill(
                connection, limits=limits, remove_gone=remove_gone, erase_deleted=erase_deleted, stopped=stopped
            ),
            as_json=as_json,
        )
    counts = Counter(done.counts)
    with database(local=local) as connection:
        left_columns = operation.left_columns(connection) if counts["erased"] else []
    if as_json:
        print_json({name: counts[name] for name in _COUNTS} | {"failed": done.failed, "left_columns": left_columns})
    else:
        _print_result(counts, done.failed, left_columns)
    if counts["gone"]:
        click.echo(
            f"{counted(counts['gone'], 'user')} have no row any more in the table that they come from: more than one in ten."
            " If that is meant, remove them and their profiles with: profiles-schema backfill --remove-gone",
            err=True,
        )
    return int(bool(done.failed or counts["gone"]))


def _print_result(counts: Counter[str], failed: Mapping[str, int], left_columns: list[str]) -> None:
    done = [f"created {counted(counts['created'], 'profile')}"]
    if counts["completed"]:
        done.append(f"added the progress of {counted(counts['completed'], 'user')}")
    done.append(f"repaired {counted(counts['repaired'], 'profile')} that had not followed their user")
    if counts["erased"]:
        done.append(f"erased {counted(counts['erased'], 'deleted user')}")
    click.echo("; ".join(done))
    if left_columns:
        click.echo(f"columns of the application were left as they are: {', '.join(left_columns)}")
    if counts["followed"] or counts["released"]:
        click.echo(
            f"followed {counted(counts['followed'], 'row')} of the table of users;"
            f" removed {counted(counts['released'], 'user')} without one"
        )
    print_failures(failed, "user")


def _print_forecast(forecast: dict[str, Any], *, as_json: bool, erase_deleted: bool) -> None:
    if as_json:
        print_json(forecast)
        return
    if forecast.get("not_followed"):
        click.echo(f"rows of the table of users that are no users yet: {forecast['not_followed']}")
    click.echo(f"users without profile or progress: {forecast['missing']}; nothing was changed")
    erased = forecast.get("to_erase", 0) + (forecast.get("found_deleted", 0) if erase_deleted else 0)
    if erased:
        click.echo(f"deleted users whose personal data would be erased, irrevocably: {erased}")
        if forecast["left_columns"]:
            click.echo(f"columns of the application would be left as they are: {', '.join(forecast['left_columns'])}")
    if forecast.get("found_deleted") and not erase_deleted:
        click.echo(
            f"users who were deleted before the tables were taken over: {forecast['found_deleted']}; their personal data stays,"
            " unless: profiles-schema backfill --erase-deleted"
        )
    if forecast["missing"]:
        shortest, longest = forecast["seconds"]
        click.echo(f"it should take {shortest:.0f} to {longest:.0f} s")
        click.echo(f"locks: {forecast['locks']}")
        click.echo("the first ones:")
        for user, username in forecast["sample"]:
            click.echo(f"  {user}  {username}")
