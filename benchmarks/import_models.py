"""What `from profiles_schema import UserProfile` costs beyond SQLAlchemy itself, and the first typed group beyond pydantic.

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
# Paid by who reads a group as a model, and only then; reported without a target.
TYPED_LIMIT = f"{LIMIT}, pydantic; pydantic.create_model('Model', key=(int, 0))()"
TYPED = f"{OURS}; UserProfile(personality_traits={{}}).personality"
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
    """Import each `runs` times in turns and compare the medians."""
    taken_ms: dict[str, list[float]] = {statement: [] for statement in (LIMIT, OURS, TYPED_LIMIT, TYPED)}
    # All from byte code, as installed packages are; the first import of each writes it and does not count.
    with tempfile.TemporaryDirectory() as byte_code:
        for statement in taken_ms:
            import_ms(statement, byte_code)
        for _ in range(runs):
            for statement, taken in taken_ms.items():
                taken.append(import_ms(statement, byte_code))
    medians = {statement: statistics.median(taken) for statement, taken in taken_ms.items()}
    ratio = medians[OURS] / medians[LIMIT]
    return {
        "benchmark": "import_models",
        "runs": runs,
        "limit": {"statement": LIMIT, "median_ms": round(medians[LIMIT], 1)},
        "ours": {"statement": OURS, "median_ms": round(medians[OURS], 1)},
        "ratio": round(ratio, 3),
        "target_ratio": TARGET_RATIO,
        "met": ratio <= TARGET_RATIO,
        "typed_limit": {"statement": TYPED_LIMIT, "median_ms": round(medians[TYPED_LIMIT], 1)},
        "typed": {"statement": TYPED, "median_ms": round(medians[TYPED], 1)},
        "typed_ratio": round(medians[TYPED] / medians[TYPED_LIMIT], 3),
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
