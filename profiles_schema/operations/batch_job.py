"""What a job in batches is: a verb is a list of jobs, which ``batches.run`` runs one after the other.

A job says which keys are next, and what to do with some of them::

    class Prune(Job):
        kind = "prune"

        def count(self, connection):
            return connection.scalar(text("select count(*) from visitors where seen_at < now() - interval '1 year'"))

        def next_keys(self, connection, after, rows, window):
            old = "select id from visitors where seen_at < now() - interval '1 year'"
            return next_page(connection, f"{old} and id > cast(:after as uuid) order by id limit :rows", after, rows)

        def do(self, connection, keys):
            connection.execute(text("delete from visitors where id = any (cast(:keys as uuid[]))"), {"keys": keys})
            return {"pruned": len(keys)}

    for progress in run(engine, [Prune()], Limits(max_rate=500)):
        print(progress.done, progress.total)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection

FIRST_ROWS = 100
TARGET_MS = 100


class Job(ABC):
    """What the engine asks of a job. Keys are texts; only the job's own SQL compares them."""

    kind: str
    """Its name, in profiles_internal.jobs and on the screen."""

    unit: str = "users"
    """What its rows are."""

    recorded: bool = True
    """Whether its ledger is profiles_internal.jobs; otherwise the memory of its runner."""

    repeats: bool = True
    """Whether another pass follows one that found something: rows may have come in behind the cursor."""

    session: Mapping[str, str] = MappingProxyType({})
    """Settings of the server that the session needs."""

    @abstractmethod
    def count(self, connection: Connection) -> int:
        """How many rows there are to do."""

    @abstractmethod
    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        """The next keys to do behind ``after``, in order, and how far the look reached; None for the end of the table.

        At most ``rows`` keys, from the next ``window`` rows of the table, done or not: so a look stays short, and where
        little is left to do the cursor moves on all the same. The rows may be locked; ``do`` comes in the same transaction.
        """

    @abstractmethod
    def do(self, connection: Connection, keys: list[str]) -> Mapping[str, int]:
        """Do these rows in the present transaction; returns what was done, by name. Raises what the server raises."""

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:  # noqa: B027 - most record nothing
        """Record, in the present transaction, that this row was left out: the SQLSTATE, and the objects it is about."""

    def left(self, connection: Connection) -> int:  # noqa: ARG002
        """How many rows are to do still, where ``next_keys`` passes over rows in use: they get a minute to become free."""
        return 0

    def finish(self, connection: Connection, failed: Mapping[str, int]) -> None:  # noqa: B027 - most are done then
        """What follows the last batch, in a transaction of its own. ``failed`` are the rows left out, by SQLSTATE."""


class ListedJob(Job):
    """A job whose rows are few and hard to find: it looks for all of them at once, when they are counted."""

    recorded = False
    repeats = False
    keys: Sequence[str] = ()

    @abstractmethod
    def find(self, connection: Connection) -> list[str]:
        """The keys of all rows to do."""

    def count(self, connection: Connection) -> int:
        """Look for the keys."""
        self.keys = sorted(self.find(connection))
        return len(self.keys)

    def next_keys(
        self,
        connection: Connection,  # noqa: ARG002
        after: str | None,
        rows: int,
        window: int,  # noqa: ARG002
    ) -> tuple[list[str], str | None]:
        """The next of the keys found."""
        start = 0 if after is None else bisect_right(self.keys, after)
        keys = list(self.keys[start : start + rows])
        return keys, keys[-1] if start + rows < len(self.keys) else None


def next_page(connection: Connection, statement: str, after: str | None, rows: int) -> tuple[list[str], str | None]:
    """The next uuids of a statement with the parameters :after and :rows, and how far they reach; None for the end."""
    keys = [str(key) for key in connection.scalars(text(statement), {"after": after or str(UUID(int=0)), "rows": rows})]
    return keys, keys[-1] if len(keys) == rows else None


@dataclass
class Progress:
    """How far a run is.

    ``done`` of ``total`` rows of the present job, and its rate. ``counts`` (what was done, by name) and ``failed`` (rows
    left out, by SQLSTATE) are those of all jobs so far. ``eta_seconds`` is None before the first batch. ``state`` is
    running, paused, stopped or completed; ``job_id`` is None where the job is not recorded.
    """

    job: str
    unit: str = "users"
    job_id: int | None = None
    total: int = 0
    done: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    batch_rows: int = 0
    batch_ms: float = 0.0
    rows_per_second: float = 0.0
    eta_seconds: float | None = None
    state: str = "running"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the counts stand among the rest."""
        values = asdict(self)
        values.update(values.pop("counts"))
        return values


@dataclass(frozen=True)
class Limits:
    """What a run may take: first batch size, target duration of a batch, most rows per second (None: no limit)."""

    batch_rows: int = FIRST_ROWS
    target_ms: int = TARGET_MS
    max_rate: float | None = None


class Stopped(Exception):
    """The run was asked to end. Jobs may raise it where they take long by themselves."""
