"""Compare user_progress with what the ended sessions say, and count anew what differs.

The law is ``profiles_internal.computed_progress``; the trigger on sessions keeps it by differences. On the engine of
``batches``: interrupted at any point it can simply be run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import NoSessions
from profiles_schema.operations.batch_job import Job, Limits, Progress, next_page
from profiles_schema.operations.batches import run
from profiles_schema.operations.findings import Finding, problem
from profiles_schema.schema.objects import Where

REMEDY = "profiles-schema progress recount"
LOCKS = "ROW EXCLUSIVE on user_progress; a batch at a time, committed each"
_WINDOW = 200
_SAMPLE = 50
_LONG_HISTORY = 2_000
_COLUMNS = (
    "total_sessions", "total_descriptions", "total_images", "total_questions_answered", "total_correct_answers",
    "total_vocabulary_learned", "total_answer_seconds", "total_time_spent_minutes", "average_accuracy",
    "average_completion_time_seconds", "last_activity_at", "last_active_on", "last_description_at", "last_qa_session_at",
    "last_vocabulary_practice_at", "current_streak_days", "longest_streak_days",
)  # fmt: skip
# A row that no session speaks for keeps what it has: sums of an adopted table may come from elsewhere.
_DIFFERING = f"""
select p.user_id
from profiles_internal.computed_progress(cast(:users as uuid[])) as c
join public.user_progress as p on p.user_id = c.user_id
where (({", ".join(f"p.{name}" for name in _COLUMNS)}) is distinct from ({", ".join(f"c.{name}" for name in _COLUMNS)})
  or c.active_days <> (select count(*) from profiles_internal.active_days as d where d.user_id = p.user_id))
and (c.total_sessions > 0 or exists (select from profiles_internal.active_days as d where d.user_id = p.user_id)
  or not exists (select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_progress'))
order by p.user_id
"""
# The mark of a user without a progress row waits for the row.
_MARKED = "from profiles_internal.stale_progress as s join public.user_progress as p on p.user_id = s.user_id"


class _Recount(Job):
    """Progress that is not what the sessions say, by user."""

    kind = "progress"

    def count(self, connection: Connection) -> int:
        return sum(len(found) for found in _differing(connection))

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        users, reached = _window(connection, after, min(window, _WINDOW))
        keys = [str(row.user_id) for row in connection.execute(text(_DIFFERING), {"users": users})][:rows]
        return keys, keys[-1] if len(keys) == rows else reached

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        connection.execute(text("select profiles_internal.recount_progress(cast(:users as uuid[]))"), {"users": keys})
        return {"recounted": len(keys)}

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        connection.execute(
            text(
                "insert into profiles_internal.stale_progress (user_id, error_code, error_message)"
                " values (cast(:user as uuid), :code, :what)"
            ),
            {"user": key, "code": code, "what": what},
        )


class _Marks(Job):
    """Marks of users whose progress is right all the same: the failed statement was undone, or changed nothing."""

    kind = "marks"
    recorded = False
    repeats = False

    def count(self, connection: Connection) -> int:
        return connection.scalar(text(f"select count(distinct s.user_id) {_MARKED}")) or 0

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        statement = f"select distinct s.user_id {_MARKED} where s.user_id > cast(:after as uuid)"
        return next_page(connection, f"{statement} order by s.user_id limit :rows", after, min(rows, window, _WINDOW))

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        connection.execute(
            text(
                "delete from profiles_internal.stale_progress where user_id in (select p.user_id"
                f" from public.user_progress as p where p.user_id = any (cast(:users as uuid[])) except ({_DIFFERING}))"
            ),
            {"users": keys},
        )
        return {}


def recount(
    connection: Connection, *, limits: Limits | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Count anew the progress that is not what the sessions say, yielding after every batch, at least once.

    It counts users ``recounted``.

    Args:
        connection: Says which database and role, which owns the tables; the work has a connection of its own.
        limits: Sizes and rates.
        stopped: Asked between batches; True ends the work, which goes on where it was the next time.

    Raises:
        NoSessions: there is no table of learning sessions.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    with connection.begin():
        require_sessions(connection)
    yield from run(connection.engine, [_Recount(), _Marks()], limits, stopped=stopped)


def forecast(connection: Connection) -> dict[str, Any]:
    """What a recount would do: differing (users), sample (user id, columns that differ)."""
    require_sessions(connection)
    differing = 0
    sample: list[list[Any]] = []
    for users in _differing(connection):
        differing += len(users)
        sample += differences(connection, users[: 5 - len(sample)])
    return {"differing": differing, "sample": sample, "locks": LOCKS}


def require_sessions(connection: Connection) -> None:
    """Raise NoSessions where there is nothing to count from."""
    if not connection.scalar(text(f"select {Where.USABLE_SESSIONS.value}")):
        raise NoSessions


def examine_progress(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """What ``health`` says: marks of failed roll-ups, and progress that differs, of a sample of users or of all."""
    if connection.scalar(
        text(
            "select not coalesce(has_table_privilege(to_regclass('profiles_internal.stale_progress'), 'select'), false)"
            f" or not {Where.USABLE_SESSIONS.value}"
        )
    ):
        return
    stale = connection.execute(
        text(f"select count(distinct s.user_id) as users, string_agg(distinct s.error_code, ', ') as codes {_MARKED}")
    ).one()
    if stale.users:
        yield problem(
            "stale_progress",
            f"Sessions of {stale.users} user{'s' if stale.users > 1 else ''} changed and the progress did not, because the roll-up failed (SQLSTATE"
            f" {stale.codes}). The next session of each counts again.",
            REMEDY,
            stale.users,
        )
        return
    if not connection.scalar(
        text("select has_function_privilege(to_regprocedure('profiles_internal.computed_progress(uuid[])'), 'execute')")
    ):
        return
    if full:
        differing = sum(len(found) for found in _differing(connection))
    else:
        users = connection.scalars(
            text(
                # From a random point on, and the newest: ids that grow with time may all be below that point.
                "select s.user_id from ("
                "  (select p.user_id, p.total_sessions from public.user_progress as p"
                "   where p.user_id >= gen_random_uuid() order by p.user_id limit :rows)"
                "  union (select p.user_id, p.total_sessions from public.user_progress as p order by p.user_id desc limit :rows)"
                ") as s where s.total_sessions < :most"
            ),
            {"rows": _SAMPLE, "most": _LONG_HISTORY},
        ).all()
        differing = len(connection.execute(text(_DIFFERING), {"users": list(users)}).all())
    if differing:
        scope = ("user" if differing == 1 else "users") if full else f"of {len(users)} users looked at"
        yield problem(
            "progress",
            f"The progress of {differing} {scope} differs from their sessions.",
            REMEDY,
            differing,
        )


def _differing(connection: Connection) -> Iterator[list[Any]]:
    for users in _windows(connection):
        yield list(connection.scalars(text(_DIFFERING), {"users": users}))


def _windows(connection: Connection) -> Iterator[list[str]]:
    after: str | None = None
    while True:
        users, after = _window(connection, after, _WINDOW)
        if users:
            yield users
        if after is None:
            return


def _window(connection: Connection, after: str | None, rows: int) -> tuple[list[str], str | None]:
    """The next users with progress, and how far that is; None for the end."""
    statement = "select p.user_id from public.user_progress as p where p.user_id > cast(:after as uuid)"
    return next_page(connection, f"{statement} order by p.user_id limit :rows", after, rows)


def differences(connection: Connection, users: list[Any]) -> list[list[Any]]:
    """Of each user the columns that differ; ``days`` where only the days do."""
    pairs = ", ".join(f"case when p.{name} is distinct from c.{name} then '{name}' end" for name in _COLUMNS)
    rows = connection.execute(
        text(
            f"select p.user_id, array_remove(array[{pairs}], null) as columns"
            " from profiles_internal.computed_progress(cast(:users as uuid[])) as c"
            " join public.user_progress as p on p.user_id = c.user_id order by p.user_id"
        ),
        {"users": [str(user) for user in users]},
    )
    return [[str(row.user_id), row.columns or ["days"]] for row in rows]
