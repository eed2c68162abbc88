"""What the models and the SQL files declare, compared with what a database holds.

The server itself says what a declaration comes to: the tables are made as temporary ones in a savepoint, the SQL files
are applied to those, the catalog is read, and everything is rolled back. Two spellings of a policy are equal this way,
and no live table is locked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import MetaData, Table, text
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateIndex, CreateTable

from profiles_schema.schema import objects
from profiles_schema.schema.catalog import API_ROLES, Snapshot, take_snapshot
from profiles_schema.schema.objects import SqlObject, Where

_DOLLAR_QUOTED = re.compile(r"(\$\w*\$).*?\1", re.DOTALL)
_CREATED_FUNCTION = re.compile(r"create or replace function ([\w.]+)\(")
_OWN_POLICY_PREFIX = "Owners can "


@dataclass(frozen=True)
class Change:
    """One difference: what it is, the SQL that removes it, and the SQL that brings it back.

    ``concurrently`` says that the SQL cannot run inside a transaction.
    """

    what: str
    upgrade_sql: str
    downgrade_sql: str
    concurrently: bool = False

    def reversed(self) -> Change:
        """The same difference, seen from the other side."""
        return Change(self.what, self.downgrade_sql, self.upgrade_sql, self.concurrently)


def our_tables(metadata: MetaData) -> list[Table]:
    """The tables of this package in a metadata that may hold an application's own, too."""
    from profiles_schema.schema.models.base import metadata as ours

    return [table for key, table in metadata.tables.items() if key in ours.tables]


def public_functions() -> list[str]:
    """The qualified names of our functions outside profiles_internal."""
    return [o.name for o in objects.FUNCTIONS if not o.name.startswith("profiles_internal.")]


def holds(connection: Connection, where: Where) -> bool:
    """Whether objects of this kind exist on this database."""
    return bool(connection.scalar(text(f"select {where.value}")))


def snapshot_of_database(connection: Connection, tables: Iterable[Table]) -> Snapshot:
    """The snapshot of our objects as they are."""
    return take_snapshot(connection, [_name(table) for table in tables], public_functions())


def snapshot_of_declarations(connection: Connection, tables: Iterable[Table]) -> Snapshot:
    """The snapshot of our objects as models and SQL files declare them. Leaves nothing behind."""
    tables = list(tables)
    redirected = {_name(table): f"pg_temp.{table.name}" for table in tables}
    applicable = [o for o in objects.inventory() if o.name != "service_role" and holds(connection, o.where)]
    savepoint = connection.begin_nested()
    try:
        scratch = MetaData(naming_convention=tables[0].metadata.naming_convention if tables else None)
        for table in tables:
            copy = table.to_metadata(scratch, schema="pg_temp")
            connection.execute(CreateTable(copy, include_foreign_key_constraints=[]))
            for index in copy.indexes:
                connection.execute(CreateIndex(index))
        for sql_object in applicable:
            connection.exec_driver_sql(_redirect(sql_object.text, redirected).replace("%", "%%"))
        return take_snapshot(connection, redirected, public_functions())
    finally:
        savepoint.rollback()


def changes(connection: Connection, metadata: MetaData) -> list[Change]:
    """Everything in which the database differs from the declarations, beyond what alembic compares itself."""
    tables = [table for table in our_tables(metadata) if _is_ours(connection, table)]
    if not tables:
        return []
    declared = snapshot_of_declarations(connection, tables)
    found = snapshot_of_database(connection, tables)
    existing = {key.split(" ", 1)[1] for key in found if key.startswith("table ")}

    result: list[Change] = []
    touched: dict[SqlObject, list[str]] = {}
    for key in sorted({*declared, *found}):
        if declared.get(key) == found.get(key):
            continue
        kind, _, name = key.partition(" ")
        if kind in {"constraint", "index"}:
            if key in declared and key in found:  # a missing one is alembic's to find; one more is not ours
                result.append(_replace_constraint_or_index(kind, name, declared[key], found[key]))
        elif kind in {"column", "comment"}:
            continue
        elif (owner := _file_of(key)) is not None:
            if kind == "function" and key not in declared:
                result.append(_drop_function(connection, name))
            elif key in declared or _is_own_leftover(key):
                touched.setdefault(owner, []).append(key)
        elif kind == "function" and name.startswith("profiles_internal."):
            result.append(_drop_function(connection, name))

    for sql_object in objects.inventory():
        if sql_object in touched and _can_be_applied(sql_object, existing):
            result.append(_replace_object(connection, sql_object, touched[sql_object]))
    return result


def _name(table: Table) -> str:
    return f"{table.schema or 'public'}.{table.name}"


def _is_ours(connection: Connection, table: Table) -> bool:
    if table.schema == "auth":
        return holds(connection, Where.OWN_IDENTITY)
    if _name(table) == "public.sessions":
        return holds(connection, Where.OWN_SESSIONS)
    return bool(connection.scalar(text("select to_regclass(:name) is not null"), {"name": _name(table)}))


def _redirect(sql: str, redirected: dict[str, str]) -> str:
    """Point the statements of a file, but not the bodies of its functions, at the temporary tables."""

    def plain(part: str) -> str:
        for name, actual in redirected.items():
            part = re.sub(rf"(\bon (?:table )?){re.escape(name)}\b|(\balter table ){re.escape(name)}\b",
                          lambda m, actual=actual: f"{m[1] or m[2]}{actual}", part)  # fmt: skip
        return part

    parts, end = [], 0
    for quoted in _DOLLAR_QUOTED.finditer(sql):
        parts += [plain(sql[end : quoted.start()]), quoted[0]]
        end = quoted.end()
    return "".join([*parts, plain(sql[end:])])


def _file_of(key: str) -> SqlObject | None:
    """Which file declares what a key of a snapshot is about."""
    kind, _, name = key.partition(" ")
    if key.startswith("grant function "):
        kind, name = "function", key.removeprefix("grant function ")
    if kind == "function":
        stem = name.partition("(")[0]
        return next((o for o in objects.inventory() if stem in _CREATED_FUNCTION.findall(o.text)), None)
    if kind == "trigger":
        trigger = name.rpartition(".")[2]
        return next((o for o in objects.TRIGGERS if re.search(rf"\btrigger {re.escape(trigger)}\s", o.text)), None)
    if key.startswith("grant schema "):
        schema = key.split()[2]
        return next((o for o in objects.POLICIES if f"on schema {schema} " in o.text), None)
    if kind in {"policy", "grant", "table"}:
        return next((o for o in objects.POLICIES if re.match(rf"(?:public\.)?{re.escape(o.name)}(?:[. ]|$)", name)), None)
    return None


def _is_own_leftover(key: str) -> bool:
    """Whether something that is no longer declared was ours: rights of the API roles, and policies in our words."""
    kind, _, name = key.partition(" ")
    return kind == "grant" or (kind == "policy" and name.split(".", 2)[-1].startswith(_OWN_POLICY_PREFIX))


def _can_be_applied(sql_object: SqlObject, existing: set[str]) -> bool:
    named = {t for t in re.findall(r"\bon (?:table )?((?:public|auth)\.\w+)", sql_object.text)}
    return sql_object.kind == "functions" or named <= (existing | {"auth.users"})


def _replace_constraint_or_index(kind: str, name: str, declared: str, found: str) -> Change:
    schema, table, own_name = name.split(".", 2)
    if kind == "constraint":

        def swap(definition: str) -> str:
            return (
                f"alter table {schema}.{table} drop constraint {own_name};\n"
                f"alter table {schema}.{table} add constraint {own_name} {definition.removesuffix(' NOT VALID')} not valid;\n"
                f"alter table {schema}.{table} validate constraint {own_name};"
            )

        return Change(f"constraint {name}", swap(declared), swap(found))

    def rebuild(definition: str) -> str:
        definition = definition.removesuffix(" INVALID").replace("INDEX ", "INDEX CONCURRENTLY IF NOT EXISTS ", 1)
        return f"drop index concurrently if exists {schema}.{own_name};\n{definition};"

    return Change(f"index {name}", rebuild(declared), rebuild(found), concurrently=True)


def _drop_function(connection: Connection, name: str) -> Change:
    return Change(f"function {name}", f"drop function {name};", _function_in_database(connection, name))


def _replace_object(connection: Connection, sql_object: SqlObject, keys: list[str]) -> Change:
    if sql_object.kind == "policies":
        return _replace_policies(connection, sql_object, keys)

    # A function with other parameters or another result cannot be replaced, only dropped and made anew.
    before, after = [], []
    for stem in dict.fromkeys(_CREATED_FUNCTION.findall(sql_object.text)):
        for name in _overloads(connection, stem):
            after.append(_function_in_database(connection, name))
    for key in keys:
        if key.startswith("trigger "):
            definition = _trigger_in_database(connection, key)
            after.append(definition or _drop_trigger(key))
    if not after:
        after = [f"drop function {name};" for name in _signatures(sql_object.text)]
    return Change(str(sql_object), "\n".join([*before, sql_object.statement]), "\n\n".join(after))


def _signatures(sql: str) -> list[str]:
    return [
        " ".join(name.split())
        for revoked in re.findall(r"revoke all on function\s+(.*?)\s+from public", sql, re.DOTALL)
        for name in re.findall(r"[\w.]+\([^)]*\)", revoked)
    ]


def _overloads(connection: Connection, stem: str) -> list[str]:
    rows = connection.execute(
        text(
            "select n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'"
            " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
            " where n.nspname || '.' || p.proname = :stem order by 1"
        ),
        {"stem": stem},
    )
    return [name for (name,) in rows]


def _function_in_database(connection: Connection, name: str) -> str:
    stem = name.partition("(")[0]
    definition, arguments, grantees = connection.execute(
        text(
            "select pg_get_functiondef(p.oid), oidvectortypes(p.proargtypes),"
            " (select string_agg(distinct r.rolname, ', ') from aclexplode(p.proacl) as a join pg_roles as r on r.oid = a.grantee"
            "  where r.rolname = any (cast(:roles as text[])))"
            " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
            " where n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' = :name"
        ),
        {"name": name, "roles": list(API_ROLES)},
    ).one()
    signature = f"{stem}({arguments})"
    sql = f"{definition.rstrip()};\nrevoke all on function {signature} from public, {', '.join(API_ROLES)};"
    return f"{sql}\ngrant execute on function {signature} to {grantees};" if grantees else sql


def _trigger_in_database(connection: Connection, key: str) -> str | None:
    table, _, trigger = key.removeprefix("trigger ").rpartition(".")
    definition = connection.scalar(
        text(
            "select pg_get_triggerdef(t.oid) from pg_trigger as t"
            " where t.tgrelid = to_regclass(:table) and t.tgname = :trigger and not t.tgisinternal"
        ),
        {"table": table, "trigger": trigger},
    )
    return f"{definition.replace('CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER', 1)};" if definition else None


def _drop_trigger(key: str) -> str:
    table, _, trigger = key.removeprefix("trigger ").rpartition(".")
    return f"drop trigger if exists {trigger} on {table};"


def _replace_policies(connection: Connection, sql_object: SqlObject, keys: list[str]) -> Change:
    table = sql_object.name if "." in sql_object.name else f"public.{sql_object.name}"
    policies = connection.execute(
        text(
            "select p.policyname, p.cmd, array_to_string(p.roles, ', '), p.qual, p.with_check from pg_policies as p"
            " where p.schemaname || '.' || p.tablename = :table and p.policyname like :ours order by 1"
        ),
        {"table": table, "ours": f"{_OWN_POLICY_PREFIX}%"},
    ).all()
    declared = re.findall(r'create policy ("[^"]+")', sql_object.text)
    present = [f'"{name}"' for name, *_ in policies]
    drop_present = [f"drop policy {name} on {table};" for name in present]
    restore = [f"drop policy if exists {name} on {table};" for name in declared]
    for name, command, roles, using, check in policies:
        restore.append(
            f'create policy "{name}" on {table} for {command.lower()} to {roles}'
            + (f" using ({using})" if using else "")
            + (f" with check ({check})" if check else "")
            + ";"
        )
    if any(key.startswith("grant ") for key in keys):
        restore += _grants_in_database(connection, table)
    return Change(str(sql_object), "\n".join([*drop_present, sql_object.statement]), "\n".join(restore))


def _grants_in_database(connection: Connection, table: str) -> list[str]:
    rows = connection.execute(
        text(
            "select r.rolname, lower(a.privilege_type), null from pg_class as c, aclexplode(c.relacl) as a, pg_roles as r"
            " where c.oid = to_regclass(:table) and r.oid = a.grantee and r.rolname = any (cast(:roles as text[]))"
            " union all"
            " select r.rolname, lower(a.privilege_type), string_agg(quote_ident(t.attname), ', ' order by t.attnum)"
            " from pg_attribute as t, aclexplode(t.attacl) as a, pg_roles as r"
            " where t.attrelid = to_regclass(:table) and t.attnum > 0 and r.oid = a.grantee"
            " and r.rolname = any (cast(:roles as text[])) group by 1, 2 order by 1, 2"
        ),
        {"table": table, "roles": list(API_ROLES)},
    )
    return [
        f"revoke all on table {table} from public, {', '.join(API_ROLES)};",
        *(
            f"grant {privilege}{f' ({columns})' if columns else ''} on table {table} to {role};"
            for role, privilege, columns in rows
        ),
    ]
