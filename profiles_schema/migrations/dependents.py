"""What the application has made on top of the objects that a downgrade drops, looked up before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from profiles_schema.errors import DependentsRefused
from profiles_schema.migrations.losses import dropped_tables
from profiles_schema.migrations.paths import is_ours
from profiles_schema.migrations.sql_objects import public_functions
from profiles_schema.schema.catalog import subjects
from profiles_schema.settings import INTERNAL_SCHEMA

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Class, object, column, as in pg_depend.
_Key = tuple[int, int, int]

_DROP_FUNCTIONS = re.compile(r"\bdrop function (?:if exists )?(?P<names>[^;]*)", re.IGNORECASE)
_SIGNATURE = re.compile(r"[\w.]+\([^()]*\)")

_TABLES = """
select 'pg_class'::regclass::oid::int8, c.oid::int8, 0 from pg_class as c
where c.oid = any (select to_regclass(t) from unnest(cast(:tables as text[])) as t)
"""
_FUNCTIONS = """
select 'pg_proc'::regclass::oid::int8, p.oid::int8, 0 from pg_proc as p
where p.oid = any (select to_regprocedure(f) from unnest(cast(:functions as text[])) as f)
"""
_OWN_VIEWS = """
select 'pg_class'::regclass::oid::int8, c.oid::int8, 0 from pg_class as c
where c.relkind = 'v' and obj_description(c.oid, 'pg_class') like 'profiles-schema:%'
"""
# An adopted table loses the columns and constraints that were added to it.
_ADDED = f"""
with added as (
  select to_regclass(substring(a.definition from '^alter table (\\S+) ')) as relation, m[1] as kind, m[2] as name
  from {INTERNAL_SCHEMA}.adopted as a
  cross join lateral regexp_matches(a.definition, 'drop (column|constraint) ((?:"[^"]*")+|\\w+)', 'g') as m
  where a.revision = any (cast(:revisions as text[])) and a.definition like 'alter table %'
)
select 'pg_class'::regclass::oid::int8, c.attrelid::int8, c.attnum
from added as a join pg_attribute as c on c.attrelid = a.relation and quote_ident(c.attname) = a.name
where a.kind = 'column'
union all
select 'pg_constraint'::regclass::oid::int8, c.oid::int8, 0
from added as a join pg_constraint as c on c.conrelid = a.relation and quote_ident(c.conname) = a.name
where a.kind = 'constraint'
"""
# What goes without a word is the closure over automatic dependencies; what refuses to let go is a normal one. A view
# hangs on tables by its rule. Ours is what belongs to one of our tables or is in one of our schemas.
_HANGING = rf"""
with recursive
gone as (
  select * from unnest(cast(:classes as int8[]), cast(:objects as int8[]), cast(:columns as int[])) as g (classid, objid, objsubid)
  union
  select d.classid::int8, d.objid::int8, d.objsubid
  from gone as g
  join pg_depend as d on d.refclassid::int8 = g.classid and d.refobjid::int8 = g.objid
    and (g.objsubid = 0 or d.refobjsubid = g.objsubid)
  where d.deptype in ('a', 'i', 'P', 'S')
),
hanging as (
  select distinct
    case when r.oid is null then d.classid else 'pg_class'::regclass end as classid,
    case when r.oid is null then d.objid else r.ev_class end as objid,
    case when r.oid is null then d.objsubid else 0 end as objsubid,
    -- Our functions go before our tables, but for those in auth: so what calls them must be dropped by itself, also on one of our tables.
    d.refclassid = 'pg_proc'::regclass and d.classid in ('pg_trigger'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass)
      and (select p.pronamespace::regnamespace::text from pg_proc as p where p.oid = d.refobjid) <> 'auth' as calls
  from gone as g
  join pg_depend as d on d.refclassid::int8 = g.classid and d.refobjid::int8 = g.objid
    and (g.objsubid = 0 or d.refobjsubid = g.objsubid)
  left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid and r.rulename = '_RETURN'
  where d.deptype = 'n'
)
select
  h.classid::int8, h.objid::int8, h.objsubid,
  pg_describe_object(h.classid, h.objid, h.objsubid),
  case o.type
    when 'table constraint' then
      (select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) from pg_constraint as c where c.oid = h.objid)
    when 'default value' then
      (select format('alter table %s alter column %I drop %s', a.attrelid::regclass, a.attname,
         case a.attgenerated when '' then 'default' else 'expression' end)
       from pg_attrdef as d join pg_attribute as a on (a.attrelid, a.attnum) = (d.adrelid, d.adnum) where d.oid = h.objid)
    when 'table column' then
      (select format('alter table %s drop column %I', a.attrelid::regclass, a.attname)
       from pg_attribute as a where (a.attrelid, a.attnum) = (h.objid, h.objsubid))
    else format('drop %s %s', o.type, o.identity)
  end
from hanging as h
cross join lateral pg_identify_object(h.classid, h.objid, h.objsubid) as o
where (h.calls or not exists (
    select from gone as o
    where (o.classid, o.objid) = (h.classid::int8, h.objid::int8) and o.objsubid in (0, h.objsubid)
  ))
  and not (h.classid = 'pg_constraint'::regclass and (
    select format('%s.%s', c.conrelid::regclass, c.conname) from pg_constraint as c where c.oid = h.objid
  ) = any (cast(:replaced as text[])))
  and coalesce(o.schema, '') not in ('{INTERNAL_SCHEMA}', 'profiles_compat')
  and not (h.classid = 'pg_proc'::regclass and format('%s.%s', o.schema, (select proname from pg_proc where oid = h.objid)) = any (:functions))
  and not exists (
    select from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
    where h.classid = 'pg_trigger'::regclass and t.oid = h.objid and (
      format('%s.%s.%s', c.relnamespace::regnamespace, c.relname, t.tgname) = any (cast(:triggers as text[]))
      or t.tgname like 'profiles\_identity\_%'
      or c.relkind = 'v' and obj_description(c.oid, 'pg_class') like 'profiles-schema:%'
    )
  )
  and (h.calls or not exists (
    select from pg_depend as d
    where (d.classid, d.objid) = (h.classid, h.objid) and d.deptype in ('a', 'i') and h.objsubid = 0
      and d.refclassid = 'pg_class'::regclass
      and (
        d.refobjid in (select to_regclass(t) from unnest(cast(:tables as text[])) as t)
        or d.refobjid in (select c.oid from pg_class as c where c.relnamespace = to_regnamespace('{INTERNAL_SCHEMA}'))
      )
      -- A foreign key hangs on both of its tables.
      and not (h.classid = 'pg_constraint'::regclass and d.refobjid <> (select c.conrelid from pg_constraint as c where c.oid = h.objid))
  ))
order by 4
"""


# Adoption pointed some foreign keys to one of our columns. The downgrade points them back to the old one.
_REPLACED = f"""
select coalesce(array_agg(a.object_name), '{{}}') from {INTERNAL_SCHEMA}.adopted as a where a.object_type = 'replace'
"""

# What adoption set aside and a downgrade makes anew, where something of that name has come into its place.
_NAME = r'((?:"[^"]*")+|\w+)'
_TAKEN = f"""
with aside as (
  select m[1] as name, to_regclass(m[2]) as relation, 'policy' as kind
  from {INTERNAL_SCHEMA}.adopted as a cross join lateral regexp_matches(a.definition, '^create policy {_NAME} on (\\S+) as ') as m
  where a.revision = any (cast(:revisions as text[]))
  union
  select m[1], to_regclass(m[2]), 'trigger'
  from {INTERNAL_SCHEMA}.adopted as a
  cross join lateral regexp_matches(a.definition, '(?:^|; )CREATE TRIGGER {_NAME} [^;]*? ON (\\S+) ') as m
  where a.revision = any (cast(:revisions as text[]))
)
select a.kind, a.relation::text as relation, a.name from aside as a
where exists (
    select from pg_policy as p where a.kind = 'policy' and p.polrelid = a.relation and quote_ident(p.polname) = a.name
      and format('%s.%s', a.relation, p.polname) <> all (cast(:ours as text[]))
  )
  or exists (
    select from pg_trigger as t where a.kind = 'trigger' and t.tgrelid = a.relation and quote_ident(t.tgname) = a.name
      and (select f.pronamespace::regnamespace::text from pg_proc as f where f.oid = t.tgfoid) <> '{INTERNAL_SCHEMA}'
  )
order by 1, 2, 3
"""


def refuse_dependents(connection: Connection, steps: Sequence[Any]) -> None:
    """Stop a downgrade that would get stuck, half-way, on something that the application made.

    A downgrade that also runs revisions of the application is let through: those may drop it themselves.

    Raises:
        DependentsRefused: with every such object and the statements that drop them.
    """
    if not steps or not all(is_ours(step) and not step.is_upgrade for step in steps):
        return
    connection.exec_driver_sql("set local search_path = pg_catalog")
    _refuse_taken_names(connection, steps)
    found: dict[_Key, tuple[str, str]] = {}
    fresh = list(_dropped_objects(connection, steps))
    while fresh:
        rows = [row for row in _dependents(connection, fresh) if tuple(row[:3]) not in found]
        fresh = [(row[0], row[1], row[2]) for row in rows]
        found |= {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
    connection.rollback()
    if not found:
        return
    named = [name for name, _ in found.values()]
    # What hangs on something that hangs on ours goes first.
    remedies = [f"{statement};" for _, statement in reversed(found.values())]
    raise DependentsRefused(
        f"This downgrade would drop what objects of the application depend on: {'; '.join(named)}. Nothing was changed. "
        "Drop them first, or change them so that they do without, and run this again:\n" + "\n".join(remedies)
    )


def _refuse_taken_names(connection: Connection, steps: Sequence[Any]) -> None:
    """Stop where the application has made a policy or a trigger anew, under the name of one that would come back."""
    from profiles_schema.migrations import expected

    if connection.scalar(text(f"select to_regclass('{INTERNAL_SCHEMA}.adopted') is null")):
        return
    values = {
        "revisions": [step.revision.revision for step in steps],
        "ours": subjects(expected.keys(), "policy"),
    }
    taken = connection.execute(text(_TAKEN), values).all()
    if taken:
        named = "; ".join(f"{row.kind} {row.name} on {row.relation}" for row in taken)
        remedies = "\n".join(f"drop {row.kind} {row.name} on {row.relation};" for row in taken)
        raise DependentsRefused(
            "This downgrade brings back what was set aside, and the application has made others of the same name since: "
            f"{named}. Nothing was changed. Drop or rename these first, and run this again:\n{remedies}"
        )


def _dropped_objects(connection: Connection, steps: Sequence[Any]) -> Iterator[_Key]:
    """The objects that these steps drop."""
    tables, adopted = dropped_tables(connection, steps)
    names = [table for table in tables if table not in adopted]
    functions = [
        signature
        for step in steps
        for match in _DROP_FUNCTIONS.finditer(_downgrade_source(step))
        if not re.search(r"\bcascade\b", match["names"])
        for signature in _SIGNATURE.findall(match["names"])
        if not signature.startswith("auth.") or "auth.users" in tables
    ]
    yield from _keys(connection, _TABLES, tables=names)
    yield from _keys(connection, _FUNCTIONS, functions=functions)
    if any("remove_old_profiles" in _downgrade_source(step) for step in steps):
        yield from _keys(connection, _OWN_VIEWS)
    if adopted:
        yield from _keys(connection, _ADDED, revisions=[step.revision.revision for step in steps])


def _keys(connection: Connection, query: str, **values: Any) -> Iterator[_Key]:
    for row in connection.execute(text(query), values):
        yield row[0], row[1], row[2]


def _dependents(connection: Connection, gone: Sequence[_Key]) -> Sequence[Any]:
    from profiles_schema.migrations import expected
    from profiles_schema.schema.models import metadata
    from profiles_schema.schema.objects import GENERATED

    has_adopted = connection.scalar(text(f"select to_regclass('{INTERNAL_SCHEMA}.adopted') is not null"))
    values = {
        "replaced": connection.scalar(text(_REPLACED)) if has_adopted else [],
        "classes": [key[0] for key in gone],
        "objects": [key[1] for key in gone],
        "columns": [key[2] for key in gone],
        "tables": ["auth.users", *(f"{table.schema or 'public'}.{table.name}" for table in metadata.tables.values())],
        "functions": public_functions(),
        "triggers": [
            *subjects(expected.keys(), "trigger"),
            *GENERATED,
        ],
    }
    return connection.execute(text(_HANGING), values).all()


def _downgrade_source(step: Any) -> str:
    return Path(step.revision.path).read_text(encoding="utf-8").partition("\ndef downgrade")[2]
