"""Who is in the way: a second connection looks while the first one waits for a lock."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from profiles_schema.migrations.masking import mask_literals

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger("profiles_schema.migrations")

_PATIENCE_SECONDS = 0.02
_SAMPLE_SECONDS = 0.025
_REMIND_SECONDS = 10.0
_LONG_ATTEMPT_SECONDS = 10.0
_LONG_SAMPLE_SECONDS = 0.2
# pg_blocking_pids holds up every lock of the server for a moment: it is asked only while we do wait.
_BLOCKERS = """
select b.pid, a.application_name, a.usename, a.backend_type, a.state,
       extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8, a.query
from pg_catalog.pg_stat_get_activity(%s) as w
cross join lateral pg_catalog.unnest(
  case when w.wait_event_type = 'Lock' then pg_catalog.pg_blocking_pids(w.pid) end
) as b (pid)
left join pg_catalog.pg_stat_activity a on a.pid = b.pid
order by a.xact_start nulls last
limit 1
"""


@dataclass(frozen=True)
class Blocker:
    """The session that holds what a revision needs; the one with the oldest transaction where there are more."""

    pid: int
    application: str
    role: str
    state: str
    age_seconds: float | None
    query: str

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction (see pg_prepared_xacts)"
        age = "" if self.age_seconds is None else f", transaction open for {self.age_seconds:.1f} s"
        query = f": {self.query}" if self.query else ""
        return f"pid {self.pid} ({self.application}, role {self.role}, {self.state}{age}){query}"


class BlockerWatch:
    """A thread that samples ``pg_blocking_pids`` of one backend while a step runs.

    Its connection is opened only when a step takes longer than a moment; if there is none to be had, migrations go
    on without names.
    """

    def __init__(self, connection: Connection) -> None:
        self.last: Blocker | None = None
        self._engine = connection.engine
        self._pid = connection.exec_driver_sql("select pg_catalog.pg_backend_pid()").scalar_one()
        connection.commit()
        self._active = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._ended = False
        self._began = 0.0
        self._named: dict[int, float] = {}
        self._thread = threading.Thread(target=self._watch, name="profiles-schema blockers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._idle.set()
        self._active.set()
        self._thread.join(timeout=2)

    def forget(self) -> None:
        """A new revision begins: blockers of the one before are news again."""
        self.last = None
        self._named.clear()

    def begin(self) -> None:
        """An attempt begins."""
        self._began = time.monotonic()
        self._idle.clear()
        self._active.set()

    def end(self) -> None:
        """The attempt has ended."""
        self._active.clear()
        self._idle.set()

    def _watch(self) -> None:
        connection: Any = None
        try:
            while True:
                self._active.wait()
                if self._ended:
                    return
                if self._idle.wait(self._pause_seconds() if connection is not None else _PATIENCE_SECONDS):
                    continue
                if connection is None:
                    connection = self._connect()
                self._sample(connection)
        except Exception as error:  # noqa: BLE001 - any error of the driver: migrations go on without the names of blockers
            logger.debug("Blocking sessions cannot be named: %s", error)
        finally:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()

    def _pause_seconds(self) -> float:
        return _SAMPLE_SECONDS if time.monotonic() - self._began < _LONG_ATTEMPT_SECONDS else _LONG_SAMPLE_SECONDS

    def _connect(self) -> Any:
        dialect = self._engine.dialect
        arguments, parameters = dialect.create_connect_args(self._engine.url)
        connection = dialect.connect(*arguments, **{**parameters, "application_name": "profiles-schema watch"})
        connection.autocommit = True
        return connection

    def _sample(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_BLOCKERS, (self._pid,))
            row = cursor.fetchone()
        if row is None:
            return
        pid, application, role, kind, state, age_seconds, query = row
        blocker = Blocker(
            pid=pid,
            application=application or (kind if kind and kind != "client backend" else "no application name"),
            role=role or "unknown",
            state=state or "state hidden",
            age_seconds=age_seconds,
            query=mask_literals(query or ""),
        )
        self.last = blocker
        now = time.monotonic()
        if now >= self._named.get(pid, 0.0):
            self._named[pid] = now + _REMIND_SECONDS
            logger.info("Waiting for a lock held by %s", blocker)
