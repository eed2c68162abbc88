"""What the tests share."""

import time

from support.commands import alembic, in_terminal, profiles_schema
from support.database import (
    ENVELOPE,
    REPOSITORY,
    TABLES,
    Database,
    Server,
    alembic_config,
    answers_file,
    drift,
    dumped,
    insert_user,
    psql,
    snapshot,
)

__all__ = [
    "ENVELOPE",
    "REPOSITORY",
    "TABLES",
    "Database",
    "Server",
    "alembic",
    "alembic_config",
    "answers_file",
    "drift",
    "dumped",
    "in_terminal",
    "insert_user",
    "profiles_schema",
    "psql",
    "snapshot",
    "wait_until",
]


def wait_until(condition, seconds=20):
    """Look again and again until something holds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)
