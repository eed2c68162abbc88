"""Why a database has no version row of ours: it was never migrated, or it is damaged in a way that hides it.

Without this look a database whose version row or internal schema is lost reads as one that was never migrated, and an
upgrade would run into its own tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CheckConstraint, Table, text
from sqlalchemy.engine import Connection
from sqlalchemy.schema import ColumnCollectionConstraint

from profiles_schema.errors import ObjectsMissing
from profiles_schema.settings import INTERNAL_SCHEMA

_MARKS = ("settings", "jobs", "migration_log")
"""Tables that only our internal schema has, all three."""


@dataclass(frozen=True)
class Obstacle:
    """Why nothing else can be asked of a database: a code of ``health``, a sentence, and the next command."""

    code: str
    message: str
    remedy: str
    subject: str = ""
    moved: bool = False
    """Whether a table is there under another name."""

    def error(self) -> ObjectsMissing:
        """The same, to raise."""
        return ObjectsMissing(f"{self.message} Run: {self.remedy}")


def heads_and_ours() -> tuple[set[str], set[str]]:
    """The newest revisions of this version, and all of them."""
    from alembic.script import ScriptDirectory

    from profiles_schema.migrations.paths import config

    script = ScriptDirectory.from_config(config())
    return set(script.get_heads()), {each.revision for each in script.walk_revisions()}


def at_head(revision: str) -> bool:
    """Whether a database at these revisions has all of ours.

    An application that keeps one history with ours records its own revisions alone; they depend on our newest.
    """
    heads, ours = heads_and_ours()
    recorded = set(revision.split(", "))
    return heads <= recorded or not recorded <= ours


def lost_version(connection: Connection) -> Obstacle | None:
    """Why a database has no version row, if that is not because it was never migrated."""
    schemas = connection.scalars(
        text(
            "select quote_ident(n.nspname) from pg_namespace as n where (select count(*) from pg_class as c"
            " where c.relnamespace = n.oid and c.relkind = 'r' and c.relname = any (cast(:marks as text[]))) = :all"
            " order by n.nspname <> :internal, 1"
        ),
        {"marks": list(_MARKS), "all": len(_MARKS), "internal": INTERNAL_SCHEMA},
    ).all()
    if not schemas:
        return None
    if schemas[0] == INTERNAL_SCHEMA:
        return Obstacle(
            "version_lost",
            f"The tables are there, but no revision is recorded in {INTERNAL_SCHEMA}.",
            "profiles-schema stamp",
        )
    if not connection.scalar(text("select to_regclass('public.user_profiles') is not null")):
        return None
    taken = connection.scalar(text("select to_regnamespace(:internal) is not null"), {"internal": INTERNAL_SCHEMA})
    return Obstacle(
        "schema_renamed",
        f"The schema {INTERNAL_SCHEMA} is missing; {schemas[0]} holds its tables.",
        f"{f'drop schema {INTERNAL_SCHEMA}; ' if taken else ''}alter schema {schemas[0]} rename to {INTERNAL_SCHEMA}",
    )


def refuse_lost_version(connection: Connection) -> None:
    """Our tables without a version row must not be taken for a database that was never migrated.

    Raises:
        ObjectsMissing: says what is missing, and the next command.
    """
    obstacle = lost_version(connection)
    connection.rollback()
    if obstacle is not None:
        raise obstacle.error()


def missing_users(connection: Connection) -> Obstacle | None:
    """Where auth.users has gone, if it is missing: our triggers are still on it."""
    # to_regclass would fail for a role that may not use the schema.
    if connection.scalar(
        text(
            "select exists (select from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname = 'auth' and c.relname = 'users')"
        )
    ):
        return None
    found = connection.execute(
        text(
            "select quote_ident(n.nspname) as schema, quote_ident(c.relname) as name, n.nspname = 'auth' as in_place,"
            " c.relname = 'users' and to_regnamespace('auth') is null as whole"
            " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.relkind in ('r', 'p') and exists ("
            "  select from pg_trigger as t where t.tgrelid = c.oid and t.tgname like 'profiles\\_on\\_auth\\_user\\_%')"
        )
    ).all()
    if len(found) != 1:
        return Obstacle(
            "table_missing",
            "The table auth.users is missing.",
            "restore it from a backup, then: profiles-schema health",
        )
    (users,) = found
    if users.whole:
        return Obstacle(
            "schema_renamed",
            f"The schema auth is missing; {users.schema} holds its table users.",
            f"alter schema {users.schema} rename to auth",
            moved=True,
        )
    steps = [
        "" if connection.scalar(text("select to_regnamespace('auth') is not null")) else "create schema auth",
        "" if users.in_place else f"alter table {users.schema}.{users.name} set schema auth",
        "" if users.name == "users" else f"alter table auth.{users.name} rename to users",
    ]
    return Obstacle(
        "table_missing",
        f"The table auth.users is missing: it is called {users.schema}.{users.name} now.",
        "; ".join(filter(None, steps)),
        moved=True,
    )


def missing_tables(connection: Connection) -> Iterator[Obstacle]:
    """Each table that a database at the newest revision should have and has not, and where it may have gone.

    One that was renamed or moved still has its constraints, by whose names it is found.
    """
    from profiles_schema.migrations.expected import load

    declared = list(load()["EVERYWHERE"])
    names = [key.relation for key in declared if key.kind == "table"]
    missing = connection.scalars(
        text(
            "select t.name from unnest(cast(:names as text[])) with ordinality as t (name, place)"
            " where to_regclass(t.name) is null order by t.place"
        ),
        {"names": names},
    ).all()
    for name in missing:
        schema, _, table = name.partition(".")
        constraints = [key.name for key in declared if key.kind == "constraint" and key.relation == name]
        found = connection.execute(
            text(
                "select quote_ident(n.nspname) as schema, quote_ident(c.relname) as name, n.nspname as bare, c.relname as plain"
                " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
                " join pg_constraint as k on k.conrelid = c.oid and k.conname = any (cast(:constraints as text[]))"
                " where c.relkind = 'r' and format('%I.%I', n.nspname, c.relname) <> all (cast(:names as text[]))"
                " group by 1, 2, 3, 4 order by count(*) desc limit 1"
            ),
            {"constraints": constraints, "names": names},
        ).one_or_none()
        shown = name.removeprefix("public.")
        if found is None:
            yield Obstacle(
                "table_missing",
                f"The table {shown} is missing. If it held rows, restore it from a backup; otherwise it can be made anew.",
                "profiles-schema repair --recreate-dropped",
                name,
            )
            continue
        steps = []
        if found.bare != schema:
            steps.append(f"alter table {found.schema}.{found.name} set schema {schema}")
        if found.plain != table:
            steps.append(f"alter table {schema}.{found.name} rename to {table}")
        yield Obstacle(
            "table_missing",
            f"The table {shown} is missing: it is called {found.schema}.{found.name} now.",
            "; ".join(steps),
            name,
            moved=True,
        )


def renamed_column(connection: Connection, table: str, column: str) -> str | None:
    """The SQL that gives a missing column its name back; None if no column of that table was it.

    A column that was renamed keeps its comment, and the constraints and indexes on it keep their names.

    Args:
        connection: Any connection; the transaction is the caller's.
        table: Its qualified name.
        column: The declared column that is missing.
    """
    from profiles_schema.schema.models import metadata

    model = next((each for each in metadata.tables.values() if f"{each.schema or 'public'}.{each.name}" == table), None)
    if model is None or column not in model.columns:
        return None
    guards = list(_guards(model, column))
    found: str | None = connection.scalar(
        text(
            "select format('alter table %s rename column %I to %I', cast(:table as text), a.attname, cast(:column as text))"
            " from pg_attribute as a cross join lateral ("
            "  select exists (select from pg_constraint as k where k.conrelid = a.attrelid and a.attnum = any (k.conkey)"
            "   and k.conname = any (cast(:guards as text[]))) or exists (select from pg_index as x"
            "   join pg_class as i on i.oid = x.indexrelid where x.indrelid = a.attrelid and a.attnum = any (x.indkey::int2[])"
            "   and i.relname = any (cast(:guards as text[]))) as guarded,"
            "  coalesce(col_description(a.attrelid, a.attnum) = cast(:comment as text), false) as described"
            " ) as m where a.attrelid = to_regclass(:table) and a.attnum > 0 and not a.attisdropped"
            " and a.attname <> all (cast(:declared as text[])) and (m.guarded or m.described)"
            " order by m.guarded and m.described desc, m.described desc, a.attnum limit 1"
        ),
        {
            "table": table,
            "column": column,
            "guards": guards,
            "comment": model.columns[column].comment,
            "declared": [each.name for each in model.columns],
        },
    )
    return found


def _guards(model: Table, column: str) -> Iterator[str]:
    """The names of the constraints and indexes of a table that are about a column."""
    about: list[tuple[Any, Iterable[Any]]] = [
        *((each, [each.sqltext]) for each in model.constraints if isinstance(each, CheckConstraint)),
        *((each, each.columns) for each in model.constraints if isinstance(each, ColumnCollectionConstraint)),
        *((index, index.expressions) for index in model.indexes),
    ]
    for each, parts in about:
        if any(re.search(rf"\b{column}\b", str(part)) for part in parts):
            yield str(each.name)
