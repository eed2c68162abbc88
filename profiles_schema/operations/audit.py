"""The audit log is kept for so long as the setting audit_keep_days says; ``audit purge`` removes what is older."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.operations.batch_job import Job, Limits, Progress
from profiles_schema.operations.batches import run
from profiles_schema.operations.settings import DEFAULTS, get_settings

_FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"
_OLD: Final = "a.created_at < now() - make_interval(days => :days)"


class _Purge(Job):
    """Rows of the audit log that are older than the retention, by id."""

    kind = "audit"
    unit = "rows"

    def __init__(self, keep_days: int) -> None:
        self._values = {"days": keep_days}

    def count(self, connection: Connection) -> int:
        return int(
            connection.scalar(
                text(f"select count(*) from public.user_profile_audit_logs as a where {_OLD}"), self._values
            )
            or 0
        )

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        keys, end = connection.execute(
            text(
                "with looked_at as materialized ("
                "  select a.id, a.created_at from public.user_profile_audit_logs as a where a.id > cast(:after as uuid)"
                "  order by a.id limit :window"
                f") select array(select a.id::text from looked_at as a where {_OLD} order by a.id limit :rows),"
                "  (select id::text from looked_at order by id offset :window - 1)"
            ),
            {"after": after or _FIRST_ID, "rows": rows, "window": window, **self._values},
        ).one()
        return keys, keys[-1] if len(keys) == rows else end

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        gone = connection.execute(
            text("delete from public.user_profile_audit_logs where id = any (cast(:keys as uuid[]))"), {"keys": keys}
        )
        return {"purged": gone.rowcount}

    def finish(self, connection: Connection, failed: Mapping[str, int]) -> None:
        """Forget usernames that are held no more; they are of a person, too."""
        del failed
        connection.execute(text("delete from profiles_internal.held_usernames where held_until < now()"))


def keep_days(connection: Connection) -> int:
    """The setting audit_keep_days; its default where it is no number."""
    value = get_settings(connection).get("audit_keep_days")
    return value if type(value) is int and value > 0 else int(DEFAULTS["audit_keep_days"])


def count_old(connection: Connection, days: int) -> int:
    """How many rows a purge would remove."""
    return _Purge(days).count(connection)


def purge(
    connection: Connection,
    days: int,
    *,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Remove rows of the audit log that are older than so many days. It counts rows ``purged``.

    Args:
        connection: Says which database and role, which owns the table; the work has a connection of its own.
        days: How long a row is kept.
        limits: Sizes and rates.
        stopped: Asked between batches.

    Raises:
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    yield from run(connection.engine, [_Purge(days)], limits, stopped=stopped)
