"""The steps of an export as plain functions of a ``Session``. The state machine itself stands in the database.

A claim is held by its export's ``retry_count``: every way back to pending adds one, so no two claims of an export share it.
The sign of life is ``updated_at``: a heartbeat counts seconds of work, and the table's trigger notes the time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from profiles_schema.errors import ExportLost, ExportNotFound, ExportStepRefused, StorageFailed
from profiles_schema.schema.models import ExportHistory
from profiles_schema.services.flows import call_blocking
from profiles_schema.storage import export_key

TYPES: Final = ("profile", "progress", "sessions", "everything")
FORMATS: Final = ("csv", "json", "ndjson", "xlsx")
LONGEST_BACKOFF_SECONDS: Final = 3600
STORAGE_MINUTES: Final = 30
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """An export that a worker has started. ``attempt`` counts from 0, and tells this claim from every other."""

    id: uuid.UUID
    user_id: uuid.UUID
    export_type: str
    export_format: str
    filters: dict[str, Any]
    attempt: int

    @property
    def key(self) -> str:
        """Where the object goes."""
        return export_key(self.user_id, self.id)


_OURS: Final = "e.export_type = any (cast(:types as text[])) and e.export_format = any (cast(:formats as text[]))"

# What a worker let go of without a word: its lease ran out.
_TAKE_BACK: Final = text(
    f"""
    with late as (
      select e.id from public.export_history as e
      where e.status = 'processing' and {_OURS}
        and e.updated_at < clock_timestamp() - make_interval(secs => :lease)
      order by e.updated_at limit 100 for update skip locked
    )
    update public.export_history as e
    set
      status = case when e.retry_count >= :most_retries then 'failed' else 'pending' end,
      error_message = 'The worker stopped before the export was done.'
    from late where late.id = e.id
    returning e.id, e.user_id, e.status
    """
)

# Backoff doubles with every retry. Oldest first.
_CLAIM: Final = text(
    f"""
    with next as (
      select e.id from public.export_history as e
      where e.status = 'pending' and {_OURS}
        and (cast(:id as uuid) is null or e.id = cast(:id as uuid))
        and (cast(:id as uuid) is not null or e.retry_count = 0 or e.updated_at < clock_timestamp()
          - make_interval(secs => least(:backoff * power(2, least(e.retry_count, 30) - 1), :longest)))
      order by e.created_at, e.id limit 1 for update skip locked
    )
    update public.export_history as e set status = 'processing', error_message = null
    from next where next.id = e.id
    returning e.id, e.user_id, e.export_type, e.export_format, e.filters, e.retry_count
    """
)

_HELD: Final = text(
    "select e.id from public.export_history as e"
    " where e.id = :id and e.status = 'processing' and e.retry_count = :attempt for update"
)


def _writable() -> list[str]:
    """The formats that this process can write; xlsx needs an extra, and waits for a worker that has it."""
    return [name for name in FORMATS if name != "xlsx" or find_spec("openpyxl")]


def request(
    session: Session, user_id: uuid.UUID, export_type: str, export_format: str, filters: dict[str, Any] | None
) -> ExportHistory:
    """Queue an export."""
    export = ExportHistory(user_id=user_id, export_type=export_type, export_format=export_format, filters=filters)
    session.add(export)
    session.flush()
    session.refresh(export)
    session.expunge(export)
    return export


def get(session: Session, export_id: uuid.UUID) -> ExportHistory:
    """One export. Raises ExportNotFound."""
    export = session.get(ExportHistory, export_id)
    if export is None:
        raise ExportNotFound
    session.expunge(export)
    return export


def take_back(session: Session, lease_seconds: float, most_retries: int) -> list[Any]:
    """Take exports back whose lease ran out: to pending, or to failed after the last retry."""
    rows = session.execute(
        _TAKE_BACK,
        {"types": list(TYPES), "formats": _writable(), "lease": lease_seconds, "most_retries": most_retries},
    ).all()
    return list(rows)


def claim(session: Session, export_id: uuid.UUID | None, backoff_seconds: float) -> Claim | None:
    """Start the next export that is due, or this one."""
    row = session.execute(
        _CLAIM,
        {
            "types": list(TYPES), "formats": _writable(), "id": export_id, "backoff": backoff_seconds,
            "longest": LONGEST_BACKOFF_SECONDS,
        },
    ).one_or_none()  # fmt: skip
    if row is None:
        return None
    return Claim(row.id, row.user_id, row.export_type, row.export_format, row.filters or {}, row.retry_count)


def heartbeat(session: Session, held: Claim) -> None:
    """Prolong the lease. Raises ExportLost."""
    beaten = session.execute(
        text(
            "update public.export_history as e set processing_time_seconds = greatest("
            " coalesce(e.processing_time_seconds, -1) + 1,"
            " round(extract(epoch from clock_timestamp() - e.started_at)))::integer"
            " where e.id = :id and e.status = 'processing' and e.retry_count = :attempt returning e.id"
        ),
        {"id": held.id, "attempt": held.attempt},
    ).one_or_none()
    if beaten is None:
        raise ExportLost


def wait_for_storage(session: Session) -> None:
    """Let the present transaction be idle for long: a storage may be slow, and the server may end idle transactions."""
    session.execute(text(f"set local idle_in_transaction_session_timeout = '{STORAGE_MINUTES}min'"))


def _in_storage(session: Session, work: Callable[[], T]) -> T:
    """Work of a storage inside a transaction. Its OSError is none of the connection."""
    wait_for_storage(session)
    try:
        return call_blocking(work)
    except OSError as error:
        raise StorageFailed from error


def complete(session: Session, held: Claim, records: int, publish: Callable[[], int], keep_days: float) -> None:
    """Publish the object and complete the export, while its row is locked: only the claim that counts publishes."""
    hold(session, held)
    size = _in_storage(session, publish)
    session.execute(
        text(
            "update public.export_history as e set status = 'completed', records_count = :records,"
            " file_size_bytes = :size, file_url = :key, error_message = null,"
            " expires_at = clock_timestamp() + make_interval(secs => :keep) where e.id = :id"
        ),
        {"id": held.id, "records": records, "size": size, "key": held.key, "keep": keep_days * 86_400},
    )


def fail(session: Session, held: Claim, reason: str, most_retries: int, *, final: bool) -> str:
    """Note why an attempt failed; the export is tried again, or failed after its last retry. Returns the new status."""
    hold(session, held)
    status = "failed" if final or held.attempt >= most_retries else "pending"
    session.execute(
        text("update public.export_history as e set status = :status, error_message = :reason where e.id = :id"),
        {"id": held.id, "status": status, "reason": reason},
    )
    return status


def remove_failed(session: Session, export_id: uuid.UUID, remove: Callable[[str], Any]) -> None:
    """Remove the object of a failed export, under its lock: a retry may have come in between, and have published.

    A storage that fails does not stop a worker: ``exports purge --orphans`` removes what is left.
    """
    export = session.get(ExportHistory, export_id, with_for_update=True)
    if export is not None and export.status == "failed":
        key = export_key(export.user_id, export.id)
        with suppress(StorageFailed):
            _in_storage(session, lambda: remove(key))


def hold(session: Session, held: Claim) -> None:
    """Lock the export for the rest of the transaction. Raises ExportLost."""
    if session.execute(_HELD, {"id": held.id, "attempt": held.attempt}).one_or_none() is None:
        raise ExportLost


def retry(session: Session, export_id: uuid.UUID) -> ExportHistory:
    """Queue a failed export again."""
    return _move(session, export_id, ("failed",), "pending")


def expire(session: Session, export_id: uuid.UUID, remove: Callable[[str], Any]) -> ExportHistory:
    """Remove the object and every reference to it. Expiring twice is no error."""
    return _move(session, export_id, ("pending", "completed", "expired"), "expired", remove=remove)


def _move(
    session: Session,
    export_id: uuid.UUID,
    allowed: tuple[str, ...],
    status: str,
    remove: Callable[[str], Any] | None = None,
) -> ExportHistory:
    export = session.get(ExportHistory, export_id, with_for_update=True)
    if export is None:
        raise ExportNotFound
    if export.status not in allowed:
        raise ExportStepRefused(f"An export cannot go from {export.status} to {status}.")
    if remove:
        # By the ids, never by file_url: what the row says about its file cannot lead to another's object.
        key = export_key(export.user_id, export.id)
        _in_storage(session, lambda: remove(key))
        export.file_url = export.data = export.file_size_bytes = None
    export.status = status
    session.flush()
    session.refresh(export)
    session.expunge(export)
    return export
