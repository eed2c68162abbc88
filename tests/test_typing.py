"""An application's type checker accepts what the documentation shows, and finds what is misspelt."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from mypy import api

from support import REPOSITORY

CONSUMER = REPOSITORY / "tests" / "support" / "consumer"
EXAMPLE = REPOSITORY / "examples" / "fastapi_app" / "app.py"

KNOWN = """\
from sqlalchemy.orm import Session

from profiles_schema import UserProfile

session = Session()
profile = UserProfile()
"""
WRONG = """\
from profiles_schema.traits import BigFive, PersonalityTraits

BigFive(opennes=71)
BigFive(openness=[71])
PersonalityTraits().facet = ["curious"]
"""


def examples(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert found, page
    return "\n".join([KNOWN, *found])


@pytest.mark.slow
def test_the_documented_examples_are_well_typed_and_misspelt_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = {
        "readme.py": examples("README.md"),
        "tutorial.py": examples("docs/tutorial/your-first-profile.md"),
        "traits.py": examples("docs/how-to/read-and-write-traits.md"),
        "with_fastapi.py": examples("docs/how-to/use-with-fastapi.md"),
        "wrong.py": WRONG,
    }
    for name, program in programs.items():
        (tmp_path / name).write_text(program, encoding="utf-8")
    said, failed, _ = api.run(["--strict", "--config-file=", "--cache-dir", "cache", *programs])
    assert not failed
    assert re.findall(r"^(\S+): error: .*\[(\S+)\]$", said, flags=re.MULTILINE) == [
        ("wrong.py:3", "call-arg"),
        ("wrong.py:4", "arg-type"),
        ("wrong.py:5", "attr-defined"),
    ], said


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that has installed the wheel, and what it needs, in an environment of its own."""
    place = tmp_path_factory.mktemp("consumer")

    def run(*command):
        subprocess.run(command, check=True, cwd=place, timeout=120)

    # Without isolation: a new environment would fetch hatchling, and the tests need no network.
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
        "--wheel-dir", str(place), str(REPOSITORY),
    )  # fmt: skip
    run(sys.executable, "-m", "venv", "--without-pip", "venv")
    (packages,) = place.glob("venv/lib/python*/site-packages")
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    # Without the .pth files in it: one of them would bring the checkout back.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    shutil.copytree(CONSUMER, place / "support" / "consumer")
    shutil.copy(EXAMPLE, place / "application.py")
    return place


def mypy(project):
    """What mypy finds, by file and line."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--explicit-package-bases",
        "--namespace-packages",
    ]
    options = ["--python-executable", "venv/bin/python", "--cache-dir", "cache", "--output", "json"]
    done = subprocess.run(
        [*command, *options, "support", "application.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    for found in map(json.loads, done.stdout.splitlines()):
        if found["severity"] == "error":
            yield Path(found["file"]).name, found["line"]


def pyright(project):
    """What pyright finds in its strict mode (basedpyright is pyright in a wheel)."""
    pytest.importorskip("basedpyright")
    (project / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "include": ["support", "application.py"]})
    )
    command = [sys.executable, "-m", "basedpyright", "-p", ".", "--pythonpath", "venv/bin/python", "--outputjson"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        if found["severity"] == "error":
            yield Path(found["file"]).name, found["range"]["start"]["line"] + 1


@pytest.mark.slow
@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_project_with_the_wheel_is_checked_strictly(project, check):
    mistakes = (CONSUMER / "wrong.py").read_text(encoding="utf-8").splitlines()
    first = mistakes.index(next(line for line in mistakes if "gett" in line)) + 1
    assert sorted(set(check(project))) == [("wrong.py", line) for line in range(first, len(mistakes) + 1)]
