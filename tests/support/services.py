"""What the tests of services share: a service on each driver, and one way to call all of them."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from profiles_schema.services.engines import async_engine, engine
from profiles_schema.services.profiles import AsyncProfileService, ProfileService

DRIVERS = ("psycopg2", "psycopg", "asyncpg")


class Factory:
    """Sessions on a driver, as service_role or another role; counts statements."""

    def __init__(self, url, driver, role="service_role", **options):
        self.is_async = driver in {"psycopg-async", "asyncpg"}
        url = url.replace("://", f"+{driver.removesuffix('-async')}://", 1)
        if self.is_async:
            self.engine = async_engine(url, role=role, **options)
            self.sync_engine = self.engine.sync_engine
            self.sessions = async_sessionmaker(self.engine)
        else:
            self.engine = self.sync_engine = engine(url, role=role, **options)
            self.sessions = sessionmaker(self.engine)
        self.statements = []
        event.listen(self.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _connection, _cursor, statement, *_):
        if not statement.startswith("set local role"):
            self.statements.append(statement)

    @contextmanager
    def counted(self):
        """The statements that were executed inside."""
        before = len(self.statements)
        counted = []
        yield counted
        counted += self.statements[before:]


class Blocking:
    """A service whose methods can be called without await, so that one test tries all drivers."""

    def __init__(self, service, runner):
        self.service = service
        self.runner = runner

    def __getattr__(self, name):
        attribute = getattr(self.service, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **kwargs: self.runner.run(attribute(*args, **kwargs), context=copy_context())

    def together(self, name, *calls):
        """The results (or exceptions) of several calls of a method at once."""
        method = getattr(self.service, name)
        if inspect.iscoroutinefunction(method):

            async def gather():
                return await asyncio.gather(*(method(*call) for call in calls), return_exceptions=True)

            return self.runner.run(gather())

        def attempt(call):
            try:
                return method(*call)
            except Exception as error:  # noqa: BLE001 - it is what the test looks at
                return error

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(attempt, calls))


class Services:
    """Makes services on one driver; all of them are closed in the end."""

    def __init__(self, database, driver, url=None, **options):
        self.database = database
        self.driver = driver
        self.url = url or database.url
        self.options = options
        self.runner = asyncio.Runner()
        self.factories = []

    def factory(self, role="service_role", **options):
        made = Factory(self.url, self.driver, role, **self.options | options)
        self.factories.append(made)
        return made

    def service(self, factory=None, *, read_from=None, **options):
        factory = factory or self.factory()
        kind = AsyncProfileService if factory.is_async else ProfileService
        if read_from:
            options["read_session_factory"] = read_from.sessions
        made = Blocking(kind(factory.sessions, **options), self.runner)
        made.factory = factory
        return made

    def close(self):
        for factory in self.factories:
            if factory.is_async:
                self.runner.run(factory.engine.dispose())
            else:
                factory.engine.dispose()
        self.runner.close()


def lapse(database, export_id):
    """Let the lease of an export run out."""
    database.script(
        "alter table public.export_history disable trigger keep_updated_at;"
        f" update public.export_history set updated_at = now() - interval '1 hour' where id = '{export_id}';"
        " alter table public.export_history enable trigger keep_updated_at"
    )
