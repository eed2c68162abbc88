"""What the models and the SQL files declare, compared with what a database holds.

The server itself says what a declaration comes to: the tables are made as temporary ones in a savepoint, the SQL files
are applied to those, the catalog is read, and everything is rolled back. Two spellings of a policy are equal this way,
and no live table is locked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest

from sqlalchemy import MetaData, Table, text
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateIndex, CreateTable

from profiles_schema.driver import execute_literally, quote_name
from profiles_schema.migrations.drift import sentence
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import API_ROLES, Key, Snapshot, kept_rights, take_snapshot
from profiles_schema.schema.objects import SqlObject, Where
from profiles_schema.settings import INTERNAL_SCHEMA

_DOLLAR_QUOTED = re.compile(r"(\$\w*\$).*?\1", re.DOTALL)
_CREATED_FUNCTION = re.compile(r"create or replace function ([\w.]+)\(")
_TRIGGER_FUNCTION = re.compile(r"EXECUTE FUNCTION ([\w.]+\(\))")
_LANGUAGE = re.compile(r" \w+ (?:immutable|stable|volatile)\b")
OWN_POLICY_PREFIX = "Owners can "
_ASIDE = "set_aside_"
_FIRING = {"D": "disable", "R": "enable replica", "A": "enable always"}


@dataclass(frozen=True)
class Change:
    """One difference: what it is about, the SQL that removes it, and the SQL that brings it back.

    ``concurrently`` says that the SQL cannot run inside a transaction; ``why`` is what differs, in sentences.
    """

    what: Key | SqlObject
    upgrade_sql: str
    downgrade_sql: str
    concurrently: bool = False
    why: tuple[str, ...] = ()

    def inverse(self) -> Change:
        """The same difference, seen from the other side."""
        return Change(self.what, self.downgrade_sql, self.upgrade_sql, self.concurrently, self.why)


def our_tables(metadata: MetaData) -> list[Table]:
    """The tables of this package in a metadata that may hold an application's own, too."""
    from profiles_schema.schema.models.base import metadata as ours

    return [table for key, table in metadata.tables.items() if key in ours.tables]


def public_functions() -> list[str]:
    """The qualified names of our functions outside profiles_internal."""
    return [o.name for o in objects.FUNCTIONS if not o.name.startswith("profiles_internal.")]


def applies(connection: Connection, where: Where) -> bool:
    """Whether objects of this kind exist on this database."""
    for name, bracket in re.findall(r"from (profiles_internal\.\w+)(\()?", where.value):
        if not connection.scalar(
            text(f"select to_reg{'proc' if bracket else 'class'}(:name) is not null"), {"name": name}
        ):
            return False
    return bool(connection.scalar(text(f"select {where.value}")))


def snapshot_of_database(connection: Connection, tables: Iterable[Table]) -> Snapshot:
    """The snapshot of our objects as they are."""
    names = [_name(table) for table in tables]
    borrowed = _borrowed_tables(connection, names)
    return _keep_triggers(take_snapshot(connection, [*names, *borrowed], public_functions()), borrowed)


def snapshot_of_declarations(connection: Connection, tables: Iterable[Table]) -> Snapshot:
    """The snapshot of our objects as models and SQL files declare them. Leaves nothing behind."""
    tables = list(tables)
    names = [_name(table) for table in tables]
    borrowed = _borrowed_tables(connection, names)
    redirected = {name: f"pg_temp.{name.rpartition('.')[2]}" for name in [*names, *borrowed]}
    applicable = [o for o in objects.inventory() if o.name != "service_role" and applies(connection, o.where)]
    savepoint = connection.begin_nested()
    try:
        # A function may name a column that the revision to be written is about to add.
        connection.exec_driver_sql("set local check_function_bodies = off")
        scratch = MetaData(naming_convention=tables[0].metadata.naming_convention if tables else None)
        for table in tables:
            copy = table.to_metadata(scratch, schema="pg_temp")
            connection.execute(CreateTable(copy, include_foreign_key_constraints=[]))
            for index in copy.indexes:
                connection.execute(CreateIndex(index))
        for name in borrowed:
            connection.exec_driver_sql(f"create table {redirected[name]} (like {name})")
        # What a file does not create anew is not declared; and a result type cannot be replaced.
        _set_functions_aside(connection, [o.name for o in applicable if o.kind == "functions"])
        for sql_object in applicable:
            execute_literally(connection, _redirect(sql_object.text, redirected))
        declared = _keep_triggers(take_snapshot(connection, redirected, public_functions()), borrowed)
        return {key: value for key, value in declared.items() if not key.name.startswith(_ASIDE)}
    finally:
        savepoint.rollback()


def _set_functions_aside(connection: Connection, names: list[str]) -> None:
    statements = connection.scalars(
        text(
            "select format('alter routine %s rename to %I', p.oid::regprocedure, :prefix || p.oid)"
            " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
            " where n.nspname = :schema or n.nspname || '.' || p.proname = any (cast(:names as text[]))"
        ),
        {"names": names, "schema": INTERNAL_SCHEMA, "prefix": _ASIDE},
    ).all()
    if statements:
        execute_literally(connection, ";\n".join(statements))


def changes(connection: Connection, metadata: MetaData) -> list[Change]:
    """Everything in which the database differs from the declarations, beyond what alembic compares itself.

    Nothing while one of our tables is missing: alembic names it, and what belongs to it can only come after it.
    """
    if not all(_exists(connection, _name(table)) for table in our_tables(metadata)):
        return []
    tables = [table for table in our_tables(metadata) if _is_ours(connection, table)]
    declared = snapshot_of_declarations(connection, tables)
    found = snapshot_of_database(connection, tables)

    def why(*keys: Key) -> tuple[str, ...]:
        return tuple(
            sentence(key, _what(key, declared, found), found.get(key, ""), declared.get(key, "")) for key in keys
        )

    result: list[Change] = []
    touched: dict[SqlObject, list[Key]] = {}
    for key in sorted({*declared, *found}):
        if declared.get(key) == found.get(key) or _is_left_alone(key, declared, found):
            continue
        if _is_left_to_us(key, declared, found):
            result.append(replace(_replace_constraint_or_index(key, declared[key], found.get(key)), why=why(key)))
        elif key.kind == "function" and key not in declared:
            if file_of(key) or key.schema == INTERNAL_SCHEMA:
                result.append(replace(_drop_function(connection, key), why=why(key)))
        elif (owner := file_of(key)) is not None and (key in declared or _is_own_leftover(key)):
            touched.setdefault(owner, []).append(key)

    for sql_object in (each for each in objects.inventory() if each in touched):
        keys = touched[sql_object]
        make = _replace_policies if sql_object.kind == "policies" else _replace_functions_and_triggers
        result.append(replace(make(connection, sql_object, keys, declared, found), why=why(*keys)))
    return result


def keeps_key(key: Key, value: str) -> bool:
    """Whether it is what adoption keeps instead of ours: an id of type uuid, a primary key elsewhere, a default."""
    if key == ("column", "public", "user_profiles", "id", ""):
        return value.startswith("uuid not null")
    return key.kind == "constraint" and key.schema == "public" and value == "UNIQUE (id)" and key.name.startswith("pk_")


def is_generated(key: Key) -> bool:
    """Whether the database writes it itself."""
    return not key.role and key.subject in objects.GENERATED


def _what(key: Key, declared: Snapshot, found: Snapshot) -> str:
    return "missing" if key not in found else "changed" if key in declared else "not expected"


def _name(table: Table) -> str:
    return f"{table.schema or 'public'}.{table.name}"


def _exists(connection: Connection, name: str) -> bool:
    return bool(connection.scalar(text("select to_regclass(:name) is not null"), {"name": name}))


def _is_ours(connection: Connection, table: Table) -> bool:
    if table.schema == "auth":
        return applies(connection, Where.OWN_IDENTITY)
    return _name(table) != "public.sessions" or applies(connection, Where.OWN_SESSIONS)


def _borrowed_tables(connection: Connection, ours: Iterable[str]) -> list[str]:
    """The tables of others that carry our triggers."""
    candidates = {"auth.users": Where.EVERYWHERE, "public.sessions": Where.USABLE_SESSIONS}
    return [
        name
        for name, where in candidates.items()
        if name not in set(ours) and _exists(connection, name) and applies(connection, where)
    ]


def _keep_triggers(snapshot: Snapshot, tables: Iterable[str]) -> Snapshot:
    """A snapshot that has only the triggers of these tables."""
    others = {*tables}
    return {key: value for key, value in snapshot.items() if key.kind == "trigger" or key.relation not in others}


def _is_on_a_foreign_column(key: Key, declared: Snapshot) -> bool:
    """Whether a key is about a right on a column that the application added."""
    return key.kind == "grant" and bool(key.table and key.name) and Key("column", *key[1:4]) not in declared


def _is_left_alone(key: Key, declared: Snapshot, found: Snapshot) -> bool:
    """Whether it is the application's, or something that the database writes itself, or what adoption keeps."""
    return (
        _is_on_a_foreign_column(key, declared)
        or _is_another_form(key, declared, found)
        or is_generated(key)
        or keeps_key(key, found.get(key, ""))
    )


def _is_left_to_us(key: Key, declared: Snapshot, found: Snapshot) -> bool:
    """Whether alembic does not see this difference of a constraint or index itself.

    It finds missing indexes, unique constraints and foreign keys. What is only found is the application's.
    """
    if key.kind == "index":
        return key in declared and key in found and key._replace(kind="constraint") not in found
    return key.kind == "constraint" and declared.get(key, "").startswith(("CHECK", "PRIMARY KEY"))


def _redirect(sql: str, redirected: dict[str, str]) -> str:
    """Point the statements of a file, also in its DO blocks, but not the bodies of its functions, at the temporary tables."""

    def plain(part: str) -> str:
        for name, actual in redirected.items():
            part = re.sub(rf"(\bon (?:table )?|\balter table ){re.escape(name)}\b", rf"\g<1>{actual}", part)
        return part

    parts, end = [], 0
    for quoted in _DOLLAR_QUOTED.finditer(sql):
        is_block = re.search(r"\bdo \Z", sql[: quoted.start()])
        parts += [plain(sql[end : quoted.start()]), plain(quoted[0]) if is_block else quoted[0]]
        end = quoted.end()
    return "".join([*parts, plain(sql[end:])])


def file_of(key: Key) -> SqlObject | None:
    """Which file declares what a key of a snapshot is about."""
    if key.is_of_function:
        stem = key.subject.partition("(")[0]
        return next((o for o in objects.inventory() if stem in _CREATED_FUNCTION.findall(o.text)), None)
    if key.kind == "trigger":
        return next((o for o in objects.TRIGGERS if re.search(rf"\btrigger {re.escape(key.name)}\s", o.text)), None)
    if key.kind == "grant" and not key.table:
        return next((o for o in objects.POLICIES if f"on schema {key.schema} " in o.text), None)
    if key.kind in {"policy", "grant", "table"}:
        names = {key.schema, key.relation, *([key.table] if key.schema == "public" else ())}
        return next((o for o in objects.POLICIES if o.name in names), None)
    return None


def _is_another_form(key: Key, declared: Snapshot, found: Snapshot) -> bool:
    """Whether it is about a function of the application that has the name of one of ours, with other arguments."""
    function = key._replace(kind="function", role="")
    return (
        key.is_of_function
        and key.schema == "public"
        and function not in declared
        and "set search_path=pg_catalog, pg_temp" not in found.get(function, "")
        and not any(_takes_the_same(key.name, each.name) for each in declared if each[:2] == ("function", "public"))
    )


def _takes_the_same(function: str, ours: str) -> bool:
    """Whether a function takes the same types as our function of that name; names of arguments do not count."""
    name, _, arguments = function.removesuffix(")").partition("(")
    our_name, _, our_arguments = ours.removesuffix(")").partition("(")
    pairs = list(zip_longest(arguments.split(", "), our_arguments.split(", "), fillvalue=""))
    # Ours all have names; a type may have several words.
    types = [(argument, our_argument.partition(" ")[2]) for argument, our_argument in pairs]
    return name == our_name and all(argument == kind or argument.endswith(f" {kind}") for argument, kind in types)


def _is_own_leftover(key: Key) -> bool:
    """Whether something that is no longer declared was ours: rights of the API roles, and policies in our words."""
    return key.kind == "grant" or (key.kind == "policy" and key.name.startswith(OWN_POLICY_PREFIX))


def _replace_constraint_or_index(key: Key, declared: str, found: str | None) -> Change:
    if key.kind == "constraint":

        def swap(definition: str | None) -> str:
            lines = [f"alter table {key.relation} drop constraint if exists {key.name};"]
            if definition is not None and definition.startswith("CHECK"):
                # Two steps, so that the table is not locked while its rows are read.
                plain = definition.removesuffix(" NOT VALID")
                lines.append(f"alter table {key.relation} add constraint {key.name} {plain} not valid;")
                if plain == definition:
                    lines.append(f"alter table {key.relation} validate constraint {key.name};")
            elif definition is not None:
                lines.append(f"alter table {key.relation} add constraint {key.name} {definition};")
            return "\n".join(lines)

        return Change(key, swap(declared), swap(found))

    def rebuild(definition: str) -> str:
        definition = definition.removesuffix(" INVALID").replace("INDEX ", "INDEX CONCURRENTLY IF NOT EXISTS ", 1)
        return f"drop index concurrently if exists {key.schema}.{key.name};\n{definition};"

    return Change(key, rebuild(declared), rebuild(found or declared), concurrently=True)


def _drop_function(connection: Connection, key: Key) -> Change:
    return Change(key, f"drop function if exists {key.subject};", _function_in_database(connection, key))


def _replace_functions_and_triggers(
    connection: Connection, sql_object: SqlObject, keys: list[Key], declared: Snapshot, found: Snapshot
) -> Change:
    before: list[str] = []
    undo: list[str] = []
    create: list[str] = []
    drop: list[str] = []
    for key in keys:
        if key.kind != "trigger":
            continue
        if key in found:
            create.append(_trigger_in_database(connection, key))
        elif key.relation == "auth.users" and (made_by := _TRIGGER_FUNCTION.search(declared[key])):
            # The table may belong to another role: then its triggers can be added but not dropped.
            undo.append(f"drop function if exists {made_by[1]} cascade;")
        else:
            undo.append(f"drop trigger if exists {key.name} on {key.relation};")
    for key in (key for key in declared if key.kind == "function" and file_of(key) == sql_object):
        if key not in found:
            drop.append(f"drop function if exists {key.subject};")
            continue
        if _signature(declared[key]) != _signature(found[key]):
            # Parameters and result cannot be replaced, only dropped and made anew.
            before.append(f"drop function if exists {key.subject};")
            undo.append(f"drop function if exists {key.subject};")
        undo.append(_function_in_database(connection, key))
    return Change(sql_object, "\n".join([*before, sql_object.statement]), "\n\n".join([*undo, *create, *drop]))


def _signature(function: str) -> str:
    return _LANGUAGE.split(function, maxsplit=1)[0]


def _function_in_database(connection: Connection, key: Key) -> str:
    definition, arguments, grantees = connection.execute(
        text(
            "select pg_get_functiondef(p.oid), oidvectortypes(p.proargtypes),"
            " (select string_agg(distinct coalesce(r.rolname, 'public'), ', ')"
            "  from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a left join pg_roles as r on r.oid = a.grantee"
            "  where a.grantee = 0 or r.rolname = any (cast(:roles as text[])))"
            " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
            " where n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' = :name"
        ),
        {"name": key.subject, "roles": list(API_ROLES)},
    ).one()
    signature = f"{key.subject.partition('(')[0]}({arguments})"
    sql = f"{definition.rstrip()};\nrevoke all on function {signature} from public, {', '.join(API_ROLES)};"
    return f"{sql}\ngrant execute on function {signature} to {grantees};" if grantees else sql


def _trigger_in_database(connection: Connection, key: Key) -> str:
    definition, enabled = connection.execute(
        text(
            "select pg_get_triggerdef(t.oid), t.tgenabled from pg_trigger as t"
            " where t.tgrelid = to_regclass(:table) and t.tgname = :trigger and not t.tgisinternal"
        ),
        {"table": key.relation, "trigger": key.name},
    ).one()
    sql = f"{definition.replace('CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER', 1)};"
    firing = _FIRING.get(enabled)
    return f"{sql}\nalter table {key.relation} {firing} trigger {key.name};" if firing else sql


def _replace_policies(
    connection: Connection, sql_object: SqlObject, keys: list[Key], declared: Snapshot, found: Snapshot
) -> Change:
    table = sql_object.name if "." in sql_object.name else f"public.{sql_object.name}"
    policies = connection.execute(
        text(
            "select p.policyname, lower(p.permissive), lower(p.cmd), p.roles, p.qual, p.with_check from pg_policies as p"
            " where p.schemaname || '.' || p.tablename = :table and p.policyname like :ours order by 1"
        ),
        {"table": table, "ours": f"{OWN_POLICY_PREFIX}%"},
    ).all()
    names = dict.fromkeys([*re.findall(r'create policy "([^"]+)"', sql_object.text), *(name for name, *_ in policies)])
    drop = [f"drop policy if exists {quote_name(name)} on {table};" for name in names]
    create = [
        f"create policy {quote_name(name)} on {table} as {permissive} for {command}"
        f" to {', '.join('public' if role == 'public' else quote_name(role) for role in roles)}"
        + (f" using ({using})" if using else "")
        + (f" with check ({check})" if check else "")
        + ";"
        for name, permissive, command, roles, using, check in policies
    ]
    granted = [key for key in keys if key.kind == "grant"]
    # Revoking from a table takes the rights on all its columns along, the application's own, too.
    foreign = [_grant(k, found[k]) for k in found if k.relation == table and _is_on_a_foreign_column(k, declared)]
    foreign += [_grant(k, right) for k, right in sorted(kept_rights(connection)) if k.relation == table]
    return Change(
        sql_object,
        "\n".join([*drop, sql_object.statement.strip(), *foreign]),
        "\n".join([*drop, *create, *_grants_in_database(granted, found)]),
    )


def _grants_in_database(keys: Iterable[Key], found: Snapshot) -> list[str]:
    """Give back what is granted now on each schema and table that the keys are about."""
    lines = []
    for target in dict.fromkeys(_granted_on(key) for key in keys):
        lines.append(f"revoke all on {target} from public, {', '.join(API_ROLES)};")
        lines += [
            _grant(key, privileges)
            for key, privileges in found.items()
            if key.kind == "grant" and not key.is_of_function and _granted_on(key) == target
        ]
    return lines


def _granted_on(key: Key) -> str:
    return f"table {key.relation}" if key.table else f"schema {key.schema}"


def _grant(key: Key, privileges: str) -> str:
    if key.name:
        column = quote_name(key.name)
        privileges = ", ".join(f"{privilege} ({column})" for privilege in privileges.split(", "))
    return f"grant {privileges} on {_granted_on(key)} to {key.role.lower()};"
