"""The engine: it runs jobs (module ``batch_job``) on a live database, in batches that nobody notices.

- The ledger of a job (module ``ledger``) says how far it is, so that an interrupted run goes on where it was.
- The size of a batch follows a target duration. It halves, with a pause, where sessions wait for the batch, replicas lag
  or the server answers far slower than usual; and never below a floor, so that a busy server does not hold the job up.
- A deadlock, a lock that cannot be had or a lost connection is tried again. Any other error is narrowed down by halves
  to the row that causes it, which is recorded and left out; so is a row that others lock for long.
- A run ends when it is asked to, and when its statement is cancelled for that; what is not committed is rolled back.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import connect
from profiles_schema.driver import LOCK_FAILURES, failed_objects, is_disconnect, retry_on_lock, sqlstate
from profiles_schema.operations.batch_job import FIRST_ROWS, Job, Limits, Progress, Stopped
from profiles_schema.operations.ledger import JobTable, Ledger, Position

MOST_ROWS = 10_000
MOST_WINDOW_ROWS = 20_000
RECONNECT_SECONDS = 120.0
LOCK_SECONDS = 600.0
_ROW_LOCK_SECONDS = 60.0
_MOST_LOCKED = 10
_MOST_LOSSES = 10
_MOST_PASSES_IN_VAIN = 3
_CANCELLED = "57014"
_IN_TRANSACTION_SECONDS = 5
_HEARTBEAT_SECONDS = 1.0
_LEAST_ROWS = 50
_MOST_LEFT_OUT = 10_000
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.3
_QUIET_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 1.0
_LAG_SECONDS = 10.0
_PROBES = 50
_SLOW_PROBE_SECONDS = 0.02
_SLOW_PROBE_RATIO = 5
_RATE_MEMORY = 0.98
_T = TypeVar("_T")


def run(
    engine: Engine,
    jobs: Sequence[Job],
    limits: Limits | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Run jobs to their end, one after the other, yielding the progress after every batch and while a job is paused.

    The last report is completed, or stopped.

    Args:
        engine: Opens the connection that the jobs share, and another one when it is lost.
        jobs: What to do.
        limits: Sizes and rates.
        stopped: Asked between batches and while something is waited for; True ends the run, which can be taken up later.

    Raises:
        AnotherRunner: somebody else works on a job.
        RunnerReplaced: this runner stood still so long that another one took over; nothing was written since.
        JobCancelled: somebody cancelled a job.
    """
    progress = Progress(jobs[0].kind, jobs[0].unit)
    session = _Session(engine, jobs, stopped)
    try:
        for job in jobs:
            runner = _Runner(session, job, limits or Limits(), progress)
            progress = runner.progress
            try:
                for _ in runner.run():
                    yield deepcopy(progress)
            except Stopped:
                runner.let_go()
                progress.state = "stopped"
                break
        else:
            progress.state, progress.eta_seconds = "completed", 0.0
        yield deepcopy(progress)
    finally:
        session.close()


@dataclass(frozen=True)
class Trial:
    """A first batch on trial: rows to do in all, the keys of the batch, and the forecast for all (least, most seconds)."""

    total: int
    keys: list[str]
    seconds: tuple[float, float]


@contextmanager
def trial(connection: Connection, job: Job, rows: int = FIRST_ROWS) -> Iterator[Trial]:
    """Do the first batch of a job in the present transaction, and roll it back when the block ends."""
    savepoint = connection.begin_nested()
    try:
        total = job.count(connection)
        keys: list[str] = []
        after: str | None = None
        while total and not keys:
            keys, after = job.next_keys(connection, after, rows, MOST_WINDOW_ROWS)
            if after is None:
                break
        seconds = 0.0
        if keys:
            started = time.monotonic()
            job.do(connection, keys)
            total = max(total, len(keys))
            seconds = (time.monotonic() - started) * total / len(keys)
        # The first batch is the dearest per row; counting, committing and keeping out of the way come on top.
        yield Trial(total, keys, (round(seconds * 0.3, 3), round(seconds * 3 + 1, 3)) if keys else (0.0, 0.0))
    finally:
        savepoint.rollback()


class _Session:
    """One connection for all jobs of a run, made again when it is lost."""

    def __init__(self, engine: Engine, jobs: Sequence[Job], stopped: Callable[[], bool]) -> None:
        self.engine = engine
        self.stopped = stopped
        self.number = 0
        self.settings = {
            # A runner that is frozen inside a batch must not hold its rows for longer than this.
            "idle_in_transaction_session_timeout": f"{_IN_TRANSACTION_SECONDS}s",
            "lock_timeout": "100ms",
            # Compiling would take longer than the batch.
            "jit": "off",
        }
        for job in jobs:
            self.settings |= job.session
        self.connection = self._prepare(connect(engine))

    def _prepare(self, connection: Connection) -> Connection:
        connection.exec_driver_sql("; ".join(f"set {name} = '{value}'" for name, value in self.settings.items()))
        connection.commit()
        return connection

    def close(self) -> None:
        with suppress(DBAPIError):
            self.connection.close()

    def reconnect(self) -> None:
        give_up = time.monotonic() + RECONNECT_SECONDS
        while True:
            self.close()
            self.number += 1
            try:
                self.connection = self._prepare(connect(self.engine, patience_seconds=0.0))
            except Exception:
                if self.stopped():
                    raise Stopped from None
                if time.monotonic() > give_up:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def retry(self, work: Callable[[], _T], wait: Callable[[], None] = lambda: None) -> _T:
        """Do something, again after a lost connection and while a lock cannot be had.

        Args:
            work: What to do; its transaction is rolled back if it fails.
            wait: Called before another attempt at a lock.
        """

        def wait_for_lock(_error: DBAPIError, _remaining: float) -> None:
            if self.stopped():
                raise Stopped
            wait()

        losses = 0
        while True:
            if self.connection.invalidated:
                self.reconnect()
            try:
                return retry_on_lock(self.connection, work, LOCK_SECONDS, on_failure=wait_for_lock)
            except DBAPIError as error:
                if self.stopped() and (sqlstate(error) == _CANCELLED or is_disconnect(error)):
                    raise Stopped from None
                losses += 1
                if not is_disconnect(error) or losses > _MOST_LOSSES:  # it may be this work that ends the session
                    raise
            self.reconnect()


@dataclass
class _Batch:
    """One batch, committed."""

    found: int
    rows: int
    counts: Counter[str]
    failures: dict[str, str]
    cursor: str | None
    harmed: bool
    looked: float
    started: float


class _Runner:
    """One job."""

    def __init__(self, session: _Session, job: Job, limits: Limits, before: Progress) -> None:
        self.session = session
        self.job = job
        self.limits = limits
        self.ledger: Ledger = JobTable(job.kind) if job.recorded else Ledger()
        self.introduced = -1
        self.unsure = False
        self.after: str | None = None
        self.least_rows = min(_LEAST_ROWS, limits.batch_rows)
        self.most_rows = MOST_ROWS
        if limits.max_rate:
            # A second's worth at most: pauses stay short, and so does what a pause from elsewhere has to wait for.
            self.most_rows = max(1, min(self.most_rows, int(limits.max_rate)))
        self.rows = min(limits.batch_rows, self.most_rows)
        self.window = 0
        self.failed_before = dict(before.failed)
        self.progress = Progress(job.kind, job.unit, counts=before.counts, failed=dict(before.failed))
        self.left_out: dict[str, str] = {}
        self.locked_since: float | None = None
        self.harmed = False
        self.probes: deque[float] = deque(maxlen=_PROBES)
        self.rate_rows = self.rate_seconds = self.look_seconds = 0.0
        self.last_seconds = 0.0
        self.mark = self.moved = time.monotonic()

    @property
    def connection(self) -> Connection:
        return self.session.connection

    def _in_transaction(self, work: Callable[[], _T]) -> _T:
        """Do something in a transaction of its own, in a session that the ledger knows."""
        with self.connection.begin():
            if self.introduced != self.session.number:
                self.ledger.introduce(self.connection)
                self.introduced, self.unsure = self.session.number, True
            return work()

    def _retry(self, work: Callable[[], _T], wait: Callable[[], None] = lambda: None) -> _T:
        """Do something in a transaction of its own, again after a lost connection and while a lock cannot be had."""
        return self.session.retry(lambda: self._in_transaction(work), wait)

    def run(self) -> Iterator[None]:
        """All batches of all passes; yields where there is progress to show.

        Raises:
            Stopped: somebody asked for an end.
        """
        self._take_over()
        self._retry(self._count)
        self.mark = self.moved = told = time.monotonic()
        found = int(self.after is not None)  # a pass that somebody else began counts as unfinished
        before = in_vain = 0
        while True:
            if self.session.stopped():
                raise Stopped
            batch = self._retry(self._batch, self._wait)
            if batch is None:
                if self.progress.state != "paused":
                    self.progress.state = "paused"
                    yield
                time.sleep(_PAUSE_SECONDS)
                self.mark = time.monotonic()  # such a time tells nothing about the rest
                continue
            self._note(batch)
            self.progress.state = "running"
            if batch.rows or time.monotonic() - told > _QUIET_SECONDS:
                told = time.monotonic()
                yield
            if batch.rows:
                found += batch.rows
                self.moved = time.monotonic()
                self._be_gentle()
            if batch.cursor is not None:
                continue
            # Rows that come back as soon as they are done would be done for ever.
            in_vain = in_vain + 1 if before and found >= before else 0
            before = found
            if in_vain >= _MOST_PASSES_IN_VAIN or not self._needs_another_pass(found):
                break
            found = 0
        self._retry(lambda: self.ledger.leave(self.connection, completed=True))
        self.ledger = Ledger()
        self._retry(lambda: self.job.finish(self.connection, Counter(self.left_out.values())))

    def _needs_another_pass(self, found: int) -> bool:
        if not self.job.repeats:
            return False
        # Beyond what can be remembered, another pass would try the same rows again.
        if found and len(self.left_out) < _MOST_LEFT_OUT:
            return True
        if time.monotonic() - self.moved > _PATIENCE_SECONDS:
            return False
        waits = self._retry(lambda: self.job.left(self.connection)) > len(self.left_out)
        if waits:
            time.sleep(_PAUSE_SECONDS)
        return waits

    def _take_over(self) -> None:
        while True:
            position = self._retry(lambda: self.ledger.claim(self.connection, self.limits.target_ms))
            if position is not None:
                break
            if self.session.stopped():
                raise Stopped
            time.sleep(_PAUSE_SECONDS)
        self.progress.job_id = self.ledger.job_id
        self._go_to(position)

    def _go_to(self, position: Position) -> None:
        self.after = position.after
        self.progress.done = position.done
        self._leave_out(position.left_out)

    def _leave_out(self, rows: Mapping[str, str]) -> None:
        """Note rows that are left out in this job, by whichever runner."""
        self.left_out |= rows
        self.progress.failed = dict(Counter(self.failed_before) + Counter(self.left_out.values()))

    def _count(self) -> None:
        self.progress.total = max(0, self.job.count(self.connection) - len(self.left_out))
        self.ledger.count(self.connection, self.progress.total)

    def let_go(self) -> None:
        """Leave the job to its next runner. Where that cannot be recorded, the end of the session says it."""
        with suppress(Exception):
            self._in_transaction(lambda: self.ledger.leave(self.connection, completed=False))

    def _wait(self) -> None:
        """A lock cannot be had: smaller batches, and a sign of life."""
        self.locked_since = self.locked_since or time.monotonic()
        self.rows = max(min(self.rows, self.least_rows), self.rows // 2)
        self._beat()

    def _batch(self) -> _Batch | None:
        """One batch; None while the job is paused."""
        # Always what was committed: after a lost connection nobody knows whether the last batch was.
        position = self.ledger.hold(self.connection, left_out=self.unsure)
        if position is not None:
            self._go_to(position)
            self.unsure = False
            if position.paused:
                self.ledger.beat(self.connection)
                return None
        looked = time.monotonic()
        # A little further than the batch: a few finished rows on the way should not make it smaller.
        window = max(self.window, self.rows + self.rows // 4)
        found, cursor = self.job.next_keys(self.connection, self.after, self.rows, window)
        # Few keys to a window: look further at a time.
        self.window = 0 if len(found) >= self.rows else min(window * 2, MOST_WINDOW_ROWS)
        keys = [key for key in found if key not in self.left_out]
        # From here on others may have to wait for us.
        started = time.monotonic()
        failures: dict[str, str] = {}
        counts = self._do(keys, failures) if keys else Counter[str]()
        room = len(self.left_out) < _MOST_LEFT_OUT
        self.ledger.save(
            self.connection, after=cursor, rows=len(keys), failed=len(failures), left_out=failures if room else {},
            size=self.rows,
        )  # fmt: skip
        harmed = bool(keys) and self._blocks_others()
        return _Batch(len(found), len(keys), counts, failures, cursor, harmed, looked, started)

    def _note(self, batch: _Batch) -> None:
        """Go on behind a batch that is committed."""
        self.after, self.harmed, self.locked_since = batch.cursor, batch.harmed, None
        self.look_seconds += batch.started - batch.looked
        self._leave_out(batch.failures)
        for name, number in batch.counts.items():
            self.progress.counts[name] = self.progress.counts.get(name, 0) + number
        if batch.rows:
            self._measure(batch.rows, time.monotonic() - batch.started, full=batch.found >= self.rows)

    def _do(self, keys: list[str], failures: dict[str, str]) -> Counter[str]:
        """Do some rows in a savepoint; where that fails, each half by itself, down to the row that is at fault."""
        savepoint = self.connection.begin_nested()
        try:
            counts = Counter(self.job.do(self.connection, keys))
            savepoint.commit()
        except DBAPIError as error:
            code, what = sqlstate(error) or "unknown", failed_objects(error)
            if self._is_passing(error, code, failures):
                raise
        else:
            return counts
        # Out here, so that nothing that is raised is chained to an error of the server, which may quote the row.
        savepoint.rollback()
        if len(keys) == 1:
            self.job.skip(self.connection, keys[0], code, what)
            failures[keys[0]] = code
            return Counter()
        middle = len(keys) // 2
        counts = self._do(keys[:middle], failures)
        counts.update(self._do(keys[middle:], failures))
        return counts

    def _is_passing(self, error: DBAPIError, code: str, failures: Mapping[str, str]) -> bool:
        """Whether the error is to be waited out, and not narrowed down."""
        if is_disconnect(error) or (code == _CANCELLED and self.session.stopped()):
            return True
        if code not in LOCK_FAILURES:
            return False
        # Where a few rows are locked for long, the others need not wait for them; a table that is locked, all have to.
        locked = sum(each in LOCK_FAILURES for each in failures.values())
        patience = self.locked_since is None or time.monotonic() - self.locked_since < _ROW_LOCK_SECONDS
        return patience or locked >= _MOST_LOCKED

    def _measure(self, rows: int, seconds: float, *, full: bool) -> None:
        """Count what was done, forecast the rest, and size the next batch."""
        progress = self.progress
        progress.done += rows
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
        last_pass = self.look_seconds * progress.total / progress.done / 2 if self.job.repeats else 0.0
        progress.eta_seconds = round((progress.total - progress.done) / rate + last_pass, 1)

    # Others

    def _blocks_others(self) -> bool:
        """Whether a session waits for a lock that the present transaction holds.

        pg_locks, for pg_stat_activity hides what the sessions of other roles wait for from most roles.
        """
        return bool(
            self.connection.exec_driver_sql(
                "select exists (select from pg_locks as l where not l.granted"
                " and pg_backend_pid() = any (pg_blocking_pids(l.pid)))"
            ).scalar()
        )

    def _server_suffers(self) -> bool:
        """Whether a replica lags, or the look for that takes far longer than usual."""

        def look() -> tuple[bool, float]:
            started = time.monotonic()
            lags = self.connection.exec_driver_sql(
                "select exists (select from pg_stat_replication as r"
                f" where r.replay_lag > make_interval(secs => {_LAG_SECONDS}))"
            ).scalar()
            return bool(lags), time.monotonic() - started

        lags, seconds = self._retry(look)
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
        while not self.session.stopped() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _HEARTBEAT_SECONDS))
            if left > _HEARTBEAT_SECONDS:
                self._beat()

    def _beat(self) -> None:
        """Give a sign of life, if that is possible: a lock or a lost connection shows in the next batch."""
        with suppress(DBAPIError):
            self._in_transaction(lambda: self.ledger.beat(self.connection))
