"""Servers that are removed with their data."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from profiles_schema.errors import EmbeddedServerFailed
from profiles_schema.local.account import prepare_directory, runnable_programs, server_account
from profiles_schema.local.layout import Place, binaries, default_directory
from profiles_schema.local.processes import WAIT_SECONDS, explain_failures, run, try_lock
from profiles_schema.local.server import (
    ANSWER_SECONDS,
    LocalServer,
    is_alive,
    listening_postmaster,
    recorded_pid,
    start,
)


@dataclass
class TemporaryServer:
    """A server that is removed with its data when its block ends, unless ``keep`` is set by then.

    ``private`` is a directory for the caller's own files, closed to every other user.
    """

    server: LocalServer
    directory: Path
    private: Path
    keep: bool = False


@contextlib.contextmanager
def temporary(name: str) -> Iterator[TemporaryServer]:
    """A server for the duration of the block, below the default directory.

    What a killed process left behind under the same name is removed first. SIGINT and SIGTERM wait while the server
    starts and while it is removed, so that they leave nothing half-made.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: the server cannot be made, started or removed; the message names the cause.
    """
    binaries()
    base = Place.at(None)
    with explain_failures(base):
        prepare_directory(base)
        remove_leftovers(name)
        directory = base.directory / f"{name}-{secrets.token_hex(4)}"
        lock = directory.with_suffix(".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try_lock(descriptor)
    try:
        with _hold_signals():
            server = start(directory)
            private = directory / "private"
            private.mkdir(mode=0o700)
        found = TemporaryServer(server, directory, private)
        yield found
        if found.keep:
            lock.unlink()  # without its lock, no later run takes it for a leftover
            return
    except BaseException:
        with _hold_signals(pass_on=False):
            remove(directory)
            lock.unlink(missing_ok=True)
        raise
    else:
        with _hold_signals():
            remove(directory)
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def remove_leftovers(name: str) -> None:
    """Remove the temporary servers of this name whose user was killed."""
    for lock in default_directory().glob(f"{name}-*.lock"):
        descriptor = os.open(lock, os.O_RDWR)
        try:
            if try_lock(descriptor):
                remove(lock.with_suffix(""))
                lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def remove(directory: Path) -> None:
    """Stop the server and delete its directory with everything in it.

    Raises:
        EmbeddedServerFailed: something in it cannot be stopped or deleted.
    """
    place = Place.at(directory)
    if not place.directory.exists():
        return
    with explain_failures(place):
        sockets = None
        deadline = time.monotonic() + ANSWER_SECONDS
        # A server that was interrupted while it came up gets a moment to become stoppable.
        while (postmaster := listening_postmaster(place)) is None and time.monotonic() < deadline:
            pid = recorded_pid(place)
            if pid is None or not is_alive(pid):
                break
            time.sleep(0.1)
        if postmaster is not None:
            sockets = postmaster.socket_directory
            # Its data are not wanted any more, so there is no checkpoint.
            command = ["pg_ctl", "stop", "-D", "data", "-m", "immediate", "-w", "-t", f"{WAIT_SECONDS:.0f}"]
            account = server_account(place)
            for _ in range(3):  # another Ctrl-C ends pg_ctl, too
                if run(place, account, runnable_programs(place, account, binaries()), command).returncode == 0:
                    break
        shutil.rmtree(place.directory)
        if sockets is not None:
            shutil.rmtree(sockets, ignore_errors=True)  # elsewhere only where our path was too long for a socket


@contextlib.contextmanager
def _hold_signals(*, pass_on: bool = True) -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is done; ``pass_on``: deliver them then."""
    held: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda caught, _frame: held.append(caught))
    except ValueError:  # not the main thread: signals do not arrive here
        yield
        return
    try:
        yield
    except EmbeddedServerFailed:
        # A terminal sends Ctrl-C to the programs, too: their failure is no news then.
        if not (held and pass_on):
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held and pass_on:
        signal.raise_signal(held[0])
