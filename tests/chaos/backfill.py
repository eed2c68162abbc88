"""Break the backfill on purpose, for long: it must lose nothing, do nothing twice, and need nobody.

Three parts, each in a database of its own on an embedded server of its own:

- kills: the runner is killed (SIGKILL) at random moments and started again.
- server_stops: one runner stays while the server is stopped at once (`immediate`: no checkpoint, as in a crash) and
  started again.
- poison: ten rows fail, each for another reason.

    PYTHONPATH=tests python -m chaos.backfill [--users 100000] [--kills 50] [--server-stops 10] [--seed 1]

Prints one JSON object; exit code 1 if anything that is promised did not hold ("broken" says what).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg2

from profiles_schema import local
from profiles_schema.operations.batch_job import FIRST_ROWS
from support import REPOSITORY

MOST_RECONNECT_SECONDS = 5.0
MOST_KILL_SECONDS = 0.8
LONGEST_STOP_PAUSE_SECONDS = 1.5
REFUSED_SECONDS = 30.0
WAIT_SECONDS = 300.0

# What each of the ten rows does before it becomes a profile, and what the server calls that.
POISON = {
    "23514": "new.display_name := 'poison';",  # a CHECK constraint, see poison()
    "P0001": "raise exception 'no';",
    "22012": "perform 1 / 0;",
    "22P02": "perform 'x'::integer;",
    "23502": "new.username := null;",
    "23503": "insert into chaos.child values (1);",
    "23505": "insert into chaos.parent values (7), (7);",
    "22001": "insert into chaos.short values ('too long');",
    "22003": "perform 40000::smallint;",
    "42P01": "execute 'select 1 from chaos.nowhere';",
}


class Chaos:
    """The server, one database at a time, and what did not hold."""

    verb: tuple[str, ...] = ("backfill",)

    def __init__(self, directory: Path, seed: int, url: str = "") -> None:
        self.directory = directory
        self.moment = random.Random(seed)
        self.broken: list[str] = []
        self.server = None if url else local.start(directory)
        self.url = url
        self.processes: list[subprocess.Popen[str]] = []

    def expect(self, claim: str, found: object, expected: object) -> None:
        if found != expected:
            self.broken.append(f"{claim}: {found!r}, not {expected!r}")

    def query(self, statement: str, *, database: str | None = None) -> list[tuple]:
        connection = psycopg2.connect(self.server.url(database) if database else self.url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def database(self, name: str, users: int) -> None:
        """A fresh database at head with users who have no profiles, and a count of all attempts to make one."""
        self.query(f"create database {name}", database="postgres")
        self.url = self.server.url(name)
        done = subprocess.run(
            [sys.executable, "-m", "profiles_schema", "upgrade"],
            cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"upgrade failed: {done.stderr[-1000:]}")
        # A sequence does not roll back: it also counts the rows, and the batches, that were lost.
        self.query(
            "create schema chaos; create sequence chaos.attempts; create sequence chaos.batches;"
            "create table chaos.committed (id xid8 primary key);"
            "create function chaos.count_attempt() returns trigger language plpgsql as"
            " $$begin perform nextval('chaos.attempts'); return null; end$$;"
            "create trigger chaos_count after insert on public.user_profiles"
            " for each row execute function chaos.count_attempt();"
            "create function chaos.count_batch() returns trigger language plpgsql as $$begin"
            "  if pg_current_xact_id()::text is distinct from current_setting('chaos.batch', true) then"
            "    perform set_config('chaos.batch', pg_current_xact_id()::text, false), nextval('chaos.batches');"
            "    insert into chaos.committed values (pg_current_xact_id()) on conflict do nothing;"
            "  end if;"
            "  return null; end$$;"
            "create trigger chaos_count_batch before insert on public.user_profiles"
            " for each statement execute function chaos.count_batch()"
        )
        self.query(
            "alter table auth.users disable trigger profiles_on_auth_user_created;"
            f"insert into auth.users (email) select 'usr' || g % 9973 || '@example.org' from generate_series(1, {users}) as g;"
            "alter table auth.users enable trigger profiles_on_auth_user_created"
        )
        self.query("analyze auth.users")

    def environment(self) -> dict[str, str]:
        return os.environ | {"DATABASE_URL": self.url}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "profiles_schema", *self.verb, "--json", *arguments], cwd=REPOSITORY,
            env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what runs, whatever happened."""
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def whole(self, part: str, users: int) -> dict[str, object]:
        """Look at everything that a finished backfill promises."""
        ((missing, profiles, twice),) = self.query(
            "select (select count(*) from auth.users as u left join public.user_profiles as p on p.user_id = u.id"
            "   left join public.user_progress as g on g.user_id = u.id where p.user_id is null or g.user_id is null),"
            " (select count(*) from public.user_profiles),"
            " (select count(*) - count(distinct user_id) from public.user_profiles)"
            "  + (select count(*) - count(distinct user_id) from public.user_progress)"
            "  + (select count(*) - count(distinct username) from public.user_profiles)"
            "  + (select count(*) - count(distinct user_id) from public.user_profile_audit_logs where action = 'created')"
        )
        jobs = self.query("select state, rows_done, rows_failed from profiles_internal.jobs")
        self.expect(f"{part}: users without profile or progress", missing, 0)
        self.expect(f"{part}: profiles", profiles, users)
        self.expect(f"{part}: profiles, progress or records twice", twice, 0)
        # The cursor and this count commit with the rows: each row is counted once, whatever happened.
        self.expect(f"{part}: jobs (state, rows done, rows failed)", jobs, [("completed", users, 0)])
        return {
            "users": users,
            "missing": missing,
            "duplicates": twice,
            "jobs": len(jobs),
            "rows_done": sum(rows for _, rows, _ in jobs),
        }

    # The parts

    def kills(self, users: int, kills: int) -> dict[str, object]:
        self.database("chaos_kills", users)
        started = time.monotonic()
        # So slow that users are left for every kill.
        rate = max(200.0, 0.7 * (users - FIRST_ROWS * kills) / (max(kills, 1) * (MOST_KILL_SECONDS / 2 + 0.1)))
        in_progress = refused = killed = looked_at = 0
        lost: list[int] = []
        lost_batches: list[int] = []
        process = None
        while killed < kills:
            process = process or self.start("--max-rate", f"{rate:.0f}")
            first = process.stderr.readline()
            if not first.startswith("{"):
                said = first + process.communicate()[1]
                if "is being worked on" in said and time.monotonic() - started < WAIT_SECONDS:
                    refused += 1  # the server has not noticed yet that the other one is dead
                    process = None
                    continue
                self.broken.append(f"kills: a runner that was started again says: {said.strip()[-500:]}")
                break
            time.sleep(self.moment.uniform(0, MOST_KILL_SECONDS))
            in_progress += process.poll() is None
            ((pid,),) = self.query("select split_part(runner, ' ', 2) from profiles_internal.jobs order by id limit 1")
            process.kill()
            process.communicate()
            process = None
            killed += 1
            if killed % 5 == 0 and killed < kills:
                # At once, while the session of the dead one may still be there; counted with the next kill.
                process = self.start("--max-rate", f"{rate:.0f}")
                continue
            while pid and self.query(f"select from pg_stat_activity where pid = {pid}"):
                time.sleep(0.005)
            ((rows, batches),) = self.query(
                "select (select case when is_called then last_value else 0 end from chaos.attempts) - rows_done,"
                "  (select case when is_called then last_value else 0 end from chaos.batches)"
                "  - (select count(*) from chaos.committed)"
                " from profiles_internal.jobs order by id limit 1"
            )
            lost.append(rows - sum(lost))
            lost_batches.append(batches - sum(lost_batches))
            if not 0 <= lost_batches[-1] <= killed - looked_at:
                self.broken.append(
                    f"kills: {lost_batches[-1]} batches ({lost[-1]} rows) were lost by {killed - looked_at} kills, the last"
                    f" being number {killed}"
                )
            looked_at = killed
        last = self.start()
        said = ended(last)[1]
        self.expect("kills: exit code of the last run", last.returncode, 0)
        if last.returncode:
            self.broken.append(f"kills: the last run says: {said.strip()[-500:]}")
        self.expect("kills: that hit work in progress", in_progress, kills)
        return self.whole("kills", users) | {
            "kills": kills,
            "hit_work_in_progress": in_progress,
            "batches_redone": sum(lost_batches),
            "rows_redone": sum(lost),
            "most_rows_redone_by_a_kill": max(lost, default=0),
            "refused_until_the_dead_session_ended": refused,
            "seconds": round(time.monotonic() - started, 1),
        }

    def server_stops(self, users: int, stops: int) -> dict[str, object]:
        self.database("chaos_stops", users)
        started = time.monotonic()
        rate = max(200.0, 0.7 * users / (max(stops, 1) * (LONGEST_STOP_PAUSE_SECONDS / 2 + 0.6) + 1))
        runner = Runner(self, rate)
        back: list[float] = []
        down: list[float] = []
        for _ in range(stops):
            runner.wait_for_line(time.monotonic())
            time.sleep(self.moment.uniform(0.1, LONGEST_STOP_PAUSE_SECONDS))
            if runner.ended():
                break
            stopped_at = time.monotonic()
            returned_at = self.crash_and_start()
            down.append(returned_at - stopped_at)
            line_at = runner.wait_for_line(returned_at)
            if line_at is None:
                break
            back.append(line_at - returned_at)
        code, result = runner.finish()
        self.expect("server_stops: stops that hit the runner", len(back), stops)
        self.expect("server_stops: exit code", code, 0)
        self.expect("server_stops: runners that had to be started again", runner.restarts, [])
        slow = [round(seconds, 2) for seconds in back if seconds > MOST_RECONNECT_SECONDS]
        self.expect(f"server_stops: returns that took more than {MOST_RECONNECT_SECONDS:.0f} s", slow, [])
        return self.whole("server_stops", users) | {
            "stops": stops,
            "runner": "survived by reconnecting"
            if not runner.restarts
            else f"started again {len(runner.restarts)} times",
            "profiles_reported_by_the_runner": result.get("created"),
            "seconds_down_most": round(max(down, default=0.0), 2),
            "seconds_to_next_progress_most": round(max(back, default=0.0), 2),
            "seconds_to_next_progress_median": round(sorted(back)[len(back) // 2], 2) if back else None,
            "seconds": round(time.monotonic() - started, 1),
        }

    def crash_and_start(self, number: signal.Signals = signal.SIGQUIT) -> float:
        """Stop the server at once (SIGINT: `fast`) and start it again; returns when it took connections again."""
        os.kill(self.server.pid, number)
        path = str(self.server.socket_directory / f".s.PGSQL.{self.server.port}")
        with contextlib.suppress(OSError):
            while True:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                time.sleep(0.01)
        returned: list[float] = []

        def watch() -> None:
            while not returned:
                with contextlib.suppress(psycopg2.OperationalError):
                    psycopg2.connect(self.url).close()
                    returned.append(time.monotonic())
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.server = local.start(self.directory)
        watcher.join()
        return returned[0]

    def poison(self, users: int) -> dict[str, object]:
        self.database("chaos_poison", users)
        ids = [user for (user,) in self.query("select id::text from auth.users order by md5(id::text) limit 10")]
        reasons = dict(zip(ids, POISON, strict=True))
        self.query(
            "create table chaos.parent (id integer primary key); create table chaos.short (name varchar(3));"
            "create table chaos.child (parent_id integer references chaos.parent);"
            "alter table public.user_profiles add constraint chaos_check check (display_name <> 'poison');"
            "create function chaos.poison() returns trigger language plpgsql as $$begin "
            + "".join(f"if new.user_id = '{user}' then {POISON[code]} end if;" for user, code in reasons.items())
            + " return new; end$$;"
            "create trigger chaos_poison before insert on public.user_profiles"
            " for each row execute function chaos.poison()"
        )
        process = self.start("--json")
        out, said = ended(process)
        self.expect("poison: exit code", process.returncode, 1)
        failed = json.loads(out)["failed"] if out.startswith("{") else said.strip()[-500:]
        self.expect("poison: failures that were reported", failed, dict.fromkeys(POISON, 1))
        left = {
            user
            for (user,) in self.query(
                "select u.id::text from auth.users as u left join public.user_profiles as p on p.user_id = u.id"
                " left join public.user_progress as g on g.user_id = u.id where p.user_id is null or g.user_id is null"
            )
        }
        self.expect("poison: users left out", sorted(left), sorted(reasons))
        recorded = self.query(
            "select user_id::text, error_code from public.user_profile_audit_logs where action = 'failed'"
        )
        self.expect("poison: failures on record", sorted(recorded), sorted(reasons.items()))
        jobs = self.query("select state, rows_done, rows_failed from profiles_internal.jobs")
        self.expect("poison: jobs (state, rows done, rows failed)", jobs, [("completed", users, 10)])
        # Once the causes are gone, another run is all that it takes.
        self.query("drop trigger chaos_poison on public.user_profiles")
        cured = self.start()
        ended(cured)
        self.expect("poison: exit code once cured", cured.returncode, 0)
        ((profiles,),) = self.query("select count(*) from public.user_profiles")
        self.expect("poison: profiles once cured", profiles, users)
        return {
            "users": users,
            "left_out": len(left),
            "recorded": dict(sorted((code, user in reasons) for user, code in recorded)),
            "exit_code": process.returncode,
            "exit_code_once_cured": cured.returncode,
        }


class Runner:
    """A backfill that is watched: when each of its progress lines came."""

    def __init__(self, chaos: Chaos, rate: float) -> None:
        self.chaos = chaos
        self.rate = rate
        self.restarts: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = self.chaos.start("--json", "--max-rate", f"{self.rate:.0f}")
        self.reader = threading.Thread(target=self._read, args=(self.process, self.lines))
        self.reader.start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: list[tuple[float, str]]) -> None:
        lines.extend((time.monotonic(), line) for line in process.stderr)

    def ended(self) -> bool:
        return self.process.poll() == 0

    def wait_for_line(self, after: float) -> float | None:
        """When the first progress line behind this moment came; None if the work is done."""
        give_up = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < give_up:
            # Asked first: what an ended runner wrote is all there afterwards.
            code = self.process.poll()
            if code is not None:
                self.reader.join()
            came = [at for at, line in list(self.lines) if at > after and line.startswith("{")]
            if came:
                return came[0]
            if code == 0:
                return None
            if code is not None:
                self.restarts.append(self._said())
                self._begin()
            time.sleep(0.01)
        raise SystemExit("no progress for minutes")

    def _said(self) -> str:
        return next((line for _, line in reversed(self.lines) if not line.startswith("{")), "")[-300:].strip()

    def finish(self, part: str = "server_stops") -> tuple[int, dict[str, object]]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(WAIT_SECONDS)
        self.process.kill()  # one that stands still counts as failed
        code = self.process.wait()
        self.reader.join()
        if code:
            self.chaos.broken.append(f"{part}: the runner ended with {code}: {self._said()}")
            return code, {}
        return code, json.loads(self.process.stdout.read())


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a run wrote to its end; one that stands still is killed, which its exit code shows."""
    try:
        return process.communicate(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--server-stops", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    directory = Path(tempfile.mkdtemp(prefix="profiles-chaos-", dir="/tmp"))
    directory.chmod(0o755)  # for root, whose server runs under an account of its own
    try:
        chaos = Chaos(directory, arguments.seed)
        with contextlib.closing(chaos):
            result = {
                "seed": arguments.seed,
                "server": chaos.server.version,
                "kills": chaos.kills(arguments.users, arguments.kills),
                "server_stops": chaos.server_stops(arguments.users, arguments.server_stops),
                "poison": chaos.poison(max(arguments.users // 10, 100)),
                "broken": chaos.broken,
            }
    finally:
        local.stop(directory)
        shutil.rmtree(directory)
    print(json.dumps(result, indent=2))
    return int(bool(chaos.broken))


if __name__ == "__main__":
    sys.exit(main())
