"""Fixtures for an application's tests: a database at head per test, users, and sessions that act as them.

In the application's ``conftest.py``::

    pytest_plugins = ["profiles_schema.testing"]

A server comes from PROFILES_TEST_DATABASE_URL (its role must be a superuser: databases are made from a template there), else it is
the embedded one (extra ``local``), started once per run. Override ``profiles_migrate`` to bring the application's own tables
into the template. Needs pytest; asynchronous helpers need the driver of their engine, and no pytest plug-in.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from profiles_schema.database import normalize_url
from profiles_schema.driver import sqlstate
from profiles_schema.services.acting import UserId, acting_as

if TYPE_CHECKING:
    from sqlalchemy import Connection, Executable
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

SERVER_VARIABLE = "PROFILES_TEST_DATABASE_URL"
_INSUFFICIENT_PRIVILEGE = "42501"


@dataclass
class ProfilesDatabase:
    """The database of one test."""

    url: URL
    _engines: dict[str, Engine] = field(default_factory=dict, repr=False)

    @property
    def engine(self) -> Engine:
        """An engine of the role that owns everything; row level security does not bind it."""
        if "owner" not in self._engines:
            self._engines["owner"] = sqlalchemy.create_engine(self.url, poolclass=NullPool)
        return self._engines["owner"]

    def async_engine(self, driver: str = "asyncpg") -> AsyncEngine:
        """A new asynchronous engine of the same role; dispose of it in the event loop that used it."""
        from profiles_schema.services.engines import async_engine

        url = self.url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
        return async_engine(url, poolclass=NullPool)

    def dispose(self) -> None:
        """Close all connections."""
        for each in self._engines.values():
            each.dispose()


@pytest.fixture(scope="session")
def profiles_server() -> Iterator[URL]:
    """A database on the server where the databases of the tests are made."""
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        yield normalize_url(given)
        return
    from profiles_schema import local

    with local.temporary("testing") as temporary:
        yield normalize_url(temporary.server.url("postgres"))


@pytest.fixture(scope="session")
def profiles_migrate() -> Callable[[URL], None]:
    """What else makes the template: override it, and return a function of the template's URL. By default nothing."""
    return lambda _url: None


@pytest.fixture(scope="session")
def profiles_template(profiles_server: URL, profiles_migrate: Callable[[URL], None]) -> Iterator[str]:
    """The name of a database at head, which the databases of the tests are copies of."""
    name = f"profiles_template_{uuid.uuid4().hex[:12]}"
    with _database(profiles_server, name):
        _upgrade(profiles_server.set(database=name))
        profiles_migrate(profiles_server.set(database=name))
        # A template must have no connections, and a pool keeps some.
        with _autocommitting(profiles_server) as connection:
            connection.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": name}
            )
        yield name


@pytest.fixture
def profiles_db(profiles_server: URL, profiles_template: str) -> Iterator[ProfilesDatabase]:
    """A database at head, for one test."""
    name = f"profiles_test_{uuid.uuid4().hex[:12]}"
    with _database(profiles_server, name, template=profiles_template):
        database = ProfilesDatabase(profiles_server.set(database=name))
        try:
            yield database
        finally:
            database.dispose()


@pytest.fixture
def make_user(profiles_db: ProfilesDatabase) -> Callable[..., uuid.UUID]:
    """Sign somebody up as the auth server does; returns the id. The trigger makes the profile.

    ``make_user("ada@example.org", raw_user_meta_data={"full_name": "Ada"})``: further keywords are columns of auth.users.
    """

    def make(email: str | None = None, **columns: Any) -> uuid.UUID:
        user_id = uuid.UUID(str(columns.pop("id", None) or uuid.uuid4()))
        values = {"id": user_id, "email": email, **columns}
        values = {k: json.dumps(v) if isinstance(v, Mapping | list) else v for k, v in values.items()}
        names = ", ".join(f'"{name}"' for name in values)
        slots = ", ".join(f"cast(:{k} as jsonb)" if k.startswith("raw_") else f":{k}" for k in values)
        with profiles_db.engine.begin() as connection:
            connection.execute(text(f"insert into auth.users ({names}) values ({slots})"), values)
        return user_id

    return make


@pytest.fixture
def as_user(profiles_db: ProfilesDatabase) -> Callable[..., contextlib.AbstractContextManager[Session]]:
    """Open sessions that act as a user, given by id. The block commits if it ends well."""

    def session_of(user_id: UserId, **claims: Any) -> contextlib.AbstractContextManager[Session]:
        return _acting(profiles_db.engine, user_id, "authenticated", claims)

    return session_of


@pytest.fixture
def as_anon(profiles_db: ProfilesDatabase) -> Callable[[], contextlib.AbstractContextManager[Session]]:
    """Open sessions of nobody, in blocks like those of ``as_user``."""
    return lambda: _acting(profiles_db.engine, None, "anon", {})


@pytest.fixture
def as_service(profiles_db: ProfilesDatabase) -> Callable[[], contextlib.AbstractContextManager[Session]]:
    """Open sessions with the rights of service_role, in blocks like those of ``as_user``."""
    return lambda: _acting(profiles_db.engine, None, "service_role", {})


@pytest.fixture
def as_user_async(profiles_db: ProfilesDatabase) -> Callable[..., contextlib.AbstractAsyncContextManager[AsyncSession]]:
    """Open an AsyncSession that acts as a user; ``driver`` is asyncpg or psycopg."""

    @contextlib.asynccontextmanager
    async def session_of(
        user_id: UserId | None, role: str = "authenticated", driver: str = "asyncpg"
    ) -> AsyncIterator[AsyncSession]:
        from sqlalchemy.ext.asyncio import AsyncSession

        engine = profiles_db.async_engine(driver)
        try:
            async with AsyncSession(engine) as session, acting_as(session, user_id, role):
                yield session
                await session.commit()
        finally:
            await engine.dispose()

    return session_of


def assert_refused(session: Session, statement: Executable | str, values: Mapping[str, Any] | None = None) -> None:
    """Assert that the user of a session cannot do this: the database refuses it, or it reaches no row.

    In a savepoint: nothing of it stays, and the session can go on.

    Raises:
        AssertionError: it was done; the message says how many rows it reached.
    """
    statement = text(statement) if isinstance(statement, str) else statement
    savepoint = session.begin_nested()
    try:
        result: Any = session.execute(statement, dict(values or {}))
        reached = len(result.all()) if result.returns_rows else result.rowcount
    except DBAPIError as error:
        if sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        reached = 0
    finally:
        savepoint.rollback()
    assert not reached, f"not refused: it reached {reached} {'row' if reached == 1 else 'rows'}"  # noqa: S101


async def async_assert_refused(
    session: AsyncSession, statement: Executable | str, values: Mapping[str, Any] | None = None
) -> None:
    """As ``assert_refused``, for an AsyncSession."""
    await session.run_sync(assert_refused, statement, values)


@contextlib.contextmanager
def _acting(engine: Engine, user_id: UserId | None, role: str, claims: Mapping[str, Any]) -> Iterator[Session]:
    with Session(engine) as session, acting_as(session, user_id, role, claims):
        yield session
        session.commit()


@contextlib.contextmanager
def _database(server: URL, name: str, template: str | None = None) -> Iterator[None]:
    with _autocommitting(server) as connection:
        connection.exec_driver_sql(f'create database "{name}"' + (f' template "{template}"' if template else ""))
    try:
        yield
    finally:
        with _autocommitting(server) as connection:
            connection.exec_driver_sql(f'drop database if exists "{name}" with (force)')


def _autocommitting(server: URL) -> Connection:
    return sqlalchemy.create_engine(server, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()


def _upgrade(url: URL) -> None:
    from alembic import command

    from profiles_schema.migrations.paths import config

    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        found = config()
        found.attributes["connection"] = connection
        command.upgrade(found, "head")
