"""Whether users follow the application's own table of users (-x identity)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.driver import quote_name
from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.operations.health.users import BACKFILL, FAILURES_LOOKED_AT
from profiles_schema.operations.sample import WINDOW_USERS


def identity_triggers(connection: Connection) -> dict[str, str]:
    """The triggers that following the application's own table of users takes, and the state of each."""
    if not _may_look(connection):
        return {}
    rows = connection.execute(
        text(
            "select i.table_name || '.' || i.trigger_name as name, i.state from profiles_internal.identity_triggers() as i"
        )
    )
    return {row.name: row.state for row in rows}


def examine_identity(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """Rows of the application's own table of users that are no users, or other ones; users whose row is gone."""
    chosen = connection.scalar(
        text("select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'identity'")
    )
    if chosen is None:
        return
    if not _may_look(connection):
        fact = f"Whether users follow {chosen} was not looked at: this role may not execute the functions of profiles_internal."
        yield notice("identity", fact)
        return
    table = connection.execute(
        text(
            "select i.*, has_table_privilege(i.relation, 'select') and not row_security_active(i.relation) as readable"
            " from profiles_internal.identity_table() as i"
        )
    ).one_or_none()
    if table is None or not table.readable:
        what = "does not exist" if table is None else "cannot be read as a whole by this role"
        yield problem("identity", f"The table {chosen}, where users come from, {what}.")
        return
    waiting, looked_at = _count_behind(connection, table, full=full)
    gone = _count_gone(connection, full=full)
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
            f"{waiting} of {looked_at} rows looked at are no users yet, or differ from their users" if waiting else "",
            f"{gone} users no longer have a row" if gone else "",
            f"{lost} failures were recorded since the last backfill" if lost else "",
        ]
        yield problem(
            "identity",
            f"Users do not follow {chosen}: {'; '.join(filter(None, facts))}.",
            BACKFILL,
            waiting + gone,
        )


def _count_behind(connection: Connection, table: Any, *, full: bool) -> tuple[int, int]:
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
        key = quote_name(table.key_name)
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


def _count_gone(connection: Connection, *, full: bool) -> int:
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


def _may_look(connection: Connection) -> bool:
    # The functions exist only where there is such a table.
    function = "to_regprocedure('profiles_internal.identity_triggers()')"
    return bool(connection.scalar(text(f"select coalesce(has_function_privilege({function}, 'execute'), false)")))
