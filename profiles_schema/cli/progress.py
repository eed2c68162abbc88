"""Long work on the command line: how far it is, and how it is stopped. For every verb that works in batches."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.errors import JobPaused
from profiles_schema.settings import CONNECT_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from rich.console import Console

    from profiles_schema.operations.batch_job import Progress

INTERRUPTED = 130
"""Exit code of work that was stopped and can be taken up again."""
PAUSE_SECONDS = 60.0
"""How long work waits for its job to be resumed where there is no terminal."""
LINE_SECONDS = 10.0
"""How often a line says how far the work is where there is no terminal."""
_CANCELLED = "57014"


def console() -> Console:
    """Stderr. rich looks at NO_COLOR and TERM by itself."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class Work:
    """Long work under way.

    Off a terminal nobody sees that a job is paused, so the work waits for that only so long.
    """

    def __init__(self, show: Callable[[Progress], None], asked: Callable[[], bool], *, watched: bool) -> None:
        self._show = show
        self._asked = asked
        self._watched = watched
        self._paused_since: float | None = None
        self._gave_up = False

    def stopped(self) -> bool:
        """Whether somebody asked for an end, or the work was paused for too long."""
        if self._paused_since is not None and not self._watched:
            self._gave_up = time.monotonic() - self._paused_since > PAUSE_SECONDS
        return self._gave_up or self._asked()

    def follow(self, reports: Iterator[Progress]) -> Progress:
        """Show every report; returns the last one, which is stopped if somebody asked for that. Without any: of no job.

        Raises:
            JobPaused: the job is paused, and nobody can see it.
        """
        from sqlalchemy.exc import DBAPIError

        from profiles_schema.driver import sqlstate
        from profiles_schema.operations.batch_job import Progress, Stopped

        last = Progress("")
        try:
            for last in reports:
                paused = last.state == "paused"
                self._paused_since = (self._paused_since or time.monotonic()) if paused else None
                self._show(last)
        except (Stopped, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not (self._asked() and sqlstate(error) == _CANCELLED):
                raise
            last.state = "stopped"
        if self._gave_up:
            raise JobPaused(
                f"Job {last.job_id} is paused, and was not resumed within {PAUSE_SECONDS:g} s. Finished work stays."
                f" Resume it, then run this again: profiles-schema jobs resume {last.job_id}"
            )
        return last


def run_job(
    verb: str,
    job: Callable[[Callable[[], bool]], Iterator[Progress]],
    *,
    as_json: bool,
    go_on: str = "",
    remark: str = "",
) -> Progress:
    """Do the work of a verb to its end, and return its last report; one of no job if there was nothing to do.

    Args:
        verb: What is run, as "keys encrypt".
        job: Starts the work, given what tells whether to stop.
        as_json: The result is wanted as JSON.
        go_on: The verb that goes on after Ctrl-C, if it is another one.
        remark: What stands after Ctrl-C.

    Raises:
        Exit: Ctrl-C ended the work; how far it got is said already.
    """
    with _at_work(verb, as_json=as_json) as work:
        done = work.follow(job(work.stopped))
    if done.state == "stopped":
        _say_stopped(done, f"profiles-schema {go_on or verb}", remark)
        raise click.exceptions.Exit(INTERRUPTED)
    return done


def _say_stopped(progress: Progress, command: str, remark: str) -> None:
    """Say how far stopped work got, and how it goes on."""
    done = ", ".join(f"{number} {name}" for name, number in progress.counts.items() if number)
    if done:
        click.echo(f"done so far: {done}", err=True)
    far = f" after {progress.done} of {progress.total} {progress.unit}" if progress.total else ""
    click.echo(f"stopped{far}{remark}; go on with: {command}", err=True)


@contextmanager
def _at_work(label: str, *, as_json: bool) -> Iterator[Work]:
    """Show long work on stderr, and let Ctrl-C end it: the running statement is cancelled, what is committed stands.

    A bar on a terminal; elsewhere a line now and then, or one JSON line per report.

    Args:
        label: What is said until the first report.
        as_json: The result is wanted as JSON.
    """
    with asked_to_stop() as asked:
        watched = sys.stderr.isatty()
        if watched and os.environ.get("TERM") != "dumb":
            with _bars(label) as show:
                yield Work(show, asked, watched=True)
        else:
            yield Work(_json_line if as_json else _Lines().show, asked, watched=watched)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C cancels the running statement and is remembered; a second one ends everything at once.

    The driver's C code does not return to Python while the server works, so the waiting is done here.
    """
    import psycopg2.extensions

    asked: list[int] = []
    waiting: list[Any] = []

    def ask(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        for connection in waiting:
            _cancel(connection)

    def wait(connection: Any) -> None:
        waiting.append(connection)
        try:
            _wait(connection)
        finally:
            waiting.remove(connection)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread
        yield lambda: False
        return
    psycopg2.extensions.set_wait_callback(wait)
    try:
        yield lambda: bool(asked)
    finally:
        psycopg2.extensions.set_wait_callback(None)
        signal.signal(signal.SIGINT, before)


def _wait(connection: Any) -> None:
    """Wait for the server; signals come through. Connecting has its usual limit, which the driver forgets here."""
    from psycopg2 import OperationalError
    from psycopg2.extensions import POLL_OK, POLL_READ, STATUS_SETUP

    give_up = time.monotonic() + CONNECT_TIMEOUT_SECONDS if connection.status == STATUS_SETUP else None
    while (state := connection.poll()) != POLL_OK:
        left = None if give_up is None else max(0.0, give_up - time.monotonic())
        sockets = [connection.fileno()]
        ready = select.select(*((sockets, [], []) if state == POLL_READ else ([], sockets, [])), left)
        if not any(ready):
            raise OperationalError("timeout expired")


def _cancel(connection: Any) -> None:
    from psycopg2 import Error

    try:
        connection.cancel()
    except Error:  # still connecting: nothing runs that could be cancelled
        return


@contextmanager
def _bars(label: str) -> Iterator[Callable[[Progress], None]]:
    """A bar for each job that has something to do, the present one moving."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[words]}", table_column=Column(no_wrap=True)),
    )
    with Bars(*columns, console=console(), expand=True) as bars:
        task = bars.add_task(label, total=None, words="counting")
        last: Progress | None = None

        def show(progress: Progress) -> None:
            nonlocal task, last
            if last is not None and progress.job != last.job:
                last.state = "completed"
                bars.update(task, total=1, completed=1, words=words(last))
                if not progress.total:
                    return
                task = bars.add_task(progress.job, words="")
            last = progress
            bars.update(
                task, description=progress.job, total=progress.total or 1, words=words(progress),
                completed=progress.done if progress.total else 1,
            )  # fmt: skip

        yield show


class _Lines:
    """A line when work begins or its state changes, and now and then in between."""

    def __init__(self) -> None:
        self._said: tuple[str, str] = ("", "")
        self._at = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if (progress.job, progress.state) != self._said or now - self._at > LINE_SECONDS:
            self._said, self._at = (progress.job, progress.state), now
            click.echo(f"{progress.job} {words(progress)}", err=True)


def _json_line(progress: Progress) -> None:
    click.echo(json.dumps(progress.as_dict()), err=True)


def words(progress: Progress) -> str:
    """How far work is: 5/10 users  50%  12/s  0:01:23 left."""
    share = min(progress.done / progress.total, 1.0) if progress.total else 1.0
    # Padded, so that a bar keeps its length while it fills.
    said = [f"{progress.done:>{len(str(progress.total))}}/{progress.total} {progress.unit}", f"{share:4.0%}"]
    if progress.state == "running":
        said.append(f"{progress.rows_per_second:.0f}/s")
        if progress.eta_seconds is not None:
            said.append(f"{timedelta(seconds=round(progress.eta_seconds))} left")
    elif progress.state == "paused":
        said.append(f"paused: profiles-schema jobs resume {progress.job_id}")
    else:
        said.append(progress.state)
    return "  ".join(said)
