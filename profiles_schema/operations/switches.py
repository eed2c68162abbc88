"""What somebody switched off, and no fingerprint shows.

Triggers and foreign keys of the application on our tables, all triggers or row level security by a setting, the
write-ahead log of a table.

Queries of the catalog only: health runs every minute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.migrations import expected
from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.schema.catalog import API_ROLES, Key, subjects

FIRST_TRIGGER = "00_profiles_on_auth_user_created"
"""Ours, as a row trigger, where row triggers of the application may need the profile (0014)."""
_OURS = (
    "ours as (select to_regclass(t.name)::oid as oid from unnest(cast(:tables as text[])) as t (name)"
    " where to_regclass(t.name) is not null)"
)


def examine_switches(connection: Connection, declared: Collection[Key]) -> Iterator[Finding]:
    """What is off and should be looked at.

    Args:
        connection: Any connection; the transaction is the caller's.
        declared: Keys of what this version declares on this database.
    """
    yield from _server_settings(connection)
    yield from _unlogged_tables(connection)
    yield from _triggers(connection)
    yield from _early_triggers(connection)
    yield from _foreign_keys(connection, declared)


def _server_settings(connection: Connection) -> Iterator[Finding]:
    """Settings of the database or of a role under which triggers, foreign keys or policies do not work."""
    rows = connection.execute(
        text(
            "select s.name, s.value, r.rolname, d.datname is not null as here, quote_ident(r.rolname) as role,"
            " quote_ident(current_database()) as database"
            " from pg_db_role_setting as g left join pg_roles as r on r.oid = g.setrole"
            " left join pg_database as d on d.oid = g.setdatabase"
            " cross join lateral (select split_part(c, '=', 1) as name, split_part(c, '=', 2) as value"
            "  from unnest(g.setconfig) as c) as s"
            " where (d.oid is null or d.datname = current_database()) and case s.name"
            "  when 'session_replication_role' then lower(s.value) = 'replica'"
            "  when 'row_security' then not s.value::boolean and (r.oid is null or r.rolname = any (cast(:api as text[])))"
            "  else false end order by 1, r.rolname nulls first, 4"
        ),
        {"api": list(API_ROLES)},
    )
    for row in rows:
        where = f"database {row.database}" if row.role is None else f"role {row.role}"
        target = f"{where} in database {row.database}" if row.role is not None and row.here else where
        effect = (
            "triggers do not fire and foreign keys are not kept: sign-ups get no profile"
            if row.name == "session_replication_role"
            else "what row level security would filter fails instead"
        )
        yield problem(
            "server_setting",
            f"The {where} sets {row.name} to {row.value}: {effect}. Open sessions keep it.",
            f"alter {target} reset {row.name}",
        )


def _unlogged_tables(connection: Connection) -> Iterator[Finding]:
    rows = connection.scalars(
        text(
            f"with {_OURS} select format('%I.%I', n.nspname, c.relname) from ours as o join pg_class as c on c.oid = o.oid"
            " join pg_namespace as n on n.oid = c.relnamespace where c.relpersistence = 'u' order by 1"
        ),
        {"tables": expected.every_table()},
    )
    for table in rows:
        yield problem(
            "unlogged",
            f"The table {table} is unlogged: a crash of the server empties it, and no replica has its rows.",
            f"alter table {table} set logged",
        )


def _triggers(connection: Connection) -> Iterator[Finding]:
    """Triggers of the application that are disabled, as `disable trigger all` leaves them."""
    rows = connection.execute(
        text(
            f"with {_OURS} select t.tgname, quote_ident(t.tgname) as quoted, format('%I.%I', n.nspname, c.relname) as name"
            " from ours as o join pg_trigger as t on t.tgrelid = o.oid join pg_proc as p on p.oid = t.tgfoid"
            " join pg_class as c on c.oid = o.oid join pg_namespace as n on n.oid = c.relnamespace"
            " where not t.tgisinternal and t.tgenabled = 'D'"
            "  and p.pronamespace is distinct from to_regnamespace('profiles_internal')::oid order by 3, 1"
        ),
        {"tables": expected.every_table()},
    )
    for row in rows:
        yield notice(
            "switched_off",
            f'The trigger "{row.tgname}" on {row.name}, which is not ours, is disabled.',
            f"alter table {row.name} enable trigger {row.quoted}",
        )


def _early_triggers(connection: Connection) -> Iterator[Finding]:
    """Row triggers of the application that need a profile at sign-up, and run before there is one.

    Ours runs after the statement, unless it was made a row trigger, too: then names decide.
    """
    rows = connection.execute(
        text(
            f"with {_OURS}, named as (select c.relname from pg_class as c where c.oid in (select oid from ours)"
            " and c.relnamespace = 'public'::regnamespace union select c.relname from pg_constraint as k join pg_class as c on c.oid = k.conrelid"
            "  where k.contype = 'f' and k.confrelid in (select oid from ours) and k.confrelid is distinct from to_regclass('auth.users')"
            " union select c.relname from pg_class as c"
            "  where c.relkind = 'v' and obj_description(c.oid, 'pg_class') = 'profiles-schema: user_profiles under its old name')"
            " select t.tgname, quote_ident(t.tgname) as quoted, quote_ident('01_' || t.tgname) as later, o.oid is not null as has_first"
            " from pg_trigger as t join pg_proc as f on f.oid = t.tgfoid left join pg_trigger as o on o.tgrelid = t.tgrelid and o.tgname = :first"
            " where t.tgrelid = to_regclass('auth.users') and not t.tgisinternal and t.tgenabled <> 'D'"
            # After an insert, for each row.
            "  and t.tgtype & 5 = 5 and t.tgtype & 66 = 0 and f.pronamespace is distinct from to_regnamespace('profiles_internal')::oid"
            '  and (o.oid is null or t.tgname collate "C" < o.tgname collate "C")'
            "  and exists (select from named as n where f.prosrc ~* ('\\m' || regexp_replace(n.relname, '(\\W)', '\\\\\\1', 'g') || '\\M')) order by 1"
        ),
        {"tables": expected.every_table(), "first": FIRST_TRIGGER},
    )
    for row in rows:
        yield notice(
            "too_early",
            f'The trigger "{row.tgname}" on auth.users names tables of profiles, and runs before a new user has a profile:'
            " if it needs one, sign-ups fail.",
            f"alter trigger {row.quoted} on auth.users rename to {row.later}"
            if row.has_first
            else f'create trigger "{FIRST_TRIGGER}" after insert on auth.users for each row'
            " execute function profiles_internal.on_auth_user_created()",
        )


def _foreign_keys(connection: Connection, declared: Collection[Key]) -> Iterator[Finding]:
    """Foreign keys of the application whose internal triggers are disabled, on either side.

    Only a superuser can enable those. Making the constraint anew takes no superuser.
    """
    rows = connection.execute(
        text(
            f"with {_OURS} select k.conname, quote_ident(k.conname) as quoted, format('%I.%I', n.nspname, c.relname) as name,"
            " k.confrelid::regclass::text as refers_to,"
            " regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') as definition"
            " from pg_constraint as k join pg_class as c on c.oid = k.conrelid join pg_namespace as n on n.oid = c.relnamespace"
            " where k.contype = 'f' and k.conparentid = 0"
            "  and (k.confrelid in (select oid from ours) or k.conrelid in (select oid from ours))"
            "  and n.nspname || '.' || c.relname || '.' || k.conname <> all (cast(:declared as text[]))"
            "  and exists (select from pg_trigger as t where t.tgconstraint = k.oid and t.tgenabled = 'D') order by 3, 1"
        ),
        {"tables": expected.every_table(), "declared": subjects(declared, "constraint")},
    )
    for row in rows:
        yield notice(
            "switched_off",
            f"The foreign key {row.conname} of {row.name} to {row.refers_to}, which is not ours, is switched off: its internal"
            " triggers are disabled. The statement creates it again; its second half fails if rows refer to nothing.",
            f"alter table {row.name} drop constraint {row.quoted}, add constraint {row.quoted} {row.definition} not valid;"
            f" alter table {row.name} validate constraint {row.quoted}",
        )
