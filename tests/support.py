"""What the tests share: a database with its engine, signing up, becoming somebody."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from pytest_postgresql.executors import NoopExecutor
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from profiles_schema.migrations import paths

TABLES = (
    "user_profiles",
    "user_progress",
    "user_api_keys",
    "export_history",
    "user_profile_audit_logs",
    "sessions",
)
ENVELOPE = "psk1.test." + "A" * 60


class Server(NoopExecutor):
    """The embedded PostgreSQL of this test run, with its superuser."""

    def url(self, database: str, user: str | None = None) -> str:
        """The URL of a database, as text."""
        return f"postgresql://{user or self.user}@/{database}?host={quote(self.host, safe='')}&port={self.port}"


class Database:
    """One database of one test."""

    def __init__(self, server: Server, name: str, user: str | None = None) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name, user)

    @cached_property
    def engine(self) -> Engine:
        url = self.url.replace("postgresql://", "postgresql+psycopg2://", 1)
        return create_engine(url, poolclass=NullPool)

    def run(self, sql: str, **values: Any) -> list[Any]:
        """Execute in a transaction of its own; the rows, if it returns any."""
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return list(result) if result.returns_rows else []

    def script(self, sql: str) -> None:
        """Execute several statements, taken literally, in one transaction."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql.replace("%", "%%"))

    def value(self, sql: str, **values: Any) -> Any:
        """The first column of the first row; None without one."""
        rows = self.run(sql, **values)
        return rows[0][0] if rows else None

    @contextmanager
    def acting_as(self, role: str, user_id: uuid.UUID | None = None) -> Iterator[Connection]:
        """A transaction as a role of the API, with the claims of a user. Always rolled back."""
        with self.engine.connect() as connection, connection.begin() as transaction:
            claims = json.dumps({"role": role, **({"sub": str(user_id)} if user_id else {})})
            connection.execute(text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
            connection.exec_driver_sql(f"set local role {role}")
            yield connection
            if transaction.is_active:
                transaction.rollback()

    @cached_property
    def administrator(self) -> Database:
        """The same database, as the superuser."""
        return Database(self.server, self.name)

    @contextmanager
    def auth_server(self) -> Iterator[Connection]:
        """A transaction as the auth server opens it: its own role, its own search path, no claims. Committed."""
        with self.administrator.engine.begin() as connection:
            if connection.scalar(text("select to_regrole('supabase_auth_admin') is not null and auth_owner <> current_user"
                                      " from (select tableowner as auth_owner from pg_tables where schemaname = 'auth' and tablename = 'users')")):
                connection.exec_driver_sql("set local role supabase_auth_admin")
            connection.exec_driver_sql("set local search_path = auth")
            yield connection

    def sign_up(self, email: str | None = None, **columns: Any) -> uuid.UUID:
        """Insert a user as an auth server does; returns the id."""
        values = {"id": uuid.uuid4(), "email": email, **columns}
        for name, value in values.items():
            if isinstance(value, Mapping | list):
                values[name] = json.dumps(value)
        names = ", ".join(values)
        slots = ", ".join(
            f"cast(:{n} as jsonb)" if n.startswith("raw_") else f"cast(:{n} as uuid)" if n == "id" else f":{n}" for n in values
        )
        self.run(f"insert into auth.users ({names}) values ({slots})", **{**values, "id": str(values["id"])})
        return uuid.UUID(str(values["id"]))

    def profile(self, user_id: uuid.UUID) -> Any:
        """The row of user_profiles; None without one."""
        rows = self.run("select * from public.user_profiles where user_id = :id", id=user_id)
        return rows[0] if rows else None

    def upgrade(self, revision: str = "head", **options: str) -> None:
        """`alembic upgrade`, in this process."""
        self._migrate(command.upgrade, revision, options)

    def downgrade(self, revision: str, **options: str) -> None:
        """`alembic downgrade`, in this process."""
        self._migrate(command.downgrade, revision, options)

    def _migrate(self, verb: Any, revision: str, options: Mapping[str, str]) -> None:
        with self.engine.connect() as connection:
            verb(alembic_config(connection, options), revision)


def alembic_config(connection: Connection, options: Mapping[str, str] | None = None) -> Config:
    """The configuration of our history for a connection; options as after ``-x`` with ``_`` for ``-``."""
    config = paths.config(x=[f"{key.replace('_', '-')}={value}" for key, value in (options or {}).items()])
    config.attributes["connection"] = connection
    return config
