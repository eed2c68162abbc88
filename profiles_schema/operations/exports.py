"""Exports as operators see them: which there are, and what is removed once it has expired."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import StorageFailed, UsageError
from profiles_schema.operations.batch_job import Job, Limits, ListedJob, Progress, Stopped
from profiles_schema.operations.batches import run
from profiles_schema.storage import Storage, copy_object, export_key

KEEP_DAYS: Final = 90
KIND: Final = "purge_exports"
_FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"
_FEW_ORPHANS: Final = 10
_STORAGE_MINUTES: Final = 30


@dataclass(frozen=True)
class ExportRow:
    """An export as ``exports list`` shows it."""

    id: uuid.UUID
    user_id: uuid.UUID
    export_type: str
    export_format: str
    status: str
    records_count: int
    file_size_bytes: int | None
    retry_count: int
    error_message: str | None
    created_at: datetime
    expires_at: datetime | None


def list_exports(
    connection: Connection, *, status: str | None = None, user_id: uuid.UUID | None = None, limit: int = 50
) -> list[ExportRow]:
    """List exports, newest first."""
    rows = connection.execute(
        text(
            "select e.id, e.user_id, e.export_type, e.export_format, e.status, e.records_count, e.file_size_bytes,"
            " e.retry_count, e.error_message, e.created_at, e.expires_at from public.export_history as e"
            " where (cast(:status as text) is null or e.status = :status)"
            " and (cast(:user_id as uuid) is null or e.user_id = cast(:user_id as uuid))"
            " order by e.created_at desc, e.id limit :limit"
        ),
        {"status": status, "user_id": user_id and str(user_id), "limit": limit},
    )
    return [ExportRow(*row) for row in rows]


# An export that was erased or failed may still have its object; file_size_bytes is cleared when the object is removed.
_HAS_OBJECT: Final = (
    "(e.status = 'completed' and e.expires_at <= now()"
    " or e.status in ('expired', 'failed') and e.file_size_bytes is not null)"
)
_IS_OLD: Final = (
    "(e.status = 'expired' and e.file_size_bytes is null"
    " and coalesce(e.expires_at, e.updated_at) < now() - make_interval(secs => :keep))"
)


class _Purge(Job):
    """Objects of expired exports go first, their rows after ``keep_days``."""

    kind = KIND
    unit = "exports"

    def __init__(
        self, storage: Storage, archive: Storage | None, keep_days: float, stopped: Callable[[], bool]
    ) -> None:
        self._stopped = stopped
        self._storage = storage
        self._archive = archive
        self._keep = {"keep": keep_days * 86_400}
        self.unreachable: set[str] = set()
        """Exports whose object could not be archived or removed; the next run tries them again."""

    def count(self, connection: Connection) -> int:
        return int(
            connection.scalar(
                text(f"select count(*) from public.export_history as e where {_HAS_OBJECT} or {_IS_OLD}"), self._keep
            )
            or 0
        )

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        found = connection.execute(
            text(
                f"select e.id::text, {_HAS_OBJECT} or {_IS_OLD} as due from public.export_history as e"
                " where e.id > cast(:after as uuid) order by e.id limit :window"
            ),
            {**self._keep, "after": after or _FIRST_ID, "window": window},
        ).all()
        keys: list[str] = []
        for key, due in found:
            if due and key not in self.unreachable:
                keys.append(key)
                if len(keys) == rows:
                    return keys, key
        return keys, found[-1][0] if len(found) == window else None

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        _wait_for_storage(connection)
        # Locked in the order of their ids, and looked at again: a retry may have come in between.
        due = connection.execute(
            text(
                f"select e.id, e.user_id, {_HAS_OBJECT} as has_object from public.export_history as e"
                f" where e.id = any (cast(:ids as uuid[])) and ({_HAS_OBJECT} or {_IS_OLD}) order by e.id for update"
            ),
            {**self._keep, "ids": keys},
        ).all()
        gone = [row.id for row in due if not row.has_object]
        # Storage may be slow: what is not removed when somebody asks for an end is found by the next run.
        removed = [row for row in due if row.has_object and not self._stopped() and self._remove(row.user_id, row.id)]
        if gone:
            connection.execute(
                text("delete from public.export_history where id = any (cast(:ids as uuid[]))"),
                {"ids": list(map(str, gone))},
            )
        if removed:
            connection.execute(
                text(
                    "update public.export_history as e set file_url = null, data = null, file_size_bytes = null,"
                    " status = case e.status when 'completed' then 'expired' else e.status end"
                    " where e.id = any (cast(:ids as uuid[]))"
                ),
                {"ids": [str(row.id) for row in removed]},
            )
        return {"purged": len(gone) + len(removed)}

    def _remove(self, user_id: uuid.UUID, export_id: uuid.UUID) -> bool:
        """Archive and remove an object. Its key is made of the two ids: nothing that a user writes leads to another's."""
        key = export_key(user_id, export_id)
        try:
            if self._archive is not None:
                copy_object(self._storage, self._archive, key)
            self._storage.delete(key)
        except (OSError, StorageFailed):
            self.unreachable.add(str(export_id))
            return False
        return True


class _Orphans(ListedJob):
    """Objects whose export is not completed, or is gone along with its user."""

    kind = "orphans"
    unit = "files"

    def __init__(self, storage: Storage, *, even_many: bool, stopped: Callable[[], bool]) -> None:
        self._storage = storage
        self._even_many = even_many
        self._stopped = stopped

    def find(self, connection: Connection) -> list[str]:
        _wait_for_storage(connection)
        known, orphans = 0, []
        for key in self._storage.keys():  # noqa: SIM118 - not a dict
            if self._stopped():
                raise Stopped
            if _is_orphan(connection, key):
                orphans.append(key)
            else:
                known += 1
        if len(orphans) > _FEW_ORPHANS and len(orphans) > known and not self._even_many:
            raise UsageError(
                f"{len(orphans)} of {len(orphans) + known} objects belong to no export of this database. If the database"
                " and the storage are the right ones, run this again with --all-orphans."
            )
        return orphans

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        _wait_for_storage(connection)
        removed = 0
        for key in keys:
            if self._stopped():
                break
            # Again, with its row locked: a worker may have started it since.
            if _is_orphan(connection, key, lock=True):
                removed += self._storage.delete(key)
        return {"orphans": removed}


def purge(
    connection: Connection,
    storage: Storage,
    *,
    archive: Storage | None = None,
    keep_days: float = KEEP_DAYS,
    orphans: bool = False,
    all_orphans: bool = False,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Remove the objects of expired exports and the references to them, and rows that expired ``keep_days`` ago.

    It counts exports ``purged``, ``orphans`` removed, and ``unreachable`` objects, which could not be archived or removed.

    Args:
        connection: Says which database and role; the work has a connection of its own.
        storage: Where the objects are.
        archive: Where a copy of every object goes first.
        keep_days: For so long an expired row stays.
        orphans: Also remove objects whose export is gone.
        all_orphans: The same, even if they are most objects.
        limits: Sizes and rates.
        stopped: Asked between batches, and between objects.

    Raises:
        UsageError: most objects belong to no export of this database, which is rather the wrong one.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    expired = _Purge(storage, archive, keep_days, stopped)
    jobs: list[Job] = [expired]
    if orphans or all_orphans:
        jobs.append(_Orphans(storage, even_many=all_orphans, stopped=stopped))
    for progress in run(connection.engine, jobs, limits, stopped=stopped):
        progress.counts["unreachable"] = len(expired.unreachable)
        yield progress


def _wait_for_storage(connection: Connection) -> None:
    """Let the present transaction be idle for long: a large file takes its time to be copied or removed."""
    connection.exec_driver_sql(f"set local idle_in_transaction_session_timeout = '{_STORAGE_MINUTES}min'")


def _is_orphan(connection: Connection, key: str, *, lock: bool = False) -> bool:
    try:
        _, user_id, export_id = (
            part if not index else str(uuid.UUID(part)) for index, part in enumerate(key.split("/"))
        )
    except ValueError:
        return False  # nothing of ours
    status = connection.scalar(
        text(
            "select e.status from public.export_history as e where e.id = :id and e.user_id = :user_id"
            + " for update" * lock
        ),
        {"id": export_id, "user_id": user_id},
    )
    return status not in {"processing", "completed"}
