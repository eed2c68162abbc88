"""Sign-ups that all want the same name, from several connections at once: nobody fails, nobody goes without a profile.

Says how many sign-ups failed, how many users lack a profile or progress, and what a sign-up cost the server (CPU of the
backends, microseconds) in each tenth of the run: the last must not be dearer than the first.

    python benchmarks/same_name.py [--users 100000] [--connections 8] [--out FILE]

Works on a database of its own on the embedded PostgreSQL. Exit code 1 if a sign-up failed, a profile is missing, or the
last tenth cost more than 1.25 times the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path

import psycopg2
from common import fresh_database

DATABASE = "benchmark_same_name"
FLAT = 1.25


def sign_up(dsn: str, tenths: list[float], users: int, failures: list[str]) -> None:
    """One connection's share: ``users`` sign-ups; adds the CPU of each tenth to ``tenths``."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    schedstat = Path(f"/proc/{connection.info.backend_pid}/schedstat")
    with connection.cursor() as cursor:
        cursor.execute("set synchronous_commit = off")
        for tenth in range(10):
            before = int(schedstat.read_text(encoding="ascii").split()[0])
            for _ in range(users // 10):
                try:
                    cursor.execute("insert into auth.users (email) values ('ada@example.org')")
                except psycopg2.Error as error:
                    failures.append(error.pgcode or type(error).__name__)
            tenths[tenth] += (int(schedstat.read_text(encoding="ascii").split()[0]) - before) / 1e3
    connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    dsn = fresh_database(DATABASE)
    share = arguments.users // arguments.connections // 10 * 10
    per_connection = [[0.0] * 10 for _ in range(arguments.connections)]
    failures: list[str] = []
    threads = [threading.Thread(target=sign_up, args=(dsn, tenths, share, failures)) for tenths in per_connection]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute(
            "select count(*), count(*) filter (where p.user_id is null or g.user_id is null) from auth.users as u"
            " left join public.user_profiles as p on p.user_id = u.id left join public.user_progress as g on g.user_id = u.id"
        )
        users, missing = cursor.fetchone()
        cursor.execute("select count(*) from public.user_profile_audit_logs where action in ('failed', 'skipped')")
        (recorded,) = cursor.fetchone()
    connection.close()
    cpu = [
        round(sum(tenths[n] for tenths in per_connection) / (share * arguments.connections / 10), 1) for n in range(10)
    ]
    result = {
        "users": users,
        "failed_sign_ups": len(failures),
        "missing": missing,
        "recorded_failures": recorded,
        "cpu_us_per_sign_up_by_tenth": cpu,
        "last_to_first": round(cpu[-1] / cpu[0], 3),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return int(bool(failures or missing or result["last_to_first"] > FLAT))


if __name__ == "__main__":
    sys.exit(main())
