"""Runs the programs of an embedded server, one starter or stopper at a time, and says in one sentence what failed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from profiles_schema.errors import EmbeddedServerFailed
from profiles_schema.local.layout import DIRECTORY_VARIABLE, Place, is_root

WAIT_SECONDS: Final = 120.0
LOG_BYTES: Final = 10_000_000
_LOG_LINES: Final = 15

# The programs inherit nothing else: PGHOST or PGSERVICE would lead them to another server, and the server would carry the
# caller's credentials for as long as it runs.
_ENVIRONMENT: Final = frozenset({"PATH", "LD_LIBRARY_PATH", "TMPDIR"})


@dataclass(frozen=True)
class Account:
    """The account that the server runs as, where that is not the caller's."""

    uid: int
    gid: int


def run(
    place: Place, account: Account | None, programs: Path, command: Sequence[str], script: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs inside the server's directory, as this account or the caller."""
    environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
    environment |= {"LC_ALL": "C", "HOME": str(place.directory), "PGCONNECT_TIMEOUT": "10"}
    program = command[0] if command[0].startswith("/") else str(programs / command[0])
    return execute([program, *command[1:]], account, environment=environment, script=script, cwd=place.server)


def execute(
    command: Sequence[str],
    account: Account | None = None,
    *,
    environment: dict[str, str],
    script: str = "",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with this environment and nothing else of the caller's."""
    # Files, not pipes: the server that pg_ctl leaves behind inherits them, and would keep a pipe open.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(script.encode())
        given.seek(0)
        done = subprocess.run(  # noqa: S603  (our own programs, and no shell between)
            command,
            check=False,
            stdin=given,
            stdout=out,
            stderr=err,
            env=environment,
            cwd=cwd,
            timeout=WAIT_SECONDS + 30,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return subprocess.CompletedProcess(done.args, done.returncode, texts[0], texts[1])


@contextlib.contextmanager
def explain_failures(place: Place) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence with a remedy."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        remedy = ""
        if isinstance(error, PermissionError):
            remedy = f" Set {DIRECTORY_VARIABLE} to a directory that this user owns."
            if is_root():
                remedy = " Root without the right to change to another user cannot start it: run this as another user."
        raise EmbeddedServerFailed(f"The embedded PostgreSQL in {place.directory} failed: {error}.{remedy}") from error


@contextlib.contextmanager
def hold_lock(place: Place) -> Iterator[None]:
    """Hold the directory's lock. The operating system frees it when its holder ends, however that happens.

    Raises:
        EmbeddedServerFailed: another process holds it for too long.
    """
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + WAIT_SECONDS + 30
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise EmbeddedServerFailed(
                    f"Another process has been starting or stopping the embedded PostgreSQL in {place.directory} for "
                    f"over {WAIT_SECONDS:.0f} s. End it, then run this again."
                )
            time.sleep(0.05)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # at once, even if a fork of this process still holds a copy
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file, or return False while another process has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def log_size(place: Place) -> int:
    """The length of the server's log in bytes; 0 without one."""
    try:
        return place.log.lstat().st_size
    except FileNotFoundError:
        return 0


def read_log(place: Place, offset: int) -> str:
    """What the server has logged since the log was this long."""
    try:
        # The server's account could have put a link to a file that only root may read.
        with os.fdopen(os.open(place.log, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            file.seek(offset)
            return file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def fail(place: Place, fact: str, done: subprocess.CompletedProcess[str], offset: int) -> NoReturn:
    """Raise EmbeddedServerFailed with the last lines of the log since ``offset``, or else of the program's errors."""
    lines = read_log(place, offset).splitlines()[-_LOG_LINES:] or done.stderr.splitlines()[-_LOG_LINES:]
    shown = "".join(f"\n    {line}" for line in lines)
    raise EmbeddedServerFailed(f"The embedded PostgreSQL in {place.directory} {fact}.{shown}\nIts log: {place.log}")
