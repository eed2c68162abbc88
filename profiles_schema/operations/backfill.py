"""Create what is missing: profiles and progress of users who have none, and what a recorded failure left undone.

Batches of users by id, each in a transaction of its own; interrupted at any point it can simply be run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import is_disconnect, sqlstate
from profiles_schema.errors import InsufficientPrivilege
from profiles_schema.migrations import expected
from profiles_schema.migrations.sql_objects import file_of, holds
from profiles_schema.operations.health import ALIVE, INCOMPLETE, UNREPAIRED
from profiles_schema.schema import objects

BATCH_USERS = 1_000
_LOCK_ERRORS = {"55P03", "40P01"}
_ATTEMPTS = 50
_FIRST_ID = "00000000-0000-0000-0000-000000000000"


@dataclass
class Progress:
    """How far a backfill is: users done, profiles created, users repaired, and failures by SQLSTATE."""

    users: int = 0
    created: int = 0
    repaired: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def count_failure(self, code: str | None) -> None:
        """Count one user who could not be done, under the SQLSTATE."""
        self.failed[code or "unknown"] = self.failed.get(code or "unknown", 0) + 1


def count_missing(connection: Connection) -> int:
    """How many users lack a profile or progress, all of them counted.

    Raises:
        InsufficientPrivilege: row level security hides auth.users from this role.
    """
    _refuse_blindness(connection)
    return int(
        connection.scalar(
            text(
                f"select count(*) from auth.users as u where {ALIVE} and not (exists (select from public.user_profiles as p"
                " where p.user_id = u.id) and exists (select from public.user_progress as g where g.user_id = u.id))"
            )
        )
        or 0
    )


def backfill(connection: Connection, *, batch_users: int = BATCH_USERS) -> Iterator[Progress]:
    """Create what is missing, yielding the progress after every batch, at least once.

    Args:
        connection: A connection outside a transaction, as the role that owns the tables.
        batch_users: Users per transaction.

    Raises:
        InsufficientPrivilege: row level security hides auth.users from this role.
    """
    with connection.begin():
        _refuse_blindness(connection)
    progress = Progress()
    last_id = _FIRST_ID
    while True:
        with connection.begin():
            users = [
                str(id_)
                for (id_,) in connection.execute(
                    text(
                        f"select u.id from auth.users as u where u.id > cast(:last_id as uuid) and {ALIVE} and {INCOMPLETE}"
                        " order by u.id limit :batch_users"
                    ),
                    {"last_id": last_id, "batch_users": batch_users},
                )
            ]
        if not users:
            break
        _do(connection, users, progress)
        last_id = users[-1]
        yield progress
    _repair_failures(connection, progress)
    with connection.begin():
        connection.execute(
            text(
                "update profiles_internal.jobs set state = 'completed', started_at = coalesce(started_at, created_at),"
                " finished_at = now(), rows_done = rows_done + :done where kind = 'backfill' and state = 'pending'"
            ),
            {"done": progress.users},
        )
    yield progress


def repair_triggers(connection: Connection) -> list[str]:
    """Put back every trigger and function of ours that is missing, disabled or changed; returns the files applied."""
    with connection.begin():
        _snapshot, differences = expected.compare(connection)
        damaged = {file_of(key) for key in differences if key.startswith(("trigger ", "function ", "grant function "))}
        applicable = [o for o in objects.inventory() if o in damaged and holds(connection, o.where)]
    for sql_object in applicable:
        _with_patience(connection, lambda o=sql_object: connection.exec_driver_sql(o.text.replace("%", "%%")))
    return [str(sql_object) for sql_object in applicable]


def _do(connection: Connection, users: list[str], progress: Progress) -> None:
    try:
        progress.created += _with_patience(connection, lambda: _create(connection, users))
    except DBAPIError as error:
        if is_disconnect(error):
            raise
        # One bad row must not keep the others back.
        for user in users:
            try:
                progress.created += _with_patience(connection, lambda u=user: _create(connection, [u]))
            except DBAPIError as one:
                if is_disconnect(one):
                    raise
                _record(connection, [user], "failed", sqlstate(one))
                progress.count_failure(sqlstate(one))
    progress.users += len(users)


def _create(connection: Connection, users: list[str]) -> int:
    connection.execute(text("select set_config('profiles_internal.origin', 'backfill', true)"))
    created = connection.scalar(
        text(
            "select profiles_internal.create_profiles(array(select to_jsonb(u) from auth.users as u"
            f" where u.id = any (cast(:users as uuid[])) and {ALIVE} order by u.id))"
        ),
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


def _repair_failures(connection: Connection, progress: Progress) -> None:
    """Profiles that did not follow their user: bring them up to date, or erase them."""
    with connection.begin():
        users = [
            str(id_)
            for (id_,) in connection.execute(
                text(
                    "select distinct u.id from public.user_profile_audit_logs as a join auth.users as u on u.id = a.user_id"
                    f" where a.action in ('failed', 'skipped') and not ({ALIVE} and {INCOMPLETE}) and {UNREPAIRED}"
                    # An erasure can be lost without a record, too: while the trigger was away, say.
                    " union select u.id from auth.users as u join public.user_profiles as p on p.user_id = u.id"
                    f" where not ({ALIVE}) and p.is_active"
                )
            )
        ]
    for user in users:
        try:
            _with_patience(connection, lambda u=user: _follow(connection, u))
            progress.repaired += 1
        except DBAPIError as error:
            if is_disconnect(error):
                raise
            progress.count_failure(sqlstate(error))


def _follow(connection: Connection, user: str) -> None:
    connection.execute(text("select set_config('profiles_internal.origin', 'backfill', true)"))
    connection.execute(
        text(
            f"select case when {ALIVE} then profiles_internal.follow_user("
            # As if the last sign-in happened now, unless the profile has it already.
            " to_jsonb(u) || jsonb_build_object('last_sign_in_at',"
            "  case when p.last_login = u.last_sign_in_at then to_jsonb(u) -> 'last_sign_in_at' end), to_jsonb(u))::text"
            " else profiles_internal.erase_profile(u.id)::text end"
            " from auth.users as u join public.user_profiles as p on p.user_id = u.id where u.id = cast(:user as uuid)"
        ),
        {"user": user},
    )
    _record_in_transaction(connection, [user], "repaired", None)


def _record(connection: Connection, users: list[str], action: str, code: str | None) -> None:
    with connection.begin():
        _record_in_transaction(connection, users, action, code)


def _record_in_transaction(connection: Connection, users: list[str], action: str, code: str | None) -> None:
    connection.execute(
        text("select profiles_internal.record_events(cast(:users as uuid[]), :action, 'backfill', :code)"),
        {"users": users, "action": action, "code": code},
    )


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
