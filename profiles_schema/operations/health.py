"""Is every user's profile there, and is everything in place that makes the next one?

Bounded by default, so that it can run every minute on any database: a window of users from a random point of the
primary key, the newest users where an index serves them, and the users of recorded failures. ``full`` counts all.
Reads only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema import settings
from profiles_schema.migrations import expected, foreign_keys, standing
from profiles_schema.migrations.drift import REMEDY, sentence
from profiles_schema.migrations.sql_objects import holds
from profiles_schema.operations import normalize, openings, recount
from profiles_schema.operations.erasure import FOUND_DELETED, examine_erasure
from profiles_schema.operations.findings import Finding
from profiles_schema.operations.jobs import examine_jobs
from profiles_schema.operations.sample import WINDOW_USERS, sampled_users
from profiles_schema.operations.settings import VERIFICATION_DAYS, accepted, examine_settings
from profiles_schema.operations.switches import examine_switches
from profiles_schema.schema.catalog import Key, Snapshot
from profiles_schema.schema.objects import Where

FAILURES_LOOKED_AT = 10_000
SET_ASIDE_LOOKED_AT = 10_000
_SHOWN = 5

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


@dataclass(frozen=True)
class Health:
    """What was looked at, and what was found.

    ``users`` is the number of users looked at, ``missing`` how many of them lack a profile or progress, ``coverage``
    the share that has both (1.0 without users). ``full`` says whether all users were counted. ``triggers`` maps each
    trigger of ours to INSTALLED, MISSING, CHANGED or DISABLED.
    """

    revision: str | None
    full: bool
    users: int
    missing: int
    triggers: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """Share of the users looked at that have profile and progress."""
        return 1.0 - self.missing / self.users if self.users else 1.0

    @property
    def problems(self) -> list[Finding]:
        """The findings that need somebody to act."""
        return [finding for finding in self.findings if finding.severity == "problem"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"healthy": not self.problems, "coverage": round(self.coverage, 6), **asdict(self)}


def examine(connection: Connection, *, full: bool = False, fail_under: float = 1.0) -> Health:
    """Look at a database.

    Args:
        connection: Any connection that may read our tables and auth.users; the transaction is the caller's.
        full: Count all users instead of a window.
        fail_under: The least share of users with profile and progress that is no problem.

    Returns:
        What was found; nothing is changed.
    """
    revision = current_revision(connection)
    if revision is None:
        return Health(None, full, 0, 0, {}, [_not_migrated(connection)])

    findings = list(_revisions(revision))
    if findings and connection.scalar(text("select to_regclass('profiles_internal.settings') is null")):
        return Health(revision, full, 0, 0, {}, findings)  # the first revision alone: nothing to look at yet
    if (users_gone := standing.missing_users(connection)) is not None:
        findings.append(Finding(users_gone.code, "problem", users_gone.message, users_gone.remedy))
        return Health(revision, full, 0, 0, {}, findings)
    snapshot, differences = expected.compare(connection)
    triggers = trigger_states(snapshot, differences)
    if not findings and (gone := list(_missing_tables(connection))):
        return Health(revision, full, 0, 0, triggers, gone)
    damaged = any(what == "missing" and key.kind in {"table", "column"} for key, what in differences.items())
    # Without the tables nothing can be asked.
    follows = not damaged and connection.scalar(
        text("select has_function_privilege(to_regprocedure('profiles_internal.identity_triggers()'), 'execute')")
    )
    if follows:
        triggers = dict(sorted((triggers | _identity_triggers(connection)).items()))
    if not findings:  # at another revision the differences are no news
        findings += _renamed_columns(connection, differences)
        findings += _foreign_keys(connection, full=full)
        findings += _drift(snapshot, differences, triggers)
    findings += _invalid_indexes(connection, snapshot)
    declared = expected.declared(connection)
    findings += openings.look(connection, declared, accepted(connection))
    findings += examine_switches(connection, declared)
    findings += _service_role(connection)
    if damaged:
        # What is gone is named above; nothing can be counted without it.
        return Health(revision, full, 0, 0, triggers, findings)

    users = missing = 0
    hidden = connection.scalar(
        text(
            "select t.name from unnest(array['auth.users', 'public.user_profiles', 'public.user_progress',"
            "  'public.user_profile_audit_logs']) with ordinality as t (name, place)"
            " where row_security_active(t.name) order by t.place limit 1"
        )
    )
    if hidden:
        findings.append(
            Finding(
                "blind",
                "problem",
                f"Row level security hides {hidden} from this role: users cannot be counted. An administrator can change it.",
                f"alter role {connection.scalar(text('select quote_ident(current_user)'))} bypassrls",
            )
        )
    else:
        users, missing = _count(connection, full=full)
        if users and 1.0 - missing / users < fail_under:
            scope = "users" if full else f"of {users} users looked at"
            findings.append(
                Finding(
                    "missing",
                    "problem",
                    f"{missing} {scope} have no profile or no progress.",
                    BACKFILL,
                    missing,
                )
            )
        findings += _failures(connection)
        findings += examine_erasure(connection, full=full)
    findings += _flag(connection)
    findings += examine_settings(connection)
    findings += examine_jobs(connection)
    findings += _set_aside(connection, full=full)
    findings += _normalization(connection) if not damaged else []
    findings += _identity(connection, full=full) if follows else _unseen_identity(connection)
    findings += _sessions(connection)
    findings += recount.findings(connection, full=full)
    findings.sort(key=lambda finding: finding.code != "quarantine")
    return Health(revision, full, users, missing, triggers, _paused_first(findings))


def _paused_first(findings: list[Finding]) -> list[Finding]:
    """While the backfill is paused, the command that works on it only waits: what resumes it comes first."""
    paused = [
        finding
        for finding in findings
        if finding.code == "job"
        and " jobs resume " in (finding.remedy or "")
        and re.search(r"[(](backfill|identity)[)]", finding.message)
    ]
    if not paused:
        return findings
    resume = f"{paused[0].remedy} && {BACKFILL}"
    return [
        *paused,
        *(
            replace(finding, remedy=resume) if finding.remedy == BACKFILL else finding
            for finding in findings
            if finding not in paused
        ),
    ]


def current_revision(connection: Connection) -> str | None:
    """The revision a database is at; None where it was never migrated."""
    table = f"{settings.INTERNAL_SCHEMA}.{settings.VERSION_TABLE}"
    if connection.scalar(text("select to_regclass(:name) is null"), {"name": table}):
        return None
    revision: str | None = connection.scalar(text(f"select string_agg(version_num, ', ') from {table}"))
    return revision


def _not_migrated(connection: Connection) -> Finding:
    obstacle = standing.without_version(connection)
    if obstacle is not None and obstacle.code == "version_lost":
        return Finding("version_lost", "problem", obstacle.message, obstacle.remedy)
    if obstacle is not None:
        return Finding("schema_renamed", "problem", obstacle.message, obstacle.remedy)
    return Finding("not_migrated", "problem", "This database is not migrated.", "profiles-schema upgrade")


def _revisions(revision: str) -> Iterator[Finding]:
    if not standing.at_head(revision):
        newest = ", ".join(sorted(standing.heads_and_ours()[0]))
        yield Finding(
            "not_at_head",
            "problem",
            f"The database is at {revision}, this version's newest is {newest}.",
            "profiles-schema upgrade",
        )


def _missing_tables(connection: Connection) -> Iterator[Finding]:
    for obstacle in standing.missing_tables(connection):
        yield Finding("table_missing", "problem", obstacle.message, obstacle.remedy)


def _renamed_columns(connection: Connection, differences: dict[Key, str]) -> Iterator[Finding]:
    for key, what in differences.items():
        if key.kind != "column" or what != "missing":
            continue
        if rename := standing.renamed_column(connection, key.relation, key.name):
            yield Finding(
                "column_renamed",
                "problem",
                f"The column {key.name} of {key.relation} was renamed; what else differs there may follow from that.",
                rename,
            )


def trigger_states(snapshot: Snapshot, differences: dict[Key, str]) -> dict[str, str]:
    """Each trigger of ours with its function as one thing: INSTALLED, MISSING, CHANGED or DISABLED."""
    states = {}
    functions = {key.subject for key in differences if key.kind == "function"}
    for key in {*snapshot, *differences}:
        value = snapshot.get(key, "")
        if key.kind != "trigger" or (key not in differences and " profiles_internal." not in value):
            continue
        runs = re.search(r"EXECUTE FUNCTION (\S+\(\))", value)
        if differences.get(key) == "missing":
            state = "MISSING"
        elif value.endswith(" DISABLED"):
            state = "DISABLED"
        elif key in differences or (runs and runs[1] in functions):
            state = "CHANGED"
        else:
            state = "INSTALLED"
        states[key.subject] = state
    return dict(sorted(states.items()))


def _drift(snapshot: Snapshot, differences: dict[Key, str], triggers: dict[str, str]) -> Iterator[Finding]:
    for name, state in triggers.items():
        if state != "INSTALLED":
            yield Finding("trigger", "problem", f"The trigger {name} is {state}.", REMEDY)
    others = [
        sentence(key, what, snapshot.get(key, ""))
        # What shuts the doors comes first.
        for key, what in sorted(differences.items(), key=lambda item: item[0].kind not in {"table", "policy"})
        if key.kind not in {"trigger", "comment"}
        and not snapshot.get(key, "").endswith(" INVALID")
        # A policy more is named by what it opens.
        and (key.kind, what) != ("policy", "not expected")
    ]
    if others:
        more = f" And {len(others) - _SHOWN} more." if len(others) > _SHOWN else ""
        yield Finding(
            "drift",
            "problem",
            f"The database differs from what this version declares. {' '.join(others[:_SHOWN])}{more}",
            REMEDY,
            len(others),
        )


def _foreign_keys(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """Foreign keys of ours that are switched off, and rows that they would not allow.

    Rows first: a foreign key can be validated only without them.
    """
    keys = list(foreign_keys.ours(connection))
    for key in keys:
        orphans = key.count_orphans(connection) if full or not key.is_validated else 0
        if orphans:
            yield Finding(
                "orphans",
                "problem",
                f"{orphans} {'row' if orphans == 1 else 'rows'} of {key.table} refer to no row of {key.refers_to}:"
                " their users were deleted while the foreign key was off or missing.",
                key.removes_orphans,
                orphans,
            )
    for key in keys:
        if not key.is_on:
            yield Finding("foreign_key_off", "problem", str(key.difference()), REMEDY)


def _invalid_indexes(connection: Connection, snapshot: Snapshot) -> Iterator[Finding]:
    declared = expected.keys()
    quote = connection.dialect.identifier_preparer.quote
    for key, value in snapshot.items():
        if key.kind != "index" or not value.endswith(" INVALID"):
            continue
        own = key._replace(name=re.sub(r"_cc(new|old)\d*$", "", key.name)) in declared
        if key in declared:
            remedy = REMEDY
        elif own:  # what REINDEX CONCURRENTLY leaves when it fails
            remedy = f"drop index concurrently {key.schema}.{quote(key.name)}"
        else:
            remedy = f"reindex index concurrently {key.schema}.{quote(key.name)}"
        yield Finding("invalid_index", "problem", f"The index {key.name} is invalid.", remedy)


def _service_role(connection: Connection) -> Iterator[Finding]:
    shut_out = connection.scalar(
        text(
            "select not r.rolbypassrls and not exists (select from pg_policies as p where p.schemaname = 'public'"
            " and p.tablename = 'user_profiles' and 'service_role' = any (p.roles)) from pg_roles as r"
            " where r.rolname = 'service_role'"
        )
    )
    if shut_out is None:
        yield Finding("role", "problem", "The role service_role does not exist.", REMEDY)
    elif shut_out:
        yield Finding(
            "role",
            "problem",
            "Row level security shuts service_role out: no BYPASSRLS, and no policy of its own. An administrator can change it.",
            "alter role service_role bypassrls",
        )


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
        yield Finding(
            "failures",
            "problem",
            f"For {users} {'user' if users == 1 else 'users'} a recorded failure is not repaired yet; by SQLSTATE: {codes}.",
            BACKFILL,
            users,
        )


def _flag(connection: Connection) -> Iterator[Finding]:
    if connection.scalar(
        text("select s.value = 'false' from profiles_internal.settings as s where s.key = 'auto_create_profiles'")
    ):
        yield Finding(
            "flag",
            "notice",
            "Sign-ups get no profile: the setting auto_create_profiles is off.",
            "profiles-schema settings set auto_create_profiles true",
        )


def _set_aside(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """What adoption left: rows in quarantine, foreign keys that their absence breaks, values that a rule changed."""
    most = None if full else SET_ASIDE_LOOKED_AT
    rows = connection.execute(
        text(
            "select r.table_name, sum(r.rows)::bigint as rows, string_agg(r.reason || ' (' || r.rows || ')', ', ' order by r.rows desc, r.reason)"
            " as reasons from (select q.table_name, q.reason, count(*) as rows from (select q.table_name, q.reason"
            "  from profiles_internal.quarantine as q limit :most) as q group by q.table_name, q.reason) as r group by 1 order by 1"
        ),
        {"most": most},
    ).all()
    more = " or more" if most is not None and sum(row.rows for row in rows) >= most else ""
    for row in rows:
        yield Finding(
            "quarantine",
            "notice",
            f"{row.rows}{more} {'row' if row.rows == 1 else 'rows'} of {row.table_name} in profiles_internal.quarantine: {row.reasons}.",
            "bring them back, or delete them: docs/how-to/adopt-existing-tables.md, Rows in quarantine",
            row.rows,
        )
    for row in connection.execute(
        text(
            "select k.conname as name, k.conrelid::regclass::text as table_name, k.confrelid::regclass::text as refers_to,"
            " quote_ident(k.conname) as quoted from pg_constraint as k where k.contype = 'f' and not k.convalidated"
            " and k.confrelid in (select to_regclass('public.' || t.name) from unnest(cast(:ours as text[])) as t (name))"
            " order by 2, 1"
        ),
        {"ours": ["user_profiles", "user_progress", "user_api_keys", "export_history", "user_profile_audit_logs"]},
    ):
        yield Finding(
            "foreign_key",
            "notice",
            f"The foreign key {row.name} of {row.table_name} is NOT VALID: rows may refer to what is not in {row.refers_to}."
            " Correct or delete those first.",
            f"alter table {row.table_name} validate constraint {row.quoted}",
        )
    for row in connection.execute(
        text(
            "select a.table_name, count(*) as hits from (select regexp_replace(a.object_name, '[.][^.]*$', '') as table_name"
            "  from profiles_internal.adopted as a where a.object_type in ('value', 'found value') limit :most) as a"
            " group by 1 order by 1"
        ),
        {"most": most},
    ):
        yield Finding(
            "adopted",
            "notice",
            f"Values of {row.table_name} were changed when it was taken over, {row.hits}{' or more' if row.hits == most else ''};"
            " the old ones are in profiles_internal.adopted.",
            "have a look: docs/how-to/adopt-existing-tables.md, What was changed",
            row.hits,
        )


def _normalization(connection: Connection) -> Iterator[Finding]:
    row = connection.execute(
        text(
            "select count(*) as columns, bool_or(l.state = 'expanded') as expanded, bool_or(l.state = 'restoring') as restoring,"
            f" max(l.converted_at) + make_interval(days => {VERIFICATION_DAYS}) < now() as due"
            " from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles' and l.state <> 'contracted'"
        )
    ).one()
    unrecorded = normalize.unrecorded(connection)
    if unrecorded:
        yield Finding(
            "normalize",
            "notice",
            f"{unrecorded} wide columns that nobody has recorded: they and the JSON do not follow each other.",
            "profiles-schema normalize run",
            unrecorded,
        )
    again = "profiles-schema normalize restore" if row.restoring else "profiles-schema normalize run"
    if not row.columns:
        return
    if not normalize.is_in_step(connection):
        yield Finding(
            "dual_write",
            "problem",
            "The trigger that keeps wide columns and JSON in step is missing, disabled or changed.",
            again,
        )
    elif row.restoring:
        yield Finding("normalize", "notice", f"{row.columns} wide columns are being restored.", again, row.columns)
    elif row.expanded:
        yield Finding(
            "normalize",
            "notice",
            f"{row.columns} wide columns: not all profiles are converted yet.",
            again,
            row.columns,
        )
    elif row.due:
        yield Finding(
            "normalize",
            "notice",
            f"{row.columns} wide columns are converted, and their verification period is over.",
            "profiles-schema normalize contract",
            row.columns,
        )


def _identity_triggers(connection: Connection) -> dict[str, str]:
    """The triggers that following the application's own table of users takes."""
    rows = connection.execute(
        text(
            "select i.table_name || '.' || i.trigger_name as name, i.state from profiles_internal.identity_triggers() as i"
        )
    )
    return {row.name: row.state for row in rows}


def _unseen_identity(connection: Connection) -> Iterator[Finding]:
    chosen = connection.scalar(
        text("select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'identity'")
    )
    if chosen is not None:
        yield Finding(
            "identity",
            "notice",
            f"Whether users follow {chosen} was not looked at: this role may not execute the functions of profiles_internal.",
        )


def _identity(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """Rows of the application's own table of users that are no users, or other ones; users whose row is gone."""
    chosen = connection.scalar(
        text("select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'identity'")
    )
    if chosen is None:
        return
    table = connection.execute(
        text(
            "select i.*, has_table_privilege(i.relation, 'select') and not row_security_active(i.relation) as readable"
            " from profiles_internal.identity_table() as i"
        )
    ).one_or_none()
    if table is None or not table.readable:
        what = "does not exist" if table is None else "cannot be read as a whole by this role"
        yield Finding("identity", "problem", f"The table {chosen}, where users come from, {what}.")
        return
    waiting, looked_at = _behind(connection, table, full=full)
    gone = _gone(connection, full=full)
    lost = connection.scalar(
        text(
            "select count(*) from (select a.created_at, a.user_id, a.metadata from public.user_profile_audit_logs as a"
            "  where a.action in ('failed', 'skipped') order by a.created_at desc limit :looked_at) as f"
            " where f.user_id is null and f.metadata ? 'identity' and f.created_at > coalesce((select max(j.started_at)"
            "  from profiles_internal.jobs as j where j.kind = 'identity' and j.state = 'completed'), '-infinity')"
        ),
        {"looked_at": FAILURES_LOOKED_AT},
    )
    if waiting or gone or lost:
        facts = [
            f"{waiting} of {looked_at} rows looked at are no users yet, or other ones" if waiting else "",
            f"{gone} users have no row any more" if gone else "",
            f"{lost} failures are on record since the last backfill" if lost else "",
        ]
        yield Finding(
            "identity",
            "problem",
            f"Users do not follow {chosen}: {'; '.join(filter(None, facts))}.",
            BACKFILL,
            waiting + gone,
        )


def _behind(connection: Connection, table: Any, *, full: bool) -> tuple[int, int]:
    """Rows that are no users, or other ones, and rows looked at."""
    if full:
        keys: list[str] = []
        looked_at, after = 0, None
        while True:
            found, after, seen = _window(connection, after)
            keys += found
            looked_at += seen
            if after is None:
                return len(keys), looked_at
    starts: list[str | None] = [None]
    # From a random point on, and around the end, where the newest are.
    if table.by_uuid:
        starts.append(connection.scalar(text("select gen_random_uuid()::text")))
    elif table.key_type in {"smallint", "integer", "bigint"}:
        key = connection.dialect.identifier_preparer.quote(table.key_name)
        ends = f"(select min({key})::numeric as least, max({key})::numeric as most from {table.table_name}) as e"
        points = (
            f"floor(least + (most - least) * random()::numeric)::bigint, greatest(most - {WINDOW_USERS}, least)::bigint"
        )
        starts += [str(point) for point in connection.execute(text(f"select {points} from {ends}")).one() if point]
    windows = [_window(connection, start) for start in starts]
    # Windows may overlap: the same row counts once, what was looked at is a bound.
    return len({key for found, _, _ in windows for key in found}), sum(seen for _, _, seen in windows)


def _window(connection: Connection, after: str | None) -> tuple[list[str], str | None, int]:
    row = connection.execute(
        text("select keys, reached, looked_at from profiles_internal.identity_window(:after, :rows, :rows)"),
        {"after": after, "rows": WINDOW_USERS},
    ).one()
    keys, reached, looked_at = row
    return keys, reached, looked_at


def _gone(connection: Connection, *, full: bool) -> int:
    """Users whose row in the application's table is gone."""
    gone: set[str] = set()
    starts = [None] if full else [None, connection.scalar(text("select left(gen_random_uuid()::text, 8)"))]
    for start in starts:
        after = start
        while True:
            keys, after = connection.execute(
                text("select keys, reached from profiles_internal.gone_identities(:after, :rows)"),
                {"after": after, "rows": WINDOW_USERS},
            ).one()
            gone.update(keys)
            if after is None or not full:
                break
    return len(gone)


def _sessions(connection: Connection) -> Iterator[Finding]:
    if not holds(connection, Where.USABLE_SESSIONS):
        yield Finding(
            "sessions", "notice", "The table sessions is not one of learning sessions: user_progress is not rolled up."
        )
