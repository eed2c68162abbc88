"""backfill: create the profiles that are missing."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from profiles_schema.cli.options import database, json_option, local_option, print_json, require_migrated


@click.command()
@click.option("--dry-run", is_flag=True, help="Say how many users are missing something; change nothing.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 100_000),
    default=1_000,
    show_default=True,
    metavar="USERS",
    help="Users per transaction.",
)
@click.option("--repair-triggers", is_flag=True, help="First put back triggers that are missing, disabled or changed.")
@local_option
@json_option
def backfill(dry_run: bool, batch_size: int, repair_triggers: bool, local: bool, as_json: bool) -> int:
    """Create the profiles and progress that are missing, and repair what recorded failures left undone.

    Can be interrupted and run again at any time; exit 1 if a user could not be given a profile.
    """
    from profiles_schema.operations import backfill as operation

    with database(local=local) as connection:
        require_migrated(connection)
        missing = operation.count_missing(connection)
        connection.rollback()
        if dry_run:
            if as_json:
                print_json({"missing": missing})
            else:
                click.echo(f"{missing} users are without profile or progress; nothing was changed")
            return 0

        repaired_files = operation.repair_triggers(connection) if repair_triggers else []
        progress = operation.Progress()
        for progress in operation.backfill(connection, batch_users=batch_size):
            share = f" ({min(100, 100 * progress.users // missing)} %)" if missing else ""
            print(f"{progress.users} of {missing} users{share}", file=sys.stderr)  # noqa: T201 - progress
    if as_json:
        print_json({**asdict(progress), "missing_before": missing, "repaired_files": repaired_files})
    else:
        for name in repaired_files:
            click.echo(f"put back: {name}")
        click.echo(
            f"created {progress.created} profiles; repaired {progress.repaired} that had not followed their user"
        )
        for code, users in progress.failed.items():
            click.echo(f"failed for {users} users: SQLSTATE {code}")
    return int(bool(progress.failed))
