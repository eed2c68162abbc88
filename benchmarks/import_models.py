"""What `from profiles_schema import UserProfile` costs beyond SQLAlchemy itself.

Fresh interpreters, taken in turns in one run, so that a busy machine slows both alike:

    python benchmarks/import_models.py [--runs N] [--out FILE]

The result is JSON on stdout: medians in milliseconds, their ratio, and the target. Exit code 1 above the target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

LIMIT = "import sqlalchemy.orm, sqlalchemy.dialects.postgresql"
OURS = "from profiles_schema import UserProfile"
TARGET_RATIO = 1.15
LEAST_RUNS = 15
ROOT = Path(__file__).resolve().parent.parent


def import_ms(statement: str, byte_code: str) -> float:
    """Milliseconds one statement takes in a new interpreter, without the start of the interpreter."""
    program = f"import time; t = time.perf_counter(); {statement}; print((time.perf_counter() - t) * 1000)"
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": byte_code}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def measure(runs: int) -> dict[str, object]:
    """Import both `runs` times in turns and compare the medians."""
    limit_ms, ours_ms = [], []
    # Both from byte code, as installed packages are; the first import of each writes it and does not count.
    with tempfile.TemporaryDirectory() as byte_code:
        import_ms(LIMIT, byte_code)
        import_ms(OURS, byte_code)
        for _ in range(runs):
            limit_ms.append(import_ms(LIMIT, byte_code))
            ours_ms.append(import_ms(OURS, byte_code))
    ratio = statistics.median(ours_ms) / statistics.median(limit_ms)
    return {
        "benchmark": "import_models",
        "runs": runs,
        "limit": {"statement": LIMIT, "median_ms": round(statistics.median(limit_ms), 1)},
        "ours": {"statement": OURS, "median_ms": round(statistics.median(ours_ms), 1)},
        "ratio": round(ratio, 3),
        "target_ratio": TARGET_RATIO,
        "met": ratio <= TARGET_RATIO,
        "python": platform.python_version(),
        "sqlalchemy": version("sqlalchemy"),
        "cpus": os.cpu_count(),
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Import time of the models against that of SQLAlchemy alone.")
    parser.add_argument("--runs", type=int, default=25, help=f"pairs of interpreters, at least {LEAST_RUNS}")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    if arguments.runs < LEAST_RUNS:
        parser.error(f"--runs must be at least {LEAST_RUNS}: a median of fewer says nothing")
    result = measure(arguments.runs)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
