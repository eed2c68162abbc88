"""What an export of many sessions costs: seconds, peak memory of the process, rows. In a worker's own code, per format.

python benchmarks/exports.py DATABASE_URL [ROWS]     # a migrated database for trying things out; the user is removed again
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import uuid
from multiprocessing import get_context
from typing import BinaryIO

from openpyxl import load_workbook
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from profiles_schema.database import normalize_url
from profiles_schema.services.export_worker import ExportWorker
from profiles_schema.services.exports import ExportService
from profiles_schema.storage import DirectoryStorage


def main() -> int:
    """Add the sessions, export them in each format, print a line each."""
    url, *given = sys.argv[1:]
    rows = int(given[0]) if given else 1_000_000
    engine = create_engine(normalize_url(url))
    user = uuid.uuid4()
    with engine.begin() as connection:
        connection.execute(
            text("insert into auth.users (id, email) values (:id, :id || '@example.org')"), {"id": str(user)}
        )
        # Rolling a million sessions up is another matter.
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(
            text("insert into public.sessions (user_id, ended_at) select :user, now() from generate_series(1, :rows)"),
            {"user": user, "rows": rows},
        )
    engine.dispose()
    failed = 0
    try:
        for export_format in ("csv", "ndjson", "xlsx"):
            # A process each: peak memory is that of a process.
            process = get_context("spawn").Process(target=measure, args=(url, user, export_format, rows))
            process.start()
            process.join()
            failed += process.exitcode != 0
    finally:
        with engine.begin() as connection:
            connection.execute(text("set local session_replication_role = replica"))
            for table in ("sessions", "export_history", "user_progress", "user_profiles"):
                connection.execute(text(f"delete from public.{table} where user_id = :user"), {"user": user})
            connection.execute(text("delete from auth.users where id = :user"), {"user": user})
    return int(failed > 0)


def measure(url: str, user: uuid.UUID, export_format: str, rows: int) -> None:
    """Export once, as a worker does, and count the rows back."""
    factory = sessionmaker(create_engine(normalize_url(url)))
    with tempfile.TemporaryDirectory() as directory:
        storage = DirectoryStorage(directory)
        service = ExportService(factory, storage)
        asked = service.request(user, "sessions", export_format)
        started = time.monotonic()
        ExportWorker(service, factory).work(once=True)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        done = service.get(asked.id)
        with storage.open(done.file_url or "") as file:
            counted = count_rows(file, export_format)
        print(
            f"{export_format:6} {done.status} {done.records_count} rows, {counted} counted back,"
            f" {done.file_size_bytes} bytes, {seconds:.1f} s, peak {peak:.0f} MB",
            flush=True,
        )
        if not counted == done.records_count == rows:
            raise SystemExit(1)


def count_rows(file: BinaryIO, export_format: str) -> int:
    """The rows of an export, without the lines of names; of xlsx, those of all sheets."""
    if export_format != "xlsx":
        return sum(1 for _ in file) - (export_format == "csv")
    book = load_workbook(file, read_only=True)
    rows = sum(sum(1 for _ in sheet.iter_rows(values_only=True)) - 1 for sheet in book)
    book.close()
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
