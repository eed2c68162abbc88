"""Our commands as a user runs them, in this process, in one of their own, or in a terminal."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path

from alembic.config import CommandLine, Config

from profiles_schema.cli import main
from support.database import REPOSITORY


def profiles_schema(
    url: str | None, *arguments: str, environment: Mapping[str, str] | None = None, process: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run our command as a user would, on a database.

    It runs in this process, which saves a second. `process` starts one of its own, where signals, pipes or the interpreter are
    the point; so does a thread, which can have neither streams nor an environment to itself.
    """
    variables = _environment(url, environment)
    if not process and threading.current_thread() is threading.main_thread():
        return _call(lambda: main(arguments), arguments, variables)
    return subprocess.run(
        [sys.executable, "-m", "profiles_schema", *arguments],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False, env=variables,
    )  # fmt: skip


def alembic(
    url: str | None,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    ini: Path = REPOSITORY / "alembic.ini",
) -> subprocess.CompletedProcess[str]:
    """Run the plain alembic command with a configuration file, in this process."""

    def run() -> None:
        line = CommandLine(prog="alembic")
        options = line.parser.parse_args(arguments)
        if not hasattr(options, "cmd"):
            line.parser.error("too few arguments")
        # CommandLine.main would print to the stream that was stdout when alembic was imported.
        line.run_cmd(Config(str(ini), ini_section=options.name, cmd_opts=options, stdout=sys.stdout), options)

    return _call(run, arguments, _environment(url, environment))


def _environment(url: str | None, changes: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
    return inherited | ({} if url is None else {"DATABASE_URL": url}) | dict(changes or {})


def _call(
    program: Callable[[], int | None], arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Call a command's main function as a new interpreter would: with streams and an environment of its own, and no logging.

    An exception that it lets through fails the test, where a process would print a traceback.
    """
    streams = {"stdin": _Text(), "stdout": _Text(), "stderr": _Text()}
    before = {name: getattr(sys, name) for name in streams}
    variables = dict(os.environ)
    with _logging_as_new():
        try:
            _set_environment(environment)
            for name, stream in streams.items():
                setattr(sys, name, stream)
            code = program() or 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        finally:
            for name, stream in before.items():
                setattr(sys, name, stream)
            _set_environment(variables)
    return subprocess.CompletedProcess(list(arguments), code & 0xFF, streams["stdout"].text(), streams["stderr"].text())


def _set_environment(variables: Mapping[str, str]) -> None:
    # Not cleared first: another thread may be reading.
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


class _Text(TextIOWrapper):
    """A stream of text in memory that has a buffer of bytes, as the real ones have; no terminal."""

    def __init__(self) -> None:
        super().__init__(BytesIO(), encoding="utf-8", newline="\n", write_through=True)

    def text(self) -> str:
        return self.buffer.getvalue().decode()


@contextmanager
def _logging_as_new() -> Iterator[None]:
    """No handlers, as after the start of an interpreter; pytest's own, and every level, come back afterwards."""
    named = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    loggers = [logging.getLogger(), *named]
    before = [(logger, logger.handlers, logger.level, logger.propagate, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
        logger.setLevel(logging.WARNING if logger is logging.root else logging.NOTSET)
    try:
        yield
    finally:
        for logger, handlers, level, propagate, disabled in before:
            logger.handlers, logger.propagate, logger.disabled = handlers, propagate, disabled
            logger.setLevel(level)


def in_terminal(url: str, *arguments: str, columns: int = 80, **environment: str) -> str:
    """What a terminal shows of our command."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", *arguments], stdin=child, stdout=child, stderr=child, close_fds=True,
        env={k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
        | {"DATABASE_URL": url, "COLUMNS": str(columns), "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(parent)
    process.wait(60)
    return shown.decode().replace("\r\n", "\n")
