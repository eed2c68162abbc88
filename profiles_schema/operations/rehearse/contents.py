"""What a database holds, so that a later look can be compared: the catalog, and every row.

For a database that nobody else uses: rows are remembered in a schema beside the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.driver import execute_literally, quote_name
from profiles_schema.schema.catalog import Key, Snapshot, take_snapshot

KEPT: Final = "profiles_rehearsal_rows"
"""The schema with a table of hashes for each table that was looked at."""

_TABLES = """
select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name, c.relkind,
  (select array_agg(a.attname order by a.attname) from pg_attribute as a
   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
  (select array_agg(a.attname order by a.attname) from pg_index as i join pg_attribute as a
     on a.attrelid = c.oid and a.attnum = any (i.indkey) where i.indrelid = c.oid and i.indisprimary) as key
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = any (cast(:schemas as text[])) and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by 1
"""

# What take_snapshot leaves out because other uses must not see it: owners, all grants, views, types, sequences.
_MORE = """
with scope as (
  select n.oid, n.nspname, n.nspowner, n.nspacl from pg_namespace as n where n.nspname = any (cast(:schemas as text[]))
),
acl (kind, schema, name, owner, items) as (
  select 'schema', nspname, ''::text, nspowner, coalesce(nspacl, acldefault('n', nspowner)) from scope
  union all
  select 'relation', n.nspname, c.relname, c.relowner,
    coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))
  from pg_class as c join scope as n on n.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  union all
  select 'rights of function', n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
    p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
  from pg_proc as p join scope as n on n.oid = p.pronamespace
  union all
  select 'rights of type', n.nspname, t.typname, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
  from pg_type as t join scope as n on n.oid = t.typnamespace where t.typtype in ('e', 'd', 'r')
)
select a.kind, a.schema, a.name, 'owner ' || pg_get_userbyid(a.owner) || coalesce('; ' || (
  select string_agg(format('%s to %s', lower(g.privilege_type), coalesce(r.rolname, 'PUBLIC')), ', '
    order by g.privilege_type, coalesce(r.rolname, 'PUBLIC'))
  from aclexplode(a.items) as g left join pg_roles as r on r.oid = g.grantee
), '') from acl as a
union all
select 'rights of column', n.nspname, c.relname || '.' || a.attname, (
  select string_agg(format('%s to %s', lower(g.privilege_type), coalesce(r.rolname, 'PUBLIC')), ', '
    order by g.privilege_type, coalesce(r.rolname, 'PUBLIC'))
  from aclexplode(a.attacl) as g left join pg_roles as r on r.oid = g.grantee)
from pg_attribute as a join pg_class as c on c.oid = a.attrelid join scope as n on n.oid = c.relnamespace
where not a.attisdropped and cardinality(a.attacl) > 0
union all
select 'view', n.nspname, c.relname, pg_get_viewdef(c.oid) || coalesce(array_to_string(c.reloptions, ', '), '')
from pg_class as c join scope as n on n.oid = c.relnamespace where c.relkind in ('v', 'm')
union all
select 'body of function', n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
  pg_get_functiondef(p.oid)
from pg_proc as p join scope as n on n.oid = p.pronamespace where p.prokind in ('f', 'p', 'w')
union all
select 'comment function', n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
  d.description
from pg_proc as p join scope as n on n.oid = p.pronamespace
join pg_description as d on d.objoid = p.oid and d.classoid = 'pg_proc'::regclass
union all
select 'type', n.nspname, t.typname, concat_ws(' ', t.typtype, format_type(t.typbasetype, t.typtypmod),
  t.typdefault, case when t.typnotnull then 'not null' end,
  (select string_agg(e.enumlabel, ', ' order by e.enumsortorder) from pg_enum as e where e.enumtypid = t.oid),
  (select string_agg(pg_get_constraintdef(k.oid), ', ' order by k.conname) from pg_constraint as k where k.contypid = t.oid))
from pg_type as t join scope as n on n.oid = t.typnamespace where t.typtype in ('e', 'd', 'r')
union all
select 'sequence', n.nspname, c.relname, format('%s start %s increment %s from %s to %s cache %s%s',
  format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, case when s.seqcycle then ' cycle' end)
from pg_sequence as s join pg_class as c on c.oid = s.seqrelid join scope as n on n.oid = c.relnamespace
union all
select 'default rights in', n.nspname, format('%s of %s', d.defaclobjtype, pg_get_userbyid(d.defaclrole)), d.defaclacl::text
from pg_default_acl as d join scope as n on n.oid = d.defaclnamespace
"""


@dataclass(frozen=True)
class Table:
    """A table as it was found: ``checksum`` does not depend on the order of the rows."""

    name: str
    columns: list[str]
    key: list[str]
    rows: int
    checksum: str
    kept_as: str


@dataclass(frozen=True)
class Contents:
    """The catalog of some schemas, and their tables."""

    catalog: Snapshot
    tables: dict[str, Table]
    roles: list[str]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables.values())


@dataclass(frozen=True)
class RowChange:
    """How the rows of a table differ from those remembered; ``columns`` where its columns differ."""

    table: str
    missing: int = 0
    added: int = 0
    changed: int = 0
    columns: str = ""

    def __str__(self) -> str:
        parts = [
            f"{number} rows {word}"
            for number, word in ((self.missing, "missing"), (self.changed, "changed"), (self.added, "more"))
            if number
        ]
        return f"{self.table}: {', '.join([*parts, *([self.columns] if self.columns else [])])}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def remember(connection: Connection, schemas: list[str], without_rows: list[str]) -> Contents:
    """Look at the schemas, and keep a hash of every row for ``row_changes``; tables named in ``without_rows`` are empty."""
    _settle(connection)
    connection.exec_driver_sql(f"create schema {KEPT}")
    tables: dict[str, Table] = {}
    for row in _tables(connection, schemas):
        if row.relkind != "r" or row.name in without_rows:
            continue
        kept_as = f"{KEPT}.t{len(tables)}"
        hashes = _hashes(row.name, row.columns or [], row.key or [])
        execute_literally(connection, f"create unlogged table {kept_as} as {hashes}")
        rows, checksum = connection.exec_driver_sql(
            f"select count(*), md5(coalesce(sum(hash), 0)::text) from {kept_as}"
        ).one()
        tables[row.name] = Table(row.name, row.columns or [], row.key or [], rows, checksum, kept_as)
        connection.exec_driver_sql(f"analyze {kept_as}")
    return Contents(catalog(connection, schemas), tables, _roles(connection))


def catalog(connection: Connection, schemas: list[str]) -> Snapshot:
    """Everything the catalog says about what is in these schemas."""
    names = [row.name for row in _tables(connection, schemas)]
    found = take_snapshot(connection, names, (), schemas)
    connection.exec_driver_sql("set local search_path = pg_catalog")
    for kind, schema, name, value in connection.execute(text(_MORE), {"schemas": schemas}):
        found[Key(kind, schema, "", name)] = value or ""
    return found


def row_changes(connection: Connection, before: Contents, schemas: list[str]) -> list[RowChange]:
    """How the rows differ from those remembered, table by table; only tables that differ.

    A table that was not there before counts with its rows, one that is gone with those it had.
    """
    _settle(connection)
    now = {row.name: row for row in _tables(connection, schemas) if row.relkind == "r"}
    found = []
    for name, table in before.tables.items():
        if name not in now:
            found.append(RowChange(name, missing=table.rows, columns="the table is gone"))
            continue
        columns = now[name].columns or []
        if columns != table.columns:
            gone, come = sorted({*table.columns} - {*columns}), sorted({*columns} - {*table.columns})
            words = [f"column {c} is gone" for c in gone] + [f"column {c} is new" for c in come]
            rows = execute_literally(connection, f"select count(*) from only {name}").scalar_one()
            more = rows - table.rows
            found.append(RowChange(name, missing=max(-more, 0), added=max(more, 0), columns="; ".join(words)))
            continue
        row = execute_literally(connection, _difference(table)).one()
        if any(row):
            found.append(RowChange(name, *row))
    return found


def new_roles(connection: Connection, before: Contents) -> list[str]:
    """Roles that were not there."""
    return sorted({*_roles(connection)} - {*before.roles})


def _roles(connection: Connection) -> list[str]:
    return list(connection.scalars(text("select rolname from pg_roles order by 1")))


def _settle(connection: Connection) -> None:
    """The text of a value depends on the session."""
    for setting in ("timezone = 'UTC'", "datestyle = 'ISO'", "intervalstyle = 'postgres'", "bytea_output = 'hex'",
                    "extra_float_digits = 1", "search_path = pg_catalog", "work_mem = '128MB'"):  # fmt: skip
        connection.exec_driver_sql(f"set local {setting}")


def _tables(connection: Connection, schemas: list[str]) -> list[Any]:
    connection.exec_driver_sql("set local search_path = pg_catalog")
    return list(connection.execute(text(_TABLES), {"schemas": schemas}))


def _hashes(table: str, columns: list[str], key: list[str]) -> str:
    # By name, for a column that comes back comes back last.
    row = ", ".join(f"t.{quote_name(name)}" for name in columns)
    identity = f"row({', '.join(f't.{quote_name(name)}' for name in key)})::text" if key else "null::text"
    return f"select {identity} as id, hashtextextended(row({row})::text, 0) as hash from only {table} as t"


def _difference(table: Table) -> str:
    now = _hashes(table.name, table.columns, table.key)
    if table.key:
        return (
            "select count(*) filter (where n.id is null), count(*) filter (where o.id is null),"
            " count(*) filter (where o.hash <> n.hash)"
            f" from {table.kept_as} as o full join ({now}) as n on n.id = o.id"
        )
    return (
        "select coalesce(sum(greatest(coalesce(o.number, 0) - coalesce(n.number, 0), 0)), 0)::bigint,"
        " coalesce(sum(greatest(coalesce(n.number, 0) - coalesce(o.number, 0), 0)), 0)::bigint, 0"
        f" from (select hash, count(*) as number from {table.kept_as} group by 1) as o"
        f" full join (select hash, count(*) as number from ({now}) as x group by 1) as n on n.hash = o.hash"
    )
