"""Long work on a live database, in batches that nobody notices: the engine under every bulk job.

A job says which keys are next and what to do with some; the engine does the rest:

- The cursor in ``profiles_internal.jobs`` commits in the transaction of the rows: a kill costs one batch at most.
- Every runner has a fencing token. A runner that was frozen and replaced finds its token outdated, in the very
  transaction in which it wants to write, and stops.
- The size of a batch follows a target duration, and shrinks, with a pause, where sessions wait or replicas lag.
- A deadlock, a lock that cannot be had or a lost connection is tried again. Any other error is narrowed down by halves
  to the row that causes it, which is recorded and left out.
- Another process can pause, resume and cancel: the state is read with the cursor.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import is_disconnect, sqlstate
from profiles_schema.errors import AnotherRunner, JobCancelled, RunnerReplaced, UsageError

TARGET_MS = 100
FIRST_ROWS = 100
MOST_ROWS = 10_000
STALE_SECONDS = 5.0
"""A runner that gives no sign of life for so long, or whose session has ended, is replaced."""
_HEARTBEAT_SECONDS = 1.0
_COLD_BATCHES = 2
_LEAST_ROWS = 50
RECONNECT_SECONDS = 120.0
_IN_TRANSACTION_SECONDS = 5
_LOCK_ERRORS = frozenset({"55P03", "40P01", "40001"})
_LOCK_ATTEMPTS = 60
_LONGEST_PAUSE_SECONDS = 5.0
_LAG_SECONDS = 10.0
_LIVE = ("pending", "running", "paused")


class Job(Protocol):
    """What the engine asks of a job. Keys are texts that sort as the table's key does."""

    kind: str

    def count(self, connection: Connection) -> int:
        """How many rows there are to do."""

    def next_keys(self, connection: Connection, after: str | None, rows: int) -> list[str]:
        """The next keys behind ``after``, in order; none at the end of a pass."""

    def do(self, connection: Connection, keys: list[str]) -> int:
        """Do these rows in the present transaction; returns how many were changed. Raises what the server raises."""

    def skip(self, connection: Connection, key: str, code: str) -> None:
        """Record, in the present transaction, that this row failed with a SQLSTATE and was left out."""


@dataclass
class Progress:
    """How far a job is. ``failed`` counts rows left out, by SQLSTATE; ``eta_seconds`` is None before the first batch."""

    job_id: int
    total: int
    done: int = 0
    changed: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    batch_rows: int = 0
    batch_ms: float = 0.0
    rows_per_second: float = 0.0
    eta_seconds: float | None = None
    state: str = "running"


@dataclass
class Limits:
    """What a run may take: first batch size, target duration of a batch, most rows per second (None: no limit)."""

    batch_rows: int = FIRST_ROWS
    target_ms: int = TARGET_MS
    max_rate: float | None = None
    most_rows: int = MOST_ROWS


def run(
    connect: Callable[[], Connection],
    job: Job,
    limits: Limits | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
    wait: bool = False,
) -> Iterator[Progress]:
    """Run a job to its end, yielding the progress after every batch and while it is paused.

    Args:
        connect: Opens a connection; called again when the connection is lost.
        job: What to do.
        limits: Sizes and rates.
        stopped: Asked between batches; True ends the run, which can be taken up later.
        wait: Wait for another runner of the same job to end, instead of refusing.

    Raises:
        AnotherRunner: somebody else works on this job.
        RunnerReplaced: this runner stood still so long that another one took over; nothing was written since.
        JobCancelled: somebody cancelled the job.
    """
    runner = _Runner(connect, job, limits or Limits(), stopped)
    try:
        runner.begin(wait=wait)
        yield from runner.batches()
    finally:
        runner.close()


class _Runner:
    def __init__(
        self, connect: Callable[[], Connection], job: Job, limits: Limits, stopped: Callable[[], bool]
    ) -> None:
        self.connect = connect
        self.job = job
        self.limits = limits
        self.stopped = stopped
        self.connection = self._open()
        self.id = 0
        self.fence = 0
        self.after: str | None = None
        self.rows = limits.batch_rows
        self.progress = Progress(0, 0)
        self.pause_seconds = 0.0
        self.rate = 0.0
        self.samples = 0
        self.last_seconds = 0.0
        self.mark = time.monotonic()

    # Connection

    def _open(self) -> Connection:
        connection = self.connect()
        # A runner that is frozen inside a batch must not hold its rows for longer than this.
        connection.exec_driver_sql(f"set idle_in_transaction_session_timeout = '{_IN_TRANSACTION_SECONDS}s'")
        connection.exec_driver_sql("set lock_timeout = '100ms'")
        session = connection.exec_driver_sql(
            "select pid || ' ' || backend_start from pg_stat_activity where pid = pg_backend_pid()"
        ).scalar()
        self.me = f"{socket.gethostname()}:{os.getpid()} {session}"
        connection.commit()
        return connection

    def _counted(self) -> int:
        with self.connection.begin():
            return self.job.count(self.connection)

    def close(self) -> None:
        with suppress(DBAPIError):
            self.connection.close()

    def _reconnect(self) -> None:
        give_up = time.monotonic() + RECONNECT_SECONDS
        while True:
            self.close()
            try:
                self.connection = self._open()
            except Exception:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)
            else:
                return

    # The row of the job

    def begin(self, *, wait: bool) -> None:
        """Take the job over, also if the connection is lost meanwhile."""
        self._with_connection(lambda: self.take_over(wait=wait))

    def take_over(self, *, wait: bool) -> None:
        """Find the job or register it, and make it ours: the next fencing token.

        Somebody else's job is taken over when its session has ended, or when it gives no sign of life while we watch.
        """
        seen: Any = None
        watched_since = time.monotonic()
        while True:
            with self.connection.begin():
                self.connection.exec_driver_sql("set local lock_timeout = '10s'")
                # One at a time, so that two runners do not register the same job twice.
                self.connection.exec_driver_sql("lock table profiles_internal.jobs in share row exclusive mode")
                row = self.connection.execute(
                    text(
                        "select j.*, exists (select from pg_stat_activity as a"
                        "  where j.runner like '% ' || a.pid || ' ' || a.backend_start) as alive"
                        " from profiles_internal.jobs as j where j.kind = :kind and j.state = any (cast(:live as text[]))"
                        " order by j.id limit 1"
                    ),
                    {"kind": self.job.kind, "live": list(_LIVE)},
                ).one_or_none()
                if row is None or row.state == "pending" or not row.alive:
                    self._claim(row)
                    return
                if seen is None or row.heartbeat_at == seen:
                    if time.monotonic() - watched_since > STALE_SECONDS:
                        self._claim(row)
                        return
                    seen = row.heartbeat_at
                elif not wait:
                    raise AnotherRunner(
                        f"Job {row.id} ({self.job.kind}) is being worked on by {row.runner.split(' ')[0]}. Let it finish, or"
                        f" end that process; to hold it: profiles-schema jobs pause {row.id}"
                    )
                else:
                    seen, watched_since = row.heartbeat_at, time.monotonic()
            time.sleep(0.3)

    def _claim(self, row: Any) -> None:
        job_id = row.id if row is not None else None
        if job_id is None:
            job_id = self.connection.scalar(
                text("insert into profiles_internal.jobs (kind) values (:kind) returning id"), {"kind": self.job.kind}
            )
        claimed = self.connection.execute(
            text(
                "update profiles_internal.jobs as j set state = case when j.state = 'paused' then 'paused' else 'running' end,"
                " fence = j.fence + 1, runner = :me, heartbeat_at = clock_timestamp(),"
                " started_at = coalesce(j.started_at, now()), target_ms = :target_ms"
                " where j.id = :id returning j.id, j.fence, j.cursor"
            ),
            {"me": self.me, "id": job_id, "target_ms": self.limits.target_ms},
        ).one()
        self.id, self.fence = claimed.id, claimed.fence
        self.after = (claimed.cursor or {}).get("after")
        self.progress = Progress(claimed.id, 0)

    def _hold(self) -> str:
        """Lock the job's row and see whether it is still ours; returns its state."""
        row = self.connection.execute(
            text("select state, fence, cursor from profiles_internal.jobs where id = :id for update"), {"id": self.id}
        ).one_or_none()
        if row is None or row.fence != self.fence:
            raise RunnerReplaced
        # Always the one that was committed: after a lost connection nobody knows whether the last batch was.
        self.after = (row.cursor or {}).get("after")
        if row.state == "cancelled":
            raise JobCancelled(f"Job {self.id} ({self.job.kind}) was cancelled. What is done stands.")
        return str(row.state)

    def _save(self, after: str | None, rows: int, failed: int) -> None:
        self.connection.execute(
            text(
                "update profiles_internal.jobs set cursor = jsonb_build_object('after', cast(:after as text)),"
                " rows_done = rows_done + :rows, rows_failed = rows_failed + :failed, batch_rows = :size,"
                " heartbeat_at = clock_timestamp(), runner = :me where id = :id"
            ),
            {"after": after, "rows": rows, "failed": failed, "size": self.rows, "me": self.me, "id": self.id},
        )

    # The work

    def batches(self) -> Iterator[Progress]:
        self.progress.total = self._with_connection(self._counted)
        with self.connection.begin():
            self.connection.execute(
                text(
                    "update profiles_internal.jobs set rows_total = rows_done + :total where id = :id and fence = :fence"
                ),
                {"total": self.progress.total, "id": self.id, "fence": self.fence},
            )
        self.mark = time.monotonic()
        found_in_this_pass = self.after is not None  # a pass that somebody else began counts as unfinished
        while True:
            if self.stopped():
                self._leave("pending")
                self.progress.state = "stopped"
                yield self.progress
                return
            outcome = self._with_connection(self._batch)
            if outcome == "paused":
                if self.progress.state != "paused":
                    self.progress.state = "paused"
                    yield self.progress
                time.sleep(0.3)
                continue
            self.progress.state = "running"
            if outcome == "end":
                if found_in_this_pass and not self._only_failures_left():
                    found_in_this_pass = False
                    self._with_connection(self._start_over)
                    continue
                self._leave("completed")
                self.progress.state = "completed"
                self.progress.eta_seconds = 0.0
                yield self.progress
                return
            found_in_this_pass = True
            yield self.progress
            self._be_gentle()

    def _start_over(self) -> None:
        """Begin another pass: rows may have come in behind the cursor, or lost a race."""
        with self.connection.begin():
            self._hold()
            self._save(None, 0, 0)

    def _only_failures_left(self) -> bool:
        left: int = self._with_connection(self._counted)
        return left <= sum(self.progress.failed.values())

    def _leave(self, state: str) -> None:
        def leave() -> None:
            with self.connection.begin():
                self._hold()
                self.connection.execute(
                    text(
                        "update profiles_internal.jobs set state = :state, runner = null,"
                        " finished_at = case when :state = 'completed' then now() end where id = :id"
                    ),
                    {"state": state, "id": self.id},
                )

        self._with_connection(leave)

    def _with_connection(self, work: Callable[[], Any]) -> Any:
        """Do something, again after a lost connection and while a lock cannot be had."""
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                try:
                    return work()
                finally:
                    if not self.connection.closed and self.connection.in_transaction():
                        self.connection.rollback()
            except DBAPIError as error:
                if is_disconnect(error):
                    self._reconnect()
                elif sqlstate(error) in _LOCK_ERRORS and attempt < _LOCK_ATTEMPTS - 1:
                    self.rows = max(1, self.rows // 2)
                    time.sleep(min(0.05 * 2**attempt, 1.0))
                else:
                    raise
        raise AssertionError

    def _batch(self) -> str:
        started = time.monotonic()
        with self.connection.begin():
            if self._hold() == "paused":
                self.connection.execute(
                    text(
                        "update profiles_internal.jobs set heartbeat_at = clock_timestamp(), runner = :me where id = :id"
                    ),
                    {"me": self.me, "id": self.id},
                )
                return "paused"
            keys = self.job.next_keys(self.connection, self.after, self.rows)
            if not keys:
                return "end"
            failures: list[str] = []
            changed = self._do(keys, failures)
            self._save(keys[-1], len(keys), len(failures))
        self._count(len(keys), changed, failures, time.monotonic() - started)
        return "done"

    def _do(self, keys: list[str], failures: list[str]) -> int:
        """Do some rows in a savepoint; where that fails, each half by itself, down to the row that is at fault."""
        savepoint = self.connection.begin_nested()
        try:
            changed = self.job.do(self.connection, keys)
            savepoint.commit()
        except DBAPIError as error:
            if is_disconnect(error) or sqlstate(error) in _LOCK_ERRORS:
                raise
            savepoint.rollback()
            if len(keys) == 1:
                code = sqlstate(error) or "unknown"
                self.job.skip(self.connection, keys[0], code)
                failures.append(code)
                return 0
            middle = len(keys) // 2
            return self._do(keys[:middle], failures) + self._do(keys[middle:], failures)
        return changed

    def _count(self, rows: int, changed: int, failures: list[str], seconds: float) -> None:
        progress = self.progress
        progress.done += rows
        progress.changed += changed
        for code in failures:
            progress.failed[code] = progress.failed.get(code, 0) + 1
        progress.batch_rows, progress.batch_ms = rows, round(seconds * 1000, 1)
        # By the clock on the wall: pauses between batches belong to the forecast.
        now = time.monotonic()
        present = rows / max(now - self.mark, 1e-6)
        self.mark = now
        # The first batch is a cold one and tells little.
        self.samples += 1
        self.rate = present if self.samples <= _COLD_BATCHES else 0.9 * self.rate + 0.1 * present
        progress.rows_per_second = round(self.rate, 1)
        progress.total = max(progress.total, progress.done)
        progress.eta_seconds = round((progress.total - progress.done) / self.rate, 1)
        wanted = int(rows * self.limits.target_ms / max(seconds * 1000, 0.1))
        # Smaller batches are for locks and harm; where a batch costs more than the target whatever its size, they only
        # multiply that cost.
        least = min(_LEAST_ROWS, self.limits.batch_rows)
        self.rows = max(least, min(max(rows // 2, min(wanted, rows * 2)), self.limits.most_rows))
        self.last_seconds = seconds

    def _be_gentle(self) -> None:
        """Between two batches: keep to the rate, and step back where others suffer."""
        if self._harm():
            self.rows = max(1, self.rows // 2)
            self.pause_seconds = min(max(0.1, self.pause_seconds * 2), _LONGEST_PAUSE_SECONDS)
        else:
            self.pause_seconds /= 2
        pause = self.pause_seconds if self.pause_seconds > 0.05 else 0.0  # noqa: PLR2004 - too short to matter
        if self.limits.max_rate:
            pause = max(pause, self.progress.batch_rows / self.limits.max_rate - self.last_seconds)
        if pause > 0:
            self._sleep(pause)

    def _sleep(self, seconds: float) -> None:
        """Sleep, giving signs of life, until it is time or somebody asks us to stop."""
        until = time.monotonic() + seconds
        while not self.stopped() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _HEARTBEAT_SECONDS))
            if left > _HEARTBEAT_SECONDS:
                self._with_connection(self._beat)

    def _beat(self) -> None:
        with self.connection.begin():
            self.connection.execute(
                text(
                    "update profiles_internal.jobs set heartbeat_at = clock_timestamp() where id = :id and fence = :fence"
                ),
                {"id": self.id, "fence": self.fence},
            )

    def _harm(self) -> bool:
        """Whether sessions of this database wait for locks, or a replica lags."""

        def look() -> bool:
            with self.connection.begin():
                return bool(
                    self.connection.scalar(
                        text(
                            "select exists (select from pg_stat_activity as a where a.datname = current_database()"
                            " and a.wait_event_type = 'Lock' and pg_backend_pid() = any (pg_blocking_pids(a.pid)))"
                            " or exists (select from pg_stat_replication as r"
                            "  where r.replay_lag > make_interval(secs => :lag))"
                        ),
                        {"lag": _LAG_SECONDS},
                    )
                )

        return bool(self._with_connection(look))


@dataclass(frozen=True)
class JobRow:
    """A job as ``jobs list`` shows it."""

    id: int
    kind: str
    state: str
    rows_done: int
    rows_total: int | None
    rows_failed: int
    runner: str | None


def list_jobs(connection: Connection) -> list[JobRow]:
    """All jobs, newest first."""
    rows = connection.execute(
        text(
            "select id, kind, state, rows_done, rows_total, rows_failed, split_part(runner, ' ', 1) as runner"
            " from profiles_internal.jobs order by id desc"
        )
    )
    return [JobRow(*row) for row in rows]


_MOVES = {
    "pause": (("pending", "running"), "paused"),
    "resume": (("paused",), "pending"),
    "cancel": (("pending", "running", "paused"), "cancelled"),
}


def move(connection: Connection, verb: str, job_id: int) -> str:
    """Pause, resume or cancel a job; returns its new state. A runner heeds it before its next batch.

    Raises:
        UsageError: no such job, or it is not in a state for that.
    """
    allowed, state = _MOVES[verb]
    with connection.begin():
        connection.exec_driver_sql("set local lock_timeout = '10s'")
        row = connection.execute(
            text(
                "select state, coalesce(heartbeat_at > now() - make_interval(secs => :stale), false) as fresh"
                " from profiles_internal.jobs where id = :id for update"
            ),
            {"id": job_id, "stale": STALE_SECONDS},
        ).one_or_none()
        if row is None:
            raise UsageError(f"There is no job {job_id}. List them with: profiles-schema jobs list")
        if row.state not in allowed:
            raise UsageError(f"Job {job_id} is {row.state}: there is nothing to {verb}.")
        if verb == "resume" and row.fresh:
            state = "running"  # its runner waits
        connection.execute(
            text(
                "update profiles_internal.jobs set state = :state,"
                " finished_at = case when :state = 'cancelled' then now() end where id = :id"
            ),
            {"state": state, "id": job_id},
        )
    return state
