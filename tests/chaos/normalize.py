"""Break the normalization of wide columns on purpose, for long: it must lose no cell, and need nobody.

A table of profiles with 106 trait columns, copied before anything happens, goes all the way and back:

- run: the runner is killed (SIGKILL) at seeded moments and started again; then one runner stays while the server is
  stopped at once (`immediate`: no checkpoint, as in a crash) and started again.
- contract: killed while it compares and while it drops, and started again.
- restore: killed at seeded moments and started again.

After each part every cell is compared with the copy.

    PYTHONPATH=tests python -m chaos.normalize [--profiles 100000] [--kills 50] [--server-stops 5] [--contract-kills 10]
                                    [--restore-kills 10] [--seed 1]

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
from pathlib import Path

from sqlalchemy import NullPool, create_engine

from chaos.backfill import LONGEST_STOP_PAUSE_SECONDS, MOST_RECONNECT_SECONDS, WAIT_SECONDS, Chaos, Runner
from profiles_schema import local
from profiles_schema.operations.normalize import status
from profiles_schema.schema.traits import TraitColumn, trait_columns
from support import REPOSITORY
from support.trait_columns import BEFORE, GROUPS, add_columns_sql, at

TRAITS = trait_columns()
MOST_KILL_SECONDS = 0.8
# Every so many kills one comes while the process still starts.
EARLY_KILLS = 5
LONGEST_START_SECONDS = 1.5

# What a cell holds, by the number of its row: NULL, edges of the type, and something long now and then.
CELLS = {
    "text": (
        "case n % 11 when 0 then null when 1 then '' when 2 then 'null' when 3 then '-0' when 4 then E'\\u00e9\\n\\\\\"'"
        " when 5 then repeat(md5(n::text), 60) else 'value ' || n end"
    ),
    "integer": "case n % 7 when 0 then null when 1 then -2147483648 when 2 then 2147483647 when 3 then 0 else n end",
    "bigint": (
        "case n % 5 when 0 then null when 1 then 9223372036854775807 when 2 then 9007199254740993 else n::bigint * 1000003 end"
    ),
    "real": (
        "case n % 13 when 0 then null when 1 then '-0' when 2 then 'NaN' when 3 then 'Infinity' when 4 then '-Infinity'"
        " when 5 then '1e-45' when 6 then 0 when 7 then 3.4028235e38 else n / 7.0 end"
    ),
    "jsonb": (
        "case n % 9 when 0 then null when 1 then 'null' when 2 then '{}' when 3 then '[]' when 4 then '{\"a\": {\"b\": null}}'"
        " when 5 then '\"\"' else to_jsonb(n) end"
    ),
}


class ChaosOfNormalize(Chaos):
    """The same server, with a wide table."""

    verb = ("normalize", "run")

    def migrate(self, revision: str, *options: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "profiles_schema", "upgrade", *options, revision],
            cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"upgrade failed: {done.stderr[-1000:]}")

    def wide(self, profiles: int) -> None:
        """A database whose wide columns are recorded and not converted, and a copy of them."""
        self.query("create database chaos_normalize", database="postgres")
        self.url = self.server.url("chaos_normalize")
        self.migrate(BEFORE)
        self.query(add_columns_sql())
        self.fill(profiles)
        self.migrate("head", "-x", "backfill=defer")
        self.expect("columns on the way", self.phase(), "expanded")

    def fill(self, profiles: int) -> None:
        """Profiles with values in their columns and no JSON, and a copy of them."""
        self.query(
            "create schema chaos; create table chaos.numbered as"
            f" select gen_random_uuid() as id, n from generate_series(1, {profiles}) as n;"
            "insert into auth.users (id, email) select id, n || '@example.org' from chaos.numbered"
        )
        cells = ", ".join(
            f"{trait.name} = cast({CELLS[trait.data_type].replace('n ', f'(n + {place}) ', 1)} as {trait.data_type})"
            for place, trait in enumerate(TRAITS)
        )
        cells += "".join(f", {group} = null" for group in GROUPS)
        self.query("alter table public.user_profiles disable trigger user")
        self.query(f"update public.user_profiles as p set {cells} from chaos.numbered as c where c.id = p.user_id")
        self.query("alter table public.user_profiles enable trigger user")
        self.query("vacuum (full, analyze) public.user_profiles")
        names = ", ".join(trait.name for trait in TRAITS)
        self.query(f"create table chaos.before as select user_id, {names} from public.user_profiles")
        self.query("alter table chaos.before add primary key (user_id)")

    def phase(self) -> str:
        engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg2://", 1), poolclass=NullPool)
        with engine.connect() as connection:
            return status(connection).phase

    def cells(self, part: str, *, columns: bool) -> dict[str, int]:
        """Compare every cell with the copy: the column, where it is there, and the JSON."""
        wrong = [f"{json_of(trait)} is distinct from {at(trait)}" for trait in TRAITS]
        if columns:
            wrong += [f"b.{trait.name}::text is distinct from p.{trait.name}::text" for trait in TRAITS]
        ((lost, cells, differing),) = self.query(
            "select count(*) filter (where p.user_id is null),"
            f" count(*) * {len(wrong)}, coalesce(sum({' + '.join(f'({each})::integer' for each in wrong)}), 0)::bigint"
            " from chaos.before as b left join public.user_profiles as p on p.user_id = b.user_id"
        )
        self.expect(f"{part}: profiles lost", lost, 0)
        self.expect(f"{part}: cells that differ from the copy", differing, 0)
        result = {"cells_compared": cells, "profiles_lost": lost, "cells_differing": differing}
        if columns:
            code, said = self.finished(("normalize", "verify"), "--json")
            found = json.loads(said) if said.startswith("{") else {"different": said[-500:], "profiles": 0}
            self.expect(f"{part}: verify (exit code, differences)", (code, found["different"]), (0, 0))
            result |= {"verify_profiles": found["profiles"], "verify_different": found["different"]}
        return result

    def finished(self, verb: tuple[str, ...], *arguments: str) -> tuple[int, str]:
        """Run a verb to its end; its exit code and what it printed, or else what it said."""
        self.verb = verb
        process = self.start(*arguments)
        try:
            out, said = process.communicate(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, said = process.communicate()
        return process.returncode, out or said

    def kill(self, part: str, arguments: tuple[str, ...], kills: int, longest: float) -> dict[str, int]:
        """Start the verb and kill it, so many times; an early end without success is no promise kept."""
        hit = early = refused = 0
        give_up = time.monotonic() + WAIT_SECONDS + kills * (LONGEST_START_SECONDS + longest + 2)
        while hit + early < kills and time.monotonic() < give_up:
            process = self.start(*arguments)
            if (hit + early) % EARLY_KILLS == EARLY_KILLS - 1:
                time.sleep(self.moment.uniform(0, LONGEST_START_SECONDS))
                early += 1
            else:
                first = process.stderr.readline()
                if not first.startswith("{"):
                    said = first + process.communicate()[1]
                    if "is being worked on" in said:
                        refused += 1  # the server has not noticed yet that the other one is dead
                        continue
                    if process.returncode == 0:
                        break  # there was nothing left to do
                    self.broken.append(f"{part}: started again, it says: {said.strip()[-500:]}")
                    break
                time.sleep(self.moment.uniform(0, longest))
                hit += process.poll() is None
                if process.poll() == 0:
                    break
            process.kill()
            process.communicate()
        return {"kills_at_work": hit, "kills_while_it_starts": early, "refused_until_the_dead_session_ended": refused}

    # The parts

    def run_killed(self, profiles: int, kills: int) -> dict[str, object]:
        started = time.monotonic()
        # So slow that profiles are left for every kill, and for the stops of the server.
        rate = max(100.0, 0.5 * profiles / (max(kills, 1) * (MOST_KILL_SECONDS / 2 + 0.1)))
        self.verb = ("normalize", "run")
        result = self.kill("run", ("--max-rate", f"{rate:.0f}"), kills, MOST_KILL_SECONDS)
        self.expect("run: kills", result["kills_at_work"] + result["kills_while_it_starts"], kills)
        ((left,),) = self.query(
            f"select count(*) from public.user_profiles as p where num_nonnulls({', '.join(f'p.{g}' for g in GROUPS)}) = 0"
        )
        return result | {"profiles_left": left, "seconds": round(time.monotonic() - started, 1)}

    def server_stopped(self, profiles: int, stops: int) -> dict[str, object]:
        started = time.monotonic()
        self.verb = ("normalize", "run")
        ((left,),) = self.query(
            f"select count(*) from public.user_profiles as p where num_nonnulls({', '.join(f'p.{g}' for g in GROUPS)}) = 0"
        )
        runner = Runner(self, max(100.0, 0.7 * left / (max(stops, 1) * (LONGEST_STOP_PAUSE_SECONDS / 2 + 0.6) + 1)))
        back: list[float] = []
        for _ in range(stops):
            runner.wait_for_line(time.monotonic())
            time.sleep(self.moment.uniform(0.1, LONGEST_STOP_PAUSE_SECONDS))
            if runner.ended():
                break
            returned_at = self.crash_and_start()
            line_at = runner.wait_for_line(returned_at)
            if line_at is None:
                break
            back.append(line_at - returned_at)
        code, result = runner.finish("run")
        self.expect("run: stops of the server that hit the runner", len(back), stops)
        self.expect("run: exit code", code, 0)
        self.expect("run: runners that had to be started again", runner.restarts, [])
        slow = [round(seconds, 2) for seconds in back if seconds > MOST_RECONNECT_SECONDS]
        self.expect(f"run: returns that took more than {MOST_RECONNECT_SECONDS:.0f} s", slow, [])
        self.expect("run: phase", self.phase(), "converted")
        # The cursor and this count commit with the rows: each row is counted once, whatever happened.
        ((done, failed),) = self.query(
            "select sum(rows_done)::bigint, sum(rows_failed)::bigint from profiles_internal.jobs where kind = 'normalize'"
        )
        self.expect("run: jobs (rows done, rows failed)", (done, failed), (profiles, 0))
        return {
            "stops": len(back),
            "rows_done": done,
            "profiles_reported_by_the_runner": result.get("changed"),
            "seconds_to_next_progress_most": round(max(back, default=0.0), 2),
            "seconds": round(time.monotonic() - started, 1),
            **self.cells("run", columns=True),
        }

    def contract_killed(self, kills: int) -> dict[str, object]:
        started = time.monotonic()
        self.verb = ("normalize", "verify")
        process = self.start()
        process.stderr.readline()
        begun = time.monotonic()
        process.communicate()
        # To where the columns go and a little beyond.
        longest = (time.monotonic() - begun) * 1.3 + 0.1
        killed = 0
        while killed < kills and self.phase() == "converted":
            self.verb = ("normalize", "contract")
            result = self.kill("contract", ("--now",), 1, longest)
            killed += result["kills_at_work"]
            ((columns,),) = self.query(
                "select count(*) from pg_attribute where attrelid = 'public.user_profiles'::regclass and not attisdropped"
                f" and attname in ({', '.join(repr(trait.name) for trait in TRAITS)})"
            )
            phase = self.phase()
            # All of them or none.
            self.expect("contract: columns after a kill", columns, len(TRAITS) if phase == "converted" else 0)
        code, said = self.finished(("normalize", "contract"), "--now", "--json")
        self.expect("contract: exit code", code, 0)
        if code:
            self.broken.append(f"contract: it says: {said[-500:]}")
        self.expect("contract: phase", self.phase(), "contracted")
        return {"kills": killed, "seconds": round(time.monotonic() - started, 1)} | self.cells(
            "contract", columns=False
        )

    def restore_killed(self, profiles: int, kills: int) -> dict[str, object]:
        started = time.monotonic()
        rate = max(100.0, 0.7 * profiles / (max(kills, 1) * (MOST_KILL_SECONDS / 2 + 0.1)))
        self.verb = ("normalize", "restore")
        result = self.kill("restore", ("--max-rate", f"{rate:.0f}"), kills, MOST_KILL_SECONDS)
        self.expect("restore: kills", result["kills_at_work"] + result["kills_while_it_starts"], kills)
        code, said = self.finished(("normalize", "restore"), "--json")
        self.expect("restore: exit code", code, 0)
        if code:
            self.broken.append(f"restore: it says: {said[-500:]}")
        self.expect("restore: phase", self.phase(), "converted")
        cells = self.cells("restore", columns=True)
        return result | {"seconds": round(time.monotonic() - started, 1)} | cells


def json_of(trait: TraitColumn) -> str:
    """The SQL of the JSON that a cell of the copy must have become; NULL for no key."""
    cell = f"b.{trait.name}"
    if trait.data_type == "jsonb":
        return cell
    if trait.data_type == "real":
        return (
            f"case when {cell}::text in ('-0', 'NaN', 'Infinity', '-Infinity') then to_jsonb({cell}::text)"
            f" else to_jsonb({cell}) end"
        )
    return f"to_jsonb({cell})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profiles", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--server-stops", type=int, default=5)
    parser.add_argument("--contract-kills", type=int, default=10)
    parser.add_argument("--restore-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    directory = Path(tempfile.mkdtemp(prefix="profiles-chaos-", dir="/tmp"))
    directory.chmod(0o755)  # for root, whose server runs under an account of its own
    try:
        chaos = ChaosOfNormalize(directory, arguments.seed)
        with contextlib.closing(chaos):
            chaos.wide(arguments.profiles)
            result = {
                "seed": arguments.seed,
                "server": chaos.server.version,
                "profiles": arguments.profiles,
                "run_killed": chaos.run_killed(arguments.profiles, arguments.kills),
                "server_stopped": chaos.server_stopped(arguments.profiles, arguments.server_stops),
                "contract_killed": chaos.contract_killed(arguments.contract_kills),
                "restore_killed": chaos.restore_killed(arguments.profiles, arguments.restore_kills),
                "broken": chaos.broken,
            }
    finally:
        local.stop(directory)
        shutil.rmtree(directory)
    print(json.dumps(result, indent=2))
    return int(bool(chaos.broken))


if __name__ == "__main__":
    sys.exit(main())
