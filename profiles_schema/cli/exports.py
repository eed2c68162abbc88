"""exports: write what users asked for, list it, remove what has expired."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import (
    batch_options,
    database,
    json_option,
    local_option,
    log_to_stderr,
    print_json,
    require_migrated,
)
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.storage import is_same_place, open_storage
from profiles_schema.cli.style import counted, print_failures
from profiles_schema.cli.tables import print_table
from profiles_schema.settings import EXPORT_STORAGE

if TYPE_CHECKING:
    from profiles_schema.operations.exports import ExportRow
    from profiles_schema.services.export_worker import ExportWorker

_STATUSES = ("pending", "processing", "completed", "failed", "expired")

_storage_option = click.option(
    "--storage",
    envvar=EXPORT_STORAGE,
    required=True,
    metavar="DIRECTORY",
    show_envvar=True,
    help="Where the files are. s3://BUCKET/PREFIX needs the extra s3 and the environment variables of AWS, AWS_ENDPOINT_URL included.",
)


@click.group(
    cls=Verbs,
    epilog=examples(
        "profiles-schema exports work --storage /srv/exports",
        "profiles-schema exports list --status failed",
        "profiles-schema exports purge --storage /srv/exports",
    ),
)
def exports() -> None:
    """Write the exports that users asked for, list them, and remove those that have expired."""


@exports.command(
    "work",
    epilog=examples(
        "profiles-schema exports work --storage /srv/exports",
        "profiles-schema exports work --storage /srv/exports --once",
    ),
)
@_storage_option
@click.option("--once", is_flag=True, help="Stop when no export is due.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 32),
    default=1,
    show_default=True,
    help="How many exports to write at a time.",
)
@click.option(
    "--lease-seconds", type=click.IntRange(1, 3600), default=60, show_default=True, metavar="SECONDS",
    help="After how long without a sign of life another worker takes the export.",
)  # fmt: skip
@click.option(
    "--poll-seconds", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, metavar="SECONDS",
    help="How often to look for new exports when none is due.",
)  # fmt: skip
@click.option(
    "--keep-days", type=click.FloatRange(min=0, min_open=True), default=7.0, show_default=True, metavar="DAYS",
    help="When a completed export expires.",
)  # fmt: skip
@local_option
@json_option
def work(  # noqa: PLR0917 - click passes them by name
    storage: str,
    once: bool,
    concurrency: int,
    lease_seconds: int,
    poll_seconds: float,
    keep_days: float,
    local: bool,
    as_json: bool,
) -> int:
    """Write exports until SIGTERM or Ctrl-C, after which it finishes the present ones; exit 1 with --once if one failed."""
    from sqlalchemy.orm import sessionmaker

    from profiles_schema.services.export_worker import ExportWorker
    from profiles_schema.services.exports import ExportService
    from profiles_schema.storage import DirectoryStorage

    log_to_stderr()
    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        factory = sessionmaker(connection.engine)
    files = open_storage(storage)
    if isinstance(files, DirectoryStorage):
        # What a killed worker left is removed long after its lease has run out.
        files.remove_unfinished(86_400)
    service = ExportService(factory, files, lease_seconds=lease_seconds, keep_days=keep_days)
    worker = ExportWorker(service, factory)
    with _end_gently(worker):
        outcomes = worker.work(once=once, concurrency=concurrency, poll_seconds=poll_seconds)
    if as_json:
        print_json(dict(outcomes))
    else:
        click.echo(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) or "no exports")
    return int(once and outcomes["failed"] > 0)


@contextmanager
def _end_gently(worker: ExportWorker) -> Iterator[None]:
    """SIGTERM and SIGINT let the worker end what it is at; a second SIGINT ends it at once."""

    def drain(number: int, _frame: Any) -> None:
        if worker.stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        worker.stopped.set()

    before: dict[int, Callable[..., Any] | int | None] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, drain)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@exports.command(
    "list", epilog=examples("profiles-schema exports list", "profiles-schema exports list --status failed --json")
)
@click.option("--status", type=click.Choice(_STATUSES), help="Only exports with this status.")
@click.option("--user", "user_id", type=click.UUID, metavar="ID", help="Only exports of this user.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many to list at most."
)
@local_option
@json_option
def list_them(status: str | None, user_id: uuid.UUID | None, limit: int, local: bool, as_json: bool) -> None:
    """List exports, newest first."""
    from profiles_schema.operations.exports import list_exports

    with database(local=local) as connection:
        require_migrated(connection)
        found = list_exports(connection, status=status, user_id=user_id, limit=limit)
    if as_json:
        print_json([asdict(row) for row in found])
        return
    if not found:
        click.echo("no exports")
        return
    print_table(_HEADER, map(_cells, found))
    for row in found:
        if row.error_message:
            click.echo(f"{row.id}: {row.error_message}")


_HEADER = ("id", "user", "type", "format", "status", "rows", "bytes", "retries", "asked")


def _cells(row: ExportRow) -> tuple[str, ...]:
    return (
        str(row.id),
        str(row.user_id),
        row.export_type,
        row.export_format,
        row.status,
        str(row.records_count),
        "-" if row.file_size_bytes is None else str(row.file_size_bytes),
        str(row.retry_count),
        f"{row.created_at.astimezone():%Y-%m-%d %H:%M}",
    )


@exports.command(
    "purge",
    epilog=examples(
        "profiles-schema exports purge --storage /srv/exports",
        "profiles-schema exports purge --storage /srv/exports --archive-to /srv/archive",
    ),
)
@_storage_option
@click.option("--archive-to", metavar="DIRECTORY", help="Copy every file to this directory before it is removed.")
@click.option(
    "--keep-days", type=click.FloatRange(min=0), default=90.0, show_default=True, metavar="DAYS",
    help="How long after its expiry the row of an export is deleted.",
)  # fmt: skip
@click.option("--orphans", is_flag=True, help="Also remove files whose export was deleted, for example with its user.")
@click.option("--all-orphans", is_flag=True, help="The same, even if most files belong to no export of this database.")
@batch_options("exports", "a worker waits for it")
@local_option
@json_option
def purge(  # noqa: PLR0917 - click passes them by name
    storage: str,
    archive_to: str | None,
    keep_days: float,
    orphans: bool,
    all_orphans: bool,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    local: bool,
    as_json: bool,
) -> int:
    """Remove the files of expired exports; exit 1 if one could not be removed. Can be interrupted and run again."""
    from profiles_schema.operations import exports as operation
    from profiles_schema.operations.batch_job import Limits

    if archive_to and is_same_place(storage, archive_to):
        raise click.UsageError("--archive-to names the storage itself. Name another place.")
    files = open_storage(storage)
    archive = open_storage(archive_to) if archive_to else None
    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "exports purge",
            lambda stopped: operation.purge(
                connection, files, archive=archive, keep_days=keep_days, orphans=orphans, all_orphans=all_orphans,
                limits=limits, stopped=stopped,
            ),
            as_json=as_json,
        )  # fmt: skip
    counts = {name: done.counts.get(name, 0) for name in ("purged", "orphans", "unreachable")}
    if as_json:
        print_json(counts)
    else:
        click.echo(f"purged {counted(counts['purged'], 'export')}")
        if counts["orphans"]:
            click.echo(f"removed {counted(counts['orphans'], 'file')} without an export")
        if counts["unreachable"]:
            click.echo(f"{counted(counts['unreachable'], 'file')} could not be removed; run this again")
        print_failures(done.failed, "file")
    return int(counts["unreachable"] > 0 or bool(done.failed))
