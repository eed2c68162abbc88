"""What an upgrade costs that finds nothing to do: the start of every replica of a deploy after the first.

A fresh process of `alembic upgrade head` (in the repository's root) and of `profiles-schema upgrade`, on a database at
head, each against a fresh interpreter that only imports the libraries it needs. All four take turns in one run, so that
a busy machine slows them alike:

    python benchmarks/noop_upgrade.py [--runs N] [--out FILE]

The database is DATABASE_URL, which must be at head already (nothing is changed), or else an embedded server of this run
alone. The result is JSON on stdout: medians in milliseconds, ratios, and the target. Exit code 1 above the target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from profiles_schema import local

NEEDED = "alembic, alembic.command, alembic.config, alembic.script, alembic.runtime.migration, sqlalchemy, psycopg2"
# Each: the command after the interpreter's name, and the imports that are its limit.
CASES = {
    "alembic upgrade head": (("-m", "alembic", "upgrade", "head"), f"import {NEEDED}"),
    "profiles-schema upgrade": (("-m", "profiles_schema", "upgrade"), f"import {NEEDED}, click"),
}
TARGET_RATIO = 1.5
LEAST_RUNS = 10
ROOT = Path(__file__).resolve().parent.parent


def process_ms(arguments: tuple[str, ...], environment: dict[str, str]) -> float:
    """Milliseconds a fresh interpreter takes for these arguments, its own start included."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT, env=environment)
    return (time.perf_counter() - begin) * 1000


@contextmanager
def database() -> Iterator[str]:
    """The URL of a database at head: the one of DATABASE_URL, else one in an embedded server of this run alone."""
    named = os.environ.get("DATABASE_URL", "").strip()
    if named and named != "local":
        yield named
        return
    # Open to enter: as root, the server's account has to get through.
    directory = Path(tempfile.mkdtemp(prefix="profiles-bench-"))
    directory.chmod(0o755)
    try:
        url = local.start(directory / "postgres").url()
        command = [sys.executable, "-m", "profiles_schema", "upgrade"]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "DATABASE_URL": url})
        yield url
    finally:
        local.stop(directory / "postgres")
        shutil.rmtree(directory, ignore_errors=True)


def measure(runs: int, url: str) -> dict[str, object]:
    """Run everything `runs` times in turns and compare the medians."""
    environment = {**os.environ, "DATABASE_URL": url}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "profiles_schema", "current", "--json"],
            check=True, capture_output=True, cwd=ROOT, env=environment,
        ).stdout
    )  # fmt: skip
    if not found["at_head"]:
        raise SystemExit("error: the database is not at head; run `profiles-schema upgrade` on it first")

    turns = {name: (command, ("-c", imports)) for name, (command, imports) in CASES.items()}
    for pair in turns.values():  # the first run of each writes byte code and does not count
        for arguments in pair:
            process_ms(arguments, environment)
    ours: dict[str, list[float]] = {name: [] for name in turns}
    limits: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(runs):
        for name, (command, imports) in turns.items():
            limits[name].append(process_ms(imports, environment))
            ours[name].append(process_ms(command, environment))

    results = {
        name: {
            "median_ms": round(statistics.median(ours[name]), 1),
            "limit": {"statement": CASES[name][1], "median_ms": round(statistics.median(limits[name]), 1)},
            "ratio": round(statistics.median(ours[name]) / statistics.median(limits[name]), 3),
        }
        for name in turns
    }
    return {
        "benchmark": "noop_upgrade",
        "runs": runs,
        "results": results,
        "target_ratio": TARGET_RATIO,
        "met": all(result["ratio"] <= TARGET_RATIO for result in results.values()),
        "python": platform.python_version(),
        "alembic": version("alembic"),
        "sqlalchemy": version("sqlalchemy"),
        "cpus": os.cpu_count(),
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="An upgrade with nothing to do against the imports it needs.")
    parser.add_argument("--runs", type=int, default=15, help=f"rounds, at least {LEAST_RUNS}")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    if arguments.runs < LEAST_RUNS:
        parser.error(f"--runs must be at least {LEAST_RUNS}: a median of fewer says nothing")
    with database() as url:
        result = measure(arguments.runs, url)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
