"""progress: count user_progress anew from sessions."""

from __future__ import annotations

from typing import Any

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
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.style import counted, print_failures


@click.group(
    cls=Verbs, epilog=examples("profiles-schema progress recount --dry-run", "profiles-schema progress recount")
)
def progress() -> None:
    """Compare the progress of users with their sessions, and count again what differs."""


@progress.command(
    "recount",
    epilog=examples("profiles-schema progress recount --dry-run", "profiles-schema progress recount --max-rate 200"),
)
@click.option("--dry-run", is_flag=True, help="Say whose progress differs, and in which columns, and change nothing.")
@batch_options("users", "if a user in the batch ends a session, that statement waits for it")
@local_option
@json_option
def recount(  # noqa: PLR0917 - click passes them by name
    dry_run: bool, batch_size: int, target_ms: int, max_rate: float | None, local: bool, as_json: bool
) -> int:
    """Count the progress of users again if it differs from their ended sessions.

    Can be interrupted and run again at any time, and paused with `profiles-schema jobs`. It does not touch points and words.
    Exit 1 if a user could not be counted; with --dry-run, if anything differs.
    """
    from profiles_schema.operations import recount as operation
    from profiles_schema.operations.batch_job import Limits

    with database(local=local, writes=not dry_run) as connection:
        require_migrated(connection)
        if dry_run:
            forecast = operation.forecast(connection)
            connection.rollback()
            _print_forecast(forecast, as_json=as_json)
            return int(bool(forecast["differing"]))
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "progress recount",
            lambda stopped: operation.recount(connection, limits=limits, stopped=stopped),
            as_json=as_json,
        )
    recounted = done.counts.get("recounted", 0)
    if as_json:
        print_json({"recounted": recounted, "failed": done.failed})
    else:
        click.echo(f"counted the progress of {counted(recounted, 'user')} anew")
        print_failures(done.failed, "user")
    return int(bool(done.failed))


def _print_forecast(forecast: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(forecast)
        return
    click.echo(f"users whose progress is not what their sessions say: {forecast['differing']}; nothing was changed")
    if forecast["differing"]:
        click.echo(f"locks: {forecast['locks']}")
        click.echo("the first ones, and what differs:")
        for user, columns in forecast["sample"]:
            click.echo(f"  {user}  {', '.join(columns)}")
