"""CREATE and DROP INDEX CONCURRENTLY inside a revision.

They wait for every open snapshot, so that under a short lock_timeout any reader makes them fail and leaves an INVALID
index behind. Such a wait blocks no reads or writes, so it may last until the deadline. What an earlier
failure left is dropped first, and what was made is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from profiles_schema.errors import MigrationFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_LEAD = r"\A(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_CONCURRENT = re.compile(
    rf"{_LEAD}(?:create\s+(?:unique\s+)?index\s+concurrently"
    r"|drop\s+index\s+concurrently"
    r"|reindex\s*(?:\([^)]*\)\s*)?(?:index|table|schema|database)\s+concurrently)\b",
    re.IGNORECASE | re.DOTALL,
)
_CREATE = re.compile(
    rf"{_LEAD}create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?P<index>{_NAME})\s+on\s+"
    rf"(?:only\s+)?(?P<table>{_NAME}(?:\s*\.\s*{_NAME})?)",
    re.IGNORECASE | re.DOTALL,
)
_STATE = """
select pg_catalog.format('%%I.%%I', n.nspname, c.relname), i.indisvalid
from pg_catalog.pg_class t
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
join pg_catalog.pg_class c on c.relnamespace = t.relnamespace
join pg_catalog.pg_index i on i.indexrelid = c.oid
where t.oid = pg_catalog.to_regclass(%s) and c.relname = %s
"""


def is_concurrent(statement: str) -> bool:
    """Whether the statement is CREATE, DROP or REINDEX ... CONCURRENTLY."""
    # Most statements of a revision are function bodies; a look at the head is enough.
    return _CONCURRENT.match(statement[:2000]) is not None


def created_index(statement: str) -> tuple[str, str] | None:
    """Index name (as stored, unquoted) and table (as written) of a CREATE INDEX CONCURRENTLY."""
    match = _CREATE.match(statement)
    if match is None:
        return None
    name = match["index"]
    stored = name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
    return stored, match["table"]


@contextmanager
def concurrent_index_rules(connection: Connection, *, lock_timeout_ms: int, deadline_seconds: float) -> Iterator[None]:
    """Apply the rules to every statement that the connection executes meanwhile."""
    from sqlalchemy import event

    wait_ms = max(1, int(deadline_seconds * 1000))

    # Through SQLAlchemy, not the driver: its errors are the ones that the runner knows.
    def before(conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not is_concurrent(statement):
            return
        created = created_index(statement)
        state = _state(conn, *created) if created is not None else None
        if state is not None and not state[1]:
            conn.exec_driver_sql(f"drop index concurrently if exists {state[0]}")
        conn.exec_driver_sql(f"set lock_timeout = {wait_ms}")

    def after(conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not is_concurrent(statement):
            return
        conn.exec_driver_sql(f"set lock_timeout = {lock_timeout_ms}")
        created = created_index(statement)
        state = _state(conn, *created) if created is not None else None
        if state is not None and not state[1]:
            raise MigrationFailed(
                f"Index {state[0]} was created but is not valid. Run this again: it is dropped and rebuilt."
            )

    event.listen(connection, "before_cursor_execute", before)
    event.listen(connection, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", before)
        event.remove(connection, "after_cursor_execute", after)


def _state(connection: Connection, index: str, table: str) -> tuple[str, bool] | None:
    row = connection.exec_driver_sql(_STATE, (table, index)).first()
    return None if row is None else (row[0], row[1])
