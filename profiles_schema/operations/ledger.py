"""The ledger of a job: how far it is, and who works on it.

``JobTable`` keeps it in ``profiles_internal.jobs``. Its cursor commits in the transaction of the rows, so that a kill costs
one batch at most; other processes see the job, and can pause, resume and cancel it; and only one runner works on it:

- Every runner has a fencing token. A runner that was frozen and replaced finds its token outdated, in the very
  transaction in which it wants to write, and stops.
- A runner is replaced when its session has ended, or gives no sign of life.

``Ledger`` keeps nothing: the runner's own memory has to do. For work that needs no exclusion, and whose rows show by
themselves what is left to do; also where the database was never migrated.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import AnotherRunner, JobCancelled, RunnerReplaced

STALE_SECONDS = 5.0
"""A runner that gives no sign of life for so long, or whose session has ended, is replaced."""
_LIVE = ("pending", "running", "paused")
# A session by more than its process id, which comes again; as a number, for a time is spelled as each session likes.
# Null to roles that may not see it.
_SESSION_START = "extract(epoch from a.backend_start)::text"
RUNNER_SESSION = f"j.runner like '% ' || a.pid || ' ' || coalesce({_SESSION_START}, '%')"
"""Whether a session ``a`` of pg_stat_activity is that of the runner of job ``j``."""


@dataclass
class Position:
    """What a ledger knows of a job: the cursor, the rows done since this runner took over, and the rows left out."""

    after: str | None = None
    done: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    paused: bool = False


class Ledger:
    """Nothing is kept, nobody else is asked. The methods are those of ``JobTable``."""

    job_id: int | None = None

    def introduce(self, connection: Connection) -> None:
        """Note which session works from now on."""

    def claim(self, connection: Connection, target_ms: int) -> Position | None:
        """Take the job over, in the present transaction; None while it is not clear yet whether somebody works on it."""
        del connection, target_ms
        return Position()

    def hold(self, connection: Connection, *, left_out: bool = False) -> Position | None:
        """Lock the job and say where it is, as committed; None where only the runner knows.

        Args:
            connection: In a transaction.
            left_out: Also read which rows were left out.
        """
        del connection, left_out
        return None

    def count(self, connection: Connection, total: int) -> None:
        """Write down how many rows there are to do."""

    def save(
        self,
        connection: Connection,
        *,
        after: str | None,
        rows: int,
        failed: int,
        left_out: Mapping[str, str],
        size: int,
    ) -> None:
        """Write down a batch: the new cursor, rows done and failed, which of them to leave out, and the size wanted next."""

    def beat(self, connection: Connection) -> None:
        """Give a sign of life."""

    def leave(self, connection: Connection, *, completed: bool) -> None:
        """Let the job go: it is completed, or waits for its next runner."""


class JobTable(Ledger):
    """The row of a job in ``profiles_internal.jobs``. Every method works in the present transaction."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._me = ""
        self._fence = 0
        self._done_before = 0
        self._heartbeat_seen: Any = None
        self._watched_since = time.monotonic()

    def introduce(self, connection: Connection) -> None:
        session = connection.exec_driver_sql(
            f"select pid || ' ' || {_SESSION_START} from pg_stat_activity as a where pid = pg_backend_pid()"
        ).scalar()
        self._me = f"{socket.gethostname()}:{os.getpid()} {session}"

    def claim(self, connection: Connection, target_ms: int) -> Position | None:
        """Find the job or register it, and make it ours: the next fencing token.

        Another runner's job is taken over when its session has ended, or when it gives no sign of life while we watch: no
        heartbeat, and no statement at work (a count may take longer than that).

        Raises:
            AnotherRunner: somebody works on it.
        """
        connection.exec_driver_sql("set local lock_timeout = '10s'")
        # One at a time, so that two runners do not register the same job twice; batches need not wait for it.
        connection.execute(
            text("select pg_advisory_xact_lock(hashtextextended('profiles_schema job ' || :kind, 0))"),
            {"kind": self.kind},
        )
        row = connection.execute(
            text(
                "select j.*, a.pid is not null as alive, a.state = 'active' as active"
                f" from profiles_internal.jobs as j left join pg_stat_activity as a on {RUNNER_SESSION}"
                " where j.kind = :kind and j.state = any (cast(:live as text[])) order by j.id limit 1"
            ),
            {"kind": self.kind, "live": list(_LIVE)},
        ).one_or_none()
        if row is not None and row.state != "pending" and row.alive:
            stale = time.monotonic() - self._watched_since > STALE_SECONDS
            if (self._heartbeat_seen is not None and row.heartbeat_at != self._heartbeat_seen) or (
                stale and row.active
            ):
                raise AnotherRunner(
                    f"Job {row.id} ({row.kind}) is being worked on by {row.runner.split(' ')[0]}. Let it finish, or end"
                    f" that process; to hold it: profiles-schema jobs pause {row.id}"
                )
            self._heartbeat_seen = row.heartbeat_at
            if not stale:
                return None
        return self._claim(connection, row.id if row is not None else None, target_ms)

    def _claim(self, connection: Connection, job_id: int | None, target_ms: int) -> Position:
        if job_id is None:
            job_id = connection.scalar(
                text("insert into profiles_internal.jobs (kind) values (:kind) returning id"), {"kind": self.kind}
            )
        claimed = connection.execute(
            text(
                "update profiles_internal.jobs as j set state = case when j.state = 'paused' then 'paused' else 'running' end,"
                " fence = j.fence + 1, runner = :me, heartbeat_at = clock_timestamp(),"
                " started_at = coalesce(j.started_at, now()), target_ms = :target_ms"
                " where j.id = :id returning j.fence, j.cursor, j.rows_done, j.parameters -> 'left_out' as left_out"
            ),
            {"me": self._me, "id": job_id, "target_ms": target_ms},
        ).one()
        self.job_id, self._fence, self._done_before = job_id, claimed.fence, claimed.rows_done
        return Position((claimed.cursor or {}).get("after"), 0, claimed.left_out or {})

    def hold(self, connection: Connection, *, left_out: bool = False) -> Position:
        """Lock the job and see whether it is still ours.

        Raises:
            RunnerReplaced: another one took it over.
            JobCancelled: somebody cancelled it.
        """
        row = connection.execute(
            text(
                "select state, fence, cursor, rows_done, case when :left_out then parameters -> 'left_out' end as left_out"
                " from profiles_internal.jobs where id = :id for update"
            ),
            {"id": self.job_id, "left_out": left_out},
        ).one_or_none()
        if row is None or row.fence != self._fence:
            raise RunnerReplaced
        if row.state == "cancelled":
            raise JobCancelled(f"Job {self.job_id} ({self.kind}) was cancelled. What is done stands.")
        after = (row.cursor or {}).get("after")
        return Position(after, row.rows_done - self._done_before, row.left_out or {}, row.state == "paused")

    def count(self, connection: Connection, total: int) -> None:
        self.hold(connection)
        self._update(connection, "rows_total = rows_done + :total", total=total)

    def save(
        self,
        connection: Connection,
        *,
        after: str | None,
        rows: int,
        failed: int,
        left_out: Mapping[str, str],
        size: int,
    ) -> None:
        self._update(
            connection,
            "cursor = jsonb_build_object('after', cast(:after as text)), rows_done = rows_done + :rows,"
            " rows_failed = rows_failed + :failed, batch_rows = :size, heartbeat_at = clock_timestamp(), runner = :me",
            after=after, rows=rows, failed=failed, size=size, me=self._me,
        )  # fmt: skip
        if left_out:
            # By key, so that no later pass or runner tries and records them again. Not in the cursor: a value of this
            # size is written only when it changes.
            self._update(
                connection,
                "parameters = parameters || jsonb_build_object('left_out',"
                " coalesce(parameters -> 'left_out', '{}') || cast(:left_out as jsonb))",
                left_out=json.dumps(left_out),
            )

    def beat(self, connection: Connection) -> None:
        connection.execute(
            text(
                "update profiles_internal.jobs set heartbeat_at = clock_timestamp(), runner = :me"
                " where id = :id and fence = :fence"
            ),
            {"me": self._me, "id": self.job_id, "fence": self._fence},
        )

    def leave(self, connection: Connection, *, completed: bool) -> None:
        position = self.hold(connection)
        # Who stops a paused runner does not ask for the job to go on.
        state = "completed" if completed else "paused" if position.paused else "pending"
        # The keys of rows left out serve until then; they may be those of people.
        finished = ", finished_at = now(), parameters = parameters - 'left_out'" if completed else ""
        self._update(connection, f"state = :state, runner = null{finished}", state=state)

    def _update(self, connection: Connection, assignments: str, **values: Any) -> None:
        connection.execute(
            text(f"update profiles_internal.jobs set {assignments} where id = :id"), {"id": self.job_id, **values}
        )
