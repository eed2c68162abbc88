"""Rotation: every API key under the first key of the ring, in place, while the application works.

SQL alone finds the rows under old keys. Each is decrypted, encrypted, written if no other session has changed it
meanwhile, and read back before its batch commits. What is left to do shows in the rows, so the next run goes on where a
killed one ended. Nothing else of a row changes, and the audit log does not grow: it is the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import Connection

from profiles_schema.encryption import KeyRing, key_id_of
from profiles_schema.errors import DecryptionFailed
from profiles_schema.operations.batch_job import FIRST_ROWS, Limits, Progress
from profiles_schema.operations.batches import trial
from profiles_schema.operations.key_tables import (
    LOCKS,
    KeyColumn,
    KeyRow,
    KeyTable,
    Rewrite,
    check_ring,
    fit,
    follow,
    quietly,
    tables_of,
)
from profiles_schema.settings import ENVELOPE_PREFIX


def forecast_rotation(
    connection: Connection, ring: KeyRing, *, table: str | None = None, batch_rows: int = FIRST_ROWS
) -> dict[str, Any]:
    """What ``rotate`` would do: rows, seconds (least, most), locks. One batch of each table is done and rolled back.

    Raises:
        EncryptionRefused, InsufficientPrivilege: as ``rotate``.
    """
    jobs = _jobs(connection, ring, table)
    rows, shortest, longest = 0, 0.0, 0.0
    for job in jobs:

        def attempt(job: _Rotation = job) -> tuple[int, float, float]:
            connection.exec_driver_sql("set local profiles_internal.api_keys = 'rotated'")
            with trial(connection, job, batch_rows) as batch:
                return batch.total, *batch.seconds

        found, least, most = quietly(connection, job.table.name, attempt)
        rows, shortest, longest = rows + found, shortest + least, longest + most
    return {"rows": rows, "seconds": [shortest, longest], "locks": LOCKS}


def rotate(
    connection: Connection,
    ring: KeyRing,
    *,
    table: str | None = None,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Encrypt what is under another key of the ring by its first key, yielding the progress.

    It counts values ``rotated``, and in the last report those that did not open (``damaged``), which stay as they are.
    Values under keys that are not in the ring are left alone.

    Args:
        connection: Says which database and role, which sees and may update every row; the work has a connection of its own.
        ring: Its first key encrypts.
        table: One table, with its schema if that is not public; by default all that hold API keys.
        limits: Sizes and rates.
        stopped: Asked between batches; True ends the work, which goes on the next time.

    Raises:
        EncryptionKeyChanged: the ring has another key under an id than before, and nothing was changed.
        EncryptionRefused, EncryptionNotKept, InsufficientPrivilege, TableLocked: as ``encrypt``.
    """
    jobs = _jobs(connection, ring, table)
    check_ring(connection, ring)
    for progress in follow(connection, jobs, limits, stopped):
        if progress.state == "completed":
            progress.counts["damaged"] = sum(len(job.damaged) for job in jobs)
        yield progress


def _jobs(connection: Connection, ring: KeyRing, table: str | None) -> Sequence[_Rotation]:
    return [_Rotation(fit(connection, name), ring) for name in ([table] if table else tables_of(connection))]


class _Rotation(Rewrite):
    kind = "rotate"
    done = "rotated"
    # It is the same key: the triggers change nothing, and record nothing.
    session = MappingProxyType({**Rewrite.session, "profiles_internal.api_keys": "rotated"})

    def __init__(self, table: KeyTable, ring: KeyRing) -> None:
        super().__init__(table)
        self.ring = ring
        self.damaged: set[tuple[str, str]] = set()
        """Values that do not open, by the key of their row and their column."""

    def condition(self, column: KeyColumn) -> str:
        # Ids hold no quote; of what LIKE gives a meaning, they may hold the underscore.
        old = ", ".join(f"'{ENVELOPE_PREFIX}{key_id.replace('_', chr(92) + '_')}.%'" for key_id in self.ring.ids[1:])
        return f"t.{column.quoted} like any (array[{old}]::text[])"

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        """As of Rewrite, without the values that do not open."""
        found, cursor = super().next_keys(connection, after, rows, window)
        for key in found:
            row = self.rows[key]
            for column in self.table.columns:
                if column.name in row.values and self._opened(row, column, row.values[column.name]) is None:
                    del row.values[column.name]
                    self.damaged.add((key, column.name))
        return [key for key in found if self.rows[key].values], cursor

    def left(self, connection: Connection) -> int:
        """Rows under old keys, without those that do not open."""
        return max(0, self.count(connection) - len({key for key, _ in self.damaged}))

    def rewrite(self, row: KeyRow, column: KeyColumn, value: str) -> str | None:
        opened = self._opened(row, column, value)
        return None if opened is None else self.ring.encrypt(opened, user_id=row.user_id, column=row.binding(column))

    def is_kept(self, row: KeyRow, column: KeyColumn, value: str, found: str | None) -> bool:
        if found is None or key_id_of(found) != self.ring.ids[0]:
            return False
        return self._opened(row, column, found) == self._opened(row, column, value)

    def _opened(self, row: KeyRow, column: KeyColumn, value: str) -> str | None:
        try:
            return self.ring.decrypt(value, user_id=row.user_id, column=row.binding(column))
        except DecryptionFailed:
            return None
