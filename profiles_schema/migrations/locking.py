"""One migrator at a time, by a session-level advisory lock that is polled.

A blocking wait would hold a snapshot, and CREATE INDEX CONCURRENTLY of the lock's holder waits for every
snapshot: the two would wait for each other. Hence a try, a commit, a pause.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from profiles_schema.errors import MigrationLockTimeout

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger("profiles_schema.migrations")

# Advisory locks are per database already. "prof" in ASCII; other locks of this package take another second number.
LOCK_CLASS = 1886547814
LOCK_OBJECT = 1
_HELD = f"locktype = 'advisory' and classid = {LOCK_CLASS} and objid = {LOCK_OBJECT} and objsubid = 2 and granted"
_IN_THIS_DATABASE = "database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())"
HELD_BY_US = (
    f"exists (select from pg_catalog.pg_locks where {_HELD} and {_IN_THIS_DATABASE} "
    "and pid = pg_catalog.pg_backend_pid())"
)
"""SQL condition: this very backend holds the lock."""

_POLL_SECONDS = (0.05, 0.2)
_REMIND_SECONDS = 10.0


@contextmanager
def migration_lock(connection: Connection, *, wait_seconds: float) -> Iterator[None]:
    """Hold the migration lock; it is released in every case, and by the server should the process die.

    Raises:
        MigrationLockTimeout: another migrator held it for all of ``wait_seconds``.
    """
    _acquire(connection, wait_seconds)
    try:
        yield
    finally:
        _release(connection)


def _acquire(connection: Connection, wait_seconds: float) -> None:
    started = time.monotonic()
    remind_at = 0.0
    statement = f"select pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {LOCK_OBJECT})"
    while True:
        got = connection.exec_driver_sql(statement).scalar_one()
        connection.commit()
        waited = time.monotonic() - started
        if got:
            if remind_at:
                logger.info("Got the migration lock after %.1f s.", waited)
            return
        if waited >= wait_seconds or waited >= remind_at:
            holder = _holder(connection)
            if waited >= wait_seconds:
                raise MigrationLockTimeout(
                    f"Another migration is still running after {wait_seconds:g} s: {holder}. "
                    "Wait until it has finished, then run this again."
                )
            logger.info("Waiting for another migration: %s.", holder)
            remind_at = waited + _REMIND_SECONDS
        time.sleep(random.uniform(*_POLL_SECONDS))  # noqa: S311 - spreads the pollers, no secret


def _holder(connection: Connection) -> str:
    row = connection.exec_driver_sql(
        "select l.pid, coalesce(nullif(a.application_name, ''), 'no application name'), "
        "extract(epoch from pg_catalog.clock_timestamp() - a.backend_start)::float8 "
        f"from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid where {_HELD} and "
        f"l.{_IN_THIS_DATABASE} limit 1"
    ).first()
    connection.commit()
    if row is None:
        return "it has just finished"
    age = "" if row[2] is None else f", connected for {row[2]:.0f} s"
    return f"pid {row[0]} ({row[1]}{age})"


def _release(connection: Connection) -> None:
    from sqlalchemy.exc import DBAPIError

    if connection.closed or connection.invalidated:
        return  # the server released it together with the session
    try:
        connection.rollback()
        held = connection.exec_driver_sql(
            f"select pg_catalog.pg_advisory_unlock({LOCK_CLASS}, {LOCK_OBJECT})"
        ).scalar_one()
        connection.commit()
    except DBAPIError:
        return
    if not held:
        logger.warning("The migration lock was gone before the end.")


def offline_acquire(wait_seconds: float) -> str:
    """The same lock as a statement of an SQL script; it runs outside a transaction, for it commits."""
    return f"""do $migration_lock$
declare
  give_up constant timestamptz := pg_catalog.clock_timestamp() + interval '{wait_seconds:g} seconds';
begin
  loop
    exit when pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {LOCK_OBJECT});
    if pg_catalog.clock_timestamp() > give_up then
      raise exception 'another migration is still running';
    end if;
    commit;
    perform pg_catalog.pg_sleep(0.2);
  end loop;
end
$migration_lock$;"""


def offline_release() -> str:
    """Give the lock back at the end of an SQL script."""
    return f"select pg_catalog.pg_advisory_unlock({LOCK_CLASS}, {LOCK_OBJECT});"
