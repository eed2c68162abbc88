"""Is there a pooler in between, and does it hand our backend to others between transactions?

A session-level lock means nothing behind a pooler in transaction mode: the lock stays with a backend that the
next transaction may not get. A pooler makes up the process id of the start-up packet, so that one comparison tells
whether there is one; two probe connections then tell its mode.
"""

from __future__ import annotations

import select
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from profiles_schema.errors import TransactionPooler

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ROUNDS = 3
_PROBE_SECONDS = 5.0
_SELECT_PID = "select pg_catalog.pg_backend_pid()"


_ADVICE = "Use the server's direct port (on Supabase 5432 instead of 6543), or a pooler in session mode."


def refuse_transaction_pooler(connection: Connection, refusal: str = "") -> None:
    """Check the road to the server.

    Args:
        connection: outside a transaction.
        refusal: What does not work there, where it is not the migration lock; a sentence that goes before the advice.

    Raises:
        TransactionPooler: two connections were seen to share one backend.
    """
    driver_connection = connection.connection.driver_connection
    announced = getattr(getattr(driver_connection, "info", None), "backend_pid", None)
    actual = connection.exec_driver_sql(_SELECT_PID).scalar_one()
    connection.commit()
    if announced is None or announced == actual:
        return
    if _shares_backends(connection):
        raise TransactionPooler(f"{refusal} {_ADVICE}") if refusal else TransactionPooler


def _shares_backends(connection: Connection) -> bool:
    import psycopg2

    parameters = dict(connection.engine.dialect.create_connect_args(connection.engine.url)[1])
    give_up = time.monotonic() + _PROBE_SECONDS
    try:
        with closing(_Probe(parameters, give_up)) as idle, closing(_Probe(parameters, give_up)) as busy:
            for _ in range(_ROUNDS):
                first = idle.ask(_SELECT_PID)
                busy.run("begin")
                if busy.ask(_SELECT_PID) == first or idle.ask(_SELECT_PID) != first:
                    return True
                busy.run("rollback")
    except TimeoutError:
        # No session gives up its backend here: in session mode, a new session waits while the pool is full.
        return False
    except psycopg2.Error:
        # No second connection to be had, or BEGIN refused (statement mode, where no revision would get far).
        return False
    return False


class _Probe:
    """An asynchronous connection: a pooler that keeps a client waiting must not hang us."""

    def __init__(self, parameters: dict[str, Any], give_up: float) -> None:
        import psycopg2

        self._give_up = give_up
        self._connection = psycopg2.connect(**parameters, async_=1)
        try:
            self._wait()
        except BaseException:
            self._connection.close()
            raise

    def run(self, statement: str) -> None:
        self._cursor = self._connection.cursor()
        self._cursor.execute(statement)
        self._wait()

    def ask(self, statement: str) -> Any:
        self.run(statement)
        return self._cursor.fetchone()[0]

    def close(self) -> None:
        self._connection.close()

    def _wait(self) -> None:
        from psycopg2.extensions import POLL_OK, POLL_READ

        while (state := self._connection.poll()) != POLL_OK:
            remaining = self._give_up - time.monotonic()
            read, write = ([self._connection], []) if state == POLL_READ else ([], [self._connection])
            if remaining <= 0 or not any(select.select(read, write, [], remaining)):
                raise TimeoutError
