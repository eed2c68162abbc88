"""Users without a profile or progress, and recorded failures that nothing has repaired yet."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.operations.erasure import FOUND_DELETED, examine_erasure
from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.operations.sample import WINDOW_USERS, sampled_users

FAILURES_LOOKED_AT = 10_000
# A table whose rows this role does not see, so that counting them would mislead.
_HIDDEN = (
    "select t.name from unnest(array['auth.users', 'public.user_profiles', 'public.user_progress',"
    " 'public.user_profile_audit_logs']) with ordinality as t (name, place)"
    " where row_security_active(t.name) order by t.place limit 1"
)
BACKFILL = "profiles-schema backfill"
ALIVE = "to_jsonb(u) ->> 'deleted_at' is null"
# The scalar sub-selects keep the planner on the indexes of the profile tables.
INCOMPLETE = (
    "((select 1 from public.user_profiles as p where p.user_id = u.id) is null"
    " or (select 1 from public.user_progress as g where g.user_id = u.id) is null)"
)
"""A user ``u`` who is to have a profile and progress, and lacks one."""

# Spelled out, because a damaged database may lack our functions. An application's own auth.users may lack all but id and email.
_USER = (
    "jsonb_to_record(to_jsonb(u)) as u (id uuid, email text, phone text, email_confirmed_at timestamptz,"
    " is_anonymous boolean, last_sign_in_at timestamptz)"
)
_STALE = (
    "coalesce(nullif(u.email, ''), p.email) is distinct from p.email"
    " or p.email_verified is distinct from (nullif(u.email, '') is not null and u.email_confirmed_at is not null)"
    " or p.is_anonymous is distinct from coalesce((to_jsonb(u) ->> 'is_anonymous')::boolean, false)"
    " or p.last_login is distinct from coalesce(u.last_sign_in_at, p.last_login)"
)
UNREPAIRED = (
    f"case when {ALIVE} then {INCOMPLETE} or exists (select from {_USER} join public.user_profiles as p on p.user_id = u.id"
    f" where {_STALE})"
    f" else not {FOUND_DELETED} and exists (select from public.user_profiles as p where p.user_id = u.id and p.is_active) end"
)
"""A user ``u`` whose profile is not what the user row asks for: missing, stale, or not erased."""


def examine_users(connection: Connection, *, full: bool, fail_under: float) -> tuple[int, int, list[Finding]]:
    """The users looked at, how many of them lack a profile or progress, and what was found."""
    if hidden := connection.scalar(text(_HIDDEN)):
        role = connection.scalar(text("select quote_ident(current_user)"))
        fact = f"Row level security hides {hidden} from this role: users cannot be counted. An administrator can change it."
        return 0, 0, [problem("blind", fact, f"alter role {role} bypassrls")]
    users, missing = _count(connection, full=full)
    findings = []
    if users and 1.0 - missing / users < fail_under:
        scope = "users" if full else f"of {users} users looked at"
        findings.append(problem("missing", f"{missing} {scope} have no profile or no progress.", BACKFILL, missing))
    return users, missing, [*findings, *_failures(connection), *examine_erasure(connection, full=full)]


def _count(connection: Connection, *, full: bool) -> tuple[int, int]:
    """Users looked at, and those of them without profile or progress."""
    if full:
        row = connection.execute(
            text(
                "select count(*), count(*) filter (where not (exists (select from public.user_profiles as p"
                " where p.user_id = u.id) and exists (select from public.user_progress as g where g.user_id = u.id)))"
                f" from auth.users as u where {ALIVE}"
            )
        ).one()
        return row[0], row[1]
    newest = connection.scalar(
        text(
            "select exists (select from pg_index as i join pg_attribute as a on a.attrelid = i.indrelid"
            " and a.attnum = i.indkey[0] where i.indrelid = to_regclass('auth.users') and a.attname = 'created_at'"
            " and i.indisvalid and i.indpred is null)"
        )
    )
    latest = f"(select w.id from auth.users as w where w.created_at is not null order by w.created_at desc limit {WINDOW_USERS})"
    users = sampled_users(*[latest] if newest else [])
    row = connection.execute(
        text(f"select count(*), count(*) filter (where {INCOMPLETE}) from {users} where {ALIVE}")
    ).one()
    return row[0], row[1]


def _failures(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        text(
            "select coalesce(f.error_code, 'unknown') as code, count(distinct f.user_id) as users from ("
            "  select a.user_id, a.error_code from public.user_profile_audit_logs as a"
            "  where a.action in ('failed', 'skipped') order by a.created_at desc limit :looked_at"
            " ) as f join auth.users as u on u.id = f.user_id"
            f" where {UNREPAIRED} group by 1 order by 2 desc, 1"
        ),
        {"looked_at": FAILURES_LOOKED_AT},
    ).all()
    users = sum(row.users for row in rows)
    if users:
        codes = ", ".join(f"{row.code} ({row.users})" for row in rows)
        yield problem(
            "failures",
            f"For {users} {'user' if users == 1 else 'users'} a recorded failure is not repaired yet; by SQLSTATE: {codes}.",
            BACKFILL,
            users,
        )


def examine_flag(connection: Connection) -> Iterator[Finding]:
    """Whether sign-ups get a profile at all."""
    if connection.scalar(
        text("select s.value = 'false' from profiles_internal.settings as s where s.key = 'auto_create_profiles'")
    ):
        yield notice(
            "flag",
            "Sign-ups get no profile: the setting auto_create_profiles is off.",
            "profiles-schema settings set auto_create_profiles true",
        )
