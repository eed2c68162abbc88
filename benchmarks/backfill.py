"""What a backfill costs the server, and what the others on it notice: ours, the limit, one statement, a naive loop.

Three parts, in one run on one database. Users who lack profiles, beside a thousand who have them; variants in turns,
medians of the rounds; CPU of the backends that work (from /proc/PID/schedstat), autovacuum off.

cost: users per second, and microseconds of server CPU per user

  limit      COPY of the finished rows into both tables; indexes, CHECKs and foreign keys as they are, no other trigger
  statement  one statement: create_profiles over all users
  plain      one INSERT .. SELECT per table, without our functions and triggers
  ours       operations.backfill.backfill, unthrottled: counting, batches, the job's row, looking for harm
  naive      a client that asks for 100 users without a profile, looks for a free name and inserts row by row; a tenth
             of the users, the rest taken to cost the same (a loop that slows down is flattered)

latency: an open loop of sign-ups with new names and of updates of existing profiles, in turns, at a fixed rate, from a
process of its own. Latencies count from the moment an operation was due, so that a stall is charged to all it delays.
During nothing, ours and the one statement.

forecast: eta_seconds at 10 % and at 50 % of an unthrottled run against the time that it took from there.

    python benchmarks/backfill.py [--users 50000] [--rounds 3] [--rate 50] [--out FILE]

Works on a database of its own on the embedded PostgreSQL. Exit code 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from common import (
    Operation,
    at_least,
    at_most,
    cpu_seconds,
    during,
    fresh_database,
    metered_engine,
    p99_aim,
    percentiles,
    report,
    tell,
)

from profiles_schema.operations.backfill import backfill

DATABASE = "benchmark_backfill"
PRESENT = 1000
NAIVE_BATCH = 100
CPU_RATIO = 1.25
THROUGHPUT_RATIO = 10.0
FORECASTS = {0.1: 0.20, 0.5: 0.10}
"""Share of the users done: how far the forecast may be off."""

USERS = """insert into auth.users (id, email, raw_user_meta_data)
select md5(%(kind)s || g)::uuid, %(kind)s || g || '@example.org',
  '{"full_name": "Ada Lovelace", "avatar_url": "https://example.org/a.png"}'
from generate_series(1, %(users)s) as g"""

STATEMENT = """select profiles_internal.create_profiles(array(select to_jsonb(u) from auth.users as u
where u.email like %s order by u.id))"""

PLAIN = (
    """insert into public.user_profiles (id, user_id, username, display_name, email, avatar_url)
select u.id::text, u.id, split_part(u.email, '@', 1), u.raw_user_meta_data ->> 'full_name', u.email,
  u.raw_user_meta_data ->> 'avatar_url'
from auth.users as u where not exists (select from public.user_profiles as p where p.user_id = u.id)""",
    """insert into public.user_progress (user_id) select u.id from auth.users as u
where not exists (select from public.user_progress as g where g.user_id = u.id)""",
)

MISSING = """select count(*) from auth.users as u
where not exists (select from public.user_profiles as p where p.user_id = u.id)
or not exists (select from public.user_progress as g where g.user_id = u.id)"""

TABLES = ("user_profiles", "user_progress")


@dataclass
class Cost:
    """What one variant took in one round."""

    users: int
    seconds: float
    cpu: float


@dataclass
class Bench:
    """The database, and the users who lack profiles in it."""

    dsn: str
    users: int
    connection: Any = None
    finished: dict[str, str] = field(default_factory=dict)
    missing: int = 0

    def __post_init__(self) -> None:
        self.connection = psycopg2.connect(self.dsn)
        self.connection.autocommit = True
        for table in ("auth.users", *(f"public.{table}" for table in TABLES)):
            self.run(f"alter table {table} set (autovacuum_enabled = off)")
        self.run("alter table auth.users disable trigger user")
        self.run(USERS, {"kind": "person", "users": self.users})
        self.run(USERS, {"kind": "present", "users": PRESENT})
        self.run("alter table auth.users enable trigger user")

    def run(self, sql: str, values: Any = None) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)

    def reset(self) -> None:
        """Every variant begins with the same: a thousand profiles, no dead rows, fresh statistics."""
        self.run("truncate public.user_profiles, public.user_progress, public.user_profile_audit_logs")
        self.run("delete from profiles_internal.jobs")
        self.run("delete from auth.users where email like 'new%'")
        self.run(STATEMENT, ("present%",))
        self.run("vacuum analyze")
        self.run("checkpoint")

    def count_missing(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(MISSING)
            return int(cursor.fetchone()[0])

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        """As a table that is not ours: its constraints alone."""
        self.run("alter table public.user_profiles disable trigger user")
        try:
            yield
        finally:
            self.run("alter table public.user_profiles enable trigger user")

    # The variants

    def limit(self) -> Cost:
        with self.without_triggers():
            return self._timed(self._copy_in)

    def _copy_in(self) -> int:
        with self.connection.cursor() as cursor:
            for table in TABLES:
                cursor.copy_expert(f"copy public.{table} from stdin", io.StringIO(self.finished[table]))
        return self.users

    def copy_out(self) -> None:
        """Keep the finished rows for the limit."""
        with self.connection.cursor() as cursor:
            for table in TABLES:
                text = io.StringIO()
                cursor.copy_expert(
                    f"copy (select t.* from public.{table} as t join auth.users as u on u.id = t.user_id"
                    " where u.email like 'person%' order by t.user_id) to stdout",
                    text,
                )
                self.finished[table] = text.getvalue()

    def statement(self) -> Cost:
        def work() -> int:
            self.run(STATEMENT, ("person%",))
            return self.users

        return self._timed(work)

    def plain(self) -> Cost:
        def work() -> int:
            for sql in PLAIN:
                self.run(sql)
            return self.users

        with self.without_triggers():
            return self._timed(work)

    def naive(self) -> Cost:
        with self.without_triggers():
            return self._timed(self._naive)

    def _naive(self) -> int:
        done = 0
        self.connection.autocommit = False
        with self.connection.cursor() as cursor:
            while done < self.users // 10:
                cursor.execute(
                    "select u.id, u.email, u.raw_user_meta_data ->> 'full_name', u.raw_user_meta_data ->> 'avatar_url'"
                    " from auth.users as u where not exists (select from public.user_profiles as p where p.user_id = u.id)"
                    f" order by u.created_at, u.id limit {NAIVE_BATCH}"
                )
                rows = cursor.fetchall()
                if not rows:
                    break
                for user_id, email, name, avatar in rows:
                    username = self._free_name(cursor, email.partition("@")[0].lower())
                    cursor.execute(
                        "insert into public.user_profiles (id, user_id, username, display_name, email, avatar_url)"
                        " values (%s, %s, %s, %s, %s, %s)",
                        (user_id, user_id, username, name, email, avatar),
                    )
                    cursor.execute("insert into public.user_progress (user_id) values (%s)", (user_id,))
                self.connection.commit()
                done += len(rows)
        self.connection.rollback()
        self.connection.autocommit = True
        return done

    @staticmethod
    def _free_name(cursor: Any, base: str) -> str:
        candidate, suffix = base, 0
        while True:
            cursor.execute("select from public.user_profiles where lower(username) = %s", (candidate,))
            if not cursor.rowcount:
                return candidate
            suffix += 1
            candidate = f"{base}{suffix}"

    def ours(self, forecasts: dict[float, list[float]] | None = None) -> Cost:
        """The backfill; adds the errors of its forecasts, as shares of the truth, to ``forecasts``."""
        engine, cpu = metered_engine(self.dsn)
        seen: dict[float, tuple[float, float]] = {}
        started = time.monotonic()
        with engine.connect() as connection:
            for step in backfill(connection):
                for share in FORECASTS:
                    if share not in seen and step.eta_seconds is not None and step.done >= share * step.total > 0:
                        seen[share] = (time.monotonic(), step.eta_seconds)
        ended = time.monotonic()
        if forecasts is not None:
            for share, (moment, eta) in seen.items():
                truth = ended - moment
                forecasts.setdefault(share, []).append((eta - truth) / truth)
        self.missing = max(self.missing, self.count_missing())
        return Cost(self.users, ended - started, cpu())

    def _timed(self, work: Callable[[], int]) -> Cost:
        cpu, started = cpu_seconds(self.connection), time.monotonic()
        users = work()
        return Cost(users, time.monotonic() - started, cpu_seconds(self.connection) - cpu)


def operate(cursor: Any, number: int, series: str, present: list[str]) -> None:
    """One operation of the load."""
    if number // 2 % 2:
        cursor.execute(
            'insert into auth.users (email, raw_user_meta_data) values (%s, \'{"full_name": "Ada"}\')',
            (f"new{series}x{number}@example.org",),
        )
    else:
        cursor.execute(
            "update public.user_profiles set bio = %s where user_id = %s",
            (f"Operation {number}.", present[number % PRESENT]),
        )


def measure_cost(bench: Bench, rounds: int, forecasts: dict[float, list[float]]) -> dict[str, dict[str, float]]:
    """Medians of all variants in turns."""
    bench.reset()
    bench.ours()  # warms up, and makes the rows for the limit
    bench.copy_out()
    variants: dict[str, Callable[[], Cost]] = {
        "limit": bench.limit,
        "statement": bench.statement,
        "plain": bench.plain,
        "ours": lambda: bench.ours(forecasts),
        "naive": bench.naive,
    }
    seen: dict[str, list[Cost]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant, work in variants.items():
            bench.reset()
            seen[variant].append(work())
            tell(".")
    return {
        variant: {
            "users_per_second": round(statistics.median(cost.users / cost.seconds for cost in costs)),
            "cpu_us_per_user": round(statistics.median(cost.cpu / cost.users * 1e6 for cost in costs), 1),
        }
        for variant, costs in seen.items()
    }


def measure_latency(bench: Bench, rounds: int, rate: float) -> dict[str, dict[str, float | int]]:
    """All rounds of a variant taken together: a single one has too few operations for a p99."""
    length = 5.0

    def ours() -> None:
        nonlocal length
        length = bench.ours().seconds

    variants: dict[str, Callable[[], object]] = {
        "ours": ours,
        "nothing": lambda: time.sleep(length),
        "statement": bench.statement,
    }
    seen: dict[str, list[Operation]] = {variant: [] for variant in variants}
    for round_number in range(rounds):
        for variant, work in variants.items():
            bench.reset()
            seen[variant] += during(bench.dsn, rate, f"{variant}{round_number}", operate, work)
            tell(".")
    return {variant: percentiles(operations) for variant, operations in seen.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=50_000, help="users without a profile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=50.0, help="operations of the concurrent load per second")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    bench = Bench(fresh_database(DATABASE), arguments.users)
    forecasts: dict[float, list[float]] = {}
    cost = measure_cost(bench, arguments.rounds, forecasts)
    latency = measure_latency(bench, arguments.rounds, arguments.rate)
    bench.connection.close()

    cpu = {variant: values["cpu_us_per_user"] for variant, values in cost.items()}
    to_statement = round(cpu["ours"] / cpu["statement"], 3)
    to_naive = round(cost["ours"]["users_per_second"] / cost["naive"]["users_per_second"], 1)
    failed = sum(int(values["failed"]) for values in latency.values())
    aims: dict[str, dict[str, object]] = {
        "cpu_to_statement": at_most(to_statement, CPU_RATIO),
        "throughput_to_naive": at_least(to_naive, THROUGHPUT_RATIO),
        "p99_ms": p99_aim(latency["ours"]["p99_ms"], latency["nothing"]["p99_ms"]),
        "failed_operations": at_most(failed, 0),
        "users_without_profile": at_most(bench.missing, 0),
    }
    for share, tolerance in FORECASTS.items():
        error = round(statistics.median(abs(error) for error in forecasts[share]), 3)
        aims[f"forecast_error_at_{share:.0%}"] = at_most(error, tolerance)
    result = {
        "users": arguments.users,
        "rounds": arguments.rounds,
        "cost": cost,
        "cpu_ours_to_limit": round(cpu["ours"] / cpu["limit"], 3),
        "cpu_ours_to_plain": round(cpu["ours"] / cpu["plain"], 3),
        "load_per_second": arguments.rate,
        "latency": latency,
        "forecast_errors": {f"{share:.0%}": [round(e, 3) for e in errors] for share, errors in forecasts.items()},
        "aims": aims,
    }
    return report(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
