"""Long work on a live database, in batches that nobody notices: the engine under every bulk job.

A job says which keys are next and what to do with some; the engine does the rest:

- The cursor in ``profiles_internal.jobs`` commits in the transaction of the rows: a kill costs one batch at most.
- Every runner has a fencing token. A runner that was frozen and replaced finds its token outdated, in the very
  transaction in which it wants to write, and stops.
- The size of a batch follows a target duration. It halves, with a pause, where sessions wait for the batch, replicas lag
  or the server answers far slower than usual; and never below a floor, so that a busy server does not hold the job up.
- A deadlock, a lock that cannot be had or a lost connection is tried again. Any other error is narrowed down by halves
  to the row that causes it, which is recorded and left out.
- Another process can pause, resume and cancel: the state is read with the cursor.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import failed_objects, is_disconnect, sqlstate
from profiles_schema.errors import AnotherRunner, JobCancelled, RunnerReplaced

TARGET_MS = 100
FIRST_ROWS = 100
MOST_ROWS = 10_000
STALE_SECONDS = 5.0
"""A runner that gives no sign of life for so long, or whose session has ended, is replaced."""
_HEARTBEAT_SECONDS = 1.0
_LEAST_ROWS = 50
MOST_WINDOW_ROWS = 20_000
_MOST_LEFT_OUT = 10_000
_QUIET_SECONDS = 1.0
RECONNECT_SECONDS = 120.0
_IN_TRANSACTION_SECONDS = 5
_LOCK_ERRORS = frozenset({"55P03", "40P01", "40001"})
LOCK_SECONDS = 600.0
_LONGEST_PAUSE_SECONDS = 1.0
_LAG_SECONDS = 10.0
_PROBES = 50
_SLOW_PROBE_SECONDS = 0.02
_SLOW_PROBE_RATIO = 5
_RATE_MEMORY = 0.98
_LIVE = ("pending", "running", "paused")
# A session by more than its process id, which comes again; as a number, for a time is spelled as each session likes.
# Null to roles that may not see it.
_SESSION_START = "extract(epoch from a.backend_start)::text"
RUNNER_SESSION = f"j.runner like '% ' || a.pid || ' ' || coalesce({_SESSION_START}, '%')"
"""Whether a session ``a`` of pg_stat_activity is that of the runner of job ``j``."""


class Job(Protocol):
    """What the engine asks of a job. Keys are texts; only the job's own SQL compares them."""

    kind: str

    def count(self, connection: Connection) -> int:
        """How many rows there are to do."""

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        """The next keys to do behind ``after``, in order, and how far the look reached; None for the end of the table.

        At most ``rows`` keys, from the next ``window`` rows of the table, done or not: so a look stays short, and where
        little is left to do the cursor moves on all the same.
        """

    def do(self, connection: Connection, keys: list[str]) -> int:
        """Do these rows in the present transaction; returns how many were changed. Raises what the server raises."""

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        """Record, in the present transaction, that this row was left out: the SQLSTATE, and the objects it is about."""


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
) -> Iterator[Progress]:
    """Run a job to its end, yielding the progress after every batch and while it is paused.

    Passes over the table follow each other until one finds nothing new: rows may have come in behind the cursor.

    Args:
        connect: Opens a connection; called again when the connection is lost.
        job: What to do.
        limits: Sizes and rates.
        stopped: Asked between batches; True ends the run, which can be taken up later.

    Raises:
        AnotherRunner: somebody else works on this job.
        RunnerReplaced: this runner stood still so long that another one took over; nothing was written since.
        JobCancelled: somebody cancelled the job.
    """
    runner = _Runner(connect, job, limits or Limits(), stopped)
    try:
        runner.begin()
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
        self.least_rows = min(_LEAST_ROWS, limits.batch_rows)
        self.most_rows = limits.most_rows
        if limits.max_rate:
            # A second's worth at most: pauses stay short, and so does what a pause from elsewhere has to wait for.
            self.most_rows = max(1, min(self.most_rows, int(limits.max_rate)))
        self.rows = min(limits.batch_rows, self.most_rows)
        self.window = 0
        self.progress = Progress(0, 0)
        self.left_out: dict[str, str] = {}
        self.done_before = 0
        self.harmed = self.pass_ended = self.unsure = False
        self.probes: deque[float] = deque(maxlen=_PROBES)
        self.rate_rows = self.rate_seconds = self.look_seconds = 0.0
        self.last_seconds = 0.0
        self.mark = time.monotonic()

    # Connection

    def _open(self) -> Connection:
        connection = self.connect()
        # A runner that is frozen inside a batch must not hold its rows for longer than this.
        connection.exec_driver_sql(f"set idle_in_transaction_session_timeout = '{_IN_TRANSACTION_SECONDS}s'")
        connection.exec_driver_sql("set lock_timeout = '100ms'")
        # Compiling would take longer than the batch.
        connection.exec_driver_sql("set jit = off")
        session = connection.exec_driver_sql(
            f"select pid || ' ' || {_SESSION_START} from pg_stat_activity as a where pid = pg_backend_pid()"
        ).scalar()
        self.me = f"{socket.gethostname()}:{os.getpid()} {session}"
        connection.commit()
        return connection

    def close(self) -> None:
        with suppress(DBAPIError):
            self.connection.close()

    def _reconnect(self) -> None:
        give_up = time.monotonic() + RECONNECT_SECONDS
        while True:
            self.close()
            self.unsure = True
            try:
                self.connection = self._open()
            except Exception:
                if time.monotonic() > give_up or self.stopped():
                    raise
                time.sleep(0.5)
            else:
                return

    # The row of the job

    def begin(self) -> None:
        """Take the job over, also if the connection is lost meanwhile."""
        self._with_connection(self.take_over)

    def take_over(self) -> None:
        """Find the job or register it, and make it ours: the next fencing token.

        Somebody else's job is taken over when its session has ended, or when it gives no sign of life while we watch: no
        heartbeat, and no statement at work (a count may take longer than that).
        """
        seen: Any = None
        watched_since = time.monotonic()
        while True:
            with self.connection.begin():
                self.connection.exec_driver_sql("set local lock_timeout = '10s'")
                # One at a time, so that two runners do not register the same job twice; batches need not wait for it.
                self.connection.execute(
                    text("select pg_advisory_xact_lock(hashtextextended('profiles_schema job ' || :kind, 0))"),
                    {"kind": self.job.kind},
                )
                row = self.connection.execute(
                    text(
                        "select j.*, a.pid is not null as alive, a.state = 'active' as active"
                        f" from profiles_internal.jobs as j left join pg_stat_activity as a on {RUNNER_SESSION}"
                        " where j.kind = :kind and j.state = any (cast(:live as text[])) order by j.id limit 1"
                    ),
                    {"kind": self.job.kind, "live": list(_LIVE)},
                ).one_or_none()
                if row is None or row.state == "pending" or not row.alive:
                    self._claim(row)
                    return
                if seen is not None and row.heartbeat_at != seen:
                    raise AnotherRunner(_at_work(row))
                if time.monotonic() - watched_since > STALE_SECONDS:
                    if row.active:
                        raise AnotherRunner(_at_work(row))
                    self._claim(row)
                    return
                seen = row.heartbeat_at
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
                " where j.id = :id returning j.id, j.fence, j.cursor, j.rows_done, j.parameters -> 'left_out' as left_out"
            ),
            {"me": self.me, "id": job_id, "target_ms": self.limits.target_ms},
        ).one()
        self.id, self.fence = claimed.id, claimed.fence
        self.after = (claimed.cursor or {}).get("after")
        self.done_before = claimed.rows_done
        self.progress = Progress(claimed.id, 0)
        self._remember(claimed.left_out)

    def _remember(self, left_out: dict[str, str] | None) -> None:
        """Rows that were left out in this job, by whichever runner."""
        self.left_out |= left_out or {}
        self.progress.failed = dict(Counter(self.left_out.values()))

    def _hold(self) -> str:
        """Lock the job's row and see whether it is still ours; returns its state."""
        row = self.connection.execute(
            text("select state, fence, cursor, rows_done from profiles_internal.jobs where id = :id for update"),
            {"id": self.id},
        ).one_or_none()
        if row is None or row.fence != self.fence:
            raise RunnerReplaced
        # Always what was committed: after a lost connection nobody knows whether the last batch was.
        if self.unsure:
            self._remember(
                self.connection.scalar(
                    text("select parameters -> 'left_out' from profiles_internal.jobs where id = :id"), {"id": self.id}
                )
            )
            self.unsure = False
        self.after = (row.cursor or {}).get("after")
        self.progress.done = row.rows_done - self.done_before
        if row.state == "cancelled":
            raise JobCancelled(f"Job {self.id} ({self.job.kind}) was cancelled. What is done stands.")
        return str(row.state)

    def _save(self, after: str | None, rows: int, failures: dict[str, str]) -> None:
        self.connection.execute(
            text(
                "update profiles_internal.jobs set cursor = jsonb_build_object('after', cast(:after as text)),"
                " rows_done = rows_done + :rows, rows_failed = rows_failed + :failed, batch_rows = :size,"
                " heartbeat_at = clock_timestamp(), runner = :me where id = :id"
            ),
            {"after": after, "rows": rows, "failed": len(failures), "size": self.rows, "me": self.me, "id": self.id},
        )
        if failures and len(self.left_out) < _MOST_LEFT_OUT:
            # By key, so that no later pass or runner tries and records them again. Not in the cursor: a value of this
            # size is written only when it changes.
            self.connection.execute(
                text(
                    "update profiles_internal.jobs set parameters = parameters || jsonb_build_object('left_out',"
                    " coalesce(parameters -> 'left_out', '{}') || cast(:failures as jsonb)) where id = :id"
                ),
                {"failures": json.dumps(failures), "id": self.id},
            )

    # The work

    def batches(self) -> Iterator[Progress]:
        self._with_connection(self._count)
        self.mark = told = time.monotonic()
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
                self.mark = time.monotonic()  # such a time tells nothing about the rest
                continue
            self.progress.state = "running"
            if outcome == "done" or time.monotonic() - told > _QUIET_SECONDS:
                told = time.monotonic()
                yield self.progress
            if outcome == "done":
                found_in_this_pass = True
                self._be_gentle()
            if outcome == "stopped" or not self.pass_ended:
                continue
            # Beyond what can be remembered, another pass would try the same rows again.
            if found_in_this_pass and len(self.left_out) < _MOST_LEFT_OUT:
                found_in_this_pass = False
                continue
            self._leave("completed")
            self.progress.state = "completed"
            self.progress.eta_seconds = 0.0
            yield self.progress
            return

    def _count(self) -> None:
        with self.connection.begin():
            total = max(0, self.job.count(self.connection) - len(self.left_out))
            self._hold()
            self.connection.execute(
                text("update profiles_internal.jobs set rows_total = rows_done + :total where id = :id"),
                {"total": total, "id": self.id},
            )
        self.progress.total = total

    def _leave(self, state: str) -> None:
        def leave() -> None:
            with self.connection.begin():
                held = self._hold()
                self.connection.execute(
                    text(
                        # The keys of rows left out serve until then; they may be those of people.
                        "update profiles_internal.jobs set state = :state, runner = null,"
                        " parameters = case when :state = 'completed' then parameters - 'left_out' else parameters end,"
                        " finished_at = case when :state = 'completed' then now() end where id = :id"
                    ),
                    # Who stops a paused runner does not ask for the job to go on.
                    {"state": "paused" if (held, state) == ("paused", "pending") else state, "id": self.id},
                )

        self._with_connection(leave)

    def _with_connection(self, work: Callable[[], Any]) -> Any:
        """Do something, again after a lost connection and while a lock cannot be had."""
        give_up = time.monotonic() + LOCK_SECONDS
        for attempt in count():
            try:
                try:
                    return work()
                finally:
                    if not self.connection.closed and self.connection.in_transaction():
                        self.connection.rollback()
            except DBAPIError as error:
                if is_disconnect(error):
                    self._reconnect()
                elif sqlstate(error) in _LOCK_ERRORS and time.monotonic() < give_up:
                    self.rows = max(min(self.rows, self.least_rows), self.rows // 2)
                    time.sleep(min(0.05 * 2 ** min(attempt, 5), 1.0))
                    self._beat_if_possible()
                else:
                    raise
        raise AssertionError

    def _batch(self) -> str:
        """One batch; says whether it was done, or why not: stopped, paused, nothing to do in this window."""
        if self.stopped():  # asked for while a lock could not be had
            return "stopped"
        with self.connection.begin():
            if self._hold() == "paused":
                self.connection.execute(
                    text(
                        "update profiles_internal.jobs set heartbeat_at = clock_timestamp(), runner = :me where id = :id"
                    ),
                    {"me": self.me, "id": self.id},
                )
                return "paused"
            looked = time.monotonic()
            # A little further than the batch: a few finished rows on the way should not make it smaller.
            window = max(self.window, self.rows + self.rows // 4)
            found, cursor = self.job.next_keys(self.connection, self.after, self.rows, window)
            keys = [key for key in found if key not in self.left_out]
            # From here on others may have to wait for us.
            started = time.monotonic()
            failures: dict[str, str] = {}
            changed = self._do(keys, failures) if keys else 0
            self._save(cursor, len(keys), failures)
            self.harmed = bool(keys) and self._waited_for()
        seconds = time.monotonic() - started
        self.look_seconds += started - looked
        self.pass_ended = cursor is None
        self._remember(failures)
        # Few keys to a window: look further at a time.
        full = len(found) >= self.rows
        self.window = 0 if full else min(window * 2, MOST_WINDOW_ROWS)
        if not keys:
            return "nothing"
        self._measure(len(keys), changed, seconds, full=full)
        return "done"

    def _do(self, keys: list[str], failures: dict[str, str]) -> int:
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
                self.job.skip(self.connection, keys[0], code, failed_objects(error))
                failures[keys[0]] = code
                return 0
            middle = len(keys) // 2
            return self._do(keys[:middle], failures) + self._do(keys[middle:], failures)
        return changed

    def _measure(self, rows: int, changed: int, seconds: float, *, full: bool) -> None:
        """Count what was done, forecast the rest, and size the next batch."""
        progress = self.progress
        progress.done += rows
        progress.changed += changed
        progress.batch_rows, progress.batch_ms = rows, round(seconds * 1000, 1)
        progress.total = max(progress.total, progress.done)
        if full or seconds * 1000 > self.limits.target_ms:
            wanted = int(rows * self.limits.target_ms / max(seconds * 1000, 0.1))
            # Smaller batches are for locks and harm; where a batch costs more than the target whatever its size, they
            # only multiply that cost.
            self.rows = min(max(self.least_rows, rows // 2, min(wanted, rows * 2)), self.most_rows)
        self.last_seconds = seconds
        # By the clock on the wall: pauses between batches belong to the forecast. Batches that still grow are dear by
        # the row and soon forgotten.
        memory = _RATE_MEMORY if self.rows < 2 * rows else 0.0
        now = time.monotonic()
        self.rate_rows = memory * self.rate_rows + rows
        self.rate_seconds = memory * self.rate_seconds + max(now - self.mark, 1e-6)
        self.mark = now
        rate = self.rate_rows / self.rate_seconds
        progress.rows_per_second = round(rate, 1)
        # The last pass finds nothing, but has to look at all of it: which takes half as long as where keys are found.
        last_pass = self.look_seconds * progress.total / progress.done / 2
        progress.eta_seconds = round((progress.total - progress.done) / rate + last_pass, 1)

    # Others

    def _waited_for(self) -> bool:
        """Whether a session waits for a lock that the present transaction holds.

        pg_locks, for pg_stat_activity hides what the sessions of other roles wait for from most roles.
        """
        return bool(
            self.connection.scalar(
                text(
                    "select exists (select from pg_locks as l where not l.granted"
                    " and pg_backend_pid() = any (pg_blocking_pids(l.pid)))"
                )
            )
        )

    def _server_suffers(self) -> bool:
        """Whether a replica lags, or the look for that takes far longer than usual."""

        def look() -> tuple[bool, float]:
            with self.connection.begin():
                started = time.monotonic()
                lags = self.connection.scalar(
                    text(
                        "select exists (select from pg_stat_replication as r"
                        " where r.replay_lag > make_interval(secs => :lag))"
                    ),
                    {"lag": _LAG_SECONDS},
                )
                return bool(lags), time.monotonic() - started

        lags, seconds = self._with_connection(look)
        usual = statistics.median(self.probes) if self.probes else seconds
        self.probes.append(seconds)
        return bool(lags or seconds > max(_SLOW_PROBE_SECONDS, _SLOW_PROBE_RATIO * usual))

    def _be_gentle(self) -> None:
        """Between two batches: keep to the rate, and step back where others suffer.

        Half the rows and a pause as long as the batch: the next batch may double again, so that this holds as long as
        the harm, and no longer.
        """
        pause = 0.0
        if self._server_suffers() or self.harmed:
            self.rows = max(min(self.rows, self.least_rows), self.rows // 2)
            pause = min(self.last_seconds, _LONGEST_PAUSE_SECONDS)
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

    def _beat_if_possible(self) -> None:
        try:
            self._beat()
        except DBAPIError as error:
            if is_disconnect(error):
                self._reconnect()

    def _beat(self) -> None:
        with self.connection.begin():
            self.connection.execute(
                text(
                    "update profiles_internal.jobs set heartbeat_at = clock_timestamp() where id = :id and fence = :fence"
                ),
                {"id": self.id, "fence": self.fence},
            )


def _at_work(row: Any) -> str:
    return (
        f"Job {row.id} ({row.kind}) is being worked on by {row.runner.split(' ')[0]}. Let it finish, or end that process;"
        f" to hold it: profiles-schema jobs pause {row.id}"
    )
