"""Transactions of several sessions, step by step, in any order.

A step is one statement, or the end of its transaction. A step that has to wait for another session (pg_blocking_pids says
so) is left waiting while the others go on; the steps behind it follow once it is through. No sleeps: what happens depends
on the order alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from support import Database

Step = Callable[[Connection], Any]
GIVE_UP_SECONDS = 20


def orders(lengths: Mapping[str, int]) -> Iterator[str]:
    """All orders of the steps of several sessions, each as the names of the sessions whose turn it is."""
    if not any(lengths.values()):
        yield ""
    for name, left in lengths.items():
        if left:
            for rest in orders({**lengths, name: left - 1}):
                yield name + rest


class Session:
    """One connection with a thread of its own, and the steps that wait for their turn."""

    def __init__(self, database: Database) -> None:
        self.connection = database.administrator.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self.pid = self.connection.scalar(text("select pg_backend_pid()"))
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Step] = deque()
        self._running: Future[Any] | None = None
        self.error: str | None = None

    def start(self) -> None:
        """Forget what the last transaction came to."""
        self.error = None

    def add(self, step: Step) -> None:
        """Do a step now, or after those before it."""
        self._waiting.append(step)
        self.go_on()

    def go_on(self) -> Future[Any] | None:
        """Begin the next step if none is running; the one that is running now."""
        if self._running is not None and self._running.done():
            self._running.result()
            self._running = None
        if self._running is None and self._waiting:
            self._running = self._thread.submit(self._do, self._waiting.popleft())
        return self._running

    def _do(self, step: Step) -> None:
        # After an error the transaction only ends, as a client would end it.
        if self.error is not None and not isinstance(step, End):
            return
        try:
            step(self.connection)
        except DBAPIError as error:
            self.error = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "unknown"

    def close(self) -> None:
        """End the thread and the connection."""
        self._thread.shutdown()
        self.connection.close()


class End:
    """The last step of a transaction: commit or rollback."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, connection: Connection) -> None:
        """Execute it; after an error it is a rollback."""
        connection.exec_driver_sql(self.how)


class Scheduler:
    """Sessions by name, and a connection that looks who waits for whom."""

    def __init__(self, database: Database, names: str) -> None:
        self.sessions = {name: Session(database) for name in names}
        self._observer = Session(database)

    def run(self, order: str, steps: Mapping[str, Sequence[Step]]) -> dict[str, str | None]:
        """Do the steps in an order; the SQLSTATE that ended each transaction, None where nothing did."""
        left = {name: deque(own) for name, own in steps.items()}
        for session in self.sessions.values():
            session.start()
        for name in order:
            self.sessions[name].add(left[name].popleft())
            self._settle(everything=False)
        assert not any(left.values()), f"{order} leaves steps out"
        self._settle(everything=True)
        return {name: self.sessions[name].error for name in steps}

    def _settle(self, *, everything: bool) -> None:
        """Go on until every session is idle, or waits for another one; with ``everything``, until all are idle."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            running = {run: session for session in self.sessions.values() if (run := session.go_on()) is not None}
            if not running:
                return
            idle = wait(running, timeout=0.002, return_when=FIRST_COMPLETED).done
            if not everything and not idle and all(self._is_blocked(session) for session in running.values()):
                return
            assert time.monotonic() < deadline, "the sessions do not come to an end"

    def _is_blocked(self, session: Session) -> bool:
        blocked = text("select cardinality(pg_blocking_pids(:pid)) > 0")
        return bool(self._observer.connection.scalar(blocked, {"pid": session.pid}))

    def close(self) -> None:
        """End all sessions."""
        for session in [*self.sessions.values(), self._observer]:
            session.close()
