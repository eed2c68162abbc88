"""Erase users whom nothing has been seen of for long: anonymous ones, or all.

Three jobs on the engine of ``batches``: the accounts are shut and their erasure is noted, then rows go, then files. What a stopped
run has noted is ended by the next one, or by ``users erase --pending``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import StorageMissing, UnregisteredTables
from profiles_schema.operations import users
from profiles_schema.operations.batch_job import Job, Limits, ListedJob, Progress
from profiles_schema.operations.batches import run
from profiles_schema.storage import Storage

_FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"
_ERASED_AT_ONCE: Final = 10
_SAMPLE: Final = 5


@dataclass(frozen=True)
class Unseen:
    """Which users: nothing was seen of them for so long, and they are anonymous, or any."""

    age: timedelta
    anonymous: bool
    auth_sessions: bool = False
    """Whether there is a table auth.sessions, as on Supabase: who keeps an app open refreshes a token, and never signs in again."""

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of ``condition``."""
        return {"age": self.age.total_seconds()}

    @property
    def condition(self) -> str:
        """In SQL, of a user ``u``. Every sign of life counts; a user with a role is never pruned."""
        since = "now() - make_interval(secs => :age)"
        who = "(to_jsonb(u) ->> 'is_anonymous')::boolean and " if self.anonymous else ""
        return (
            f"({who}to_jsonb(u) ->> 'deleted_at' is null"
            f" and coalesce((to_jsonb(u) ->> 'created_at')::timestamptz < {since}, false)"
            f" and coalesce((to_jsonb(u) ->> 'last_sign_in_at')::timestamptz < {since}, true)"
            " and not exists (select from profiles_internal.erasures as e where e.user_id = u.id)"
            " and not exists (select from public.user_profiles as p where p.user_id = u.id and (p.role::text <> 'user'"
            f" or p.last_login >= {since} or p.updated_at >= {since} or to_timestamp(p.last_interaction_at) >= {since}))"
            " and not exists (select from public.user_progress as g where g.user_id = u.id"
            f" and (g.last_activity_at >= {since} or g.updated_at >= {since}))"
            " and not exists (select from public.user_provider_keys as k where k.user_id = u.id"
            f" and (k.last_used_at >= {since} or k.updated_at >= {since}))"
            f"{self._without_sessions(since)})"
        )

    def _without_sessions(self, since: str) -> str:
        if not self.auth_sessions:
            return ""
        moments = ", ".join(
            f"(to_jsonb(s) ->> '{name}')::timestamptz" for name in ("created_at", "updated_at", "refreshed_at")
        )
        return (
            " and not exists (select from auth.sessions as s"
            f" where s.user_id = u.id and greatest({moments}) >= {since})"
        )

    def on(self, connection: Connection) -> Unseen:
        """The same users, with the signs of life that this database has."""
        return replace(
            self, auth_sessions=bool(connection.scalar(text("select to_regclass('auth.sessions') is not null")))
        )


@dataclass(frozen=True)
class Plan:
    """How many users a prune would erase, the first of them, and the tables that keep it from beginning."""

    users: int
    sample: list[uuid.UUID]
    unregistered: list[str]


class _Shut(Job):
    """Note the erasure and shut the account, so that nothing is written while the rows go."""

    kind = "prune"

    def __init__(self, unseen: Unseen) -> None:
        self._unseen = unseen

    def count(self, connection: Connection) -> int:
        return int(
            connection.scalar(
                text(f"select count(*) from auth.users as u where {self._unseen.condition}"), self._unseen.values
            )
            or 0
        )

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        keys, end = connection.execute(
            text(
                "with looked_at as materialized ("
                "  select id from auth.users where id > cast(:after as uuid) order by id limit :window"
                ") select array(select u.id::text from looked_at as l join auth.users as u on u.id = l.id"
                f"   where {self._unseen.condition} order by u.id limit :rows),"
                "  (select id::text from looked_at order by id offset :window - 1)"
            ),
            {"after": after or _FIRST_ID, "rows": rows, "window": window, **self._unseen.values},
        ).one()
        return keys, keys[-1] if len(keys) == rows else end

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        # Asked again: somebody may have come back since.
        shut = connection.execute(
            text(
                "insert into profiles_internal.erasures (user_id, requested_by) select u.id, 'operator' from auth.users as u"
                f" where u.id = any (cast(:keys as uuid[])) and {self._unseen.condition} on conflict do nothing returning user_id"
            ),
            {"keys": keys, **self._unseen.values},
        ).scalars()
        ids = [str(each) for each in shut]
        connection.execute(
            text("update public.user_profiles set is_active = false where user_id = any (cast(:ids as uuid[]))"),
            {"ids": ids},
        )
        return {"shut": len(ids)}


class _Erase(ListedJob):
    """Erase everybody who waits. A file that is removed before its transaction fails is of somebody who stays shut."""

    kind = "erase"

    def __init__(self, storage: Storage | None) -> None:
        self._storage = storage

    def find(self, connection: Connection) -> list[str]:
        return list(map(str, users.pending(connection)))

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        return super().next_keys(connection, after, min(rows, _ERASED_AT_ONCE), window)

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        files = 0
        for key in keys:
            users.erase_rows(connection, uuid.UUID(key))
            if self._storage is not None:
                files += self._storage.delete_all(key)
            users.finish(connection, uuid.UUID(key))
        return {"erased": len(keys), "files": files}


def plan(connection: Connection, unseen: Unseen) -> Plan:
    """How many users a prune would erase. Changes nothing."""
    unseen = unseen.on(connection)
    ids = connection.scalars(
        text(f"select u.id from auth.users as u where {unseen.condition} order by u.id limit {_SAMPLE}"), unseen.values
    ).all()
    return Plan(_Shut(unseen).count(connection), list(ids), list(map(str, users.unregistered(connection))))


def prune(
    connection: Connection,
    unseen: Unseen,
    storage: Storage | None = None,
    *,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Erase users whom nothing has been seen of for long, and everybody else who waits for an erasure.

    It counts users ``shut`` and ``erased``, and ``files`` removed.

    Args:
        connection: Says which database and role, which owns the tables; the work has a connection of its own.
        unseen: Which users.
        storage: Where the files of exports are.
        limits: Sizes and rates.
        stopped: Asked between batches.

    Raises:
        UnregisteredTables: something of the application refers to users, and would be left of all of them.
        StorageMissing: there are files of exports, and ``storage`` is None.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    with connection.begin():
        unseen = unseen.on(connection)
        left = users.unregistered(connection)
        if left:
            raise UnregisteredTables(
                f"Nobody has said what becomes of {', '.join(map(str, left))}. Register them first:"
                " profiles-schema users erase --check"
            )
        if storage is None and connection.scalar(
            text("select exists (select from public.export_history where file_size_bytes is not null)")
        ):
            raise StorageMissing
    yield from run(connection.engine, [_Shut(unseen), _Erase(storage)], limits, stopped=stopped)
