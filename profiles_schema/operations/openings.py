"""Who can get at rows, or lose them, by a way that this package does not declare.

Rights, functions and policies of this package itself are compared by fingerprint (``migrations.expected``). What
somebody adds is in no fingerprint: policies, views, definer functions, rules, memberships, owners. Those are looked for
here. Queries of the catalog only: health runs every minute.

Names are written out with their schema, because a connection may have any search path.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.schema.catalog import API_ROLES, Key, subjects
from profiles_schema.schema.objects import Where

_TABLES = (
    "user_profiles", "user_progress", "user_api_keys", "user_provider_keys", "export_history", "user_profile_audit_logs"
)  # fmt: skip
_SERVICE_POLICY = ("Service role can do what its grants allow", ["service_role"])
_SHOWN = 3
_VERBS = {"r": "read", "a": "insert", "w": "change", "d": "delete", "*": "read and write"}

_OURS = f"""
ours as (
  select c.oid, c.relowner as owner, c.relname as bare, n.nspname || '.' || c.relname as plain,
    format('%I.%I', n.nspname, c.relname) as name, n.nspname = 'profiles_internal' as internal
  from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and (
    n.nspname = 'profiles_internal'
    or n.nspname = 'public' and c.relname = any (cast(:tables as text[]))
    or c.oid = to_regclass('public.sessions') and {Where.OWN_SESSIONS.value}
    or c.oid = to_regclass('auth.users') and {Where.OWN_IDENTITY.value}
  )
)
"""
# Row level security does not bind the owner of a table, a superuser, or a role with BYPASSRLS.
_UNBOUND = """
unbound as (
  select r.oid from pg_roles as r
  where r.rolsuper or r.rolbypassrls
    or exists (select from ours as o where not o.internal and pg_has_role(r.oid, o.owner, 'usage'))
)
"""
# Roles that can do more than any right on a table says; ``always``: too much for service_role, too.
_MIGHTY = """
mighty as (
  select r.oid, r.rolname, r.rolsuper or r.rolname like 'pg\\_%' or r.oid in (select owner from ours) as always
  from pg_roles as r where r.rolsuper or r.rolbypassrls or r.rolname = 'service_role' or r.oid in (select owner from ours)
    or r.rolname in (
      'pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'
    )
)
"""
# Views that lead to a table of ours, by way of other views too; secret, if to that of the keys.
_REACHING = """
reaching as (
  select o.oid, o.bare in ('user_api_keys', 'user_provider_keys') as secret from ours as o
  union
  select w.ev_class, l.secret from reaching as l
  join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = l.oid
  join pg_rewrite as w on w.oid = d.objid and w.ev_class <> l.oid
)
"""


# What was there before this package; a restored dump may have other numbers, and then it is taken for newer.
_OLDER = "{oid} < coalesce(to_regclass('profiles_internal.settings')::oid, 0)"


@dataclass(frozen=True)
class Opening:
    """A way that the application may have made on purpose; ``name`` is what the setting that accepts it calls it."""

    name: str
    finding: Finding


def examine_openings(
    connection: Connection, declared: Collection[Key], accepted: dict[str, list[str]]
) -> Iterator[Finding]:
    """Everything that opens a table of ours, or keeps rows out of it, and is not accepted.

    Args:
        connection: Any connection; the transaction is the caller's.
        declared: Keys of what this version declares on this database.
        accepted: The settings accepted_policies and accepted_openings.
    """
    for setting, openings in acceptable(connection, declared).items():
        yield from (each.finding for each in openings if each.name not in accepted.get(setting, ()))
    yield from _roles(connection)
    yield from _reached_rights(connection, declared)
    yield from _grant_options(connection)
    yield from _owners(connection)
    yield from _schemas(connection)
    yield from _triggers(connection)


def acceptable(connection: Connection, declared: Collection[Key]) -> dict[str, list[Opening]]:
    """What the settings accepted_policies and accepted_openings can name."""
    return {
        "accepted_policies": list(_policies(connection, declared)),
        "accepted_openings": [
            *_views(connection),
            *_functions(connection),
            *_rights(connection, declared),
            *_rules(connection),
        ],
    }


def _rows(connection: Connection, query: str, **values: Any) -> Any:
    return connection.execute(
        text(query), {"tables": list(_TABLES), "api": list(API_ROLES), "users": ["anon", "authenticated"], **values}
    )


def _opening(setting: str, name: str, code: str, fact: str, remedy: str, *, known: bool = False) -> Opening:
    """``known``: the application had it before its tables were adopted, which keeps what it does not need to change."""
    accept = f"profiles-schema settings set {setting} {shlex.quote(name)}"
    return Opening(name, (notice if known else problem)(code, f"{fact} If that is meant: {accept}", remedy))


def _policies(connection: Connection, declared: Collection[Key]) -> Iterator[Opening]:
    """Permissive policies of the application. A restrictive one only takes away."""
    rows = _rows(
        connection,
        f"with {_OURS} select o.plain, o.name, p.polname, quote_ident(p.polname) as quoted, p.polcmd,"
        " array(select coalesce(r.rolname, 'PUBLIC') from unnest(p.polroles) as x (oid) left join pg_roles as r on r.oid = x.oid"
        "  order by 1) as roles"
        " from ours as o join pg_policy as p on p.polrelid = o.oid where not o.internal and p.polpermissive order by 2, 3",
    )
    ours = subjects(declared, "policy")
    for row in rows:
        if f"{row.plain}.{row.polname}" in ours or (row.polname, row.roles) == _SERVICE_POLICY:
            continue
        yield _opening(
            "accepted_policies",
            f"{row.plain}.{row.polname}",
            "policy",
            f'The policy "{row.polname}", which is not ours, lets {", ".join(row.roles)} {_VERBS[row.polcmd]} rows of {row.plain}.',
            f"drop policy {row.quoted} on {row.name}",
        )


def _views(connection: Connection) -> Iterator[Opening]:
    """Views that show rows with the rights of their owner, which row level security does not bind."""
    rows = _rows(
        connection,
        f"with recursive {_OURS}, {_UNBOUND}, {_REACHING}"
        " select format('%I.%I', n.nspname, c.relname) as name, c.relkind = 'm' as materialized,"
        "  string_agg(distinct u.rolname, ', ' order by u.rolname) as roles,"
        f"  bool_and({_OLDER.format(oid='c.oid')} and not l.secret) as known"
        " from reaching as l join pg_class as c on c.oid = l.oid join pg_namespace as n on n.oid = c.relnamespace"
        " join pg_roles as u on u.rolname = any (cast(:users as text[]))"
        " where c.relkind in ('v', 'm') and c.relowner in (select oid from unbound)"
        "  and not exists (select from pg_options_to_table(c.reloptions) as o"
        "   where o.option_name = 'security_invoker' and o.option_value::boolean)"
        "  and coalesce(obj_description(c.oid, 'pg_class'), '') <> 'profiles-schema: user_profiles in the shape it had before'"
        "  and has_schema_privilege(u.oid, n.oid, 'usage')"
        "  and (has_any_column_privilege(u.oid, c.oid, 'select, insert, update') or has_table_privilege(u.oid, c.oid, 'delete'))"
        " group by 1, 2 order by 1",
    )
    for row in rows:
        kind = "materialized view" if row.materialized else "view"
        yield _opening(
            "accepted_openings",
            f"view {row.name}",
            "view",
            f"The {kind} {row.name} shows {row.roles} rows of our tables without row level security.",
            f"revoke all on {row.name} from public, {row.roles}"
            if row.materialized
            else f"alter view {row.name} set (security_invoker = true)",
            known=row.known,
        )


def _functions(connection: Connection) -> Iterator[Opening]:
    """Definer functions of the application that name a table of ours. What their text says is all there is to go by."""
    rows = _rows(
        connection,
        f"with recursive {_OURS}, {_UNBOUND}, {_REACHING},"
        " named as ("
        "  select string_agg(distinct case when n.nspname = 'auth' then '\\mauth[.]\"?users\"?\\M'"
        "   when c.relname = 'sessions' then '(?<![.\\w])(public[.])?sessions\\M'"
        "   when n.nspname = 'profiles_internal' then '\\mprofiles_internal[.]'"
        "   else '\\m' || regexp_replace(c.relname, '(\\W)', '\\\\\\1', 'g') || '\\M' end, '|') as pattern"
        "  from reaching as l join pg_class as c on c.oid = l.oid join pg_namespace as n on n.oid = c.relnamespace"
        " )"
        " select format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as name,"
        "  case p.prokind when 'p' then 'procedure' else 'function' end as kind, p.proowner::regrole::text as owner,"
        "  string_agg(u.rolname, ', ' order by u.rolname) as roles,"
        f"  {_OLDER.format(oid='p.oid')} and p.prosrc !~* '\\muser_(api|provider)_keys\\M' as known"
        " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
        " join pg_roles as u on u.rolname = any (cast(:users as text[])) cross join named"
        " where p.prosecdef and n.nspname not in ('pg_catalog', 'information_schema', 'profiles_internal')"
        "  and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)"
        "  and p.proowner in (select oid from unbound)"
        "  and has_function_privilege(u.oid, p.oid, 'execute') and has_schema_privilege(u.oid, n.oid, 'usage')"
        "  and not exists (select from pg_depend as d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')"
        "  and (regexp_replace(p.prosrc, '--[^\\n]*|/[*].*?[*]/', ' ', 'g') ~* named.pattern"
        "   or exists (select from pg_depend as d join reaching as l on l.oid = d.refobjid"
        "    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.refclassid = 'pg_class'::regclass))"
        " group by p.oid, n.nspname, p.proname, p.prokind, p.proowner, p.prosrc order by 1",
    )
    for row in rows:
        yield _opening(
            "accepted_openings",
            f"function {row.name}",
            "definer",
            f"The {row.kind} {row.name} reaches our tables with the rights of {row.owner}, past row level security,"
            f" and {row.roles} may call it.",
            f"revoke execute on {row.kind} {row.name} from public, {row.roles}",
            known=row.known,
        )


def _rights(connection: Connection, declared: Collection[Key]) -> Iterator[Opening]:
    """Roles other than those of the API that may execute our functions; theirs are compared by fingerprint."""
    rows = _rows(
        connection,
        f"with {_OURS} select n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' as plain,"
        " format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as name,"
        " r.rolname, quote_ident(r.rolname) as quoted"
        " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
        " cross join lateral aclexplode(p.proacl) as a join pg_roles as r on r.oid = a.grantee"
        " where n.nspname in ('public', 'profiles_internal') and r.rolname <> all (cast(:api as text[]))"
        "  and not r.rolsuper and not pg_has_role(r.oid, p.proowner, 'usage')"
        "  and not exists (select from ours as o where not o.internal and pg_has_role(r.oid, o.owner, 'usage'))"
        " order by 1, 3",
    )
    ours = subjects(declared, "function")
    for row in rows:
        if row.plain not in ours:
            continue
        yield _opening(
            "accepted_openings",
            f"execute on {row.plain} to {row.rolname}",
            "execute",
            f"The role {row.rolname} may execute our function {row.plain}, which is declared only for the roles of the API.",
            f"revoke execute on function {row.name} from {row.quoted}",
        )


def _rules(connection: Connection) -> Iterator[Opening]:
    """Rules: one with DO INSTEAD swallows rows, and no error says so."""
    rows = _rows(
        connection,
        f"with {_OURS} select w.rulename, quote_ident(w.rulename) as quoted, x.plain, x.name from ("
        "  select o.oid, o.plain, o.name from ours as o union select to_regclass('auth.users'), 'auth.users', 'auth.users'"
        " ) as x join pg_rewrite as w on w.ev_class = x.oid where w.ev_enabled <> 'D' order by 3, 1",
    )
    for row in rows:
        yield _opening(
            "accepted_openings",
            f"rule {row.rulename} on {row.plain}",
            "rule",
            f'The rule "{row.rulename}" on {row.plain} changes what statements on that table do; it can swallow rows.',
            f"drop rule {row.quoted} on {row.name}",
        )


def _roles(connection: Connection) -> Iterator[Finding]:
    """Roles of the API that can do more than their rights say."""
    attributes = _rows(
        connection,
        "select r.rolname, a.attribute from pg_roles as r cross join lateral (values ('superuser', r.rolsuper),"
        " ('bypassrls', r.rolbypassrls and r.rolname <> 'service_role'), ('createrole', r.rolcreaterole)) as a (attribute, has)"
        " where r.rolname = any (cast(:api as text[])) and a.has order by 1, 2",
    )
    for row in attributes:
        yield problem(
            "role_rights",
            f"The role {row.rolname} has {row.attribute.upper()}: row level security does not hold for it.",
            f"alter role {row.rolname} no{row.attribute}",
        )
    memberships = _rows(
        connection,
        f"with {_OURS}, {_MIGHTY} select a.rolname, m.roleid::regrole::text as direct, m.grantor::regrole::text as grantor,"
        "  bool_or(y.oid = m.roleid) as itself, string_agg(distinct y.rolname, ', ') as reached"
        " from pg_roles as a join pg_auth_members as m on m.member = a.oid"
        " join mighty as y on pg_has_role(m.roleid, y.oid, 'member') and y.oid <> a.oid"
        " where a.rolname = any (cast(:api as text[])) and not a.rolsuper and (y.always or a.rolname <> 'service_role')"
        " group by 1, 2, 3 order by 1, 2",
    )
    for row in memberships:
        by_way = "" if row.itself else f" and by that of {row.reached}"
        yield problem(
            "role_rights",
            f"The role {row.rolname} is a member of {row.direct}{by_way}: it can do what that role can.",
            f"revoke {row.direct} from {row.rolname} granted by {row.grantor}",
        )


def _reached_rights(connection: Connection, declared: Collection[Key]) -> Iterator[Finding]:
    """Rights of users on what is ours that come by way of a membership: their own are compared by fingerprint."""
    rows = _rows(
        connection,
        f"with {_OURS}, {_MIGHTY}, reached as ("
        "  select a.oid as member, a.rolname, m.roleid, m.grantor, y.oid as role"
        "  from pg_roles as a join pg_auth_members as m on m.member = a.oid"
        "  join pg_roles as y on pg_has_role(m.roleid, y.oid, 'member')"
        "  where a.rolname = any (cast(:users as text[])) and not a.rolsuper"
        "   and not exists (select from mighty as w where pg_has_role(m.roleid, w.oid, 'member'))"
        "), rights as ("
        "  select r.*, lower(v.privilege) || ' the column ' || c.attname || ' of ' || o.plain as what"
        "  from reached as r cross join ours as o join pg_attribute as c on c.attrelid = o.oid and c.attnum > 0"
        "  cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) as v (privilege)"
        "  where o.plain || '.' || c.attname = any (cast(:columns as text[]))"
        "   and has_column_privilege(r.role, o.oid, c.attnum, v.privilege)"
        "   and not exists (select from pg_class as t cross join lateral aclexplode(t.relacl) as x where t.oid = o.oid"
        "    and x.grantee in (0, r.member) and x.privilege_type = v.privilege)"
        "   and not exists (select from aclexplode(c.attacl) as x"
        "    where x.grantee in (0, r.member) and x.privilege_type = v.privilege)"
        "  union all"
        "  select r.*, lower(v.privilege) || ' on ' || o.plain from reached as r cross join ours as o"
        "  cross join unnest(array['DELETE', 'TRUNCATE', 'TRIGGER']) as v (privilege)"
        "  where has_table_privilege(r.role, o.oid, v.privilege)"
        "   and not exists (select from pg_class as t cross join lateral aclexplode(t.relacl) as x where t.oid = o.oid"
        "    and x.grantee in (0, r.member) and x.privilege_type = v.privilege)"
        "  union all"
        "  select r.*, 'execute ' || n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'"
        "  from reached as r cross join pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
        "  where n.nspname in ('public', 'auth', 'profiles_internal')"
        "   and n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'"
        "    = any (cast(:functions as text[]))"
        "   and has_function_privilege(r.role, p.oid, 'EXECUTE')"
        "   and not exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as x"
        "    where x.grantee in (0, r.member))"
        ") select rolname, roleid::regrole::text as direct, grantor::regrole::text as grantor,"
        "  array_agg(distinct what order by what) as rights from rights group by 1, 2, 3 order by 1, 2",
        columns=subjects(declared, "column"),
        functions=subjects(declared, "function"),
    )
    for row in rows:
        more = f", and {len(row.rights) - _SHOWN} rights more" if len(row.rights) > _SHOWN else ""
        yield problem(
            "role_rights",
            f"The role {row.rolname} is a member of {row.direct}, and so may do what is not declared:"
            f" {', '.join(row.rights[:_SHOWN])}{more}.",
            f"revoke {row.direct} from {row.rolname} granted by {row.grantor}",
        )


def _grant_options(connection: Connection) -> Iterator[Finding]:
    """Rights that a role of the API may pass on."""
    rows = _rows(
        connection,
        f"with {_OURS} select g.rolname, o.plain, o.name,"
        "  string_agg(distinct x.right, ', ' order by x.right) as rights from ours as o cross join lateral ("
        "  select x.grantee, lower(x.privilege_type) as right from pg_class as c cross join lateral aclexplode(c.relacl) as x"
        "   where c.oid = o.oid and x.is_grantable"
        "  union all"
        "  select x.grantee, lower(x.privilege_type) || ' (' || quote_ident(a.attname) || ')' from pg_attribute as a"
        "   cross join lateral aclexplode(a.attacl) as x where a.attrelid = o.oid and a.attnum > 0 and x.is_grantable"
        " ) as x join pg_roles as g on g.oid = x.grantee"
        " where g.rolname = any (cast(:api as text[])) and g.oid <> o.owner group by 1, 2, 3 order by 2, 1",
    )
    for row in rows:
        yield problem(
            "role_rights",
            f"The role {row.rolname} may pass on rights on {row.plain}: {row.rights}.",
            f"revoke grant option for {row.rights} on {row.name} from {row.rolname} cascade",
        )


def _owners(connection: Connection) -> Iterator[Finding]:
    """Tables and definer functions that belong to another role than the rest, which then has other rights."""
    rows = _rows(
        connection,
        f"with {_OURS}, wanted as ("
        "  select o.owner from ours as o join pg_roles as r on r.oid = o.owner"
        "  where not o.internal and o.plain like 'public.%' and r.rolname <> all (cast(:api as text[]))"
        "  group by 1 order by count(*) desc, bool_or(o.bare = 'user_profiles') desc limit 1"
        ") select x.kind, x.name, x.owner::regrole::text as owner, w.owner::regrole::text as wanted from ("
        "  select 'table' as kind, o.name, o.owner from ours as o"
        "  union all"
        "  select 'function', format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner"
        "  from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where n.nspname = 'profiles_internal' and p.prosecdef"
        " ) as x join wanted as w on x.owner <> w.owner order by 1 desc, 2",
    )
    for row in rows:
        why = (
            "it runs with the wrong rights" if row.kind == "function" else "row level security does not bind that role"
        )
        yield problem(
            "owner",
            f"The {row.kind} {row.name} belongs to {row.owner}, the other tables to {row.wanted}: {why}.",
            f"alter {row.kind} {row.name} owner to {row.wanted}",
        )


def _schemas(connection: Connection) -> Iterator[Finding]:
    """CREATE on schema public, which lets a role put its own objects in other people's way; schemas that are closed."""
    rows = _rows(
        connection,
        "select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee"
        " from pg_namespace as n cross join lateral aclexplode(n.nspacl) as a"
        " where n.nspname = 'public' and a.privilege_type = 'CREATE' and (a.grantee = 0"
        "  or exists (select from pg_roles as r where r.rolname = any (cast(:api as text[])) and not r.rolsuper"
        "   and pg_has_role(r.oid, a.grantee, 'usage'))) order by 1",
    )
    for row in rows:
        who = "everybody" if row.grantee == "public" else row.grantee
        yield problem(
            "schema",
            f"In the schema public, {who} may create objects: tables and functions that others then use by mistake.",
            f"revoke create on schema public from {row.grantee}",
        )
    rows = _rows(
        connection,
        "select n.nspname, r.rolname from pg_namespace as n cross join pg_roles as r"
        " where n.nspname in ('public', 'auth', 'profiles_internal') and r.rolname = any (cast(:api as text[]))"
        "  and not has_schema_privilege(r.oid, n.oid, 'usage') order by 1, 2",
    )
    for row in rows:
        yield problem(
            "schema",
            f"The role {row.rolname} may not use the schema {row.nspname}: what it calls there fails.",
            f"grant usage on schema {row.nspname} to {row.rolname}",
        )


def _triggers(connection: Connection) -> Iterator[Finding]:
    """BEFORE triggers of the application: one that raises, or returns null, keeps profiles from being made.

    On the keys any trigger: each sees what is written there.
    """
    rows = _rows(
        connection,
        f"with {_OURS} select t.tgname, x.plain, t.tgtype & 2 = 2 as before from ("
        "  select o.oid, o.plain from ours as o union select to_regclass('auth.users'), 'auth.users'"
        " ) as x join pg_trigger as t on t.tgrelid = x.oid join pg_proc as p on p.oid = t.tgfoid"
        " where not t.tgisinternal and (t.tgtype & 2 = 2 or x.plain in ('public.user_api_keys', 'public.user_provider_keys')) and t.tgenabled <> 'D'"
        "  and p.pronamespace is distinct from to_regnamespace('profiles_internal')::oid order by 2, 1",
    )
    for row in rows:
        yield notice(
            "foreign_trigger",
            f'The trigger "{row.tgname}" on {row.plain} is not ours and runs'
            + (
                " before rows are written: it can refuse them."
                if row.before
                else " after rows are written: it sees them."
            ),
        )
