"""Long work on the command line: how far it is, and how it is stopped. For every verb that works in batches."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from profiles_schema.errors import JobPaused

INTERRUPTED = 130
"""Exit code of work that was stopped and can be taken up again."""
PAUSE_SECONDS = 60.0
"""How long work waits for its job to be resumed where there is no terminal."""
_LONGEST_BAR = 30
_SHORTEST_BAR = 5
_USUAL_COLUMNS = 80
_FREE_COLUMNS = 3  # for the ^C that a terminal shows; at the very edge it would break the line
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Step:
    """How far the work is, in the units that it is shown with."""

    done: int
    total: int
    rate: float
    eta_seconds: float | None
    state: str


class Work:
    """Long work under way: ``show`` takes each report, ``stopped`` says whether the work is to end before its next batch.

    Off a terminal nobody sees that a job is paused, so the work waits for that only so long.
    """

    def __init__(self, show: Callable[[Any], None], asked: Callable[[], bool], *, watched: bool) -> None:
        self._show = show
        self._asked = asked
        self._watched = watched
        self._paused_since: float | None = None
        self._job_id = 0
        self.gave_up = False

    def show(self, report: Any) -> None:
        """Show how far the work is."""
        self._paused_since = None
        if report.state == "paused":
            self._paused_since, self._job_id = time.monotonic(), report.job_id
        self._show(report)

    def stopped(self) -> bool:
        """Whether somebody asked for an end, or the work was paused for too long."""
        if self._paused_since is not None and not self._watched:
            self.gave_up = time.monotonic() - self._paused_since > PAUSE_SECONDS
        return self.gave_up or self._asked()

    def paused(self) -> JobPaused:
        """The error of work that gave up waiting."""
        return JobPaused(
            f"Job {self._job_id} is paused, and was not resumed within {PAUSE_SECONDS:g} s. What is done stands."
            f" Resume it, then run this again: profiles-schema jobs resume {self._job_id}"
        )


@contextmanager
def at_work(label: str, unit: str, step: Callable[[Any], Step]) -> Iterator[Work]:
    """Show long work on stderr, let Ctrl-C end it, and do not wait for ever while its job is paused.

    Args:
        label: What is being done, for example backfill.
        unit: What is counted, for example users.
        step: Reads a report, which is a dataclass.

    Raises:
        JobPaused: the job is paused, and nobody can see it.
    """
    with asked_to_stop() as asked, shown(label, unit, step) as show:
        work = Work(show, asked, watched=sys.stderr.isatty())
        yield work
    if work.gave_up:
        raise work.paused()


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the work after the present batch, a second one at once. Yields whether that was asked for."""
    asked: list[int] = []

    def ask(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def shown(label: str, unit: str, step: Callable[[Any], Step]) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal, one JSON line per report elsewhere; on stderr. Yields what to call with each report.

    Args:
        label: What is being done, for example backfill.
        unit: What is counted, for example users.
        step: Reads a report, which is a dataclass.
    """
    if not sys.stderr.isatty():

        def line(report: Any) -> None:
            print(json.dumps(asdict(report)), file=sys.stderr, flush=True)  # noqa: T201 - progress

        yield line
        return

    bar = _Bar(sys.stderr, label, unit)
    bar.write(f"{label} counting {unit}")
    try:
        yield lambda report: bar.draw(step(report))
    finally:
        # What is said next, be it an error, begins on a line of its own.
        bar.end()


class Line:
    """One line of a terminal, written again and again, never wider than the terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def columns(self) -> int:
        """How many characters there is room for."""
        return (os.get_terminal_size(self.stream.fileno()).columns or _USUAL_COLUMNS) - _FREE_COLUMNS

    def write(self, line: str) -> None:
        """Replace the line by this one; what does not fit is left out."""
        # To the end of the line erased: what was longer before leaves nothing behind.
        shown = line.partition("\n")[0][: self.columns]
        self.stream.write(f"\r{shown}\x1b[K")
        self.stream.flush()

    def erase(self) -> None:
        """Leave the line empty."""
        self.stream.write("\r\x1b[K")
        self.stream.flush()


class _Bar(Line):
    """Progress, in one line."""

    def __init__(self, stream: TextIO, label: str, unit: str) -> None:
        super().__init__(stream)
        self.label = label
        self.unit = unit

    def draw(self, step: Step) -> None:
        self.write(bar_line(self.label, self.unit, step, self.columns))

    def end(self) -> None:
        self.stream.write("\n")
        self.stream.flush()


def bar_line(label: str, unit: str, step: Step, columns: int) -> str:
    """The line for a width; the bar takes what the words leave, and goes first where there is no room."""
    share = min(step.done / step.total, 1.0) if step.total else 1.0
    # Padded, so that the bar keeps its length while it fills.
    words = f"{share:4.0%}  {step.done:>{len(str(step.total))}}/{step.total} {unit}"
    if step.state == "running":
        words += f"  {step.rate:5.0f}/s"
        if step.eta_seconds is not None:
            words += f"  ETA {duration(step.eta_seconds)}"
    else:
        words += f"  {step.state}"
    room = min(columns - len(label) - len(words) - len("  []"), _LONGEST_BAR)
    if room >= _SHORTEST_BAR:
        filled = int(room * share)
        words = f"[{'#' * filled}{'-' * (room - filled)}] {words}"
    return f"{label} {words}"[:columns]


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes and seconds."""
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    return f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02}:{whole % _MINUTE:02}"
