"""What the benchmarks that work on a database share: a fresh one, the CPU of a session, and a load beside the work."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psycopg2
from alembic import command
from psycopg2.extensions import make_dsn
from sqlalchemy import Engine, NullPool, create_engine, event

from profiles_schema import local
from profiles_schema.migrations import paths

LOAD_CONNECTIONS = 8
P99_RATIO = 1.25
P99_MS = 5.0

Operate = Callable[[Any, int, str, list[str]], None]
"""One operation of a load: a cursor, its number, the name of the series, the users who have profiles."""


def fresh_database(name: str) -> str:
    """A database at head, made anew on the embedded server or another one; its DSN."""
    url = os.environ.get("BENCHMARK_SERVER_URL") or local.start().url("postgres")
    administrator = psycopg2.connect(url)
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute(f"drop database if exists {name}")
        cursor.execute(f"create database {name}")
    administrator.close()
    dsn = make_dsn(url, dbname=name)
    with engine_to(dsn).connect() as connection:
        config = paths.config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return dsn


def engine_to(dsn: str) -> Engine:
    """An engine that keeps no connection."""
    return create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn), poolclass=NullPool)


def cpu_seconds(connection: Any) -> float:
    """CPU that the backend of a psycopg2 connection has used so far."""
    nanoseconds = Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text(encoding="ascii").split()[0]
    return int(nanoseconds) / 1e9


def metered_engine(dsn: str) -> tuple[Engine, Callable[[], float]]:
    """An engine, and how much CPU the backends of its connections have used that are closed."""
    engine = engine_to(dsn)
    used: list[float] = []
    event.listen(engine, "close", lambda connection, _record: used.append(cpu_seconds(connection)))
    return engine, lambda: sum(used)


@dataclass
class Operation:
    """One operation of the load: when it was due (monotonic), and what became of it."""

    due: float
    ms: float
    failure: str | None


def load(dsn: str, rate: float, series: str, operate: Operate, pipe: Pipe) -> None:
    """The load, in a process of its own: runs until the pipe says so, and sends its operations back."""
    stop = threading.Event()
    operations: list[Operation] = []
    began = time.monotonic() + 0.5

    def one_connection(first: int) -> None:
        connection = psycopg2.connect(dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select array_agg(user_id::text order by user_id) from public.user_profiles")
            present = cursor.fetchone()[0]
            number = first
            while not stop.is_set():
                due = began + number / rate
                time.sleep(max(0.0, due - time.monotonic()))
                failure = None
                try:
                    operate(cursor, number, series, present)
                except psycopg2.Error as error:
                    failure = error.pgcode or type(error).__name__
                operations.append(Operation(due, (time.monotonic() - due) * 1000, failure))
                number += LOAD_CONNECTIONS
        connection.close()

    threads = [threading.Thread(target=one_connection, args=(n,)) for n in range(LOAD_CONNECTIONS)]
    for thread in threads:
        thread.start()
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(operations)


def during(
    dsn: str,
    rate: float,
    series: str,
    operate: Operate,
    work: Callable[[], object],
    *,
    before: Callable[[], object] = lambda: None,
) -> list[Operation]:
    """The operations of a load that were due while the work was going on; ``before`` happens beside the load, too."""
    here, there = multiprocessing.Pipe()
    arguments = (dsn, rate, series, operate, there)
    process = multiprocessing.get_context("spawn").Process(target=load, args=arguments)
    process.start()
    time.sleep(2.5)  # connections open, plans made
    before()
    started = time.monotonic()
    work()
    ended = time.monotonic()
    here.send("stop")
    operations: list[Operation] = here.recv()
    process.join()
    return [operation for operation in operations if started <= operation.due <= ended]


def percentiles(operations: list[Operation]) -> dict[str, float | int]:
    """Count, failures and milliseconds."""
    ms = sorted(operation.ms for operation in operations)
    return {
        "operations": len(ms),
        "failed": sum(operation.failure is not None for operation in operations),
        "p50_ms": round(ms[len(ms) // 2], 2),
        "p99_ms": round(ms[min(len(ms) - 1, int(len(ms) * 0.99))], 2),
        "max_ms": round(ms[-1], 2),
    }


def at_most(value: float, limit: float) -> dict[str, object]:
    """An aim: a value and its upper limit."""
    return {"is": value, "at_most": limit, "met": value <= limit}


def at_least(value: float, limit: float) -> dict[str, object]:
    """An aim: a value and its lower limit."""
    return {"is": value, "at_least": limit, "met": value >= limit}


def p99_aim(busy: float, quiet: float) -> dict[str, object]:
    """The aim for a load beside some work, against the same load alone."""
    return at_most(busy, round(max(quiet * P99_RATIO, quiet + P99_MS), 2))


def tell(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, end="", file=sys.stderr, flush=True)


def report(result: Mapping[str, Any], out: Path | None) -> int:
    """Print the result and keep it; the exit code: 1 if one of its aims is missed."""
    text = json.dumps(result, indent=2)
    print("\n" + text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    return int(not all(aim["met"] for aim in result["aims"].values()))
