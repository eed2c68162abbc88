"""Break the upgrade of a live database on purpose, for long: it must lose nothing, end in one line, and need nobody.

Users sign up and sign in all the while.

- replicas: several `profiles-schema upgrade` work on one database; now and then one of them is killed (SIGKILL) and
  another one started.
- interruptions: Ctrl-C, SIGTERM, a terminated backend, and a restart of the server (`fast`), each at several moments, each
  on a fresh copy: the exit code must be 130, 143 or 3, with one `error:` line, and the next run must complete.

At each end every user has a profile and progress, and after `backfill` no email and no last sign-in is stale.

    PYTHONPATH=tests python -m chaos.upgrade [--users 20000] [--replicas 6] [--kills 5] [--moments 10] [--seed 1]

Prints one JSON object; exit code 1 if anything that is promised did not hold ("broken" says what).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psycopg2

from chaos.adopt import ChaosOfAdoption, stood_at
from chaos.backfill import WAIT_SECONDS, ended
from profiles_schema import local
from profiles_schema.migrations import locking
from support import REPOSITORY, Database

LOAD_THREADS = 3
LOAD_PAUSE_SECONDS = 0.01
PROGRAMS = ("profiles_schema", "alembic")
# What is done to a run, and the exit code that it must end with.
INTERRUPTIONS = {"ctrl_c": 130, "sigterm": 143, "terminated_backend": 3, "server_restart": 3}
MIGRATORS = "from pg_stat_activity where datname = current_database() and application_name like '% migrate'"


class Load:
    """Users who sign up and sign in, from threads of their own, until the block ends."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.seed = seed
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self.threads = [threading.Thread(target=self._work, args=(number,)) for number in range(LOAD_THREADS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join()

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        while not self._stop.is_set():
            try:
                with contextlib.closing(psycopg2.connect(self.url)) as connection:
                    connection.autocommit = True
                    with connection.cursor() as cursor:
                        while not self._stop.is_set():
                            self._once(cursor, chance)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                time.sleep(0.05)  # the server is restarted
            except psycopg2.Error as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def _once(self, cursor: psycopg2.extensions.cursor, chance: random.Random) -> None:
        some = "(select id from auth.users where id >= gen_random_uuid() order by id limit 1)"
        what = chance.choice(("sign_up", "sign_in", "sign_in", "new_email"))
        if what == "sign_up":
            cursor.execute(
                "insert into auth.users (email, last_sign_in_at) values (gen_random_uuid() || '@new.org', now())"
            )
        elif what == "sign_in":
            cursor.execute(f"update auth.users set last_sign_in_at = clock_timestamp() where id = {some}")
        else:
            cursor.execute(f"update auth.users set email = gen_random_uuid() || '@moved.org' where id = {some}")
        self.done[what] += 1
        time.sleep(LOAD_PAUSE_SECONDS * chance.random() * 2)


class ChaosOfUpgrade(ChaosOfAdoption):
    """A database with users, of whom none has a profile, and copies of it."""

    owner = None

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory, seed)
        self.backend: dict[subprocess.Popen[str], int] = {}

    def prepare_users(self, users: int) -> None:
        database = self.make("chaos_upgrade_found")
        database.upgrade("0005_create_sign_up_functions")
        database.script(
            "insert into auth.users (email, last_sign_in_at)"
            f" select 'usr' || g % 997 || '@' || g || '.org', now() from generate_series(1, {users}) as g; analyze auth.users"
        )
        database.engine.dispose()
        copy = self.make("chaos_upgrade_length", "chaos_upgrade_found")
        with Load(copy.url, 0):
            process = self.begin("profiles_schema")
            started = time.monotonic()
            ended(process)
            self.expect("undisturbed: exit code", process.returncode, 0)
            self.length = time.monotonic() - started
        self.drop(copy)

    def begin(self, program: str) -> subprocess.Popen[str]:
        """Start an upgrade; returns once it is connected, or has ended."""
        before, fresh = self.backends(), set[int]()
        process = subprocess.Popen(
            [sys.executable, "-m", program, "upgrade", "head"], cwd=REPOSITORY,
            env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        while process.poll() is None and not (fresh := self.backends() - before):
            time.sleep(0.005)
        self.backend[process] = max(fresh, default=0)
        return process

    @contextlib.contextmanager
    def lock_held(self, database: Database) -> Iterator[None]:
        """Keep every migrator waiting, so that all of them are there when the work begins."""
        with database.engine.connect() as connection:
            connection.exec_driver_sql(f"select pg_advisory_lock({locking.LOCK_CLASS}, {locking.LOCK_OBJECT})")
            yield

    def working(self, running: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
        holders = self.query("select pid from pg_locks where locktype = 'advisory' and granted")
        return [process for process in running if (self.backend[process],) in holders]

    def backends(self) -> set[int]:
        """The sessions that migrate."""
        return {pid for (pid,) in self.query(f"select pid {MIGRATORS}")}

    def one_line(self, part: str, said: str, code: int) -> None:
        """What failed says so in one line."""
        lines = [line for line in said.splitlines() if line.startswith("error:")]
        if "Traceback" in said or len(lines) != (1 if code else 0):
            self.broken.append(f"{part}: ended with {code} and said {said[-1500:]}")

    def nothing_stale(self, part: str, database: Database, load: Load) -> dict[str, int]:
        """Every user has what is theirs; what a failure left behind is on record, and a backfill repairs it."""
        self.expect(f"{part}: statements of the application that failed", load.failures[:3], [])
        stale = (
            "select count(*) filter (where p.user_id is null or g.user_id is null),"
            " count(*) filter (where p.email is distinct from u.email or p.last_login is distinct from u.last_sign_in_at)"
            " from auth.users as u left join public.user_profiles as p on p.user_id = u.id"
            " left join public.user_progress as g on g.user_id = u.id where u.deleted_at is null"
        )
        missing, behind = database.run(stale)[0]
        failures = database.value("select count(*) from public.user_profile_audit_logs where action = 'failed'")
        process = subprocess.run(
            [sys.executable, "-m", "profiles_schema", "backfill"],
            cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
        )  # fmt: skip
        self.expect(f"{part}: exit code of backfill", process.returncode, 0)
        self.expect(
            f"{part}: users without profile or progress, users with a stale one", tuple(database.run(stale)[0]), (0, 0)
        )
        return {"missing_before_backfill": missing, "stale_before_backfill": behind, "failures_on_record": failures}

    # The parts

    def replicas(self, replicas: int, kills: int) -> dict[str, object]:
        started = time.monotonic()
        database = self.make("chaos_upgrade_replicas", "chaos_upgrade_found")
        killed_behind: Counter[str] = Counter()
        hits = 0
        with Load(database.url, 1) as load:
            with self.lock_held(database):
                running = [self.begin("profiles_schema") for _ in range(replicas)]
            for number in range(kills):
                # The one that works holds the lock; the others wait for it.
                while not (working := self.working(running)) and any(process.poll() is None for process in running):
                    time.sleep(0.005)
                time.sleep(self.moment.uniform(0, self.length / (2 * kills)))
                victim = working[0] if working and number % 2 == 0 else self.moment.choice(running)
                hits += victim.poll() is None
                killed_behind[stood_at(database)] += 1
                victim.kill()
                victim.communicate()
                running.remove(victim)
                running.append(self.begin("profiles_schema"))
            for process in running:
                said = ended(process)[1]
                self.expect("replicas: exit code", process.returncode, 0)
                self.one_line("replicas", said, process.returncode)
        # An upgrade may end before the last kill.
        self.expect("replicas: a kill hit a running one", hits > 0, kills > 0)
        twice = database.run(
            "select revision from profiles_internal.migration_log where outcome = 'done' group by 1 having count(*) > 1"
        )
        self.expect("replicas: revisions that ran twice", twice, [])
        result = self.nothing_stale("replicas", database, load)
        self.drop(database)
        return {
            "replicas": replicas,
            "kills": sum(killed_behind.values()),
            "kills_of_a_running_one": hits,
            "killed_behind": dict(killed_behind),
            "load": dict(load.done),
            **result,
            "seconds": round(time.monotonic() - started, 1),
        }

    def interrupt(self, kind: str, process: subprocess.Popen[str]) -> None:
        if kind == "ctrl_c":
            process.send_signal(signal.SIGINT)
        elif kind == "sigterm":
            process.send_signal(signal.SIGTERM)
        elif kind == "terminated_backend":
            self.query(f"select pg_terminate_backend(pid) {MIGRATORS}")
        else:
            self.crash_and_start(signal.SIGINT)

    def interrupted(self, kind: str, moments: int) -> dict[str, object]:
        started = time.monotonic()
        behind: Counter[str] = Counter()
        codes: Counter[int] = Counter()
        results: Counter[str] = Counter()
        length = self.length
        number = hits = 0
        while hits < moments and number < 3 * moments:
            program = PROGRAMS[number % len(PROGRAMS)]
            part = f"{kind}, moment {number} ({program})"
            database = self.make("chaos_upgrade_copy", "chaos_upgrade_found")
            with Load(database.url, number) as load:
                process = self.begin(program)
                time.sleep(length * (number % moments + self.moment.random()) / moments)
                finished = process.poll() is not None
                behind[stood_at(database)] += 1
                self.interrupt(kind, process)
                said = ended(process)[1]
                codes[process.returncode] += 1
                at_head = "At head" in said
                if finished or at_head:
                    length *= 0.8  # as quick as that it was not, when its length was taken
                else:
                    hits += 1
                    self.expect(f"{part}: exit code", process.returncode, INTERRUPTIONS[kind])
                    self.one_line(part, said, process.returncode)
                if "Traceback" in said:
                    self.broken.append(f"{part}: {said[-1500:]}")
                again = self.begin(program)
                said = ended(again)[1]
                self.expect(f"{part}: exit code of the next run", again.returncode, 0)
                self.one_line(f"{part}, the next run", said, again.returncode)
            results.update(self.nothing_stale(part, database, load))
            results.update(load.done)
            self.drop(database)
            number += 1
        self.expect(f"{kind}: interruptions that hit a running upgrade", hits, moments)
        return {
            "moments": hits,
            "interrupted_behind": dict(sorted(behind.items())),
            "exit_codes": dict(codes),
            **results,
            "seconds": round(time.monotonic() - started, 1),
        }


@contextlib.contextmanager
def chaos_of_upgrade(seed: int, users: int) -> Iterator[ChaosOfUpgrade]:
    """A server of its own, which may be restarted, with a database of so many users."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Started in the background of a shell, which the commands would inherit.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="profiles-chaos-", dir="/tmp"))
    directory.chmod(0o755)  # for root, whose server runs under an account of its own
    try:
        chaos = ChaosOfUpgrade(directory, seed)
        with contextlib.closing(chaos):
            chaos.prepare_users(users)
            yield chaos
    finally:
        local.stop(directory)
        shutil.rmtree(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=6)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with chaos_of_upgrade(arguments.seed, arguments.users) as chaos:
        result: dict[str, object] = {
            "seed": arguments.seed,
            "server": chaos.server.version,
            "users": arguments.users,
            "undisturbed_seconds": round(chaos.length, 2),
            "replicas": chaos.replicas(arguments.replicas, arguments.kills),
        }
        for kind in INTERRUPTIONS:
            result[kind] = chaos.interrupted(kind, arguments.moments)
        result["broken"] = chaos.broken
    print(json.dumps(result, indent=2))
    return int(bool(chaos.broken))


if __name__ == "__main__":
    sys.exit(main())
