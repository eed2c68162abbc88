"""How what differs is brought back to what this version declares: the SQL for each difference, and what takes a decision.

The differences are those that ``check`` and ``health`` find. What belongs to the application is never proposed by the
comparison, so it is never touched here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, ClassVar

from alembic.autogenerate import produce_migrations
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import is_disconnect, quote_name
from profiles_schema.migrations import expected, foreign_keys, standing
from profiles_schema.migrations.autogenerate import ReplaceSqlOp, configure_options
from profiles_schema.migrations.drift import REMEDY as AGAIN
from profiles_schema.migrations.drift import dual_write_is_broken, sentence, uncarried_owner
from profiles_schema.migrations.session import public_by_default
from profiles_schema.migrations.sql_objects import Change, file_of
from profiles_schema.schema.catalog import API_ROLES, Key, Snapshot
from profiles_schema.schema.models import metadata
from profiles_schema.schema.objects import SqlObject

REWRITTEN_ROWS = 100_000
"""Above this many rows, a column's type is changed by a person, at a time of their choice: the table is locked meanwhile."""

FIRST_ROWS: Mapping[str, str] = {
    "profiles_internal.settings": (
        "insert into profiles_internal.settings (key, value) values"
        " ('auto_create_profiles', 'true'), ('audit_level', '\"changes\"'), ('audit_key_reads', 'false'),"
        " ('normalize_verification_days', '7'), ('audit_keep_days', '365'), ('username_hold_days', '90');"
    ),
    "profiles_internal.timezones": (
        "insert into profiles_internal.timezones (name) select z.name from pg_timezone_names as z"
        " where z.name !~ '^posix' and z.name <> 'localtime';"
    ),
}
"""What a table holds from the beginning, as its revision writes it."""

EQUAL_ROWS = "Rows with equal values prevent it."

_PLAIN = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
_KEYED = re.compile(r"ON (\S+) (?:USING \w+ )?\((.*)\)(?: WHERE (.*))?;?\Z", re.DOTALL)
_CHECK = re.compile(r"alter table (\S+) add constraint \S+ CHECK (\(.*\)) not valid;")


@dataclass(frozen=True)
class Repair:
    """One difference in words, and the SQL that removes it, a transaction each."""

    what: str
    transactions: tuple[str, ...]
    duplicates: str | None = None
    """The query that shows rows with equal values, which would prevent it."""
    orphans: str | None = None
    """The query that shows rows that refer to nothing, which would prevent it."""


@dataclass(frozen=True)
class Left:
    """A difference that stays: why, and what to do."""

    what: str
    why: str
    remedy: str
    waits: bool = field(default=False, compare=False)
    """Whether it only waits for something else that is left: a column that is missing."""


def find_repairs(connection: Connection, *, recreate_dropped: bool = False) -> tuple[list[Repair], list[Left]]:
    """What would put a database back, and what takes a decision. Changes nothing.

    Args:
        connection: A connection of the role that owns the tables; the transaction is the caller's.
        recreate_dropped: Also make tables and columns anew that were dropped with what they held.
    """
    repairs = list(_roles(connection))
    if repairs:
        return repairs, []  # nothing can be granted to a role that does not exist
    left: list[Left] = []
    snapshot, differences = expected.compare(connection)
    # First what shuts the doors, each by itself, so that nothing else can keep it from happening.
    repairs += _row_security(snapshot, differences)
    for each in (*_Operations(connection, recreate_dropped=recreate_dropped), *_repairs_of_foreign_keys(connection)):
        if isinstance(each, Left):
            left.append(each)
        else:
            repairs.append(each)
    repairs += _rights_on_auth(snapshot, differences)
    repairs += _unexpected_triggers(snapshot, differences)
    repairs += _invalid_indexes(snapshot, differences)
    if not any(key.kind in {"table", "column"} for key in differences):
        repairs += _generated_triggers(connection)
    repairs += _owners(connection)
    if not (repairs or left):
        left = [
            Left(sentence(key, what, snapshot.get(key, "")), "There is no SQL for it here.", "change it back by hand")
            for key, what in differences.items()
        ]
    return repairs, left


def obstacle_to(connection: Connection, repair: Repair) -> Left | None:
    """What would keep a repair from succeeding, by the rows that are there now. Changes nothing."""
    for query, why in ((repair.duplicates, EQUAL_ROWS), (repair.orphans, "Rows that refer to nothing prevent it.")):
        if query is not None and _count(connection, query):
            return Left(repair.what, why, rows_to_change(query))
    return None


def rows_to_change(query: str) -> str:
    """The remedy where rows prevent a repair."""
    return f"change or delete rows that this shows: {query}; then: {AGAIN}"


def _rights_on_auth(snapshot: Snapshot, differences: Mapping[Key, str]) -> Iterator[Repair]:
    """Rights on schema auth, if it is ours. The comparison of SQL objects does not look at them."""
    keys = [key for key in differences if key[:4] == ("grant", "auth", "", "")]
    if keys and (owner := file_of(keys[0])) is not None:
        what = " ".join(sentence(key, differences[key], snapshot.get(key, "")) for key in keys)
        yield Repair(what, (owner.statement.strip(),))


def _roles(connection: Connection) -> Iterator[Repair]:
    for role in connection.scalars(
        text(
            "select r.name from unnest(cast(:roles as text[])) as r (name)"
            " where not exists (select from pg_roles as p where p.rolname = r.name) order by 1"
        ),
        {"roles": list(API_ROLES)},
    ):
        passes = connection.scalar(text("select rolsuper or rolbypassrls from pg_roles where rolname = current_user"))
        bypass = " bypassrls" if role == "service_role" and passes else ""
        yield Repair(
            f"The role {role} does not exist.",
            (f"create role {role} nologin noinherit{bypass};\ngrant {role} to current_user;",),
        )


def _row_security(snapshot: Snapshot, differences: Mapping[Key, str]) -> Iterator[Repair]:
    for key, what in differences.items():
        if key.kind == "table" and what == "changed":
            switch = "disable" if key.schema == "profiles_internal" else "enable"
            yield Repair(
                sentence(key, what, snapshot[key]),
                (f"alter table {key.relation} {switch} row level security, no force row level security;",),
            )


class _Operations:
    """What alembic and our comparison of SQL objects would do, as repairs; ``check`` names the same."""

    def __init__(self, connection: Connection, *, recreate_dropped: bool) -> None:
        self.connection = connection
        self.recreate_dropped = recreate_dropped
        self.dropped: dict[str, str] = {}
        """SQL that drops what differs, by name; what takes its place comes behind it."""
        self.absent: dict[str, set[str]] = {}
        """The columns that are missing, and left so, by table."""

    def __iter__(self) -> Iterator[Repair | Left]:
        for operation in _flatten(self._differences()):
            handle = next((method for kind, method in self._HANDLED.items() if isinstance(operation, kind)), None)
            yield from (handle or type(self)._comment)(self, operation)  # noqa: SLF001 - its own

    def _differences(self) -> Iterable[Any]:
        with warnings.catch_warnings(), public_by_default(self.connection):
            warnings.simplefilter("ignore")  # SQLAlchemy's, about a CHECK that is not validated
            context = MigrationContext.configure(self.connection, opts=configure_options(metadata))
            found = produce_migrations(context, metadata).upgrade_ops
        return found.ops if found is not None else ()

    def _comment(self, operation: Any) -> Iterator[Repair]:
        yield Repair(f"The comment on {_name(operation)} is not as declared.", (_render(operation),))

    def _drop(self, operation: ops.DropConstraintOp | ops.DropIndexOp) -> Iterator[Repair]:
        name = operation.constraint_name if isinstance(operation, ops.DropConstraintOp) else operation.index_name
        self.dropped[str(name)] = _render(operation)
        return iter(())

    def _index(self, operation: ops.CreateIndexOp) -> Iterator[Repair]:
        yield _index(operation, self.dropped.pop(str(operation.index_name), None))

    def _unique_constraint(self, operation: ops.CreateUniqueConstraintOp) -> Iterator[Repair]:
        yield _unique_constraint(operation, self.dropped.pop(str(operation.constraint_name), None))

    def _foreign_key(self, operation: ops.CreateForeignKeyOp) -> Iterator[Repair]:
        yield _foreign_key(operation, self.dropped.pop(str(operation.constraint_name), None))

    def _table(self, operation: ops.CreateTableOp) -> Iterator[Repair | Left]:
        yield _table(self.connection, operation, recreate_dropped=self.recreate_dropped)

    def _column(self, operation: ops.AddColumnOp) -> Iterator[Repair | Left]:
        column = _column(self.connection, operation, recreate_dropped=self.recreate_dropped)
        if isinstance(column, Left):
            self.absent.setdefault(_name(operation), set()).add(operation.column.name)
        yield column

    def _altered_column(self, operation: ops.AlterColumnOp) -> Iterator[Repair | Left]:
        return _altered_column(self.connection, operation)

    def _change(self, operation: ReplaceSqlOp) -> Iterator[Repair | Left]:
        return _repairs_of_change(self.connection, operation.change, self.absent)

    _HANDLED: ClassVar[Mapping[type, Callable[..., Iterator[Any]]]] = {
        ReplaceSqlOp: _change,
        ops.DropConstraintOp: _drop,
        ops.DropIndexOp: _drop,
        ops.CreateIndexOp: _index,
        ops.CreateUniqueConstraintOp: _unique_constraint,
        ops.CreateForeignKeyOp: _foreign_key,
        ops.CreateTableOp: _table,
        ops.AddColumnOp: _column,
        ops.AlterColumnOp: _altered_column,
    }


def _flatten(operations: Iterable[Any]) -> Iterator[Any]:
    for operation in operations:
        if isinstance(operation, ops.ModifyTableOps):
            yield from _flatten(operation.ops)
        else:
            yield operation


def _render(operation: Any) -> str:
    """The SQL of an operation of alembic, with the schema of each table."""
    written = StringIO()
    context = MigrationContext.configure(dialect=_PLAIN, opts={"as_sql": True, "output_buffer": written})
    Operations(context).invoke(operation)
    public = "|".join(name.removeprefix("public.") for name in expected.every_table() if name.startswith("public."))
    sql = re.sub(rf"\b(TABLE|ON|COLUMN|REFERENCES) (?=(?:{public})\b)", r"\1 public.", written.getvalue().strip())
    return re.sub(r";\s*\n\n+", ";\n", sql)


def _name(operation: Any) -> str:
    source = getattr(operation, "source_table", None) or operation.table_name
    return f"{operation.schema or 'public'}.{source}" if hasattr(operation, "schema") else f"public.{source}"


def _key(kind: str, operation: Any, name: str | None = None) -> Key:
    schema, _, table = _name(operation).partition(".")
    return Key(kind, schema, table, name or "")


def _repairs_of_change(
    connection: Connection, change: Change, absent: Mapping[str, set[str]]
) -> Iterator[Repair | Left]:
    what = " ".join(change.why) or f"{change.what} is not as declared."
    sql = change.upgrade_sql.strip()
    if change.concurrently:
        yield Repair(what, tuple(_statements(sql)), _duplicates(sql))
    elif isinstance(change.what, SqlObject) and change.what.kind == "policies":
        # Rights on a column that is missing must not keep the other ones from being put back.
        missing = [f"the column {column} of {table}" for table, columns in absent.items() for column in columns]
        why = [line for line in change.why if not re.search(rf"(?:{'|'.join(missing) or '$^'})\b", line)]
        yield from [Repair(" ".join(why), (_omit_columns(sql, absent),))] if why else []
    elif isinstance(change.what, SqlObject) or change.what.kind != "constraint":
        yield Repair(what, (sql,))
    elif check := _CHECK.search(sql):
        table, condition = check.groups()
        breaking = f"select * from {table} where not {condition}"
        if count := _count(connection, breaking):
            yield Left(
                what,
                f"{count} {'row' if count == 1 else 'rows'} of {table} break it.",
                f"correct or delete the rows that this shows: {breaking}; then: {AGAIN}",
            )
            return
        first, _, last = sql.rpartition("\n")
        # The table is not locked while its rows are read.
        yield Repair(what, (first, last) if "validate constraint" in last else (sql,))
    else:
        yield _primary_key(what, change.what, sql)


def _omit_columns(sql: str, absent: Mapping[str, set[str]]) -> str:
    def remaining(match: re.Match[str]) -> str:
        columns = [name for name in re.split(r",\s*", match[2].strip()) if name not in absent.get(match[4], ())]
        return f"{match[1]}({', '.join(columns)}){match[3]}{match[4]}"

    return re.sub(r"(grant \w+ )\(([^)]*)\)( on (?:table )?)([\w.]+)", remaining, sql)


def _count(connection: Connection, query: str) -> int:
    """How many rows a query has; 0 if it cannot be asked, for want of a column, say."""
    savepoint = connection.begin_nested()
    try:
        return int(connection.scalar(text(_literal(f"select count(*) from ({query}) as r"))) or 0)
    except DBAPIError as error:
        if is_disconnect(error):
            raise
        return 0
    finally:
        if savepoint.is_active:
            savepoint.rollback()


def _primary_key(what: str, key: Key, sql: str) -> Repair:
    columns = re.search(r"PRIMARY KEY \((.*)\)", sql)
    if columns is None:
        return Repair(what, (sql,))
    return Repair(
        what,
        _constraint_from_index(key.relation, key.name, "primary key", columns[1]),
        f"select {columns[1]}, count(*) from {key.relation} group by {columns[1]} having count(*) > 1",
    )


def _constraint_from_index(table: str, constraint: str, kind: str, columns: str) -> tuple[str, ...]:
    """Make a constraint from an index that is built concurrently."""
    index = f"{constraint}_new"
    return (
        f"create unique index concurrently if not exists {index} on {table} ({columns});",
        (
            f"alter table {table} drop constraint if exists {constraint},"
            f" add constraint {constraint} {kind} using index {index};"
        ),
    )


def _index(operation: ops.CreateIndexOp, drop: str | None) -> Repair:
    sql = _render(operation).replace("INDEX ", "INDEX CONCURRENTLY ", 1)
    before = (drop.replace("INDEX ", "INDEX CONCURRENTLY ", 1),) if drop else ()
    return Repair(
        sentence(_key("index", operation, operation.index_name), "changed" if drop else "missing"),
        (*before, sql),
        _duplicates(sql),
    )


def _unique_constraint(operation: ops.CreateUniqueConstraintOp, drop: str | None) -> Repair:
    table, name = _name(operation), str(operation.constraint_name)
    columns = ", ".join(str(column) for column in operation.columns)
    return Repair(
        sentence(_key("constraint", operation, name), "changed" if drop else "missing", declared="UNIQUE"),
        _constraint_from_index(table, name, "unique", columns),
        f"select {columns}, count(*) from {table} group by {columns} having count(*) > 1",
    )


def _foreign_key(operation: ops.CreateForeignKeyOp, drop: str | None) -> Repair:
    table, name = _name(operation), str(operation.constraint_name)
    add = _render(operation).rstrip(";") + " NOT VALID;"
    return Repair(
        sentence(_key("constraint", operation, name), "changed" if drop else "missing", declared="FOREIGN KEY"),
        ("\n".join(filter(None, (drop, add))), f"alter table {table} validate constraint {name};"),
        orphans=_orphans(operation, table),
    )


def _orphans(operation: ops.CreateForeignKeyOp, table: str) -> str:
    schema = operation.kw.get("referent_schema") or "public"
    pairs = list(zip(operation.local_cols, operation.remote_cols, strict=True))
    matches = " and ".join(f"u.{remote} = r.{local}" for local, remote in pairs)
    given = " and ".join(f"r.{local} is not null" for local, _ in pairs)
    refers_to = f"{schema}.{operation.referent_table}"
    return f"select * from {table} as r where {given} and not exists (select from {refers_to} as u where {matches})"


def _table(connection: Connection, operation: ops.CreateTableOp, *, recreate_dropped: bool) -> Repair | Left:
    name = _name(operation)
    missing = next((o for o in standing.missing_tables(connection) if o.subject == name), None)
    what = sentence(_key("table", operation), "missing")
    if missing is not None and missing.moved:
        return Left(missing.message, "Its rows are there.", missing.remedy)
    if recreate_dropped:
        return Repair(what, ("\n".join(filter(None, (_render(operation), FIRST_ROWS.get(name)))),))
    return Left(
        what,
        "What it held is gone with it.",
        f"restore it from a backup; or make it anew, empty: {AGAIN} --recreate-dropped",
    )


def _column(connection: Connection, operation: ops.AddColumnOp, *, recreate_dropped: bool) -> Repair | Left:
    table = _name(operation)
    what = sentence(_key("column", operation, operation.column.name), "missing")
    if rename := standing.renamed_column(connection, table, operation.column.name):
        return Left(what, "It was renamed, and its values are there.", f"{rename}; then: {AGAIN}")
    sql = _render(operation)
    if recreate_dropped or not connection.scalar(text(f"select exists (select from {table})")):
        return Repair(what, (sql,))
    return Left(
        what,
        f"{table} holds rows, whose values in it are gone.",
        f"restore them from a backup; or make the column anew, empty: {AGAIN} --recreate-dropped",
    )


def _altered_column(connection: Connection, operation: ops.AlterColumnOp) -> Iterator[Repair | Left]:
    table, column = _name(operation), quote_name(operation.column_name)
    nullable, operation.modify_nullable = operation.modify_nullable, None
    sql = _render(operation)
    if operation.modify_type is not None and (refusal := _type_refusal(connection, operation, table, column, sql)):
        yield refusal
    elif sql:
        key = _key("comment" if sql.startswith("COMMENT ") else "column", operation, operation.column_name)
        yield Repair(sentence(key, "changed", _column_in_database(connection, table, operation.column_name)), (sql,))
    if nullable is True:
        yield Repair(
            f"The column {column} of {table} is not null.",
            (f"alter table {table} alter column {column} drop not null;",),
        )
    elif nullable is False:
        what = f"The column {column} of {table} may be null."
        empty = f"select * from {table} where {column} is null"
        if connection.scalar(text(f"select exists ({empty})")):
            yield Left(
                what,
                f"Rows of {table} have no value there.",
                f"fill or delete the rows that this shows: {empty}; then: {AGAIN}",
            )
            return
        check = quote_name(f"ck_{operation.column_name}_not_null_new")
        # Proved by a CHECK first, so that the table is not locked while its rows are read.
        yield Repair(
            what,
            (
                f"alter table {table} drop constraint if exists {check}, add constraint {check} check ({column} is not null) not valid;",
                f"alter table {table} validate constraint {check};",
                f"alter table {table} alter column {column} set not null, drop constraint {check};",
            ),
        )


def _column_in_database(connection: Connection, table: str, column: str) -> str:
    found: str = (
        connection.scalar(
            text(
                "select concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,"
                " 'default ' || pg_get_expr(d.adbin, d.adrelid)) from pg_attribute as a"
                " left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum"
                " where a.attrelid = to_regclass(:table) and a.attname = :column"
            ),
            {"table": table, "column": column},
        )
        or ""
    )
    return found


def _type_refusal(
    connection: Connection, operation: ops.AlterColumnOp, table: str, column: str, sql: str
) -> Left | None:
    declared = sqltypes.to_instance(operation.modify_type).compile(dialect=_PLAIN)
    before, rows = connection.execute(
        text(
            "select format_type(a.atttypid, a.atttypmod), c.reltuples from pg_attribute as a join pg_class as c on c.oid = a.attrelid"
            " where a.attrelid = to_regclass(:table) and a.attname = :column"
        ),
        {"table": table, "column": operation.column_name},
    ).one()
    what = f"The column {column} of {table} is {before}, not {declared}."
    differs = f"{column} is distinct from cast(cast({column} as {declared}) as {before})"
    savepoint = connection.begin_nested()
    try:
        count = connection.scalar(text(_literal(f"select count(*) from {table} where {differs}")))
    except DBAPIError:
        return Left(what, "Its values cannot be converted there and back.", f"convert them, then: {AGAIN}")
    finally:
        savepoint.rollback()
    if count:
        return Left(
            what,
            f"The conversion would change {count} values.",
            f"look at them: select * from {table} where {differs}; then, if that is meant: {sql}",
        )
    if rows > REWRITTEN_ROWS:
        return Left(
            what,
            f"The conversion may lock the table while {rows:.0f} rows are written anew.",
            f"when that is no harm, run: {sql}",
        )
    return None


def _repairs_of_foreign_keys(connection: Connection) -> Iterator[Repair | Left]:
    for key in foreign_keys.our_foreign_keys(connection):
        what = key.difference()
        if what is None:
            continue
        validate = f"alter table {key.table} validate constraint {key.name};"
        again = (
            f"alter table {key.table} drop constraint {key.name}, add constraint {key.name} {key.definition} not valid;"
        )
        orphans = key.count_orphans(connection)
        # Making it anew takes no superuser, as switching its triggers on would, and proves that every row keeps it.
        transactions = (*([] if key.is_on else [again]), *([] if orphans else [validate]))
        if transactions:
            yield Repair(what, transactions)
        if orphans:
            yield Left(
                f"{orphans} rows of {key.table} refer to what is not in {key.refers_to}.",
                f"They keep {key.name} from being validated.",
                f"if they are not wanted: {key.removes_orphans}; then: {AGAIN}",
            )


def _unexpected_triggers(snapshot: Snapshot, differences: Mapping[Key, str]) -> Iterator[Repair]:
    for key, what in differences.items():
        if key.kind == "trigger" and what == "not expected":
            yield Repair(
                sentence(key, what, snapshot[key]), (f"drop trigger {quote_name(key.name)} on {key.relation};",)
            )


def _invalid_indexes(snapshot: Snapshot, differences: Mapping[Key, str]) -> Iterator[Repair]:
    """Those that back a constraint; any other is built anew by the comparison of indexes."""
    for key in differences:
        value = snapshot.get(key, "")
        if key.kind == "index" and value.endswith(" INVALID") and key._replace(kind="constraint") in snapshot:
            yield Repair(sentence(key, "changed", value), (f"reindex index concurrently {key.schema}.{key.name};",))


def _generated_triggers(connection: Connection) -> Iterator[Repair]:
    """The triggers that the database writes itself: dual write of wide columns, following a table of users."""
    if connection.scalar(text("select to_regproc('profiles_internal.identity_triggers') is not null")):
        wrong = connection.execute(
            text(
                "select i.table_name || '.' || i.trigger_name as name, i.state from profiles_internal.identity_triggers() as i where i.state <> 'INSTALLED'"
            )
        ).all()
        renamed = connection.execute(
            text(
                "select s.value #>> '{}' as before, i.table_name as now from profiles_internal.settings as s"
                " cross join profiles_internal.identity_table() as i"
                " where s.key = 'identity' and s.value <> to_jsonb(i.table_name)"
            )
        ).one_or_none()
        if renamed:
            what = f"The table of users {renamed.before} is called {renamed.now} now."
            yield Repair(what, ("select profiles_internal.install_identity();",))
        elif wrong:
            what = " ".join(f"The trigger {row.name} is {row.state}." for row in wrong)
            yield Repair(what, ("select profiles_internal.install_identity();",))
    if owner := uncarried_owner(connection):
        yield Repair(
            f"A trigger that fills user_id from {owner} is missing or disabled.",
            (f"select profiles_internal.install_carry_user_id('{owner.replace(chr(39), chr(39) * 2)}');",),
        )
    if dual_write_is_broken(connection):
        yield Repair(
            "The trigger that keeps wide columns and JSON in step is missing, disabled or changed.",
            ("select profiles_internal.install_dual_write();",),
        )


def _owners(connection: Connection) -> Iterator[Repair]:
    """Definer functions belong to whom the tables belong, with whose rights they are to run."""
    for row in connection.execute(
        text(
            "select p.oid::regprocedure::text as name, c.relowner::regrole::text as wanted, p.proowner::regrole::text as owner"
            " from pg_proc as p join pg_class as c on c.oid = to_regclass('public.user_profiles')"
            " where p.pronamespace = to_regnamespace('profiles_internal') and p.prosecdef and p.proowner <> c.relowner order by 1"
        )
    ):
        yield Repair(
            f"The function {row.name} belongs to {row.owner}, the tables to {row.wanted}.",
            (f"alter function {row.name} owner to {row.wanted};",),
        )


def _statements(sql: str) -> Sequence[str]:
    return [f"{statement};" for statement in re.split(r";\s*\n", sql.rstrip(";"))]


def _duplicates(sql: str) -> str | None:
    """The query for rows that a unique index would refuse."""
    found = _KEYED.search(sql)
    if "UNIQUE INDEX" not in sql or found is None:
        return None
    table, columns, condition = found.groups()
    where = f" where {condition}" if condition else ""
    return f"select {columns}, count(*) from {table}{where} group by {columns} having count(*) > 1"


def _literal(sql: str) -> str:
    """For ``text()``, which takes a colon before a word for a parameter."""
    return re.sub(r"(?<!:):(?=\w)", r"\\:", sql)
