"""How long tables that exist already stay locked while they are taken over, and whether the plan knew.

Shapes A (hosted, the key is the user) and E (a bot's wide table on a plain server), filled with ordinary rows: what nobody
would have to mend. The parts, for every shape and number of rows:

  steps   every step of the plan by itself, in the order and in the one transaction of the upgrade, against its forecast
  load    the whole `alembic upgrade head` beside the application that the shape was written for, at a fixed rate: the longest
          stall of any statement, how often the upgrade had to try again for a lock, failures by SQLSTATE

    python benchmarks/adopt.py [--rows 10000,100000] [--shapes a,e] [--rates 50,200] [--out FILE]

Works on an embedded PostgreSQL of its own. Exit code 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import at_least, at_most, report, tell
from sqlalchemy import text

from profiles_schema import local
from profiles_schema.driver import execute_literally

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from profiles_schema.schema.traits import trait_columns  # noqa: E402
from support import (  # noqa: E402
    Database,
    Server,
    answers_file,
    shapes,
)
from support.hosted import open_by_default  # noqa: E402
from support.old_application import OldApplication  # noqa: E402

REVISIONS = (
    "0006_create_user_profiles", "0007_create_user_progress", "0008_create_user_api_keys", "0009_create_export_history",
    "0010_create_audit_logs",
)  # fmt: skip
BEFORE = "0005_create_sign_up_functions"
FORECAST_RATIO = 2.0
WAITED = "canceling statement due to lock timeout"
AROUND_SECONDS = 2.0

_USERS = """
alter table auth.users disable trigger user;
insert into auth.users (id, email, created_at)
select md5('person' || g)::uuid, 'person' || g || '@example.org', '2024-01-01'::timestamptz + g * interval '1 minute'
from generate_series(1, {rows}) as g;
alter table auth.users enable trigger user;
"""
_A = (
    _USERS
    + """
alter table public.user_profiles disable trigger user;
insert into public.user_profiles (id, username, display_name, bio, updated_at)
select md5('person' || g)::uuid, 'person' || g, 'Person ' || g, repeat('Words of ' || g || '. ', 1 + g % 12), now() - g * interval '1 second'
from generate_series(1, {rows}) as g;
alter table public.user_profiles enable trigger user;
insert into public.posts (author, body) select md5('person' || g)::uuid, 'Post ' || g from generate_series(1, {rows}) as g;
analyze
"""
)
_VALUES = {
    "text": "'{name} ' || g % 500",
    "integer": "g % 101",
    "bigint": "1760000000 + g",
    "real": "(g % 1000)::real / 1000",
    "jsonb": "jsonb_build_array('{name} ' || g % 50, 'more ' || g % 500)",
}
_E = """
insert into public.user_profiles (id, user_id, username, display_name, first_seen_at, last_interaction_at, last_analyzed_at, message_count,
  created_at, updated_at, avatar_url, bio, preferences, {names})
select md5('person' || g)::uuid::text, (100000000000000000 + g)::text, 'person' || g, 'Person ' || g, 1690000000 + g, 1700000000 + g, 1700000000 + g,
  g % 1000, 1690000000 + g, 1700000000 + g, 'https://example.org/' || g || '.png', repeat('Words of ' || g || '. ', 1 + g % 12),
  '{{"theme": "dark"}}', {values}
from generate_series(1, {{rows}}) as g;
insert into public.user_analysis_history (id, user_id, analysis_timestamp)
select 'analysis ' || g, (100000000000000000 + g)::text, 1700000000 from generate_series(1, {{rows}}) as g;
analyze
""".format(
    names=", ".join(column.name for column in trait_columns()),
    values=", ".join(
        f"case when (g + {number}) % 4 > 0 then {_VALUES[column.data_type].format(name=column.name)} end"
        for number, column in enumerate(trait_columns())
    ),
)
FILLS = {"a": _A, "e": _E}


def fill(database: Database, shape: str, rows: int) -> None:
    """Put ordinary rows into the tables of a shape."""
    database.administrator.script(FILLS[shape].replace("{rows}", str(rows)))


class Bench:
    """The server, and what was found, as templates."""

    def __init__(self, directory: Path) -> None:
        self.running = local.start(directory)
        self.server = Server(
            host=str(self.running.socket_directory), port=self.running.port, user="postgres", dbname="postgres", options=""
        )  # fmt: skip
        self.directory = directory
        self.log = directory / "server" / "log"
        self.administrator = Database(self.server, "postgres").engine.connect()
        self.administrator = self.administrator.execution_options(isolation_level="AUTOCOMMIT")

    def make(self, name: str, shape: str, template: str = "template0") -> Database:
        """A database of its own, of the role that the application's owner is."""
        self.administrator.exec_driver_sql(f"drop database if exists {name} with (force)")
        self.administrator.exec_driver_sql(f"create database {name} template {template}")
        if shape == "e":
            return Database(self.server, name)
        if template == "template0":
            open_by_default(self.server.host, self.server.port, "postgres", name, "", autocommit=True)
        self.administrator.exec_driver_sql(f"grant create, connect, temporary on database {name} to project_owner")
        return Database(self.server, name, "project_owner")

    def found(self, shape: str, rows: int) -> str:
        """A shape, filled; the name of the template."""
        name = f"found_{shape}_{rows}"
        database = self.make(name, shape)
        shapes.create(database, shape)
        fill(database, shape, rows)
        return name

    def waits(self) -> int:
        """Statements that gave up for a lock, so far. Only migrations wait so shortly, and do not catch it themselves."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(WAITED)


def measure_steps(bench: Bench, shape: str, rows: int) -> dict[str, Any]:
    """Every step by itself, and its forecast."""
    database = bench.make("steps", shape, f"found_{shape}_{rows}")
    database.upgrade(BEFORE, answers=database.answers())
    steps: list[dict[str, Any]] = []
    planning = 0.0
    with database.engine.connect() as connection:
        for revision in REVISIONS:
            started = time.monotonic()
            planned = connection.execute(
                text("select * from profiles_internal.adoption_plan(:revision) order by seq"), {"revision": revision}
            ).all()
            planning += time.monotonic() - started if planned else 0.0
            for step in planned:
                if step.undo:
                    connection.execute(
                        text(
                            "insert into profiles_internal.adopted (revision, object_type, object_name, definition)"
                            " values (:revision, :action, :object, :undo)"
                        ),
                        {"revision": revision, "action": step.action, "object": step.object, "undo": step.undo},
                    )
                if step.statement:
                    started = time.monotonic()
                    execute_literally(connection, step.statement)
                    steps.append({
                        "step": f"{step.action} {step.object}: {(step.wanted or '')[:60]}",
                        "seconds": round(time.monotonic() - started, 3),
                        "forecast": None if step.seconds is None else round(step.seconds, 3),
                    })  # fmt: skip
        connection.commit()
    seconds = planning + sum(step["seconds"] for step in steps)
    forecast = sum(step["forecast"] or 0.0 for step in steps)
    return {
        "planning_seconds": round(planning, 3),
        "seconds": round(seconds, 2),
        "forecast_seconds": round(forecast, 2),
        "seconds_by_forecast": round(seconds / forecast, 2),
        "rows_per_second": round(rows / seconds),
        "longest_steps": sorted(steps, key=lambda step: -step["seconds"])[:12],
    }


def measure_load(bench: Bench, shape: str, rows: int, rate: float) -> dict[str, Any]:
    """The whole upgrade, beside the application."""
    database = bench.make("beside", shape, f"found_{shape}_{rows}")
    answers = answers_file(bench.directory / "answers.toml", database.answers())
    waits = bench.waits()
    with OldApplication(database, shape, rate) as application:
        time.sleep(AROUND_SECONDS)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "-x", f"answers={answers}", "upgrade", "head"], cwd=REPOSITORY, check=False,
            env=os.environ | {"DATABASE_URL": database.url}, capture_output=True, text=True,
        )  # fmt: skip
        ended = time.monotonic()
        time.sleep(AROUND_SECONDS)
    if done.returncode:
        raise SystemExit(f"upgrade failed: {done.stderr[-2000:]}")
    during = [call for call in application.calls if began < call.began + call.seconds and call.began < ended]
    stalled = max(during, key=lambda call: call.seconds)
    sign_ups = [call for call in during if call.name == "sign-up"]
    logged = dict(database.administrator.run("select revision, seconds from profiles_internal.migration_log"))
    return {
        "upgrade_seconds": round(ended - began, 2),
        "adopting_transaction_seconds": round(float(logged[REVISIONS[0]]), 2),
        "other_revisions_over_a_tenth": {
            name: round(float(seconds), 2)
            for name, seconds in sorted(logged.items())
            if name != REVISIONS[0] and float(seconds or 0) > 0.1  # noqa: PLR2004
        },
        "tries_that_waited_in_vain": bench.waits() - waits,
        "statements": len(during),
        "longest_stall_seconds": round(stalled.seconds, 2),
        "longest_stall_of": stalled.name,
        "longest_stall_of_a_sign_up": round(max((call.seconds for call in sign_ups), default=0.0), 2),
        "failed": {f"{name} {code}": number for (name, code), number in sorted(Counter((c.name, c.failure) for c in during if c.failure).items())},
        "failing_for_seconds": failing_for(application, began),
        "sign_ups_that_failed": sum(call.failure is not None for call in sign_ups),
        "deadlocks": sum(call.failure == "40P01" for call in application.calls),
        "writes_lost": len(application.lost()),
    }  # fmt: skip


def failing_for(application: OldApplication, began: float) -> dict[str, float]:
    """Statements that failed for a while, and not at the end; for how long."""
    result = {}
    for name in sorted({call.name for call in application.calls}):
        calls = sorted(
            (c for c in application.calls if c.name == name and c.began > began), key=lambda call: call.began
        )
        failed = [call.began for call in calls if call.failure]
        if failed and not calls[-1].failure:
            result[name] = round(failed[-1] - failed[0], 2)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--shapes", default="a,e")
    parser.add_argument("--rates", default="50,200", help="statements of the application per second")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    directory = Path(tempfile.mkdtemp(prefix="profiles-benchmark-", dir="/tmp"))
    directory.chmod(0o755)  # for root, whose server runs under an account of its own
    result: dict[str, Any] = {"aims": {}}
    try:
        bench = Bench(directory)
        result["server"] = bench.running.version
        for shape in arguments.shapes.split(","):
            for rows in map(int, arguments.rows.split(",")):
                bench.found(shape, rows)
                found = result[f"{shape}_{rows}"] = {"steps": measure_steps(bench, shape, rows)}
                tell(".")
                for rate in filter(None, arguments.rates.split(",")):
                    found[f"load_{rate}"] = measure_load(bench, shape, rows, float(rate))
                    tell(".")
                result["aims"] |= aims(f"{shape}_{rows}", found)
                bench.administrator.exec_driver_sql(f"drop database found_{shape}_{rows}")
        bench.administrator.close()
    finally:
        local.stop(directory)
        shutil.rmtree(directory)
    return report(result, arguments.out)


def aims(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What the numbers are held to."""
    ratio = found["steps"]["seconds_by_forecast"]
    result: dict[str, Any] = {
        f"{name}_forecast_not_too_short": at_most(ratio, FORECAST_RATIO),
        f"{name}_forecast_not_too_long": at_least(ratio, 1 / FORECAST_RATIO),
    }
    for part, load in found.items():
        if re.match("load_", part):
            bad = load["sign_ups_that_failed"] + load["deadlocks"] + load["writes_lost"]
            result[f"{name}_{part}_failed_sign_ups_deadlocks_lost_writes"] = at_most(bad, 0)
    return result


if __name__ == "__main__":
    sys.exit(main())
