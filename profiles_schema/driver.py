"""What every part needs of the driver: run SQL as written, quote names, read errors, try again while a lock is held."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.sql.compiler import IdentifierPreparer

T = TypeVar("T")

LOCK_FAILURES: Final = frozenset({"55P03", "40P01", "40001"})
"""lock_not_available, deadlock_detected, serialization_failure: nothing is done, and another attempt may succeed."""

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
# Reserved as names of tables and columns, and unknown to SQLAlchemy.
_RESERVED = frozenset({"collation", "concurrently", "lateral", "system_user", "tablesample"})


# Locks


class Deadline:
    """How long work may go on failing: counted from its first failure, so that long work is not too late at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.attempts = 0
        self._end: float | None = None

    def restart(self) -> None:
        """Count from the next failure: something was achieved since the last one."""
        self.attempts = 0
        self._end = None

    def count(self) -> float:
        """Count a failure; the seconds that are left, zero or less if there are none."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self.seconds
        self.attempts += 1
        return self._end - now

    def pause(self) -> None:
        """Sleep before the next attempt: twice as long each time, at random between half and all, and not beyond the end."""
        longest = min(_FIRST_PAUSE_SECONDS * 2 ** min(self.attempts - 1, 10), _LONGEST_PAUSE_SECONDS)
        seconds = random.uniform(longest / 2, longest)  # noqa: S311 - spreads the attempts, protects nothing
        time.sleep(seconds if self._end is None else max(0.0, min(seconds, self._end - time.monotonic())))


def retry_on_lock(
    connection: Connection,
    work: Callable[[], T],
    deadline: Deadline | float,
    *,
    on_failure: Callable[[DBAPIError, float], None] = lambda _error, _remaining: None,
) -> T:
    """What ``work`` returns; it is tried again while it cannot have a lock.

    Args:
        connection: The one that the work uses. After a database error its transaction is rolled back.
        work: A whole transaction, or several that may run twice. It sets the ``lock_timeout`` itself.
        deadline: Seconds from the first failure, or the clock that ``work`` restarts when it gets on.
        on_failure: Called after each attempt without a lock, with its error and the seconds left (zero or less at the
            last one). It may raise an error of its own.

    Raises:
        DBAPIError: Another error than a missing lock, or the last one when the time is over.
    """
    from sqlalchemy.exc import DBAPIError

    clock = deadline if isinstance(deadline, Deadline) else Deadline(deadline)
    while True:
        try:
            return work()
        except DBAPIError as error:
            if not connection.closed:
                connection.rollback()
            if sqlstate(error) not in LOCK_FAILURES:
                raise
            remaining = clock.count()
            on_failure(error, remaining)
            if remaining <= 0:
                raise
        clock.pause()


# SQL


def execute_literally(connection: Connection, sql: str) -> CursorResult[Any]:
    """Run SQL as it is written: % and :name are no parameters in it."""
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


def quote_name(name: str) -> str:
    """A name as SQL writes it, in quotes if it needs them: for ``execute_literally``."""
    return _preparer().quote(name)


def quote_in_text(name: str) -> str:
    """The same for ``text``, where a colon before a letter begins a parameter."""
    return quote_name(name).replace(":", "\\:")


@cache
def _preparer() -> IdentifierPreparer:
    from sqlalchemy.dialects import postgresql

    # Not the connection's own: for psycopg2 it doubles every %.
    preparer = postgresql.dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]
    preparer.reserved_words = {*preparer.reserved_words, *_RESERVED}
    return preparer


# Errors


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a SQLAlchemy database error, whichever driver raised it."""
    original = getattr(error, "orig", None)
    return getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)


def server_message(error: BaseException) -> str:
    """The first line of what the server said. Most messages name objects only, but some quote a value."""
    return diagnosis(error, "message_primary") or str(getattr(error, "orig", error)).strip().partition("\n")[0]


def diagnosis(error: BaseException, field: str) -> str | None:
    """A field of the server's report, such as ``message_hint``; ``message_detail`` may quote values of rows."""
    return getattr(getattr(getattr(error, "orig", None), "diag", None), field, None)


def failed_objects(error: BaseException) -> str | None:
    """What a database error is about, by the names of table, column, constraint and function; never a value.

    As profiles_internal.describe_failure says it.
    """
    names = [diagnosis(error, f"{kind}_name") for kind in ("table", "column", "constraint")]
    function = re.search(r"function ([a-zA-Z0-9_.]+)[(]", diagnosis(error, "context") or "")
    return " ".join(filter(None, [*names, f"in {function[1]}" if function else None])) or None


def is_disconnect(error: BaseException) -> bool:
    """Whether this database error means that the connection is gone."""
    from sqlalchemy.exc import DBAPIError

    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error) or ""
    return error.connection_invalidated or state.startswith("08") or state in {"57P01", "57P02", "57P03", "57P05"}
