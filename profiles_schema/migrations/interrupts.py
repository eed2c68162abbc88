"""Let Ctrl-C and SIGTERM reach a migration that waits inside the driver.

The driver's C code does not return to Python while the server works. While our command owns the process, waiting is
done here, and an interruption first cancels the running statement.
"""

from __future__ import annotations

import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""The exit code after SIGTERM."""


@contextmanager
def interruptible() -> Iterator[None]:
    """For as long as the block lasts, KeyboardInterrupt and SystemExit (SIGTERM) come through at once."""
    import psycopg2.extensions

    if threading.current_thread() is not threading.main_thread() or psycopg2.extensions.get_wait_callback() is not None:
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    psycopg2.extensions.set_wait_callback(_wait)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(None)
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the way out needs the connection
    raise SystemExit(TERMINATED)


def _wait(connection: Any) -> None:
    from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE

    interruption: BaseException | None = None
    while True:
        try:
            state = connection.poll()
            if state == POLL_OK:
                break
            if state == POLL_READ:
                select.select([connection.fileno()], [], [])
            elif state == POLL_WRITE:
                select.select([], [connection.fileno()], [])
        except (KeyboardInterrupt, SystemExit) as caught:
            if interruption is not None:
                raise
            interruption = caught
            _cancel(connection, caught)
        except Exception:
            if interruption is not None:
                break  # the cancelled statement's error
            raise
    if interruption is not None:
        raise interruption


def _cancel(connection: Any, interruption: BaseException) -> None:
    from psycopg2 import ProgrammingError

    try:
        connection.cancel()
    except ProgrammingError:
        raise interruption from None  # still connecting: nothing runs that could be cancelled
