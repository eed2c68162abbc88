"""Create what is missing: profiles and progress of users who have none, and what a recorded failure left undone.

Where the application has its own table of users, its rows become users first, and users whose row is gone go.

Users by id, on the engine of ``batches``: interrupted at any point it can simply be run again, and goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import connect
from profiles_schema.driver import is_disconnect, sqlstate
from profiles_schema.errors import InsufficientPrivilege
from profiles_schema.operations import batches
from profiles_schema.operations.batches import FIRST_ROWS, MOST_WINDOW_ROWS, TARGET_MS, Limits, run
from profiles_schema.operations.erasure import FOUND_DELETED, PERSONAL
from profiles_schema.operations.health import ALIVE, INCOMPLETE, UNREPAIRED

_LOCK_ERRORS = {"55P03", "40P01"}
_ATTEMPTS = 50
_GONE_WINDOW = 10_000
_FEW_GONE = 100
_GONE_SHARE = 10
_RELEASED_AT_ONCE = 100
LOCKS = "ROW EXCLUSIVE on user_profiles, user_progress and the audit log; a batch at a time, committed each"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
# ALIVE without making JSON of the row: where auth.users has no deleted_at, the name means this one, and nobody is deleted.
_ABSENT = "(select null::timestamp with time zone as deleted_at) as absent"
_TO_ERASE = f"(to_jsonb(u) ->> 'deleted_at' is not null and {PERSONAL})"
_ALIVE_BY_ID = (
    f"(select a.deleted_at from {_ABSENT} cross join lateral"
    " (select deleted_at from auth.users as w where w.id = u.id) as a) is null"
)


@dataclass
class Progress:
    """How far a backfill is.

    ``users`` of ``total`` are done, ``created`` profiles made, ``completed`` users had a profile and lacked progress only,
    ``repaired`` profiles were brought up to date, ``failed`` counts users left out, by SQLSTATE. ``state`` is running, paused, stopped or completed. Of an application's own table of
    users: ``followed`` rows became users or changed them, ``released`` users went with their row, ``gone`` ones have no
    row either and were left, because they are suspiciously many. ``erased`` deleted users lost their personal data, except what
    ``left_columns`` of the application hold.
    """

    total: int = 0
    users: int = 0
    created: int = 0
    completed: int = 0
    repaired: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    job_id: int = 0
    batch_users: int = 0
    batch_ms: float = 0.0
    users_per_second: float = 0.0
    eta_seconds: float | None = None
    state: str = "running"
    followed: int = 0
    released: int = 0
    gone: int = 0
    erased: int = 0
    left_columns: list[str] = field(default_factory=list)

    def count_failure(self, code: str | None) -> None:
        """Count one user who could not be done, under the SQLSTATE."""
        self.failed[code or "unknown"] = self.failed.get(code or "unknown", 0) + 1


def left_columns(connection: Connection) -> list[str]:
    """The columns of the application in our tables, which an erasure leaves as they are."""
    return list(connection.scalar(text("select profiles_internal.left_columns()")) or [])


def count_missing(connection: Connection) -> int:
    """How many users lack a profile or progress, all of them counted.

    Raises:
        InsufficientPrivilege: row level security hides auth.users from this role.
    """
    _refuse_blindness(connection)
    return int(
        connection.scalar(
            text(
                f"select count(*) from {_ABSENT} cross join lateral (select id from auth.users where deleted_at is null) as u"
                " where not (exists (select from public.user_profiles as p where p.user_id = u.id)"
                " and exists (select from public.user_progress as g where g.user_id = u.id))"
            )
        )
        or 0
    )


def plan(connection: Connection, *, batch_users: int = FIRST_ROWS) -> dict[str, Any]:
    """What a backfill would do: missing (users), seconds (least, most), locks, sample (user id, username).

    Of deleted users with personal data: to_erase, found_deleted (before the tables were taken over), left_columns.

    The forecast comes from one batch that is done and rolled back.
    """
    job = _MissingProfiles()
    missing = count_missing(connection)
    result: dict[str, Any] = {"missing": missing, "seconds": [0.0, 0.0], "locks": LOCKS, "sample": []}
    to_erase, found_deleted = connection.execute(
        text(
            f"select count(*) filter (where not {FOUND_DELETED}), count(*) filter (where {FOUND_DELETED}) from auth.users as u where {_TO_ERASE}"
        )
    ).one()
    if to_erase or found_deleted:
        result |= {"to_erase": to_erase, "found_deleted": found_deleted, "left_columns": left_columns(connection)}
    if _followed_table(connection) is not None:
        result["not_followed"] = _Identity().count(connection)
    if missing:
        savepoint = connection.begin_nested()
        keys, reached = job.next_keys(connection, None, batch_users, MOST_WINDOW_ROWS)
        while not keys and reached:
            keys, reached = job.next_keys(connection, reached, batch_users, MOST_WINDOW_ROWS)
        started = time.monotonic()
        job.do(connection, keys)
        seconds = (time.monotonic() - started) * missing / max(len(keys), 1)
        sample = connection.execute(
            text(
                "select user_id::text, username from public.user_profiles where user_id = any (cast(:keys as uuid[]))"
                " order by user_id limit 5"
            ),
            {"keys": keys},
        )
        result["sample"] = [list(row) for row in sample]
        savepoint.rollback()
        # The first batch is the dearest per row; counting, committing and keeping out of the way come on top.
        result["seconds"] = [round(seconds * 0.3, 3), round(seconds * 2 + 1, 3)]
    return result


def backfill(
    connection: Connection,
    *,
    batch_users: int = FIRST_ROWS,
    target_ms: int = TARGET_MS,
    max_rate: float | None = None,
    remove_gone: bool = False,
    erase_deleted: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Create what is missing, yielding the progress after every batch, at least once.

    Args:
        connection: A connection outside a transaction, as the role that owns the tables; more are opened like it.
        batch_users: Users in the first batch; later ones follow the target.
        target_ms: How long a batch should take.
        max_rate: Most users per second.
        remove_gone: Also remove users whose row in the application's own table is gone where they are a large part.
        erase_deleted: Also erase users who were deleted before the tables were taken over; this cannot be undone.
        stopped: Asked between batches; True ends the work, which goes on where it was the next time.

    Raises:
        InsufficientPrivilege: row level security hides auth.users from this role.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    with connection.begin():
        _refuse_blindness(connection)
        follows = _followed_table(connection) is not None
    limits = Limits(batch_rows=batch_users, target_ms=target_ms, max_rate=max_rate)
    progress = before = Progress(state="completed")
    if follows:
        for step in run(lambda: connect(connection.engine), _Identity(), limits, stopped=stopped):
            progress = _progress(step)
            progress.created, progress.followed = 0, step.changed
            if step.state != "completed":
                yield progress
        if progress.state == "completed":
            with connect(connection.engine) as fresh:
                _release_the_gone(fresh, progress, all_of_them=remove_gone)
        before = progress
    if before.state == "completed":
        for step in run(lambda: connect(connection.engine), _MissingProfiles(), limits, stopped=stopped):
            progress = _progress(step)
            # What was neither without a profile nor left out; those left out by an earlier runner are not among the done.
            progress.completed = max(0, step.done - step.changed - sum(step.failed.values()))
            progress.followed, progress.released, progress.gone = before.followed, before.released, before.gone
            progress.failed = {
                code: before.failed.get(code, 0) + progress.failed.get(code, 0)
                for code in {**before.failed, **progress.failed}
            }
            if step.state != "completed":
                yield progress
    if progress.state == "completed":
        # The connection that we were given may have been lost as well in the meantime.
        with connect(connection.engine) as fresh:
            _repair_failures(fresh, progress, erase_deleted=erase_deleted)
            progress.left_columns = left_columns(fresh) if progress.erased else []
        yield progress


def _progress(step: batches.Progress) -> Progress:
    return Progress(
        step.total, step.done, step.changed, 0, 0, dict(step.failed), step.job_id, step.batch_rows, step.batch_ms,
        step.rows_per_second, step.eta_seconds, step.state,
    )  # fmt: skip


def _followed_table(connection: Connection) -> Any:
    """The application's own table of users, if one was chosen and is there; None otherwise."""
    if connection.scalar(text("select to_regproc('profiles_internal.identity_table') is null")):
        return None
    return connection.execute(text("select * from profiles_internal.identity_table()")).one_or_none()


def _release_the_gone(connection: Connection, progress: Progress, *, all_of_them: bool) -> None:
    """Remove users whose row in the application's table is gone, unless so many are that the table rather is."""
    gone: list[str] = []
    known, after = 0, None
    while True:
        with connection.begin():
            keys, after, looked_at = connection.execute(
                text("select keys, reached, looked_at from profiles_internal.gone_identities(:after, :rows)"),
                {"after": after, "rows": _GONE_WINDOW},
            ).one()
        gone += keys
        known += looked_at
        if after is None:
            break
    if len(gone) > _FEW_GONE and len(gone) * _GONE_SHARE > known and not all_of_them:
        progress.gone = len(gone)
        return
    for start in range(0, len(gone), _RELEASED_AT_ONCE):
        some = gone[start : start + _RELEASED_AT_ONCE]
        try:
            progress.released += _with_patience(connection, lambda k=some: _release(connection, k))
        except DBAPIError as error:
            if is_disconnect(error):
                raise
            # One that cannot go must not keep the others.
            for key in some:
                try:
                    progress.released += _with_patience(connection, lambda k=key: _release(connection, [k]))
                except DBAPIError as own:
                    if is_disconnect(own):
                        raise
                    progress.count_failure(sqlstate(own))


def _release(connection: Connection, keys: list[str]) -> int:
    table = _followed_table(connection)
    if table is None:
        return 0
    key = connection.dialect.identifier_preparer.quote(table.key_name)
    return int(
        connection.scalar(
            text(
                # The row may have come back since we looked.
                "select profiles_internal.release_users(array(select k.external_id"
                " from profiles_internal.identity_links as k where k.external_id = any (cast(:keys as text[]))"
                f" and not exists (select from {table.table_name} as t where t.{key} = cast(k.external_id as {table.key_type}))))"
            ),
            {"keys": keys},
        )
        or 0
    )


class _Identity:
    """The job: rows of the application's own table that are no users yet, or other ones, by key."""

    kind = "identity"
    # Every row is read and compared: in smaller windows than where an index says what is missing.
    window = 2_000

    def count(self, connection: Connection) -> int:
        table = _followed_table(connection)
        if table is None:
            return 0
        key = connection.dialect.identifier_preparer.quote(table.key_name)
        return int(
            connection.scalar(
                text(
                    f"select count(*) from {table.table_name} as t where not exists (select"
                    f" from profiles_internal.identity_links as k where k.external_id = t.{key}::text)"
                )
            )
            or 0
        )

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        keys, reached = connection.execute(
            text("select keys, reached from profiles_internal.identity_window(:after, :rows, :window)"),
            {"after": after, "rows": rows, "window": min(window, self.window)},
        ).one()
        return keys, reached

    def do(self, connection: Connection, keys: list[str]) -> int:
        connection.execute(text("select set_config('profiles_internal.origin', 'backfill', true)"))
        return int(
            connection.scalar(text("select profiles_internal.take_identities(cast(:keys as text[]))"), {"keys": keys})
            or 0
        )

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        del key, what  # it may be personal
        connection.execute(
            text(
                "select profiles_internal.record_events(array[null::uuid], 'failed', 'backfill', :code,"
                ' \'the table of users\', \'{"identity": "take", "rows": 1}\')'
            ),
            {"code": code},
        )


class _MissingProfiles:
    """The job: users without profile or progress, by id."""

    kind = "backfill"

    def count(self, connection: Connection) -> int:
        return count_missing(connection)

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        # The window comes from the index of the keys alone. With the filter beside the limit, the planner takes the
        # filter for far more selective than it is, and sorts the table for every batch.
        keys, end = connection.execute(
            text(
                "with looked_at as materialized ("
                "  select id from auth.users where id > cast(:after as uuid) order by id limit :window"
                f") select array(select u.id::text from looked_at as u where case when {INCOMPLETE} then {_ALIVE_BY_ID} end"
                "   order by u.id limit :rows),"
                "  (select id::text from looked_at order by id offset :window - 1)"
            ),
            {"after": after or _FIRST_ID, "rows": rows, "window": window},
        ).one()
        return keys, keys[-1] if len(keys) == rows else end

    def do(self, connection: Connection, keys: list[str]) -> int:
        return _create(connection, keys)

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        connection.execute(
            text(
                "select profiles_internal.record_events(array[cast(:user as uuid)], 'failed', 'backfill', :code, :what)"
            ),
            {"user": key, "code": code, "what": what},
        )


def _create(connection: Connection, users: list[str]) -> int:
    connection.execute(text("select set_config('profiles_internal.origin', 'backfill', true)"))
    created = connection.scalar(
        text("select profiles_internal.create_profiles(profiles_internal.living_users(cast(:users as uuid[])))"),
        {"users": users},
    )
    # Whoever had a failure on record reads in the log that it is repaired.
    connection.execute(
        text(
            "insert into public.user_profile_audit_logs (user_id, action, origin)"
            " select distinct a.user_id, 'repaired', 'backfill' from public.user_profile_audit_logs as a"
            " where a.user_id = any (cast(:users as uuid[])) and a.action in ('failed', 'skipped')"
        ),
        {"users": users},
    )
    return int(created or 0)


def _repair_failures(connection: Connection, progress: Progress, *, erase_deleted: bool) -> None:
    """Profiles that did not follow their user: bring them up to date, or erase them.

    Users who were deleted before the tables were taken over are erased only when that is asked for.
    """
    with connection.begin():
        users = [
            (str(id_), deleted)
            for id_, deleted in connection.execute(
                text(
                    "select distinct u.id, false from public.user_profile_audit_logs as a join auth.users as u on u.id = a.user_id"
                    f" where a.action in ('failed', 'skipped') and not ({ALIVE} and {INCOMPLETE}) and {UNREPAIRED}"
                    # An erasure can be lost without a record, too: while the trigger was away, say. And who still holds a
                    # token may have written something since.
                    f" and not {_TO_ERASE}"
                    f" union select u.id, true from auth.users as u where {_TO_ERASE}"
                    f" and (cast(:erase_deleted as boolean) or not {FOUND_DELETED})"
                ),
                {"erase_deleted": erase_deleted},
            )
        ]
    for user, deleted in users:
        try:
            _with_patience(connection, lambda u=user: _follow(connection, u))
            progress.erased += deleted
            progress.repaired += not deleted
        except DBAPIError as error:
            if is_disconnect(error):
                raise
            progress.count_failure(sqlstate(error))


def _follow(connection: Connection, user: str) -> None:
    connection.execute(text("select set_config('profiles_internal.origin', 'backfill', true)"))
    connection.execute(text("select profiles_internal.repair_profile(cast(:user as uuid))"), {"user": user})


def _with_patience(connection: Connection, work: Any) -> Any:
    """Do something in a transaction that waits only shortly for locks, and again while it cannot have them."""
    for attempt in range(_ATTEMPTS):
        try:
            with connection.begin():
                connection.execute(text("select set_config('lock_timeout', '100ms', true)"))
                return work()
        except DBAPIError as error:
            if sqlstate(error) not in _LOCK_ERRORS or attempt == _ATTEMPTS - 1:
                raise
        with connection.begin():
            connection.execute(text("select pg_sleep(:seconds)"), {"seconds": min(0.05 * 2**attempt, 1.0)})
    raise AssertionError


def _refuse_blindness(connection: Connection) -> None:
    if connection.scalar(text("select row_security_active('auth.users')")):
        role = connection.scalar(text("select current_user"))
        raise InsufficientPrivilege(
            f'The role "{role}" reads no users: row level security hides auth.users from it.'
            f' An administrator runs: alter role "{role}" bypassrls'
        )
