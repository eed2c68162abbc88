"""What it costs to turn wide columns into JSON, to have both, and to have JSON alone.

A table of profiles with the 106 trait columns, three in four of them filled. Variants in turns within one run, medians of
the rounds, CPU of the backends that work (from /proc/PID/schedstat), autovacuum off. The parts:

idle: CPU per profile and profiles per second of a conversion, on the table as `upgrade` finds it, before the GIN indexes,
and as `normalize run` finds it, with them

  ours          operations.normalize.convert, unthrottled: recording, batches, the look for what is left, twice
  statement     one UPDATE, as one would write it: every group is jsonb_strip_nulls(jsonb_build_object(..)); with the
                triggers that the table has anyway (updated_at, audit), without dual write
  bare          the same, those triggers off
  keyset        the same expression for the next 1,000 users by id, until there are none
  keyset_bare   the same, those triggers off
  offset        the same expression for 100 users at a time, found by LIMIT and OFFSET

load: ours and keyset beside an open loop, at a fixed rate, of updates of one trait column and of sign-ups, from a
process of its own, and that load alone. What recording the columns does to it comes by itself, as expand: two seconds in
which every session prepares the dual-write trigger for the first time.

dual_write: CPU of single statements once everything is converted, with the dual-write trigger and without

size: after conversion, contract and VACUUM, against the same table rewritten

reads: CPU of reads and filters, JSON with GIN against columns with B-trees, on the table of either shape

gin: CPU of single statements on the contracted table with the GIN indexes and without, and the share of HOT updates. What
GIN has put off is cleaned up, and counts.

    python benchmarks/normalize.py [--profiles 20000] [--rounds 3] [--rate 50] [--statements 500] [--out FILE]

Works on a database of its own on the embedded PostgreSQL. Exit code 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
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
from sqlalchemy.exc import DBAPIError

from profiles_schema.operations import normalize
from profiles_schema.schema.traits import TraitColumn, trait_columns

DATABASE = "benchmark_normalize"
EXPAND_SECONDS = 2.0
GIVE_UP_SECONDS = 60.0
KEYSET_ROWS = 1000
OFFSET_ROWS = 100
WARM_UP = 20
IDLE_RATIO = 0.9
LOAD_RATIO = 0.7
COLUMN_RATIO = 1.5
OTHER_RATIO = 1.1
SIZE_RATIO = 1.6
GIN = {
    "preferences": "preferences",
    "personality": "personality_traits",
    "appearance": "appearance_traits",
    "behavioral": "behavioral_metrics",
}

USERS = """insert into auth.users (id, email)
select md5('person' || g)::uuid, 'person' || g || '@example.org' from generate_series(1, %s) as g"""

# Which values are NULL, and what they are, follows from the number of the row and of the column.
_PICK = "(hashint4(g * 131 + {number}) & 2147483647)"
_VALUES = {
    "text": "'{name} ' || {pick} %% 500",
    "integer": "{pick} %% 101",
    "bigint": "1760000000000 + {pick}",
    "real": "({pick} %% 1000)::real / 1000",
    "jsonb": "jsonb_build_array('{name} ' || {pick} %% 50, 'more ' || {pick} %% 500)",
}
_LONG = {"ai_appearance_description", "omega_thoughts", "integrated_profile_summary"}

# {name: a single statement}: $1 is the user, $2 a number.
STATEMENTS = {
    "one_column": "update public.user_profiles set hair_color = 'written ' || $2 where user_id = $1",
    "one_path": (
        "update public.user_profiles set appearance_traits ="
        " jsonb_set(appearance_traits, '{hair,color}', to_jsonb('written ' || $2)) where user_id = $1"
    ),
    "bio": "update public.user_profiles set bio = 'Written ' || $2 where user_id = $1",
    "sign_in": "update public.user_profiles set last_login = now(), login_count = $2 where user_id = $1",
    "sign_up": "insert into auth.users (email) values ('new' || $1 || $2 || '@example.org')",
}

# {name: (on JSON, on columns)}, $1 is the user, $2 a number below 500.
READS = {
    "all of one profile": (
        "select * from public.user_profiles where user_id = $1",
        "select * from bench.wide where user_id = $1",
    ),
    "one value of one profile": (
        "select personality_traits -> 'bigFive' ->> 'openness' from public.user_profiles where user_id = $1",
        "select openness_score from bench.wide where user_id = $1",
    ),
    "filter: preferences": (
        "select user_id from public.user_profiles where preferences @> jsonb_build_object('theme', 'theme ' || $2)",
        "select user_id from bench.wide where preferences @> jsonb_build_object('theme', 'theme ' || $2)",
    ),
    "filter: personality": (
        "select user_id from public.user_profiles where personality_traits @> jsonb_build_object('attachmentStyle', 'attachment_style ' || $2)",
        "select user_id from bench.wide where attachment_style = 'attachment_style ' || $2",
    ),
    "filter: appearance": (
        "select user_id from public.user_profiles where appearance_traits @> jsonb_build_object('hair', jsonb_build_object('color', 'hair_color ' || $2))",
        "select user_id from bench.wide where hair_color = 'hair_color ' || $2",
    ),
    "filter: behavior": (
        "select user_id from public.user_profiles where behavioral_metrics @> jsonb_build_object('social', jsonb_build_object('humorStyle', 'humor_style ' || $2))",
        "select user_id from bench.wide where humor_style = 'humor_style ' || $2",
    ),
    "filter: two values": (
        "select user_id from public.user_profiles where appearance_traits @> jsonb_build_object('hair', jsonb_build_object('color', 'hair_color ' || $2), 'eyes', jsonb_build_object('color', 'eye_color ' || $2))",
        "select user_id from bench.wide where hair_color = 'hair_color ' || $2 and eye_color = 'eye_color ' || $2",
    ),
    "average over all": (
        "select avg((personality_traits -> 'bigFive' ->> 'openness')::integer) from public.user_profiles where $2 >= 0",
        "select avg(openness_score) from bench.wide where $2 >= 0",
    ),
}
BTREES = ("attachment_style", "hair_color", "humor_style", "eye_color")


def value_of(number: int, column: TraitColumn) -> str:
    """The SQL that fills a trait column of row g."""
    pick = _PICK.format(number=number)
    value = _VALUES[column.data_type].format(name=column.name, pick=pick)
    if column.name in _LONG:
        value = "md5(g::text) || md5(g + 1 || '') || md5(g + 2 || '') || md5(g + 3 || '') || md5(g + 4 || '')"
    return f"case when {pick} / 512 %% 4 > 0 then {value} end"


def naive_assignments() -> str:
    """SET of an UPDATE that builds all groups, as one would write it first."""
    assignments = []
    for group, of_group in groupby(sorted(trait_columns(), key=lambda c: (c.group, c.path)), lambda c: c.group):
        members = []
        for key, of_key in groupby(of_group, lambda c: c.path[0]):
            columns = list(of_key)
            inner = ", ".join(f"'{c.path[1]}', {c.name}" for c in columns if len(c.path) > 1)
            members.append(f"'{key}', " + (f"jsonb_build_object({inner})" if inner else columns[0].name))
        assignments.append(f"{group} = jsonb_strip_nulls(jsonb_build_object({', '.join(members)}))")
    return ", ".join(assignments)


@dataclass
class Cost:
    """What one variant took in one round."""

    profiles: int
    seconds: float
    cpu: float


@dataclass
class Bench:
    """The database, and the wide table that every variant begins with."""

    dsn: str
    profiles: int
    connection: Any = None
    gin: bool = True
    users: list[str] = field(default_factory=list)
    taken: int = 0
    different: int = 0

    def __post_init__(self) -> None:
        self.connection = psycopg2.connect(self.dsn)
        self.connection.autocommit = True
        columns = trait_columns()
        self.run("alter table public.user_profiles set (autovacuum_enabled = off)")
        self.run("alter table auth.users disable trigger user")
        self.run(USERS, (self.profiles,))
        self.run("alter table auth.users enable trigger user")
        self.run(
            "alter table public.user_profiles "
            + ", ".join(
                f"add column {c.name} {c.data_type}" + (f" default {c.default}" if c.default else "") for c in columns
            )
        )
        self.run("create schema bench")
        self.run("create table bench.wide (like public.user_profiles including all)")
        self.run(
            "insert into bench.wide (id, user_id, username, email, display_name, preferences,"
            f" {', '.join(c.name for c in columns)})"
            " select md5('person' || g), md5('person' || g)::uuid, 'person' || g, 'person' || g || '@example.org', 'Person ' || g,"
            " jsonb_build_object('theme', 'theme ' || g %% 500, 'digest', g %% 2 = 0),"
            f" {', '.join(value_of(number, c) for number, c in enumerate(columns))} from generate_series(1, %s) as g",
            (self.profiles,),
        )
        self.assignments = naive_assignments()
        self.run("vacuum analyze")
        self.users = [row[0] for row in self.rows("select user_id::text from bench.wide order by md5(id)")]

    def rows(self, sql: str, values: Any = None) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    def run(self, sql: str, values: Any = None) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)

    def value(self, sql: str) -> Any:
        return self.rows(sql)[0][0]

    def reset(self) -> None:
        """Every variant begins with the same: wide rows that nobody has recorded yet, none of them dead."""
        self.run("select profiles_internal.remove_dual_write()")
        self.run("delete from profiles_internal.legacy_columns; delete from profiles_internal.kept_json")
        self.run("delete from profiles_internal.jobs")
        self.run("truncate public.user_profiles, public.user_progress, public.user_profile_audit_logs")
        self.run("delete from auth.users where email like 'new%'")
        self.set_gin(wanted=False)
        with self.without_triggers():
            self.run("insert into public.user_profiles select * from bench.wide")
        self.set_gin(wanted=self.gin)
        self.run("vacuum analyze public.user_profiles, public.user_progress, auth.users")
        self.run("checkpoint")

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        self.run("set session_replication_role = replica")
        try:
            yield
        finally:
            self.run("reset session_replication_role")

    def set_gin(self, *, wanted: bool) -> None:
        for name, column in GIN.items():
            index = f"idx_user_profiles_{name}_gin"
            if wanted:
                rows = "" if column == "preferences" else f" where {column} is not null"
                self.run(
                    f"create index if not exists {index} on public.user_profiles using gin ({column} jsonb_path_ops){rows}"
                )
            else:
                self.run(f"drop index if exists public.{index}")

    def clean_gin(self) -> None:
        """What an index has put off is part of what the writes cost."""
        self.run(
            "select gin_clean_pending_list(x.indexrelid) from pg_index as x join pg_class as c on c.oid = x.indexrelid"
            " where x.indrelid = 'public.user_profiles'::regclass and c.relname like '%%_gin'"
        )

    # The conversion

    def expand(self) -> None:
        """As revision 0016 does; then every session meets the new trigger."""
        engine, _ = metered_engine(self.dsn)
        with engine.connect() as connection:
            connection.exec_driver_sql("set lock_timeout = '100ms'")
            give_up = time.monotonic() + GIVE_UP_SECONDS
            while True:
                try:
                    connection.exec_driver_sql("select profiles_internal.expand_traits()")
                    connection.commit()
                    break
                except DBAPIError:
                    connection.rollback()
                    if time.monotonic() > give_up:
                        raise
        time.sleep(EXPAND_SECONDS)

    def ours(self) -> Cost:
        engine, cpu = metered_engine(self.dsn)
        started = time.monotonic()
        with engine.connect() as connection:
            for _ in normalize.convert(connection):
                pass
        seconds = time.monotonic() - started
        before = cpu_seconds(self.connection)
        self.clean_gin()
        cleaning = cpu_seconds(self.connection) - before
        self.different += self.value("select count(*) from profiles_internal.trait_differences()")
        self.different += self.value("select count(*) from profiles_internal.legacy_columns where state <> 'converted'")
        return Cost(self.profiles, seconds, cpu() + cleaning)

    def statement(self) -> Cost:
        return self._timed(lambda: self.run(f"update public.user_profiles set {self.assignments}"))

    def bare(self) -> Cost:
        with self.without_triggers():
            return self.statement()

    def keyset(self) -> Cost:
        return self._timed(self._keyset)

    def keyset_bare(self) -> Cost:
        with self.without_triggers():
            return self.keyset()

    def _keyset(self) -> None:
        last = "00000000-0000-0000-0000-000000000000"
        while keys := self.rows(
            "select user_id::text from public.user_profiles where user_id > %s::uuid order by user_id limit %s",
            (last, KEYSET_ROWS),
        ):
            self._update(keys)
            last = keys[-1][0]

    def offset(self) -> Cost:
        return self._timed(self._offset)

    def _offset(self) -> None:
        done = 0
        while keys := self.rows(
            "select user_id::text from public.user_profiles order by user_id limit %s offset %s", (OFFSET_ROWS, done)
        ):
            self._update(keys)
            done += len(keys)

    def _update(self, keys: list[Any]) -> None:
        self.run(
            f"update public.user_profiles set {self.assignments} where user_id = any (%s::uuid[])",
            ([key for (key,) in keys],),
        )

    def _timed(self, work: Callable[[], None]) -> Cost:
        cpu, started = cpu_seconds(self.connection), time.monotonic()
        work()
        seconds = time.monotonic() - started
        self.clean_gin()
        return Cost(self.profiles, seconds, cpu_seconds(self.connection) - cpu)

    # Single statements

    def cpu_of(self, sql: str, statements: int, *, modulo: int = 1_000_000) -> float:
        """Microseconds of CPU per statement; each for another user."""
        self.run(f"prepare single (uuid, integer) as {sql}")
        self._execute(WARM_UP, modulo)
        self.clean_gin()
        before = cpu_seconds(self.connection)
        self._execute(statements, modulo)
        self.clean_gin()
        used = cpu_seconds(self.connection) - before
        self.run("deallocate single")
        return used / statements * 1e6

    def _execute(self, statements: int, modulo: int) -> None:
        with self.connection.cursor() as cursor:
            for _ in range(statements):
                self.taken += 1
                cursor.execute(
                    "execute single (%s, %s)", (self.users[self.taken % len(self.users)], self.taken % modulo)
                )

    def size(self) -> dict[str, int]:
        (row,) = self.rows(
            "select pg_table_size(c.oid) - coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0),"
            " coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0), pg_indexes_size(c.oid),"
            " pg_total_relation_size(c.oid) from pg_class as c where c.oid = 'public.user_profiles'::regclass"
        )
        return dict(zip(("table", "toast", "indexes", "all"), row, strict=True))


def operate(cursor: Any, number: int, series: str, present: list[str]) -> None:
    """One operation of the load."""
    if number // 2 % 2:
        cursor.execute("insert into auth.users (email) values (%s)", (f"new{series}x{number}@example.org",))
    else:
        cursor.execute(
            "update public.user_profiles set hair_color = %s where user_id = %s",
            (f"operation {number}", present[number * 7919 % len(present)]),
        )


def medians(seen: Mapping[str, list[Cost]]) -> dict[str, dict[str, float]]:
    """Per variant."""
    return {
        variant: {
            "profiles_per_second": round(statistics.median(cost.profiles / cost.seconds for cost in costs)),
            "cpu_us_per_profile": round(statistics.median(cost.cpu / cost.profiles * 1e6 for cost in costs), 1),
        }
        for variant, costs in seen.items()
    }


def measure_idle(bench: Bench, rounds: int) -> dict[str, dict[str, float]]:
    """All variants in turns."""
    variants = {
        "ours": bench.ours,
        "statement": bench.statement,
        "bare": bench.bare,
        "keyset": bench.keyset,
        "keyset_bare": bench.keyset_bare,
        "offset": bench.offset,
    }
    seen: dict[str, list[Cost]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant, work in variants.items():
            bench.reset()
            seen[variant].append(work())
            tell(".")
    return medians(seen)


def measure_load(bench: Bench, rounds: int, rate: float) -> dict[str, dict[str, float]]:
    """All rounds of a variant taken together: a single one has too few operations for a p99."""
    length = 5.0
    costs: dict[str, list[Cost]] = {"ours": [], "keyset": []}

    def ours() -> None:
        nonlocal length
        costs["ours"].append(bench.ours())
        length = costs["ours"][-1].seconds

    variants: dict[str, Callable[[], object]] = {
        "expand": bench.expand,
        "ours": ours,
        "nothing": lambda: time.sleep(length),
        "keyset": lambda: costs["keyset"].append(bench.keyset()),
    }
    seen: dict[str, list[Operation]] = {variant: [] for variant in variants}
    for round_number in range(rounds):
        for variant, work in variants.items():
            bench.reset()
            before = bench.expand if variant == "ours" else lambda: None
            seen[variant] += during(bench.dsn, rate, f"{variant}{round_number}", operate, work, before=before)
            tell(".")
    cost = medians(costs)
    return {variant: percentiles(operations) | cost.get(variant, {}) for variant, operations in seen.items()}


def compare(
    bench: Bench, rounds: int, statements: int, names: list[str], switches: Mapping[str, Callable[[], object]]
) -> dict[str, dict[str, float]]:
    """CPU of single statements in two states of the database, and the first by the second."""
    first, second = switches
    seen: dict[str, dict[str, list[float]]] = {name: {first: [], second: []} for name in names}
    for _ in range(rounds):
        for state, switch in switches.items():
            switch()
            bench.run("vacuum analyze public.user_profiles")
            for name in names:
                seen[name][state].append(bench.cpu_of(STATEMENTS[name], statements))
            tell(".")
    return {name: ratio({state: statistics.median(v) for state, v in values.items()}) for name, values in seen.items()}


def ratio(cpu: Mapping[str, float]) -> dict[str, float]:
    """Two medians in microseconds, and the first by the second."""
    first, second = cpu.values()
    return {f"{name}_us": round(value, 1) for name, value in cpu.items()} | {"ratio": round(first / second, 3)}


def measure_dual_write(bench: Bench, rounds: int, statements: int) -> dict[str, dict[str, float]]:
    """With and without the trigger, everything converted."""
    bench.reset()
    bench.ours()
    switches = {
        "with": lambda: bench.run("select profiles_internal.install_dual_write()"),
        "without": lambda: bench.run("select profiles_internal.remove_dual_write()"),
    }
    return compare(bench, rounds, statements, list(STATEMENTS), switches)


def measure_size(bench: Bench) -> dict[str, dict[str, int]]:
    """From wide to contracted; leaves the table contracted."""
    bench.reset()
    result = {"wide": bench.size()}
    bench.ours()
    result["converted"] = bench.size()
    engine, _ = metered_engine(bench.dsn)
    with engine.connect() as connection:
        for _ in normalize.contract(connection, now=True):
            pass
    bench.run("vacuum public.user_profiles")
    result["contracted_and_vacuumed"] = bench.size()
    bench.run("vacuum full public.user_profiles")
    result["rewritten"] = bench.size()
    return result


def measure_reads(bench: Bench, rounds: int, statements: int) -> dict[str, dict[str, float]]:
    """The contracted table against the wide one."""
    for column in BTREES:
        bench.run(f"create index on bench.wide ({column})")
    bench.run("vacuum analyze public.user_profiles, bench.wide")
    seen: dict[str, dict[str, list[float]]] = {name: {"json": [], "columns": []} for name in READS}
    for _ in range(rounds):
        for name, (on_json, on_columns) in READS.items():
            often = max(1, statements // (50 if name == "average over all" else 1))
            seen[name]["json"].append(bench.cpu_of(on_json, often, modulo=500))
            seen[name]["columns"].append(bench.cpu_of(on_columns, often, modulo=500))
        tell(".")
    return {name: ratio({shape: statistics.median(v) for shape, v in values.items()}) for name, values in seen.items()}


def measure_gin(bench: Bench, rounds: int, statements: int) -> dict[str, dict[str, float]]:
    """What the four indexes cost the writes that touch a group, and those that touch none."""
    names = [name for name in STATEMENTS if name != "one_column"]
    switches = {"with": lambda: bench.set_gin(wanted=True), "without": lambda: bench.set_gin(wanted=False)}
    result = compare(bench, rounds, statements, names, switches)
    bench.set_gin(wanted=True)
    for name in names[:-1]:
        result[name]["hot_share"] = hot_share(bench, name, statements)
    return result


def hot_share(bench: Bench, name: str, statements: int) -> float:
    """The share of the updates that leave all indexes alone, the GIN indexes among them."""
    counts = "select n_tup_hot_upd, n_tup_upd from pg_stat_user_tables where relid = 'public.user_profiles'::regclass"
    bench.run("vacuum public.user_profiles")
    bench.run("select pg_stat_force_next_flush()")
    (before,) = bench.rows(counts)
    bench.cpu_of(STATEMENTS[name], statements)
    bench.run("select pg_stat_force_next_flush()")
    (after,) = bench.rows(counts)
    return round((after[0] - before[0]) / max(1, after[1] - before[1]), 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=50.0, help="operations of the concurrent load per second")
    parser.add_argument("--statements", type=int, default=500, help="single statements per round and state")
    parser.add_argument("--only", help="parts to measure, by name, with commas between; no aims, exit code 0")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rounds, statements = arguments.rounds, arguments.statements

    bench = Bench(fresh_database(DATABASE), arguments.profiles)

    def without_gin() -> dict[str, Any]:
        bench.gin = False
        try:
            return measure_idle(bench, rounds)
        finally:
            bench.gin = True

    def contracted(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if bench.value(
            "select exists (select from pg_attribute where attrelid = 'public.user_profiles'::regclass and attname = 'hair_color')"
        ):
            measure_size(bench)
        return measure()

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "idle": without_gin,
        "idle_with_gin": lambda: measure_idle(bench, rounds),
        "load": lambda: measure_load(bench, rounds, arguments.rate),
        "dual_write": lambda: measure_dual_write(bench, rounds * 3, statements),
        "size": lambda: measure_size(bench),
        "reads": lambda: contracted(lambda: measure_reads(bench, rounds, statements)),
        "gin": lambda: contracted(lambda: measure_gin(bench, rounds * 3, statements)),
    }
    result: dict[str, Any] = {
        "profiles": arguments.profiles,
        "rounds": rounds,
        "load_per_second": arguments.rate,
        "statements": statements,
        "aims": {},
    }
    for name, measure in parts.items():
        if not arguments.only or name in arguments.only.split(","):
            result[name] = measure()
    bench.connection.close()
    if not arguments.only:
        result["aims"] = aims(result, bench.different)
    return report(result, arguments.out)


def aims(result: dict[str, Any], different: int) -> dict[str, Any]:
    """What the numbers are held to."""
    load, dual_write, size = result["load"], result["dual_write"], result["size"]
    found: dict[str, Any] = {}
    for part in ("idle", "idle_with_gin"):
        cpu = {variant: cost["cpu_us_per_profile"] for variant, cost in result[part].items()}
        found[f"{part}_to_statement"] = at_least(round(cpu["statement"] / cpu["ours"], 3), IDLE_RATIO)
    speed = {variant: load[variant]["profiles_per_second"] for variant in ("ours", "keyset")}
    return found | {
        "load_to_keyset": at_least(round(speed["ours"] / speed["keyset"], 3), LOAD_RATIO),
        "p99_ms": p99_aim(load["ours"]["p99_ms"], load["nothing"]["p99_ms"]),
        "failed_operations": at_most(sum(int(load[variant]["failed"]) for variant in load), 0),
        "one_column": at_most(dual_write["one_column"]["ratio"], COLUMN_RATIO),
        "no_trait": at_most(max(dual_write[name]["ratio"] for name in ("bio", "sign_in")), OTHER_RATIO),
        "size": at_most(round(size["contracted_and_vacuumed"]["all"] / size["rewritten"]["all"], 3), SIZE_RATIO),
        "different_values": at_most(different, 0),
    }


if __name__ == "__main__":
    sys.exit(main())
