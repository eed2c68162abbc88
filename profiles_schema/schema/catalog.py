"""A read-only snapshot of what the server's catalog says about our objects.

Two databases are equal when their snapshots are. What is left out, because it is no property of the schema: attribute
numbers, object ids, owners, the NOT NULL constraints that PostgreSQL 18 lists by name, rights of roles other than
PUBLIC, anon, authenticated and service_role, and policies of service_role, which exist only where it cannot have
BYPASSRLS.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Connection


class Key(NamedTuple):
    """What an entry of a snapshot is about.

    Columns, comments on them, constraints, indexes, triggers and policies have a table and a name; a function has no
    table, and its arguments are part of its name. A grant is about a table, column, function or schema, and has a role.
    """

    kind: str
    schema: str
    table: str = ""
    name: str = ""
    role: str = ""

    @property
    def relation(self) -> str:
        """The qualified name of the table that it is about or belongs to."""
        return f"{self.schema}.{self.table}"

    @property
    def subject(self) -> str:
        """What it is about, without its kind: ``public.user_profiles.bio``."""
        return ".".join(filter(None, self[1:4]))

    @property
    def is_of_function(self) -> bool:
        """Whether it is about a function: itself, a right to it, or its comment."""
        return not self.table and bool(self.name)

    def __str__(self) -> str:
        if not self.role:
            return f"{self.kind} {self.subject}"
        on = "" if self.table else "function " if self.name else "schema "
        return f"{self.kind} {on}{self.subject} to {self.role}"


Snapshot = dict[Key, str]
"""From what it is to what the catalog says about it."""


def subjects(keys: Iterable[Key], kind: str) -> list[str]:
    """The qualified names, as they go into a query, of all keys of a kind."""
    return [key.subject for key in keys if key.kind == kind]


API_ROLES = ("anon", "authenticated", "service_role")

_QUERY = r"""
with relation as (
  select case when w.name = w.actual then n.nspname else split_part(w.name, '.', 1) end as "schema",
    case when w.name = w.actual then c.relname else split_part(w.name, '.', 2) end as "table",
    c.*
  from unnest(cast(:logical as text[]), cast(:actual as text[])) as w (name, actual)
  join pg_class as c on c.oid = to_regclass(w.actual)
  join pg_namespace as n on n.oid = c.relnamespace
),
grantee as (
  select 0::oid as oid, 'PUBLIC' as name
  union all
  select r.oid, r.rolname from pg_roles as r where r.rolname = any (cast(:roles as text[]))
),
function as (
  select n.nspname as "schema", p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' as name, p.*
  from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
  where n.nspname = any (cast(:schemas as text[])) or (n.nspname || '.' || p.proname) = any (cast(:functions as text[]))
)
-- As text, or the other parts would make it the type "name", which cuts the arguments of functions off.
select 'table' as kind, r."schema"::text, r."table"::text, ''::text as name, ''::text as role,
  concat_ws(' ', r.relkind, case when r.relrowsecurity then 'row security' end, case when r.relforcerowsecurity then 'forced' end)
    as value
from relation as r
union all
select 'column', r."schema", r."table", a.attname, '',
  concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
    'default ' || pg_get_expr(d.adbin, d.adrelid), nullif(a.attidentity::text, ''), nullif(a.attgenerated::text, ''))
from relation as r
join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where r.relkind <> 'i'
union all
select 'comment', r."schema", r."table", coalesce(a.attname, ''), '', d.description
from relation as r
join pg_description as d on d.objoid = r.oid and d.classoid = 'pg_class'::regclass
left join pg_attribute as a on a.attrelid = r.oid and a.attnum = d.objsubid and d.objsubid > 0
union all
select 'constraint', r."schema", r."table", c.conname, '', pg_get_constraintdef(c.oid)
from relation as r join pg_constraint as c on c.conrelid = r.oid
where c.contype <> 'n' and c.contype <> 't'
union all
select 'index', r."schema", r."table", i.relname, '',
  concat_ws(' ', pg_get_indexdef(x.indexrelid), case when not x.indisvalid then 'INVALID' end)
from relation as r join pg_index as x on x.indrelid = r.oid join pg_class as i on i.oid = x.indexrelid
union all
select 'trigger', r."schema", r."table", t.tgname, '',
  concat_ws(' ', pg_get_triggerdef(t.oid),
    case t.tgenabled when 'O' then null when 'D' then 'DISABLED' when 'R' then 'REPLICA ONLY' else 'ALWAYS' end)
from relation as r join pg_trigger as t on t.tgrelid = r.oid
where not t.tgisinternal
union all
select 'policy', r."schema", r."table", p.polname, '',
  concat_ws(' ',
    case when p.polpermissive then 'permissive' else 'restrictive' end,
    case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
    'to ' || (
      select string_agg(coalesce(x.rolname, 'PUBLIC'), ', ' order by x.rolname)
      from unnest(p.polroles) as role_oid left join pg_roles as x on x.oid = role_oid
    ),
    'using ' || pg_get_expr(p.polqual, p.polrelid), 'with check ' || pg_get_expr(p.polwithcheck, p.polrelid))
from relation as r join pg_policy as p on p.polrelid = r.oid
where p.polname not like 'Service role%'
union all
select 'grant', r."schema", r."table", '', g.name,
  string_agg(distinct lower(acl.privilege_type), ', ' order by lower(acl.privilege_type))
from relation as r cross join lateral aclexplode(r.relacl) as acl join grantee as g on g.oid = acl.grantee
group by 2, 3, 5
union all
select 'grant', r."schema", r."table", a.attname, g.name,
  string_agg(distinct lower(acl.privilege_type), ', ' order by lower(acl.privilege_type))
from relation as r
join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
cross join lateral aclexplode(a.attacl) as acl join grantee as g on g.oid = acl.grantee
group by 2, 3, 4, 5
union all
select 'function', f."schema", '', f.name, '',
  concat_ws(' ', 'returns ' || pg_get_function_result(f.oid), 'arguments (' || pg_get_function_arguments(f.oid) || ')',
    (select l.lanname from pg_language as l where l.oid = f.prolang),
    case f.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
    case when f.prosecdef then 'security definer' end, case when f.proisstrict then 'strict' end,
    'set ' || array_to_string(f.proconfig, '; '),
    'comment ' || case when f.name not like 'profiles_internal.%' then obj_description(f.oid, 'pg_proc') end, E'as\n' || f.prosrc)
from function as f
union all
select 'grant', f."schema", '', f.name, g.name, 'execute'
from function as f
cross join lateral aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) as acl
join grantee as g on g.oid = acl.grantee
union all
select 'grant', n.nspname, '', '', g.name,
  string_agg(distinct lower(acl.privilege_type), ', ' order by lower(acl.privilege_type))
from pg_namespace as n cross join lateral aclexplode(n.nspacl) as acl join grantee as g on g.oid = acl.grantee
where n.nspname = any (cast(:schemas as text[]))
group by 2, 5
"""


def take_snapshot(
    connection: Connection,
    tables: Iterable[str] | Mapping[str, str],
    functions: Iterable[str] = (),
    schemas: Iterable[str] = ("profiles_internal",),
) -> Snapshot:
    """Read what the catalog says about some objects. Changes nothing, and locks nothing but catalog rows.

    Args:
        connection: Any connection; the transaction is the caller's.
        tables: Qualified names; or a mapping from a name to the one it goes by here (``pg_temp.user_profiles``).
        functions: Qualified names without arguments; every overload is taken.
        schemas: Schemas whose functions are all ours, and whose own rights are looked at.

    Returns:
        One entry per column, constraint, index, trigger, policy, grant, comment and function. A table that does not
        exist has no entries.
    """
    # A name is printed without its schema where the search path leads to it.
    search_path = connection.scalar(text("select set_config('search_path', current_setting('search_path'), true)"))
    connection.execute(text("select set_config('search_path', 'pg_catalog', true)"))
    connection.execute(text("select set_config('quote_all_identifiers', 'off', true)"))
    names = dict(tables) if isinstance(tables, Mapping) else {name: name for name in tables}
    rows = connection.execute(
        text(_QUERY),
        {
            "logical": list(names.keys()),
            "actual": list(names.values()),
            "roles": list(API_ROLES),
            "schemas": list(schemas),
            "functions": list(functions),
        },
    )
    snapshot_rows = _with_hidden_columns({Key(*row[:5]): row[5] for row in rows}, hidden_columns(connection))
    kept = kept_rights(connection)
    defaults = kept_columns(connection)
    found = sorted(
        (key, defaults.get((key, value), value) or "") for key, value in snapshot_rows if (key, value) not in kept
    )
    connection.execute(text("select set_config('search_path', :search_path, true)"), {"search_path": search_path})
    redirected = {name: actual for name, actual in names.items() if name != actual}
    snapshot = {key: _plain(key, value, redirected) for key, value in found}
    # Over a text of another type, what is declared is printed with a cast: ((username)::text ~ …), (new.username)::text.
    retyped = [key.name for (key, value), declared in defaults.items() if declared[:4] == "text" != value[:4]]
    casts = re.compile(rf"\(((?:new\.|old\.)?(?:{'|'.join(retyped)}))\)::text", re.IGNORECASE)
    for key in snapshot if retyped else ():
        if key.kind in {"constraint", "index", "trigger"} and key.relation == "public.user_profiles":
            snapshot[key] = casts.sub(r"\1", snapshot[key])
    for (key, value), declared in defaults.items():
        # Adoption has written the default into a function, too: profiles_internal.default_language.
        function = Key("function", "profiles_internal", "", f"default_{key.name}()")
        if function in snapshot:
            theirs, ours = (f"return {each.partition(' default ')[2]};" for each in (value, declared))
            snapshot[function] = snapshot[function].replace(theirs, ours)
    return snapshot


def kept_columns(connection: Connection) -> dict[tuple[Key, str], str]:
    """Types and defaults of the application that adoption left on columns of ours: key and value, to what is declared."""
    if connection.scalar(text("select to_regclass('profiles_internal.adopted') is null")):
        return {}
    rows = connection.execute(
        text(
            "select string_to_array(a.object_name, '.'), a.data ->> 'found', a.data ->> 'declared'"
            " from profiles_internal.adopted as a where a.object_type = 'kept column'"
        )
    )
    return {(Key("column", *names), found): declared for names, found, declared in rows}


def kept_rights(connection: Connection) -> frozenset[tuple[Key, str]]:
    """Rights on columns of ours that are the application's, because its statements need them: keys and values."""
    if connection.scalar(text("select to_regclass('profiles_internal.adopted') is null")):
        return frozenset()
    rows = connection.execute(
        text(
            "select split_part(a.object_name, '.', 1), split_part(a.object_name, '.', 2), r ->> 'column', r ->> 'role',"
            "  string_agg(r ->> 'right', ', ' order by r ->> 'right')"
            " from profiles_internal.adopted as a cross join lateral jsonb_array_elements(a.data -> 'rights') as r"
            " where a.object_type = 'rights' and (r ->> 'ours')::boolean group by 1, 2, 3, 4"
        )
    )
    return frozenset((Key("grant", *row[:4]), row[4]) for row in rows)


def hidden_columns(connection: Connection) -> dict[str, list[str]]:
    """The application's own columns that users cannot read (answer ``keep`` to ``columns:TABLE``), by table."""
    if connection.scalar(text("select to_regclass('profiles_internal.adopted') is null")):
        return {}
    rows = connection.execute(
        text(
            "select a.object_name, a.data from profiles_internal.adopted as a where a.object_type = 'hidden columns'"
            " order by a.id"
        )
    )
    return {name: list(columns) for name, columns in rows}


def _with_hidden_columns(rows: Snapshot, hidden: Mapping[str, list[str]]) -> list[tuple[Key, str]]:
    """Where columns are hidden, a right to read all others is what is declared, and one to read the table is not."""
    found = dict(rows)
    for table, columns in hidden.items():
        schema, name = table.split(".")
        on_table = Key("grant", schema, name, role="authenticated")
        rights = set(found.get(on_table, "").split(", ")) - {""}
        if "select" in rights:
            found[on_table] += f", select ({', '.join(columns)})"
            continue
        on_columns = [
            key._replace(kind="grant", role="authenticated")
            for key in found
            if key.kind == "column" and key.relation == table and key.name not in columns
        ]
        read = {key: set(found.get(key, "").split(", ")) - {""} for key in on_columns}
        if read and all("select" in each for each in read.values()):
            found[on_table] = ", ".join(sorted({*rights, "select"}))
            found.update({key: ", ".join(sorted(each - {"select"})) for key, each in read.items()})
    return [(key, value) for key, value in found.items() if value != "" or key.kind != "grant"]


def _plain(key: Key, value: str, redirected: Mapping[str, str]) -> str:
    if key.kind == "function":
        # A revision may have indented the body.
        head, _, body = value.partition("as\n")
        return f"{head}as\n{textwrap.dedent(body).strip()}"
    # A temporary table is printed as pg_temp_3.user_profiles, whatever it was created as.
    for name in redirected:
        table = name.rpartition(".")[2]
        value = re.sub(rf"\bpg_temp(_\d+)?\.{re.escape(table)}\b", name, value)
    return value


def differences(expected: Snapshot, found: Snapshot, *, extras: bool = True) -> list[str]:
    """Say in one line each how two snapshots differ; an empty list when they do not.

    Args:
        expected: What should be there.
        found: What is there.
        extras: Whether to name what is there and not expected, too.
    """
    lines = []
    for key in sorted({*expected, *found} if extras else expected):
        if key not in found:
            lines.append(f"{key}: missing")
        elif key not in expected:
            lines.append(f"{key}: not expected")
        elif expected[key] != found[key]:
            lines.append(f"{key}: changed")
    return lines
