"""The planner in the database: made for one look, in a transaction that is rolled back."""

from __future__ import annotations

import re
import time
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import execute_literally
from profiles_schema.errors import InsufficientPrivilege, MigrationLockTimeout
from profiles_schema.migrations.locking import LOCK_CLASS, LOCK_OBJECT
from profiles_schema.migrations.paths import config, script_location
from profiles_schema.operations.health import current_revision
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import API_ROLES
from profiles_schema.settings import INTERNAL_SCHEMA

LOCK_TIMEOUT_MS: Final = 5_000
PLAN: Final = f"{INTERNAL_SCHEMA}.adoption_plan"

_POLL_SECONDS = 0.2
_CALLED = re.compile(rf"\b{INTERNAL_SCHEMA}\.\w+(?=\()")


def create_planner(connection: Connection) -> None:
    """Make the functions of the plan; the caller rolls back."""
    database, role, exists, may_create_schema, may_create = connection.execute(
        text(
            "select quote_ident(current_database()), quote_ident(current_user), n.oid is not null,"
            " has_database_privilege(current_database(), 'create'), coalesce(has_schema_privilege(n.oid, 'create'), true)"
            " from (select to_regnamespace(:schema)::oid as oid) as n"
        ),
        {"schema": INTERNAL_SCHEMA},
    ).one()
    if not exists and not may_create_schema:
        raise InsufficientPrivilege(
            f"Role {role} may not create schema {INTERNAL_SCHEMA} in database {database}, which the plan and the upgrade need. "
            f"Let an administrator run: grant create on database {database} to {role};"
        )
    if not may_create:
        raise InsufficientPrivilege(
            f"Role {role} may not create functions in schema {INTERNAL_SCHEMA}. Connect as the role that upgrades."
        )
    _exclude_migrators(connection)
    if not exists:
        connection.exec_driver_sql(f"create schema {INTERNAL_SCHEMA}")
    _create_missing_roles(connection)
    # A body may name what only the upgrade makes.
    connection.exec_driver_sql("set local check_function_bodies = off")
    for function in functions():
        execute_literally(connection, function)


def _create_missing_roles(connection: Connection) -> None:
    """The roles of the API, as revision 0002 makes them: without them the plan would miss the questions about their rights.

    A role that may not create them gets the plan without; the upgrade refuses then, and says what an administrator runs.
    """
    for role in API_ROLES:
        savepoint = connection.begin_nested()
        try:
            if connection.scalar(text("select to_regrole(:role) is null"), {"role": role}):
                connection.exec_driver_sql(f"create role {role} nologin noinherit")
        except DBAPIError:
            savepoint.rollback()
        else:
            savepoint.commit()


def _exclude_migrators(connection: Connection) -> None:
    """An upgrade that begins meanwhile waits, and says for whom, instead of failing on a schema that is about to vanish."""
    give_up = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    while not connection.scalar(text(f"select pg_try_advisory_xact_lock({LOCK_CLASS}, {LOCK_OBJECT})")):
        if time.monotonic() > give_up:
            raise MigrationLockTimeout(
                "A migration is running, or another plan of one. Wait until it has finished, then run this again."
            )
        time.sleep(_POLL_SECONDS)


def functions() -> list[str]:
    """The texts of the planner, from the files that the revisions read, and of the functions that it calls.

    Without the rights, which name roles that may not exist yet.
    """
    texts = {each.name: each.text for each in objects.FUNCTIONS if each.name.startswith(f"{INTERNAL_SCHEMA}.")}
    planner = {
        f"{INTERNAL_SCHEMA}.{path.stem}": path.read_text(encoding="utf-8")
        for path in sorted((script_location() / "adoption").glob("*.sql"))
    }
    needed, waiting = set[str](), [PLAN]
    texts |= planner
    while waiting:
        name = waiting.pop()
        if name in texts and name not in needed:
            needed.add(name)
            waiting += _CALLED.findall(texts[name])
    return [body[: body.rindex("$;") + 2] for name, body in texts.items() if name in needed]


def completed_revisions(connection: Connection) -> frozenset[str]:
    """The revisions that this database has behind it."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config())
    ours = [each.revision for each in script.walk_revisions()]  # newest first
    recorded = set((current_revision(connection) or "").split(", "))
    for place, revision in enumerate(ours):
        if revision in recorded:
            return frozenset(ours[place:])
    # An application that keeps one history with ours records its own revisions; the log knows ours.
    if connection.scalar(text(f"select to_regclass('{INTERNAL_SCHEMA}.migration_log') is null")):
        return frozenset()
    last = connection.execute(
        text(
            f"select distinct on (l.revision) l.revision, l.direction from {INTERNAL_SCHEMA}.migration_log as l"
            " where l.outcome = 'done' order by l.revision, l.id desc"
        )
    )
    return frozenset(row.revision for row in last if row.direction == "upgrade")
