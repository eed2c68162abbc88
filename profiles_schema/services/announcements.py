"""Which profiles changed, from process to process by NOTIFY and LISTEN.

A payload is the sender and the users, as words: ``<identity of the cache> <user id> <user id> ...``. What SQL announces may
have any first word, such as ``sql``. It is sent after the commit, in a transaction of its own: a change must not fail or wait
because the server cannot take a notification, and transactions that notify commit one after the other.
"""

from __future__ import annotations

import os
import re
import selectors
import threading
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import text
from sqlalchemy.orm import Session

from profiles_schema import database
from profiles_schema.migrations.pooler import refuse_transaction_pooler
from profiles_schema.services.cache import ProfileCache
from profiles_schema.services.events import LOGGER
from profiles_schema.services.forks import renew_after_fork

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection

CHANNEL: Final = "profiles_schema"

_USERS_PER_PAYLOAD: Final = 200
"""A payload has less than 8,000 bytes."""
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHECK_SECONDS: Final = 30.0
"""For so long nothing is heard until the connection is tried."""
_LONGEST_PAUSE_SECONDS: Final = 30.0
_PATIENCE_SECONDS: Final = 1.0
_LEFT: Final[list[Any]] = []
"""Connections of the parent: to collect them would end them there."""
# Nothing was written: the commit need not wait for the disk, and other announcements wait for the commit.
_ANNOUNCE: Final = text(
    "select pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify(:channel, payload)"
    " from unnest(cast(:payloads as text[])) as payload"
)


def announce(session: Session, users: Collection[uuid.UUID], sender: str) -> None:
    """Tell those who listen that these profiles were written: one statement."""
    names = list(map(str, users))
    payloads = [
        " ".join([sender, *names[start : start + _USERS_PER_PAYLOAD]])
        for start in range(0, len(names), _USERS_PER_PAYLOAD)
    ]
    if payloads:
        session.execute(_ANNOUNCE, {"channel": CHANNEL, "payloads": payloads})


class Listener:
    """Hears which profiles other processes change. ``close`` ends it, as does leaving its ``with`` block."""

    def __init__(self, url: str, cache: ProfileCache, forget: Callable[[Collection[uuid.UUID]], object]) -> None:
        wanted = database.normalize_url(url)
        if "tcp_user_timeout" not in wanted.query:  # else a vanished server is noticed after a quarter of an hour
            wanted = wanted.update_query_dict({"tcp_user_timeout": "30000"})
        self._engine = database.create_engine(wanted, application_name="profiles-schema listener")
        self._cache = cache
        self._forget = forget
        self._closing = threading.Event()
        self._wake, self._waker = os.pipe()
        try:
            self._connection: Connection | None = self._connect()
        except BaseException:
            self._close_pipe()
            raise
        self._cache.clear()  # what was loaded before may have changed unheard
        self._thread = threading.Thread(target=self._run, name="profiles-schema-listener", daemon=True)
        self._thread.start()
        renew_after_fork(self, Listener._leave)

    @property
    def is_listening(self) -> bool:
        """Whether there is a connection now; without one, profiles are served for their time to live."""
        return self._connection is not None

    def close(self) -> None:
        """Stop listening. From then on, profiles are served for their time to live."""
        if not self._closing.is_set():
            os.write(self._waker, b".")  # before the thread can have closed the pipe
            self._closing.set()
            # It may be connecting to a server that does not answer; it ends after that.
            self._thread.join(_PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _leave(self) -> None:
        # In a child process: the thread is not there, and connection and pipe belong to the parent.
        self._closing.set()
        _LEFT.append(self._connection)
        self._connection = None

    def _close_pipe(self) -> None:
        os.close(self._wake)
        os.close(self._waker)

    def _connect(self) -> Connection:
        connection = database.connect(self._engine, patience_seconds=0)
        try:
            refuse_transaction_pooler(
                connection,
                "The URL leads through a pooler in transaction mode, which gives what is announced to others.",
            )
            database.refuse_read_only(connection, "Nothing is announced there.")
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f"listen {CHANNEL}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _run(self) -> None:
        pause = 1.0
        while not self._closing.is_set():
            try:
                if self._connection is None:
                    connection = self._connect()
                    # Before it counts as listening: what was announced meanwhile is lost.
                    self._cache.clear()
                    self._connection, pause = connection, 1.0
                    LOGGER.info("listening again for changes of other processes")
                self._hear(self._connection)
            except Exception as error:  # noqa: BLE001 - whatever happens to a connection
                self._drop()
                LOGGER.warning(
                    "not listening for changes of other processes (%s); next attempt in %.0f s",
                    type(error).__name__,
                    pause,
                )
                self._closing.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self._drop()
        self._close_pipe()

    def _hear(self, connection: Connection) -> None:
        """Forget what is announced, until the connection breaks or ``close`` is called."""
        driver_connection: Any = connection.connection.driver_connection
        with selectors.DefaultSelector() as selector:  # select.select() knows no more than 1,024 open files
            for each in (driver_connection, self._wake):
                selector.register(each, selectors.EVENT_READ)
            while not self._closing.is_set():
                ready = {key.fileobj for key, _ in selector.select(_CHECK_SECONDS)}
                if not ready:
                    connection.exec_driver_sql("select 1")
                elif driver_connection in ready:
                    driver_connection.poll()
                while driver_connection.notifies:
                    self._take(driver_connection.notifies.pop(0).payload)

    def _take(self, payload: str) -> None:
        sender, *users = payload.split()[: _USERS_PER_PAYLOAD + 1] or [""]
        if sender == self._cache.identity:
            return
        # Every role may notify: nothing but the ids of users is taken from it.
        known = [uuid.UUID(user) for user in users if _UUID.fullmatch(user)]
        self._forget(known)
        self._cache.count("announcements", len(known))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()
