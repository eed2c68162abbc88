"""Create what is missing: profiles and progress of users who have none, and what a recorded failure left undone.

A backfill is a list of jobs for the engine of ``batches``: where the application has its own table of users, its rows become
users first, and users whose row is gone go; then profiles are created; then profiles that did not follow their user are
brought up to date. Interrupted at any point it can simply be run again, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.driver import quote_name
from profiles_schema.errors import InsufficientPrivilege
from profiles_schema.operations.batch_job import FIRST_ROWS, Job, Limits, ListedJob, Progress
from profiles_schema.operations.batches import run, trial
from profiles_schema.operations.erasure import FOUND_DELETED, PERSONAL
from profiles_schema.operations.health.users import ALIVE, INCOMPLETE, UNREPAIRED

_GONE_WINDOW = 10_000
_FEW_GONE = 100
_GONE_SHARE = 10
LOCKS = "ROW EXCLUSIVE on user_profiles, user_progress and the audit log; a batch at a time, committed each"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
# ALIVE without making JSON of the row: where auth.users has no deleted_at, the name means this one, and nobody is deleted.
_ABSENT = "(select null::timestamp with time zone as deleted_at) as absent"
_TO_ERASE = f"(to_jsonb(u) ->> 'deleted_at' is not null and {PERSONAL})"
_ALIVE_BY_ID = (
    f"(select a.deleted_at from {_ABSENT} cross join lateral"
    " (select deleted_at from auth.users as w where w.id = u.id) as a) is null"
)


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


def forecast(connection: Connection, *, batch_rows: int = FIRST_ROWS) -> dict[str, Any]:
    """What a backfill would do: missing (users), seconds (least, most), locks, sample (user id, username).

    Of deleted users with personal data: to_erase, found_deleted (before the tables were taken over), left_columns.
    """
    _refuse_blindness(connection)
    result: dict[str, Any] = {}
    to_erase, found_deleted = connection.execute(
        text(
            f"select count(*) filter (where not {FOUND_DELETED}), count(*) filter (where {FOUND_DELETED}) from auth.users as u where {_TO_ERASE}"
        )
    ).one()
    if to_erase or found_deleted:
        result |= {"to_erase": to_erase, "found_deleted": found_deleted, "left_columns": left_columns(connection)}
    if _followed_table(connection) is not None:
        result["not_followed"] = _Identity().count(connection)
    with trial(connection, _MissingProfiles(), batch_rows) as batch:
        sample = connection.execute(
            text(
                "select user_id::text, username from public.user_profiles where user_id = any (cast(:keys as uuid[]))"
                " order by user_id limit 5"
            ),
            {"keys": batch.keys},
        ).all()
    return {
        "missing": batch.total, "seconds": list(batch.seconds), "locks": LOCKS, "sample": [list(row) for row in sample],
        **result,
    }  # fmt: skip


def backfill(
    connection: Connection,
    *,
    limits: Limits | None = None,
    remove_gone: bool = False,
    erase_deleted: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Create what is missing, yielding the progress after every batch, at least once.

    It counts profiles ``created``; users ``completed``, who had a profile and lacked progress only; profiles ``repaired``;
    deleted users ``erased``. Of an application's own table of users: rows ``followed``, which became users or changed them,
    users ``released``, whose row is gone, and users ``gone``, who have no row either and were left, because they are
    suspiciously many.

    Args:
        connection: Says which database and role, which owns the tables; the work has a connection of its own.
        limits: Sizes and rates.
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
    release = _Release(even_many=remove_gone)
    jobs = [
        *((_Identity(), release) if follows else ()),
        _MissingProfiles(),
        _Repair(erase_deleted=erase_deleted),
    ]
    for progress in run(connection.engine, jobs, limits, stopped=stopped):
        if release.gone:
            progress.counts["gone"] = release.gone
        yield progress


def _followed_table(connection: Connection) -> Any:
    """The application's own table of users, if one was chosen and is there; None otherwise."""
    if connection.scalar(text("select to_regproc('profiles_internal.identity_table') is null")):
        return None
    return connection.execute(text("select * from profiles_internal.identity_table()")).one_or_none()


class _Identity(Job):
    """Rows of the application's own table that are no users yet, or other ones, by key."""

    kind = "identity"
    unit = "rows"
    # Every row is read and compared: in smaller windows than where an index says what is missing.
    window = 2_000

    def count(self, connection: Connection) -> int:
        table = _followed_table(connection)
        if table is None:
            return 0
        key = quote_name(table.key_name)
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

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        _begin(connection)
        followed = connection.scalar(
            text("select profiles_internal.take_identities(cast(:keys as text[]))"), {"keys": keys}
        )
        return {"followed": followed or 0}

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        del key, what  # it may be personal
        connection.execute(
            text(
                "select profiles_internal.record_events(array[null::uuid], 'failed', 'backfill', :code,"
                ' \'the table of users\', \'{"identity": "take", "rows": 1}\')'
            ),
            {"code": code},
        )


class _Release(ListedJob):
    """Users whose row in the application's own table is gone, unless so many are that the table rather is."""

    kind = "release"

    def __init__(self, *, even_many: bool) -> None:
        self.even_many = even_many
        self.gone = 0
        """How many have no row and stay, because they are so many."""

    def find(self, connection: Connection) -> list[str]:
        gone: list[str] = []
        known, after = 0, None
        while True:
            keys, after, looked_at = connection.execute(
                text("select keys, reached, looked_at from profiles_internal.gone_identities(:after, :rows)"),
                {"after": after, "rows": _GONE_WINDOW},
            ).one()
            gone += keys
            known += looked_at
            if after is None:
                break
        many = len(gone) > _FEW_GONE and len(gone) * _GONE_SHARE > known
        self.gone = len(gone) if many and not self.even_many else 0
        return [] if self.gone else gone

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        table = _followed_table(connection)
        if table is None:
            return {}
        key = quote_name(table.key_name)
        released = connection.scalar(
            text(
                # The row may have come back since we looked.
                "select profiles_internal.release_users(array(select k.external_id"
                " from profiles_internal.identity_links as k where k.external_id = any (cast(:keys as text[]))"
                f" and not exists (select from {table.table_name} as t where t.{key} = cast(k.external_id as {table.key_type}))))"
            ),
            {"keys": keys},
        )
        return {"released": released or 0}


class _MissingProfiles(Job):
    """Users without profile or progress, by id."""

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

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        _begin(connection)
        created = connection.scalar(
            text("select profiles_internal.create_profiles(profiles_internal.living_users(cast(:users as uuid[])))"),
            {"users": keys},
        )
        # Whoever had a failure on record reads in the log that it is repaired.
        connection.execute(
            text(
                "insert into public.user_profile_audit_logs (user_id, action, origin)"
                " select distinct a.user_id, 'repaired', 'backfill' from public.user_profile_audit_logs as a"
                " where a.user_id = any (cast(:users as uuid[])) and a.action in ('failed', 'skipped')"
            ),
            {"users": keys},
        )
        return {"created": created or 0, "completed": len(keys) - (created or 0)}

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        connection.execute(
            text(
                "select profiles_internal.record_events(array[cast(:user as uuid)], 'failed', 'backfill', :code, :what)"
            ),
            {"user": key, "code": code, "what": what},
        )


class _Repair(ListedJob):
    """Profiles that did not follow their user: bring them up to date, or erase them.

    Users who were deleted before the tables were taken over are erased only when that is asked for.
    """

    kind = "repair"

    def __init__(self, *, erase_deleted: bool) -> None:
        self.erase_deleted = erase_deleted
        self.deleted: set[str] = set()

    def find(self, connection: Connection) -> list[str]:
        found = connection.execute(
            text(
                "select distinct u.id::text, false from public.user_profile_audit_logs as a join auth.users as u on u.id = a.user_id"
                f" where a.action in ('failed', 'skipped') and not ({ALIVE} and {INCOMPLETE}) and {UNREPAIRED}"
                # An erasure can be lost without a record, too: while the trigger was away, say. And who still holds a
                # token may have written something since.
                f" and not {_TO_ERASE}"
                f" union select u.id::text, true from auth.users as u where {_TO_ERASE}"
                f" and (cast(:erase_deleted as boolean) or not {FOUND_DELETED})"
            ),
            {"erase_deleted": self.erase_deleted},
        ).all()
        self.deleted = {user for user, deleted in found if deleted}
        return [user for user, _ in found]

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        _begin(connection)
        connection.execute(
            text(
                "select profiles_internal.repair_profile(k.user_id) from unnest(cast(:users as uuid[])) as k (user_id)"
            ),
            {"users": keys},
        )
        erased = len(self.deleted.intersection(keys))
        return {"erased": erased, "repaired": len(keys) - erased}


def _begin(connection: Connection) -> None:
    """Say in the audit log where a change comes from."""
    connection.execute(text("select set_config('profiles_internal.origin', 'backfill', true)"))


def _refuse_blindness(connection: Connection) -> None:
    if connection.scalar(text("select row_security_active('auth.users')")):
        role = connection.scalar(text("select current_user"))
        raise InsufficientPrivilege(
            f'The role "{role}" reads no users: row level security hides auth.users from it.'
            f' An administrator runs: alter role "{role}" bypassrls'
        )
