"""What adoption left to be decided, and how far wide columns are on their way into JSON."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.operations import normalize
from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.operations.settings import VERIFICATION_DAYS

SET_ASIDE_LOOKED_AT = 10_000


def examine_adoption(connection: Connection, *, full: bool) -> Iterator[Finding]:
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
        yield notice(
            "quarantine",
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
        {
            "ours": [
                "user_profiles",
                "user_progress",
                "user_api_keys",
                "user_provider_keys",
                "export_history",
                "user_profile_audit_logs",
            ]
        },
    ):
        yield notice(
            "foreign_key",
            f"The foreign key {row.name} of {row.table_name} is NOT VALID: rows may refer to missing rows of {row.refers_to}."
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
        yield notice(
            "adopted",
            f"Values of {row.table_name} were changed when it was taken over, {row.hits}{' or more' if row.hits == most else ''};"
            " the old ones are in profiles_internal.adopted.",
            "see: docs/how-to/adopt-existing-tables.md, What was changed",
            row.hits,
        )


def examine_normalization(connection: Connection) -> Iterator[Finding]:
    """Wide columns whose next step is due, or that JSON does not follow."""
    row = connection.execute(
        text(
            "select count(*) as columns, bool_or(l.state = 'expanded') as expanded, bool_or(l.state = 'restoring') as restoring,"
            f" max(l.converted_at) + make_interval(days => {VERIFICATION_DAYS}) < now() as due"
            " from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles' and l.state <> 'contracted'"
        )
    ).one()
    unrecorded = normalize.unrecorded(connection)
    if unrecorded:
        yield notice(
            "normalize",
            f"{unrecorded} wide columns are not recorded: columns and JSON are not kept in step.",
            "profiles-schema normalize run",
            unrecorded,
        )
    again = "profiles-schema normalize restore" if row.restoring else "profiles-schema normalize run"
    if not row.columns:
        return
    if not normalize.is_in_step(connection):
        yield problem(
            "dual_write",
            "The trigger that keeps wide columns and JSON in step is missing, disabled or changed.",
            again,
        )
    elif row.restoring:
        yield notice("normalize", f"{row.columns} wide columns are being restored.", again, row.columns)
    elif row.expanded:
        yield notice(
            "normalize",
            f"{row.columns} wide columns: not all profiles are converted yet.",
            again,
            row.columns,
        )
    elif row.due:
        yield notice(
            "normalize",
            f"{row.columns} wide columns are converted, and their verification period is over.",
            "profiles-schema normalize contract",
            row.columns,
        )
