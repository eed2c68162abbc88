"""A database of a test: signing up, becoming a role of the API, upgrading."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from pytest_postgresql.executors import NoopExecutor
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from profiles_schema import local, metadata
from profiles_schema.driver import execute_literally
from profiles_schema.errors import MigrationFailed, SchemaDrift
from profiles_schema.migrations import paths
from profiles_schema.migrations.runner import COMMAND
from profiles_schema.migrations.sql_objects import public_functions
from profiles_schema.operations import adopt
from profiles_schema.schema.catalog import Snapshot, take_snapshot

TABLES = (
    "user_profiles",
    "user_progress",
    "user_api_keys",
    "user_provider_keys",
    "export_history",
    "user_profile_audit_logs",
    "sessions",
)
REPOSITORY = Path(__file__).parents[2]
ENVELOPE = "psk1.test." + "A" * 60


class Server(NoopExecutor):
    """The embedded PostgreSQL of this test run, with its superuser."""

    def url(self, database: str, user: str | None = None) -> str:
        """The URL of a database, as text."""
        return f"postgresql://{user or self.user}@/{database}?host={quote(self.host, safe='')}&port={self.port}"


class Database:
    """One database of one test."""

    answering: tuple[str, ...] = ()
    """What upgrade answers to every question that it is given no answer to, the first that is possible."""

    consents = True
    """Whether upgrade accepts what becomes readable or writable in a table whose test is about something else."""

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
            execute_literally(connection, sql)

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
            owner = "select tableowner from pg_tables where schemaname = 'auth' and tablename = 'users'"
            connection.exec_driver_sql(f"set local role {connection.scalar(text(owner))}")
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
            f"cast(:{n} as jsonb)" if n.startswith("raw_") else f"cast(:{n} as uuid)" if n == "id" else f":{n}"
            for n in values
        )
        self.run(f"insert into auth.users ({names}) values ({slots})", **{**values, "id": str(values["id"])})
        return uuid.UUID(str(values["id"]))

    def profile(self, user_id: uuid.UUID) -> Any:
        """The row of user_profiles; None without one."""
        rows = self.run("select * from public.user_profiles where user_id = :id", id=user_id)
        return rows[0] if rows else None

    def upgrade(self, revision: str = "head", **options: Any) -> None:
        """`alembic upgrade`, in this process; ``answers`` by the ids of their questions."""
        if self.answering and "answers" not in options:
            given = self.answers(
                *self.answering, x=[f"{key.replace('_', '-')}={value}" for key, value in options.items()]
            )
            options = {**options, "answers": given}
        try:
            self._migrate(command.upgrade, revision, options)
        except MigrationFailed as refused:
            asked = re.findall(r'Answer "((?:columns|writes|active|visible|one|points):[^"]+)"', str(refused))
            if not (asked and self.consents):
                raise
            self._migrate(
                command.upgrade,
                revision,
                {**options, "answers": {**options.get("answers", {}), **dict.fromkeys(asked, "accept")}},
            )

    def downgrade(self, revision: str, **options: str) -> None:
        """`alembic downgrade`, in this process."""
        self._migrate(command.downgrade, revision, options)

    def _migrate(self, verb: Any, revision: str, options: Mapping[str, Any]) -> None:
        with self.engine.connect() as connection, TemporaryDirectory() as directory:
            if "answers" in options:
                options = {**options, "answers": answers_file(Path(directory) / "answers.toml", options["answers"])}
            verb(alembic_config(connection, options), revision)

    def answers(self, *preferred: str, x: Sequence[str] = ()) -> dict[str, str]:
        """An answer to every question that there is: one of the preferred, in their order, or else the first."""
        given: dict[str, str] = {}
        with self.engine.connect() as connection, TemporaryDirectory() as directory:
            while True:
                path = answers_file(Path(directory) / "answers.toml", given)
                questions = adopt.plan(connection, x=[*x, f"answers={path}"]).questions
                if not questions:
                    return given
                for question in questions:
                    possible = question.answers or {}
                    given[question.id or ""] = next((each for each in preferred if each in possible), min(possible))


def insert_user(connection: Connection, **columns: Any) -> uuid.UUID:
    """Sign a user up on an open connection; returns the id. Metadata is given as what JSON can hold."""
    values = {"id": uuid.uuid4(), **columns}
    user_id = values["id"]
    values = {k: json.dumps(v) if k.startswith("raw_") else v for k, v in values.items()} | {"id": str(user_id)}
    names, slots = ", ".join(values), ", ".join(f":{name}" for name in values)
    connection.execute(text(f"insert into auth.users ({names}) values ({slots})"), values)
    return user_id


def answers_file(path: Path, given: Mapping[str, str]) -> str:
    """Write a file of answers; returns its path, for -x answers=."""
    path.write_text("".join(f"{json.dumps(key)} = {json.dumps(answer)}\n" for key, answer in given.items()))
    return str(path)


def alembic_config(connection: Connection, options: Mapping[str, str] | None = None) -> Config:
    """The configuration of our history for a connection; options as after ``-x`` with ``_`` for ``-``."""
    config = paths.config(x=[f"{key.replace('_', '-')}={value}" for key, value in (options or {}).items()])
    config.attributes["connection"] = connection
    return config


def snapshot(database: Database) -> Snapshot:
    """What the catalog says about everything that is ours, schema auth included."""
    tables = [f"{table.schema or 'public'}.{table.name}" for table in metadata.tables.values()]
    with database.engine.connect() as connection:
        return take_snapshot(connection, tables, public_functions(), ["profiles_internal", "auth"])


def drift(database: Database, config: Config | None = None) -> list[str]:
    """What `alembic check` finds, a line each; an empty list when the database is as declared."""
    with database.engine.connect() as connection:
        config = config or alembic_config(connection)
        config.attributes |= {"connection": connection, COMMAND: "check"}
        config.stdout = StringIO()
        try:
            command.check(config)
        except SchemaDrift as found:
            return found.differences
    return []


def psql(database: Database, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script through psql, which stops at the first error."""
    return subprocess.run(
        [str(local.binaries() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.url],
        input=script, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
        env=os.environ | {"PGCLIENTENCODING": "UTF8"},
    )  # fmt: skip


def dumped(database: Database) -> tuple[str, list[Any]]:
    """Everything that a database holds, as one number; also which rows were ever written."""
    done = subprocess.run(
        [str(local.binaries() / "pg_dump"), "--no-password", "--restrict-key=same", "-d", database.administrator.url],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    roles = database.administrator.run("select rolname, rolsuper, rolconfig from pg_roles order by 1")
    return hashlib.sha256(done.stdout).hexdigest(), roles
