"""audit: remove rows of the audit log that are older than its retention."""

from __future__ import annotations

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


@click.group(cls=Verbs, epilog=examples("profiles-schema audit purge --dry-run", "profiles-schema audit purge"))
def audit() -> None:
    """Keep the audit log as long as the setting audit_keep_days says, and no longer."""


@audit.command(
    "purge",
    epilog=examples(
        "profiles-schema audit purge --dry-run",
        "profiles-schema audit purge --keep-days 730",
    ),
)
@click.option(
    "--keep-days", type=click.IntRange(1, 36_500), metavar="DAYS",
    help="Keep rows for so long, in place of the setting audit_keep_days (365 by default).",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say how many rows that are; change nothing.")
@batch_options("rows", "a change of a profile writes there")
@local_option
@json_option
def purge(  # noqa: PLR0917 - click passes them by name
    keep_days: int | None,
    dry_run: bool,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    local: bool,
    as_json: bool,
) -> int:
    """Remove rows of the audit log that are older than the retention. Can be interrupted and run again."""
    from profiles_schema.operations import audit as operation
    from profiles_schema.operations.batch_job import Limits

    with database(local=local, writes=not dry_run) as connection:
        require_migrated(connection)
        with connection.begin():
            days = keep_days or operation.keep_days(connection)
            old = operation.count_old(connection, days) if dry_run else 0
        if dry_run:
            if as_json:
                print_json({"keep_days": days, "rows": old})
            else:
                click.echo(f"{counted(old, 'row')} older than {counted(days, 'day')}; nothing was changed")
            return 0
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "audit purge",
            lambda stopped: operation.purge(connection, days, limits=limits, stopped=stopped),
            as_json=as_json,
        )
    purged = done.counts.get("purged", 0)
    if as_json:
        print_json({"keep_days": days, "purged": purged})
    else:
        click.echo(f"purged {counted(purged, 'row')} older than {counted(days, 'day')}")
        print_failures(done.failed, "row")
    return int(bool(done.failed))
