"""Start, stop and find the server of a directory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from profiles_schema.errors import EmbeddedServerFailed
from profiles_schema.local.account import make_private, prepare_directory, runnable_programs, server_account
from profiles_schema.local.layout import DATABASE, DIRECTORY_VARIABLE, MAJOR, PORT, Place, binaries, socket_path
from profiles_schema.local.processes import (
    LOG_BYTES,
    WAIT_SECONDS,
    Account,
    execute,
    explain_failures,
    fail,
    hold_lock,
    log_size,
    read_log,
    run,
)

ANSWER_SECONDS: Final = 5.0
_SOCKET_PATH_BYTES: Final = 103  # sun_path without its final zero: 103 on macOS, 107 on Linux
_BUILTIN_LOCALES_SINCE: Final = 17


@dataclass(frozen=True)
class LocalServer:
    """A server that runs and answers."""

    data_directory: Path
    socket_directory: Path
    port: int
    pid: int
    version: str

    def url(self, database: str = DATABASE) -> str:
        """The URL of one of its databases."""
        # It names the port because a PGPORT of the user's would otherwise name another socket.
        host = quote(str(self.socket_directory))
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={self.port}"


@dataclass(frozen=True)
class Postmaster:
    """A server process that accepts connections, as postmaster.pid describes it."""

    pid: int
    port: int
    socket_directory: Path


def start(directory: Path | None = None, *, programs: Path | None = None) -> LocalServer:
    """Start the server, or return the one that runs. Makes the cluster and the database ``profiles`` if missing.

    Any number of processes may call it at once. The server outlives its starter.

    Args:
        directory: where the server lives; by default `default_directory`.
        programs: the directory of the programs of another PostgreSQL, for tests on an older major.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: the server cannot be made or started; the message names the cause.
    """
    place = Place.at(directory)
    installed = programs or binaries()
    with explain_failures(place):
        account = prepare_directory(place)
        with hold_lock(place):
            make_private(place.server, account)
            _remove_unfinished_clusters(place)
            postmaster = listening_postmaster(place)
            if postmaster is None:
                runnable = installed if programs else runnable_programs(place, account, installed)
                postmaster = _bring_up(place, account, runnable)
            version = _create_database(place, installed, postmaster)
    return _local_server(place, postmaster, version)


def stop(directory: Path | None = None) -> bool:
    """Stop the server, ending its connections; what is committed stays. False: it was not running.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: it does not stop, or is not this user's.
    """
    place = Place.at(directory)
    with explain_failures(place):
        if not place.lock.exists():
            return False
        with hold_lock(place):
            postmaster = listening_postmaster(place)
            if postmaster is None:
                return False
            if _peer(postmaster) not in {None, postmaster.pid}:
                raise EmbeddedServerFailed(
                    f"The embedded PostgreSQL in {place.directory} runs in another container. Stop it there."
                )
            account = server_account(place)
            # `data` is relative to the program's working directory, so no path of the user's meets a shell.
            command = ["pg_ctl", "stop", "-D", "data", "-m", "fast", "-w", "-t", f"{WAIT_SECONDS:.0f}"]
            offset = log_size(place)
            done = run(place, account, runnable_programs(place, account, binaries()), command)
            if done.returncode != 0 and listening_postmaster(place) is not None:
                fail(place, "does not stop", done, offset)
            return True


def status(directory: Path | None = None) -> LocalServer | None:
    """The server, if it runs and answers. Changes nothing and waits for no lock.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: the directory cannot be read.
    """
    place = Place.at(directory)
    with explain_failures(place):
        postmaster = listening_postmaster(place)
        if postmaster is None:
            return None
        done = _psql(place, binaries(), postmaster, "show server_version;")
    return _local_server(place, postmaster, done.stdout) if done.returncode == 0 else None


def listening_postmaster(place: Place) -> Postmaster | None:
    """The server, if something accepts connections on its socket; a recorded pid alone proves nothing."""
    try:
        lines = (place.data / "postmaster.pid").read_text("utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # pid, data directory, start time, port, socket directory, listen address, shared memory, status
        pid, recorded, _, port, socket_directory, *_ = (line.strip() for line in lines)
        postmaster = Postmaster(int(pid), int(port), Path(socket_directory))
    except ValueError:
        return None
    if socket_path(place.server, postmaster.port).exists():
        # A container may see this directory under another path than the recorded one.
        postmaster = dataclasses.replace(postmaster, socket_directory=place.server)
    elif not Path(recorded).exists() or not place.data.samefile(recorded):
        return None  # a copy of another server's directory
    return postmaster if _peer(postmaster) is not None else None


def recorded_pid(place: Place) -> int | None:
    """The pid in postmaster.pid; its process may be gone."""
    try:
        return abs(int((place.data / "postmaster.pid").read_text("utf-8").split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether this process exists and is this user's; PostgreSQL itself sees those of other users."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _local_server(place: Place, postmaster: Postmaster, version: str) -> LocalServer:
    return LocalServer(
        data_directory=place.data,
        socket_directory=postmaster.socket_directory,
        port=postmaster.port,
        pid=postmaster.pid,
        version=version.strip(),
    )


def _create_cluster(place: Place, account: Account | None, programs: Path) -> None:
    """Run initdb next to the data directory and rename the result, so that a half-made cluster is never taken for one."""
    major = _major(programs)
    with contextlib.suppress(FileNotFoundError):
        found = (place.data / "PG_VERSION").read_text("ascii").strip()
        if found == str(major):
            return
        raise EmbeddedServerFailed(
            f"{place.data} was made by PostgreSQL {found}; the embedded one is {major}. Dump it with the programs of "
            f"PostgreSQL {found} and move it away, or set {DIRECTORY_VARIABLE} to another directory."
        )
    if place.data.exists():
        raise EmbeddedServerFailed(f"{place.data} holds no PostgreSQL cluster. Move it away, then run this again.")
    fresh = place.server / f"data.new-{secrets.token_hex(4)}"
    # trust: the only way in is the socket, whose directory only the server's account (and root) may enter.
    command = ["initdb", "-D", fresh.name, "-U", "postgres", "--encoding=UTF8", "--no-instructions"]
    command += ["--auth-local=trust", "--auth-host=reject"]
    if major >= _BUILTIN_LOCALES_SINCE:
        # The built-in C.UTF-8 sorts alike on every machine, whatever locales that has.
        command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        settings = {"shared_buffers": "64MB", "max_connections": "100", "timezone": "UTC", "log_timezone": "UTC"}
        command += [f"--set={name}={value}" for name, value in settings.items()]
    else:
        command += ["--locale=C.UTF-8"]
    done = run(place, account, programs, command)
    if done.returncode != 0:
        hint = ""
        if "could not look up effective user ID" in done.stderr:
            hint = " This user id has no entry in /etc/passwd, and PostgreSQL needs one."
        raise EmbeddedServerFailed(f"The embedded PostgreSQL in {place.directory}: {done.stderr.strip()}.{hint}")
    fresh.rename(place.data)


def _major(programs: Path) -> int:
    if programs.parent.name == f"pginstall{MAJOR}":
        return MAJOR
    shown = execute([str(programs / "postgres"), "--version"], environment={"LC_ALL": "C"}).stdout
    return int(re.findall(r"\d+", shown)[0])


def _remove_unfinished_clusters(place: Place) -> None:
    """Remove what an initdb left whose starter was ended. We hold the lock, so no living starter is making one.

    A program that such an initdb had started may still write for a moment, and what it adds makes a removal fail.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    for unfinished in place.server.glob("data.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
        while unfinished.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
            shutil.rmtree(unfinished, ignore_errors=True)


def _bring_up(place: Place, account: Account | None, programs: Path) -> Postmaster:
    _create_cluster(place, account, programs)
    deadline = time.monotonic() + WAIT_SECONDS
    while (postmaster := listening_postmaster(place)) is None:
        _launch(place, account, programs, deadline)
    return postmaster


def _launch(place: Place, account: Account | None, programs: Path, deadline: float) -> None:
    """Start the server, or give one that is still coming up a moment."""
    if time.monotonic() > deadline:
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL in {place.directory} has a process but does not answer. Its log: {place.log}"
        )
    pid = recorded_pid(place)
    if pid is not None and not _disown_recycled_pid(place, account, programs, pid):
        time.sleep(0.2)
        return
    _write_configuration(place, account)
    if log_size(place) > LOG_BYTES:
        place.log.replace(place.log.with_name("log.old"))
    offset = log_size(place)
    # On the command line, so that no ALTER SYSTEM opens a network port. pg_ctl puts the server into its own session.
    options = f"-c config_file=../server.conf -c port={PORT} -c unix_socket_permissions=0700 -c listen_addresses="
    wait_seconds = max(1, int(deadline - time.monotonic()))
    command = ["pg_ctl", "start", "-D", "data", "-l", "log", "-w", "-t", str(wait_seconds), "-o", options]
    done = run(place, account, programs, command)
    if done.returncode == 0:
        return
    if "pre-existing shared memory block" in read_log(place, offset):
        time.sleep(0.2)  # the connections of a killed server are still ending
        return
    fail(place, "did not start", done, offset)


def _write_configuration(place: Place, account: Account | None) -> None:
    directory = _socket_directory(place, account)
    _remove_dead_socket(directory)
    name = str(directory).replace('"', '""').replace("\\", "\\\\").replace("'", "''")
    lines = [
        "# Written at every start. Your own settings belong into the file that is included here.",
        "include 'server/data/postgresql.conf'",
        f"unix_socket_directories = '\"{name}\"'",
    ]
    if sys.platform == "linux" and not os.access("/dev/shm", os.W_OK):  # noqa: S108  (the kernel's, not a file of ours)
        lines += ["dynamic_shared_memory_type = mmap"]
    fresh = place.configuration.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600, exist_ok=False)
    fresh.write_text("\n".join(lines) + "\n", "utf-8")
    if account is not None:
        fresh.chmod(0o644)  # whatever root's umask
    fresh.replace(place.configuration)


def _remove_dead_socket(directory: Path) -> None:
    """Remove the socket of a killed server: its lock may name a pid that was recycled, or a zombie."""
    if _peer(Postmaster(0, PORT, directory)) is None:
        socket_file = socket_path(directory)
        for path in (socket_file, socket_file.with_name(f"{socket_file.name}.lock")):
            path.unlink(missing_ok=True)


def _socket_directory(place: Place, account: Account | None) -> Path:
    """The server's own directory, or a short and private one where clients could not use the socket's path."""

    def fits(path: Path) -> bool:
        # In a URL, a comma begins another host and a colon a port.
        return len(os.fsencode(socket_path(path))) <= _SOCKET_PATH_BYTES and not {",", ":"} & set(str(path))

    if fits(place.server):
        return place.server
    name = f"profiles-schema-{hashlib.sha256(os.fsencode(place.directory)).hexdigest()[:16]}"
    bases = [tempfile.gettempdir(), "/tmp"]  # noqa: S108  (make_private refuses what others put there)
    if account is not None:
        bases.insert(0, "/run")
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        bases.insert(0, runtime)
    short = next(Path(base) / name for base in bases if os.access(base, os.W_OK) and fits(Path(base) / name))
    make_private(short, account)
    return short


def _disown_recycled_pid(place: Place, account: Account | None, programs: Path, pid: int) -> bool:
    """Whether a start may be tried: the recorded process is gone, or is another program with a recycled pid.

    PostgreSQL refuses to start when the pid of a crashed server belongs to any other process of the same user, as it
    does in a restarted container. It skips the pid of pg_ctl's parent, so ours is put there; the file itself stays,
    because by it PostgreSQL finds connections of the crashed server that still write.
    """
    if not is_alive(pid):
        return True
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cwd").samefile(place.data):
                return False  # a postmaster works in its data directory
    else:
        shown = execute(["/bin/ps", "-p", str(pid), "-o", "comm="], environment={"LC_ALL": "C"})
        if Path(shown.stdout.strip()).name == "postgres":
            return False
    rest = (place.data / "postmaster.pid").read_text("utf-8").partition("\n")[2]
    # As the server's account: root writes nothing into a directory that another user owns.
    script = 'printf "%s\\n%s" "$1" "$2" > data/postmaster.pid'
    run(place, account, programs, ["/bin/sh", "-c", script, "sh", str(os.getpid()), rest])
    return True


def _peer(postmaster: Postmaster) -> int | None:
    """The process that answers for the server, None if none does; where the system cannot tell, the recorded one."""
    peer = postmaster.pid
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(ANSWER_SECONDS)
            client.connect(str(socket_path(postmaster.socket_directory, postmaster.port)))
            if sys.platform == "linux":
                credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                peer = int.from_bytes(credentials[:4], sys.byteorder)  # 0: in another pid namespace
    except OSError:
        return None
    return peer


def _create_database(place: Place, programs: Path, postmaster: Postmaster) -> str:
    """Make the database unless it is there; returns the server's version."""
    script = (
        f"select 'create database {DATABASE}'"
        f" where not exists (select from pg_catalog.pg_database where datname = '{DATABASE}') \\gexec\n"
        "show server_version;"
    )
    offset = log_size(place)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        done = _psql(place, programs, postmaster, script)
        if done.returncode == 0:
            return done.stdout
        # Another starter was killed while the server was coming up.
        if "starting up" not in done.stderr or time.monotonic() > deadline:
            fail(place, "does not answer", done, offset)
        time.sleep(0.2)


def _psql(place: Place, programs: Path, postmaster: Postmaster, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the caller, also for root: every account that reaches the socket may be a client."""
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(postmaster.socket_directory)]
    command += ["-p", str(postmaster.port), "-U", "postgres", "-d", "postgres", "-f", "-"]
    return run(place, None, programs, command, script)
