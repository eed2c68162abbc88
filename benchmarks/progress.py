"""What it costs to end sessions: by how many the user had before, and beside the least that any roll-up can cost.

Server CPU of the backend (from /proc/PID/schedstat), alternating variants in one run, medians of the rounds.

  history   one session ended, of a user with 10 ended sessions and of one with --sessions (100,000); the aim is 1.2
  latest    the latest session deleted, the only one with descriptions and words, by history likewise; aim 1.2
  single    one session ended, against the same statement without a roll-up and a bare UPDATE of the progress row; aim 1.3
  many      10,000 sessions of 1,000 users ended in one statement, likewise; aim 1.5
  recount   one session ended, counting everything anew as releases before did, against ours: what a long history cost

    python benchmarks/progress.py [--sessions 100000] [--rounds 5] [--out FILE]

Works on a database of its own on the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import psycopg2
from common import at_most, cpu_seconds, fresh_database, report, tell

TRIGGERS = "roll_up_inserted_sessions", "roll_up_changed_sessions", "roll_up_deleted_sessions"
END = "insert into public.sessions (user_id, started_at, ended_at, qa_attempts, qa_correct, duration_minutes) values (%s, now(), now(), 3, 2, 4)"
LATEST = (
    "insert into public.sessions (id, user_id, started_at, ended_at, descriptions_generated, vocabulary_learned)"
    " values ('00000000-0000-4000-8000-000000000001', %s, now(), now(), 1, 1)"
)
DELETE_LATEST = "delete from public.sessions where id = '00000000-0000-4000-8000-000000000001'"
BARE = (
    "update public.user_progress set total_sessions = total_sessions + 1, total_questions_answered = total_questions_answered + 3,"
    " last_activity_at = now() where user_id = %s"
)
END_MANY = "update public.sessions set ended_at = now(), qa_attempts = 3, qa_correct = 2 where ended_at is null"
BARE_MANY = (
    "update public.user_progress as p set total_sessions = total_sessions + 10, last_activity_at = now()"
    " where p.user_id in (select s.user_id from public.sessions as s where s.started_at = '2020-01-01')"
)


class Bench:
    """A connection whose CPU is metered."""

    def __init__(self, dsn: str, rounds: int) -> None:
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.rounds = rounds

    def run(self, sql: str, *values: Any) -> None:
        self.cursor.execute(sql, values)

    def users(self, count: int, domain: str) -> list[str]:
        self.cursor.execute(
            "insert into auth.users (email) select g || %s from generate_series(1, %s) as g returning id",
            (f"@{domain}", count),
        )
        return [row[0] for row in self.cursor.fetchall()]

    def history(self, user: str, sessions: int) -> None:
        self.run(
            "insert into public.sessions (user_id, started_at, ended_at, qa_attempts, qa_correct)"
            " select %s, now() - make_interval(mins => 11 * g + 5), now() - make_interval(mins => 11 * g), 3, 2"
            " from generate_series(1, %s) as g",
            user,
            sessions,
        )

    def seconds(self, *statements: tuple[str, tuple[Any, ...]], times: int = 1) -> float:
        """CPU of the statements, in a transaction that is rolled back each time."""
        before = cpu_seconds(self.connection)
        for _ in range(times):
            self.run("begin")
            for sql, values in statements:
                self.cursor.execute(sql, values)
            self.run("rollback")
        return (cpu_seconds(self.connection) - before) / times

    def switch(self, word: str) -> None:
        for trigger in TRIGGERS:
            self.run(f"alter table public.sessions {word} trigger {trigger}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000, help="in the long history (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each variant (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the result here, too")
    options = parser.parse_args()
    bench = Bench(fresh_database("profiles_schema_progress"), options.rounds)

    new, old = bench.users(2, "single.example.org")
    bench.history(new, 10)
    bench.history(old, options.sessions)
    for user in bench.users(1_000, "many.example.org"):
        bench.run(
            "insert into public.sessions (user_id, started_at) select %s, '2020-01-01' from generate_series(1, 10)",
            user,
        )
    for table in ("public.sessions", "public.user_progress", "profiles_internal.active_days"):
        bench.run(f"vacuum analyze {table}")

    taken: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        tell(f"\rround {number} of {options.rounds}")
        found = {
            "new": bench.seconds((END, (new,)), times=100),
            "old": bench.seconds((END, (old,)), times=100),
            "latest new": bench.seconds((LATEST, (new,)), (DELETE_LATEST, ()), times=20),
            "latest old": bench.seconds((LATEST, (old,)), (DELETE_LATEST, ()), times=20),
            "many": bench.seconds((END_MANY, ())),
            "recount": bench.seconds(("select profiles_internal.recount_progress(array[%s::uuid])", (old,)), times=1),
        }
        bench.switch("disable")
        found["bare"] = bench.seconds((END, (new,)), (BARE, (new,)), times=100)
        found["bare many"] = bench.seconds((END_MANY, ()), (BARE_MANY, ()))
        bench.switch("enable")
        if number:  # the first warms up
            for name, seconds in found.items():
                taken.setdefault(name, []).append(seconds)
    median = {name: statistics.median(each) for name, each in taken.items()}
    return report(
        {
            "benchmark": "progress",
            "sessions": options.sessions,
            "rounds": options.rounds,
            "cpu_us": {name: round(each * 1e6, 1) for name, each in median.items()},
            "aims": {
                "history": at_most(median["old"] / median["new"], 1.2),
                "latest": at_most(median["latest old"] / median["latest new"], 1.2),
                "single": at_most(median["new"] / median["bare"], 1.3),
                "many": at_most(median["many"] / median["bare many"], 1.5),
            },
            "recount_to_ours": round(median["recount"] / median["old"], 1),
        },
        options.out,
    )


if __name__ == "__main__":
    raise SystemExit(main())
