"""What a sign-up costs the server: ours against the limit, a bare insert, and a naive trigger.

Server CPU of the backend (from /proc/PID/schedstat), alternating variants in one run, medians of the rounds. Full
tables with every index of this package; the variants differ in what happens after the row of auth.users is inserted:

  bare    nothing
  limit   the same statement inserts profile and progress, too; no trigger of any kind
  ours    the migrated database as it is
  naive   a row-level trigger as people write it: loop for a free username, one INSERT per table, no guard

    python benchmarks/signup.py [--users 1500] [--rounds 5] [--out FILE]

Works on a database of its own on the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import psycopg2
from common import cpu_seconds, fresh_database, tell

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=2000, help="sign-ups per round and variant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    connection = psycopg2.connect(fresh_database("benchmark_signup"))
    connection.autocommit = True
    bench = Bench(connection)
    bench.run(NAIVE)
    bench.run("set synchronous_commit = off")
    bench.switch("ours")
    bench.thousand("ours", 20_000)  # indexes with some depth
    bench.run("vacuum analyze")

    variants = ["bare", "limit", "naive", "ours"]
    result: dict[str, object] = {
        "users": arguments.users,
        "rounds": arguments.rounds,
        "unit": "us of server CPU per user",
    }
    for name, work, names in (
        ("single", bench.single, variants),
        ("import_1000", bench.thousand, variants),
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
    text = json.dumps(result, indent=2)
    print("\n" + text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
