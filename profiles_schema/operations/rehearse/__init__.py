"""Rehearse an upgrade on a copy: how long it takes, what it says, whether the way back is open, and what that loses.

The source is only read, in read-only transactions: ours and pg_dump's. What decides how the upgrade fares is copied with the
rows: owners, grants, roles with their attributes and memberships, default privileges, rights on the database. The copy lives in
a server of its own, which is removed afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from profiles_schema import local
from profiles_schema.errors import UsageError
from profiles_schema.migrations.interrupts import interruptible
from profiles_schema.migrations.options import parse
from profiles_schema.operations.rehearse import copy, probes
from profiles_schema.operations.rehearse.result import Rehearsal, RehearsalFinding, RehearsalStep
from profiles_schema.operations.rehearse.source import inspect_source, refuse_without_room
from profiles_schema.operations.rehearse.stages import Stages

__all__ = ["LEFTOVER", "Rehearsal", "RehearsalFinding", "RehearsalStep", "rehearse"]

logger = logging.getLogger("profiles_schema.rehearse")

LEFTOVER: Final = "rehearsal"
"""How the directories of rehearsals begin, below that of the embedded server."""


def rehearse(
    source: str, *, x: Sequence[str] = (), keep: bool = False, probe: Sequence[Path] = (), mask: bool = False
) -> Rehearsal:
    """Copy a database, upgrade the copy, verify, downgrade, compare, upgrade again.

    Args:
        source: The URL of the database to copy, or ``local``. It is only read.
        x: ``KEY=VALUE`` migration options for the upgrades and the downgrade.
        keep: Leave the copy, upgraded, for a look; ``kept`` of the result says where it is.
        probe: Files of statements that run before and after the upgrade; what differs is a finding.
        mask: Blank personal values in the copy first.

    Returns:
        What was seen; whatever the upgrade refuses is a finding, not an exception.

    Raises:
        NoDatabase: (a subclass) the source cannot be reached, or the embedded server is not installed.
        SourceUnreadable: the role may not read what is to be copied.
        NotEnoughSpace: the disk has no room for a copy.
        UsageError: an option is unknown, or a file of probes malformed.
    """
    parse(x)
    wanted = probes.read(probe)
    if any(pair.startswith("local=") for pair in x):
        raise UsageError("-x local has no meaning here: a rehearsal always works on a copy in the embedded PostgreSQL.")
    local.binaries()
    found = inspect_source(source)
    refuse_without_room(found)
    logger.info("Source: database %s %s, %d MB.", found.database, found.where, found.size_bytes // 1_000_000)
    with interruptible(), _interruptions() as interrupted, local.temporary(LEFTOVER) as place:
        result = Stages(found, place, list(x), wanted, interrupted, masked=mask).run()
        if keep:
            place.keep = True
            engine = copy.Copy(place.server, "", 0, [], []).url()
            result.kept = {"url": engine.render_as_string(hide_password=False), "directory": str(place.directory)}
    return result


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], None]]:
    """Yields what raises an interruption again that came as the error of a cancelled statement, or was swallowed with it."""
    received: list[int] = []

    def again() -> None:
        if received:
            raise SystemExit(128 + signal.SIGTERM) if received[0] == signal.SIGTERM else KeyboardInterrupt

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        again()

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, receive)
    except ValueError:  # not the main thread: signals do not arrive here
        yield again
        return
    try:
        yield again
    except Exception:
        again()
        raise
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
