"""Break the adoption of existing tables on purpose, for long: it must lose no row, take none twice, and need nobody.

A shape of an existing deployment, with its awkward rows, is upgraded once without disturbance. Then, each time beginning
with a copy of what was found:

- upgrade: `alembic upgrade head` is killed (SIGKILL) at a seeded moment, every fourth time inside the transaction that takes a
  table over, and run again. The end must be that of the undisturbed run: catalog, rows, kept values, quarantine, undo.
- server_stops: the server is stopped at once (`immediate`: no checkpoint, as in a crash) inside that transaction.
- downgrade: `alembic downgrade base` is killed at a seeded moment, and run again. The end must be what was found.

    PYTHONPATH=tests python -m chaos.adopt [--shapes a,e] [--rows 2000] [--kills 20] [--server-stops 3] [--seed 1]

Prints one JSON object; exit code 1 if anything that is promised did not hold ("broken" says what).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg2

from chaos.backfill import WAIT_SECONDS, Chaos
from profiles_schema import local
from support import REPOSITORY, Database, Server, answers_file, shapes, snapshot
from support import adoption_oracle as oracle
from support.hosted import open_by_default

OUR_TABLES = ("user_profiles", "user_progress", "user_api_keys", "export_history", "user_profile_audit_logs")
# Every so many kills one comes while a table is being taken over, or given back.
INSIDE = 4
AT_WORK = (
    "select query ~ 'profiles_internal[.](adopt|undo_adoption)[(]' from pg_stat_activity"
    " where datname = %s and application_name like '%% migrate' and state = 'active'"
)


class ChaosOfAdoption(Chaos):
    """A shape, the end that an undisturbed upgrade of it comes to, and copies of both."""

    def __init__(self, directory: Path, seed: int, server: Server | None = None) -> None:
        super().__init__(directory, seed, server.url("postgres") if server else "")
        if server is None:
            server = Server(
                host=str(self.server.socket_directory), port=self.server.port, user="postgres", dbname="postgres", options=""
            )  # fmt: skip
        self.cluster = server
        self.administrator_url = server.url("postgres")
        self.databases: list[str] = []
        self.lengths: dict[str, tuple[float, float]] = {}

    # Databases

    def make(self, name: str, template: str = "template0") -> Database:
        """A database made anew; that of a template belongs to the same role."""
        self.url = self.administrator_url
        self.query(f"drop database if exists {name}")
        self.query(f"create database {name} template {template}")
        self.databases.append(name)
        if self.owner:
            self.query(f"grant create, connect, temporary on database {name} to {self.owner}")
        database = Database(self.cluster, name, self.owner)
        self.url = database.url
        return database

    def drop(self, database: Database) -> None:
        database.engine.dispose()
        self.url = self.administrator_url
        # A killed command's session may live for seconds.
        self.query(f"drop database if exists {database.name} with (force)")
        self.databases.remove(database.name)

    def close(self) -> None:
        super().close()
        self.url = self.administrator_url
        for name in self.databases:
            self.query(f"drop database if exists {name} with (force)")

    def prepare(self, shape: str, rows: int) -> None:
        """What is found, and what an undisturbed upgrade and downgrade make of it."""
        self.shape = shape
        self.name = f"chaos_{shape.replace('+', '_')}"
        self.owner = None
        database = self.make(f"{self.name}_found")
        if shape != "e":
            open_by_default(self.cluster.host, self.cluster.port, self.cluster.user, database.name, "", autocommit=True)
            self.owner = "project_owner"
            database = Database(self.cluster, database.name, self.owner)
        shapes.create(database, shape)
        shapes.fill(database, shape, rows)
        self.found = shapes.look(database, shape)
        # A crash empties unlogged tables.
        for table in self.found.contents.tables.values():
            database.administrator.script(f"alter table {table.kept_as} set logged")
        options = [f"{key.replace('_', '-')}={value}" for key, value in shapes.options(shape).items()]
        path = answers_file(self.directory / f"{self.name}.toml", database.answers(x=options))
        self.options = [part for option in (*options, f"answers={path}") for part in ("-x", option)]

        database = self.make(f"{self.name}_adopted", f"{self.name}_found")
        self.lengths["upgrade"] = self.undisturbed(self.upgrade(), database)
        unexplained = oracle.unexplained(database, self.found, shape)
        self.expect("undisturbed: rows that no rule explains", unexplained[:5], [])
        self.end = self.state(database)
        down = self.make(f"{self.name}_down", f"{self.name}_adopted")
        self.lengths["downgrade"] = self.undisturbed(self.downgrade(), down)
        self.back = self.given_back(down)
        lost = [text for text in self.back if "missing" in text or "changed" in text or "column" in text]
        self.expect("undisturbed: what downgrade does not give back", lost, [])
        self.drop(down)

    # Commands

    def upgrade(self) -> tuple[str, ...]:
        return (*self.options, "upgrade", "head")

    def downgrade(self) -> tuple[str, ...]:
        return ("-x", "allow-data-loss=yes", "downgrade", "base")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "alembic", *arguments], cwd=REPOSITORY,
            env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def finish(self, part: str, arguments: tuple[str, ...]) -> float:
        """Run a command to its end; how long it took."""
        started = time.monotonic()
        process = self.start(*arguments)
        try:
            said = process.communicate(timeout=WAIT_SECONDS)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1]
        if process.returncode:
            self.broken.append(f"{part}: ended with {process.returncode}: {said.strip()[-500:]}")
        return time.monotonic() - started

    def undisturbed(self, arguments: tuple[str, ...], database: Database) -> tuple[float, float]:
        """Run a command to its end; how long it took, and how long of that it took tables over, or gave them back."""
        process = self.start(*arguments)
        started = time.monotonic()
        inside = 0.0
        with self.watcher(database) as at_work:
            while process.poll() is None:
                if at_work():
                    began = time.monotonic()
                    while at_work():
                        time.sleep(0.002)
                    inside = max(inside, time.monotonic() - began)
                time.sleep(0.002)
        said = process.communicate()[1]
        if process.returncode:
            raise SystemExit(f"{arguments[-2:]} failed without any disturbance: {said[-1000:]}")
        return time.monotonic() - started, inside

    @contextlib.contextmanager
    def watcher(self, database: Database) -> Any:
        """Says whether a table is being taken over, or given back, at this moment."""
        connection = psycopg2.connect(self.administrator_url)
        connection.autocommit = True
        with connection.cursor() as cursor:

            def at_work() -> bool:
                cursor.execute(AT_WORK, (database.name,))
                return any(row[0] for row in cursor.fetchall())

            yield at_work
        connection.close()

    def strike(
        self, process: subprocess.Popen[str], moment: float, database: Database, *, inside: bool
    ) -> tuple[bool, bool]:
        """Wait for the moment; whether the command still ran then, and whether it was taking a table over."""
        with self.watcher(database) as at_work:
            if inside:
                while process.poll() is None and not at_work():
                    time.sleep(0.002)
            time.sleep(moment)
            return process.poll() is None, at_work()

    # What is compared

    def state(self, database: Database) -> dict[str, object]:
        """Everything that two upgrades of the same have in common."""
        administrator = database.administrator
        rows = {}
        before = {ours: self.found.rows[name] for name, ours in shapes.adopted_tables(self.shape).items()}
        for table, found in oracle.state(database, self.found, self.shape).items():
            for key, row in found.items():
                # A row that the upgrade made bears an id of its own.
                made = table == "user_progress" and key not in before[table]
                values = {name: value for name, value in row.items() if not (made and name == "id")}
                rows[f"{table} {row['user_id'] if made else key}"] = tuple(sorted(values.items()))
        kept: Counter[object] = Counter()
        for row in administrator.run(
            "select revision, object_type, object_name, definition, data::text as data from profiles_internal.adopted"
        ):
            data = json.loads(row.data) if row.data else {}
            if isinstance(data, dict):
                data.pop("at", None)
                # Names that a fresh user's id went into, and times of the upgrade.
                fresh = self.shape == "e" and row.object_name.endswith(".username") and "_" in str(data.get("new"))
                data["new"] = None if fresh or oracle._recent(data.get("new")) else data.get("new")
            kept[row.revision, row.object_type, row.object_name, row.definition, json.dumps(data)] += 1
        counts = {
            table: administrator.value(f"select count(*) from {table}")
            for table in ("auth.users", *(f"public.{name}" for name in OUR_TABLES), "profiles_internal.quarantine")
        }
        taken = {f"public.{name}" for name in shapes.adopted_tables(self.shape)}
        return {
            "catalog": snapshot(database),
            "rows": rows,
            "kept": kept,
            "counts": counts,
            "changes": [str(c) for c in shapes.row_changes(database, self.found) if c.table not in taken],
        }

    def same(self, part: str, database: Database) -> None:
        """The end is that of the undisturbed run."""
        now = self.state(database)
        for what, wanted in self.end.items():
            if now[what] != wanted:
                found = now[what]
                if isinstance(wanted, dict) and isinstance(found, dict):
                    keys = [key for key in {*wanted, *found} if wanted.get(key) != found.get(key)]
                    self.broken.append(
                        f"{part}: {len(keys)} of {what} differ, {keys[0]}: {found.get(keys[0])}, not {wanted.get(keys[0])}"[
                            :1500
                        ]
                    )
                else:
                    self.expect(f"{part}: {what}", found, wanted)
        unexplained = oracle.unexplained(database, self.found, self.shape)
        self.expect(f"{part}: rows that no rule explains", unexplained[:5], [])

    def given_back(self, database: Database) -> list[str]:
        """How the database differs from the one found."""
        return shapes.changes(database, self.found) + [str(c) for c in shapes.row_changes(database, self.found)]

    # The parts

    def killed(self, verb: str, kills: int) -> dict[str, object]:
        """Kill a command at so many moments, each time on a fresh copy, and run it again."""
        started = time.monotonic()
        arguments = self.upgrade() if verb == "upgrade" else self.downgrade()
        template = f"{self.name}_{'found' if verb == 'upgrade' else 'adopted'}"
        length, longest_inside = self.lengths[verb]
        where: Counter[str] = Counter()
        hits = inside_hits = 0
        finishing: list[float] = []
        for number in range(kills):
            part = f"{self.shape}, {verb}, kill {number}"
            database = self.make(f"{self.name}_copy", template)
            inside = number % INSIDE == INSIDE - 1
            moment = (
                self.moment.uniform(0, longest_inside) if inside else length * (number + self.moment.random()) / kills
            )
            process = self.start(*arguments)
            running, at_work = self.strike(process, moment, database, inside=inside)
            process.kill()
            process.communicate()
            hits += running
            inside_hits += at_work
            where[stood_at(database)] += running
            finishing.append(self.finish(part, arguments))
            if verb == "upgrade":
                self.same(part, database)
            else:
                self.expect(f"{part}: what differs from what was found", self.given_back(database), self.back)
            self.drop(database)
        if kills >= 2 * INSIDE:
            self.expect(
                f"{self.shape}, {verb}: kills while a table was taken over or given back", inside_hits > 0, True
            )
        return {
            "kills": kills,
            "hit_a_running_command": hits,
            "hit_the_work_on_a_table": inside_hits,
            "killed_behind": dict(sorted(where.items())),
            "undisturbed_seconds": round(length, 2),
            "longest_work_on_a_table_seconds": round(longest_inside, 2),
            "finishing_most_seconds": round(max(finishing), 2),
            "seconds": round(time.monotonic() - started, 1),
        }

    def server_stopped(self, stops: int) -> dict[str, object]:
        """Stop the server at once while a table is being taken over."""
        started = time.monotonic()
        hits = 0
        for number in range(stops):
            part = f"{self.shape}, stop of the server {number}"
            database = self.make(f"{self.name}_copy", f"{self.name}_found")
            process = self.start(*self.upgrade())
            moment = self.moment.uniform(0, self.lengths["upgrade"][1])
            hits += self.strike(process, moment, database, inside=True)[1]
            self.crash_and_start()
            said = process.communicate(timeout=WAIT_SECONDS)[1]
            self.expect(f"{part}: exit code of the command that lost its server", process.returncode in (1, 3), True)
            if "Traceback" in said:
                self.broken.append(f"{part}: it says {said[-500:]}")
            self.finish(part, self.upgrade())
            self.same(part, database)
            self.drop(database)
        return {"stops": stops, "hit_the_work_on_a_table": hits, "seconds": round(time.monotonic() - started, 1)}


def stood_at(database: Database) -> str:
    """The revision that stood when a command was killed."""
    if database.administrator.value("select to_regclass('profiles_internal.alembic_version')") is None:
        return "nothing"
    return str(database.administrator.value("select version_num from profiles_internal.alembic_version") or "nothing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="a,e")
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--server-stops", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    directory = Path(tempfile.mkdtemp(prefix="profiles-chaos-", dir="/tmp"))
    directory.chmod(0o755)  # for root, whose server runs under an account of its own
    try:
        chaos = ChaosOfAdoption(directory, arguments.seed)
        result: dict[str, object] = {
            "seed": arguments.seed, "server": chaos.server.version, "rows": arguments.rows,
        }  # fmt: skip
        with contextlib.closing(chaos):
            for shape in arguments.shapes.split(","):
                chaos.prepare(shape, arguments.rows)
                result[shape] = {
                    "upgrade": chaos.killed("upgrade", arguments.kills),
                    "server_stops": chaos.server_stopped(arguments.server_stops),
                    "downgrade": chaos.killed("downgrade", arguments.kills),
                }
            result["broken"] = chaos.broken
    finally:
        local.stop(directory)
        shutil.rmtree(directory)
    print(json.dumps(result, indent=2))
    return int(bool(chaos.broken))


if __name__ == "__main__":
    sys.exit(main())
