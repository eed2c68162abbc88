"""make setup: an environment whose making was cut off heals by itself."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from support import REPOSITORY

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1.0"
[project.optional-dependencies]
local = []
[dependency-groups]
dev = []
"""
BACKEND = """
import pathlib, zipfile
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    return name
"""


def wheel_of_pip(directory):
    """The pip that is installed here, as a wheel with the highest of versions, for `--upgrade` without a network."""
    pip = distribution("pip")
    info = f"pip-{pip.version}.dist-info"
    with zipfile.ZipFile(directory / "pip-999-py3-none-any.whl", "w") as wheel:
        for path, *_ in csv.reader(pip.read_text("RECORD").splitlines()):
            if path.startswith(("pip/", f"{info}/")) and not path.endswith(
                (".pyc", "RECORD", "INSTALLER", "REQUESTED")
            ):
                content = Path(pip.locate_file(path)).read_bytes()
                if path.endswith("/METADATA"):
                    content = content.replace(f"\nVersion: {pip.version}\n".encode(), b"\nVersion: 999\n")
                wheel.writestr(path.replace(info, "pip-999.dist-info"), content)
        wheel.writestr("pip-999.dist-info/RECORD", "")


@pytest.fixture
def checkout(tmp_path):
    """Our Makefile over a package of one empty file; a function that starts `make setup` there, without a network."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (tmp_path / "backend.py").write_text(BACKEND, encoding="utf-8")
    (tmp_path / "profiles_schema").mkdir()
    (tmp_path / "profiles_schema" / "_version.py").touch()
    wheels = tmp_path / "wheels"
    wheels.mkdir()

    def make(*arguments):
        return subprocess.Popen(
            ["make", f"PYTHON={sys._base_executable}", *arguments], cwd=tmp_path, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)},
        )  # fmt: skip

    make.directory = tmp_path
    return make


def test_a_set_up_that_was_cut_off_begins_with_an_empty_directory(checkout):
    environment = checkout.directory / ".venv"
    environment.mkdir()
    assert " -m venv --clear .venv " in checkout("-n", "setup").communicate(timeout=30)[0]


def test_a_finished_environment_is_kept_and_is_unfinished_while_it_is_brought_up_to_date(checkout):
    environment = checkout.directory / ".venv"
    environment.mkdir()
    (environment / ".ready").touch()
    assert "venv" not in checkout("-n", "setup").communicate(timeout=30)[0]
    os.utime(environment / ".ready", (0, 0))
    said = checkout("-n", "setup").communicate(timeout=30)[0]
    assert "--clear" not in said
    assert said.index("rm -f .venv/.ready") < said.index("-m venv") < said.index("pip install") < said.index("touch")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_make_setup_heals_what_an_interruption_left_while_pip_replaces_itself(checkout, number):
    wheel_of_pip(checkout.directory / "wheels")
    first = checkout("setup")
    # pip first moves the old one out of the way.
    while not list(checkout.directory.glob(".venv/lib/*/site-packages/~ip/__init__.py")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.001)
    os.killpg(first.pid, number)
    first.communicate(timeout=60)
    python = checkout.directory / ".venv" / "bin" / "python"
    if number == signal.SIGKILL:
        assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0
    again = checkout("setup")
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 0, said
    assert (checkout.directory / ".venv" / ".ready").exists()
    subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=True)
    subprocess.run([python, "-c", "import tiny"], capture_output=True, check=True)
