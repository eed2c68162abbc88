"""What a sign-up costs the server: ours against the limit, a bare insert, and a naive trigger.

Server CPU of the backend (from /proc/PID/schedstat), alternating variants in one run, medians of the rounds. Client and
backend keep to one CPU each: left to the scheduler, the bare insert costs 10 or 30 us, by where its client happens to run.
Full tables with every index of this package; the variants differ in what happens after the row of auth.users is inserted:

  bare    nothing
  limit   the same statement inserts profile and progress, too; no trigger of any kind
  ours    the migrated database as it is
  naive   a row-level trigger as people write it: loop for a free username, one INSERT per table, no guard

`flow` is what the auth server sends for one sign-up: INSERT and two UPDATEs of the user, in one transaction.

    python benchmarks/signup.py [--users 2000] [--rounds 5] [--parts] [--out FILE]

With `--parts` it takes parts of ours away, one at a time and each in a database of its own, and says what a sign-up costs then.

Works on a database of its own on the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import psycopg2
from common import cpu_seconds, fresh_database, tell

CPUS = sorted(os.sched_getaffinity(0))

SINGLE = """insert into auth.users (id, email, raw_user_meta_data, last_sign_in_at)
values (%s, %s, '{"full_name": "Ada Lovelace", "avatar_url": "https://example.org/a.png"}', null)"""

IMPORT = """insert into auth.users (id, email, raw_user_meta_data)
select ('00000000-0000-4000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, 'person' || g || '@example.org',
  '{"full_name": "Ada Lovelace", "avatar_url": "https://example.org/a.png"}'
from generate_series(%s, %s) as g"""

_PROFILE = """insert into public.user_profiles (id, user_id, username, display_name, email, avatar_url, email_verified, is_anonymous)
  select u.id::text, u.id, split_part(u.email, '@', 1), u.raw_user_meta_data ->> 'full_name', u.email,
    u.raw_user_meta_data ->> 'avatar_url', false, false from u returning user_id"""

LIMIT_SINGLE = f"""with u as ({SINGLE} returning *), p as ({_PROFILE})
insert into public.user_progress (user_id) select user_id from p"""
LIMIT_IMPORT = f"""with u as ({IMPORT} returning *), p as ({_PROFILE})
insert into public.user_progress (user_id) select user_id from p"""

NAIVE = """
create schema naive;
create function naive.handle_new_user() returns trigger language plpgsql security definer as $handle_new_user$
declare
  base text := lower(split_part(new.email, '@', 1));
  candidate text := base;
  suffix integer := 0;
begin
  while exists (select 1 from public.user_profiles where lower(username) = candidate) loop
    suffix := suffix + 1;
    candidate := base || suffix;
  end loop;
  insert into public.user_profiles (id, user_id, username, display_name, email, avatar_url)
  values (new.id::text, new.id, candidate, new.raw_user_meta_data ->> 'full_name', new.email, new.raw_user_meta_data ->> 'avatar_url');
  insert into public.user_progress (user_id) values (new.id);
  return new;
end
$handle_new_user$;
create trigger naive after insert on auth.users for each row execute function naive.handle_new_user();
alter table auth.users disable trigger naive;
"""


# What is taken away. Triggers of user_profiles that only look at a condition count as one part, and so do the foreign keys.
_WITHOUT_CHECKS = """do $checks$ declare name text; begin
  for name in select conname from pg_constraint where conrelid = 'public.{0}'::regclass and contype = 'c' and conname ~ '{1}' loop
    execute format('alter table public.{0} drop constraint %I', name);
  end loop;
end $checks$"""
PARTS = {
    "the CHECK of all columns": _WITHOUT_CHECKS.format("user_profiles", "values_keep_their_rules"),
    "6 CHECKs of traits": _WITHOUT_CHECKS.format("user_profiles", "is_object"),
    "2 CHECKs of counters": _WITHOUT_CHECKS.format("user_profiles", "not_negative"),
    "5 CHECKs of user_progress": _WITHOUT_CHECKS.format("user_progress", "."),
    "4 GIN indexes": "drop index public.idx_user_profiles_preferences_gin, public.idx_user_profiles_personality_gin,"
    " public.idx_user_profiles_appearance_gin, public.idx_user_profiles_behavioral_gin",
    "2 plain indexes": "drop index public.idx_user_profiles_updated_at, public.idx_user_profiles_last_analyzed",
    "2 unique constraints": "alter table public.user_profiles drop constraint uq_user_profiles_external_id,"
    " drop constraint uq_user_profiles_referral_code",
    "2 foreign keys": "alter table public.user_profiles drop constraint fk_user_profiles_user_id_users;"
    "alter table public.user_progress drop constraint fk_user_progress_user_id_users",
    "4 triggers that do not fire": "drop trigger fill_missing_profile_id on public.user_profiles;"
    "drop trigger require_known_timezone on public.user_profiles;"
    "drop trigger record_profile_creation on public.user_profiles; drop trigger roll_up_new_progress on public.user_progress",
    "pinned settings of inner functions": "alter function profiles_internal.create_profiles reset all;"
    "alter function profiles_internal.profile_values reset all",
}


class Bench:
    """A database with the four variants, and the CPU of the backend that runs them."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self.connection = connection
        self.next_user = 1

    def run(self, sql: str, values: tuple[object, ...] = ()) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values or None)

    def switch(self, variant: str) -> None:
        ours = "enable" if variant == "ours" else "disable"
        naive = "enable" if variant == "naive" else "disable"
        self.run(f"alter table auth.users {ours} trigger profiles_on_auth_user_created")
        self.run(f"alter table auth.users {ours} trigger profiles_on_auth_user_updated")
        self.run(f"alter table auth.users {naive} trigger naive")
        # The naive trigger writes to the table as a naive project would have it: without triggers of ours.
        self.run(f"alter table public.user_profiles {ours} trigger user")

    def take(self, users: int) -> int:
        first, self.next_user = self.next_user, self.next_user + users
        return first

    def single(self, variant: str, users: int) -> int:
        self.run(f"prepare sign_up (uuid, text) as {(LIMIT_SINGLE if variant == 'limit' else SINGLE) % ('$1', '$2')}")
        first = self.take(users)
        with self.connection.cursor() as cursor:
            for n in range(first, first + users):
                cursor.execute(
                    "execute sign_up (%s, %s)", (f"00000000-0000-4000-8000-{n:012x}", f"person{n}@example.org")
                )
        self.run("deallocate sign_up")
        return users

    def thousand(self, variant: str, users: int) -> int:
        statements = max(1, users // 500)
        for _ in range(statements):
            first = self.take(1000)
            self.run(LIMIT_IMPORT if variant == "limit" else IMPORT, (first, first + 999))
        return statements * 1000

    def flow(self, variant: str, users: int) -> int:
        """What the auth server sends for a sign-up."""
        self.run(f"prepare sign_up (uuid, text) as {(LIMIT_SINGLE if variant == 'limit' else SINGLE) % ('$1', '$2')}")
        self.run(
            'prepare provider (uuid) as update auth.users set raw_app_meta_data = \'{"provider": "email"}\', updated_at = now()'
            " where id = $1"
        )
        self.run(
            "prepare confirm (uuid) as update auth.users set email_confirmed_at = now(), updated_at = now() where id = $1"
        )
        first = self.take(users)
        with self.connection.cursor() as cursor:
            for n in range(first, first + users):
                user = f"00000000-0000-4000-8000-{n:012x}"
                cursor.execute("begin")
                cursor.execute("execute sign_up (%s, %s)", (user, f"person{n}@example.org"))
                cursor.execute("execute provider (%s)", (user,))
                cursor.execute("execute confirm (%s)", (user,))
                cursor.execute("commit")
        self.run("deallocate all")
        return users

    def sign_in(self, variant: str, users: int) -> int:
        """A sign-in: auth.users.last_sign_in_at moves, and nothing else."""
        self.run(
            "prepare sign_in (uuid) as update auth.users set last_sign_in_at = clock_timestamp(), updated_at = now() where id = $1"
        )
        with self.connection.cursor() as cursor:
            for n in range(1, users + 1):
                cursor.execute("execute sign_in (%s)", (f"00000000-0000-4000-8000-{n:012x}",))
                if variant == "limit":  # the least that carrying it over can cost: a second UPDATE from the same client
                    cursor.execute(
                        "update public.user_profiles set last_login = now(), login_count = login_count + 1 where user_id = %s",
                        (f"00000000-0000-4000-8000-{n:012x}",),
                    )
        self.run("deallocate sign_in")
        return users


def measure(
    bench: Bench, work: Callable[[str, int], int], variants: list[str], users: int, rounds: int
) -> dict[str, float]:
    """Median microseconds of server CPU per user and variant."""
    seen: dict[str, list[float]] = {variant: [] for variant in variants}
    for round_number in range(rounds + 1):
        for variant in variants:
            bench.switch(variant)
            bench.run("checkpoint")
            before = cpu_seconds(bench.connection)
            done = work(variant, users)
            if round_number:  # the first one warms up
                seen[variant].append((cpu_seconds(bench.connection) - before) / done * 1e6)
        tell(".")
    return {variant: round(statistics.median(values), 1) for variant, values in seen.items()}


def keep_to_one_cpu_each(connection: psycopg2.extensions.connection) -> None:
    """The client on one CPU, the backend on another, where there are two."""
    os.sched_setaffinity(connection.info.backend_pid, {CPUS[-1]})
    os.sched_setaffinity(0, {CPUS[0]})


def measure_parts(dsn: str, users: int, rounds: int) -> dict[str, object]:
    """What single sign-ups and imports cost without one part of ours, in ratios to the bare insert of the same run."""
    name = psycopg2.extensions.parse_dsn(dsn)["dbname"]
    administrator = psycopg2.connect(dsn, dbname="postgres")
    administrator.autocommit = True
    benches: dict[str, Bench] = {}
    for number, (part, sql) in enumerate({"nothing": "", **PARTS}.items()):
        with administrator.cursor() as cursor:
            cursor.execute(f"drop database if exists {name}_{number}")
            cursor.execute(f"create database {name}_{number} template {name}")
        benches[part] = bench = Bench(psycopg2.connect(dsn, dbname=f"{name}_{number}"))
        bench.connection.autocommit = True
        keep_to_one_cpu_each(bench.connection)
        bench.run(f"set synchronous_commit = off; {sql}")
        bench.next_user = 100_000
        bench.run("vacuum analyze")
    result: dict[str, object] = {}
    for kind in ("single", "import_1000"):
        seen: dict[str, list[float]] = {}
        for round_number in range(rounds + 1):
            for part, bench in benches.items():
                for variant in ("bare", "ours") if part == "nothing" else ("ours",):
                    bench.switch(variant)
                    bench.run("checkpoint")
                    before = cpu_seconds(bench.connection)
                    done = (bench.single if kind == "single" else bench.thousand)(variant, users)
                    if round_number:
                        key = "bare" if variant == "bare" else part
                        seen.setdefault(key, []).append((cpu_seconds(bench.connection) - before) / done * 1e6)
            tell(".")
        cpu = {key: statistics.median(values) for key, values in seen.items()}
        result[kind] = {"bare_us": round(cpu.pop("bare"), 1)} | {
            f"without {part}": round(value / statistics.median(seen["bare"]), 2) for part, value in cpu.items()
        }
    for bench in benches.values():
        bench.connection.close()
    with administrator.cursor() as cursor:
        for number in range(len(benches)):
            cursor.execute(f"drop database {name}_{number}")
    administrator.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=2000, help="sign-ups per round and variant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", action="store_true", help="what each part of ours costs, by taking it away")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    dsn = fresh_database("benchmark_signup")
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    keep_to_one_cpu_each(connection)
    bench = Bench(connection)
    bench.run(NAIVE)
    bench.run("set synchronous_commit = off")
    bench.switch("ours")
    bench.thousand("ours", 20_000)  # indexes with some depth
    bench.run("vacuum analyze")

    if arguments.parts:
        connection.close()
        write(measure_parts(dsn, arguments.users, arguments.rounds), arguments.out)
        return

    variants = ["bare", "limit", "naive", "ours"]
    result: dict[str, object] = {
        "users": arguments.users,
        "rounds": arguments.rounds,
        "unit": "us of server CPU per user",
    }
    for name, work, names in (
        ("single", bench.single, variants),
        ("import_1000", bench.thousand, variants),
        ("flow", bench.flow, variants),
        ("sign_in", bench.sign_in, ["bare", "limit", "ours"]),
    ):
        cpu = measure(bench, work, names, arguments.users, arguments.rounds)
        result[name] = {
            "cpu": cpu,
            "ours_to_limit": round(cpu["ours"] / cpu["limit"], 3),
            "ours_to_bare": round(cpu["ours"] / cpu["bare"], 3),
            **({"ours_to_naive": round(cpu["ours"] / cpu["naive"], 3)} if "naive" in cpu else {}),
        }
    connection.close()
    write(result, arguments.out)


def write(result: dict[str, object], out: Path | None) -> None:
    """Print the result and keep it."""
    text = json.dumps(result, indent=2)
    print("\n" + text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
