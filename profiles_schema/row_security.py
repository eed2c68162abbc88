"""Does row level security bind a role? Asked by an application when it starts, and by health."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from profiles_schema.driver import quote_name

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ROLES: Final = text(
    """
    with ours as (
      select c.oid, c.relowner from pg_class as c
      where c.oid = any (array[
        to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.user_api_keys'),
        to_regclass('public.user_provider_keys'), to_regclass('public.export_history'),
        to_regclass('public.user_profile_audit_logs')
      ]::oid[])
    )
    select
      r.rolname as name,
      r.rolsuper as is_superuser,
      r.rolbypassrls as bypasses,
      (select string_agg(o.oid::regclass::text, ', ' order by o.oid::regclass::text) from ours as o
        where pg_has_role(r.oid, o.relowner, 'usage')) as owns,
      coalesce((select pg_has_role(r.oid, s.oid, 'usage') from pg_roles as s where s.rolname = 'service_role'), false)
        as inherits_service,
      -- Since PostgreSQL 16 a grant says whether it is inherited, and each grantor's is one of its own.
      array(select pg_get_userbyid(m.grantor) from pg_auth_members as m
        where m.member = r.oid and m.roleid = to_regrole('service_role')
        and coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit) order by 1) as inherits_directly_by,
      current_setting('server_version_num')::integer >= 160000 as inherits_by_grant
    from pg_roles as r
    where case when cast(:role as text) is not null then r.rolname = :role
      -- Those that log in and may act for users, but for administrators and the one who keeps the tables.
      else r.rolcanlogin and not r.rolsuper and not r.rolcreaterole and not exists (select from ours as o where o.relowner = r.oid)
        and exists (select from pg_auth_members as m where m.member = r.oid and m.roleid = to_regrole('authenticated'))
      end
    order by 1
    """
)
HOW_TO_MAKE_A_ROLE: Final = (
    "create role app login noinherit password '...'; grant anon, authenticated, service_role to app;"
)


@dataclass(frozen=True)
class Role:
    """A role, why row level security does not bind it (nothing if it does), and the SQL that changes that."""

    name: str
    reasons: tuple[str, ...]
    remedy: str


def look_at_role(connection: Connection, name: str | None = None) -> Role | None:
    """What row level security is for this role (by default, the one of the connection); None if there is no such role."""
    return next(_roles(connection, name or connection.scalar(text("select current_user"))), None)


def look_at_application_roles(connection: Connection) -> list[Role]:
    """The same for every role that logs in and was granted authenticated, administrators and owners of our tables apart."""
    return list(_roles(connection, None))


def _roles(connection: Connection, name: str | None) -> Iterator[Role]:
    for row in connection.execute(_ROLES, {"role": name}):
        quoted = quote_name(row.name)
        cures: dict[str, str | None] = {}  # by reason; None where only another role helps
        if row.is_superuser:
            cures["is a superuser"] = None
        else:
            if row.bypasses:
                cures["has BYPASSRLS"] = f"alter role {quoted} nobypassrls;"
            if row.owns:
                cures[f"has the rights of the owner of {row.owns}"] = None
            if row.inherits_service:
                cures["inherits the rights of service_role"] = (
                    None
                    if not row.inherits_directly_by  # but through another role
                    else " ".join(
                        f"grant service_role to {quoted} with inherit false granted by {quote_name(grantor)};"
                        for grantor in row.inherits_directly_by
                    )
                    if row.inherits_by_grant
                    else f"alter role {quoted} noinherit;"
                )
        statements = [cure for cure in cures.values() if cure]
        remedy = " ".join(statements) if len(statements) == len(cures) else HOW_TO_MAKE_A_ROLE
        yield Role(row.name, tuple(cures), remedy)
