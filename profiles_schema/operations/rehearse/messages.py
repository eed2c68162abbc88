"""What the runner and the revisions say."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

_MIGRATIONS = "profiles_schema.migrations"


class MessageRecorder(logging.Handler):
    """Records what the runner and the revisions log.

    The seconds of a revision come from here, too: migration_log has no seconds for what came before it was made, and none at all
    once it is dropped.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.revisions: list[dict[str, Any]] = []
        self.adopted: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is logged inside the block."""
        heard = logging.getLogger(_MIGRATIONS)
        level = heard.level
        heard.addHandler(self)
        if not heard.isEnabledFor(logging.INFO):
            heard.setLevel(logging.INFO)
        try:
            yield
        finally:
            heard.setLevel(level)
            heard.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; called by logging."""
        message = record.getMessage()
        if done := re.fullmatch(r"(?:up|down)grade (\w+)(?::.*)?: (\d+\.\d+) s", message):
            self.revisions.append({"revision": done[1], "seconds": float(done[2])})
        else:
            self.lines.append(message)
        if taken := re.fullmatch(
            r"(.+): (\d+) rows taken over, (\d+) values changed .*, (\d+) rows in quarantine", message
        ):
            self.adopted.append(
                {"table": taken[1], "rows": int(taken[2]), "changed": int(taken[3]), "quarantined": int(taken[4])}
            )
        if record.levelno >= logging.WARNING:
            self.warnings.append(message)
