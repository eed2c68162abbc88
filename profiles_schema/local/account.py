"""The account that root's server runs as, the directories that it may enter, and programs that it may run."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import pwd
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

from profiles_schema.errors import EmbeddedServerFailed
from profiles_schema.local.layout import DIRECTORY_VARIABLE, WHEEL, Place, is_root
from profiles_schema.local.processes import Account, execute

_NAME: Final = "profiles-schema"


def prepare_directory(place: Place) -> Account | None:
    """Make the server's directory. For root, also find the server's account and make sure that it can get there.

    Raises:
        EmbeddedServerFailed: the account cannot reach the directory, others may write to it, or no account can be made.
    """
    if not is_root():
        place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return None
    account = server_account(place) or _system_account()
    missing = [path for path in (place.directory, *place.directory.parents) if not path.exists()]
    if not _can_enter(missing[-1].parent if missing else place.directory, account):
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


def server_account(place: Place) -> Account | None:
    """For root: the account that owns the server here, if there is one."""
    if not is_root() or not place.server.exists():
        return None
    found = place.server.lstat()
    return Account(found.st_uid, found.st_gid) if found.st_uid != 0 else None


def make_private(path: Path, account: Account | None) -> None:
    """Make a directory that only the server's account may enter, or make sure that the existing one is such a directory.

    Raises:
        EmbeddedServerFailed: something else is there, which another user could have put there.
    """
    if account is not None and path.exists() and path.lstat().st_uid == 0:
        path.rmdir()  # root was stopped between the two calls below
    try:
        path.mkdir(mode=0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    except FileExistsError:
        found = path.lstat()
        expected = os.geteuid() if account is None else account.uid
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != expected or found.st_mode & 0o077:
            raise EmbeddedServerFailed(
                f"{path} is not a directory of mode 0700 that belongs to the server's account. "
                f"Remove it, or set {DIRECTORY_VARIABLE} to another directory."
            ) from None


def runnable_programs(place: Place, account: Account | None, installed: Path) -> Path:
    """Programs that the account may run: the installed ones, or a copy where those are in a closed directory."""
    if account is None or _can_run(installed, account):
        return installed
    package = installed.parent.parent
    copy = place.directory / f"postgresql-{importlib.metadata.version(WHEEL)}"
    programs = copy / package.name / installed.parent.name / installed.name
    if programs.is_dir():
        return programs
    for old in place.directory.glob("postgresql-*"):
        shutil.rmtree(old, ignore_errors=True)
    fresh = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
    # The programs find their libraries relative to themselves: beside the package on Linux, inside it on macOS.
    for part in (installed.parent, package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if part.is_dir():
            target = fresh / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    fresh.rename(copy)
    return programs


def _system_account() -> Account:
    if _account_named(_NAME) is None and (program := shutil.which("useradd")):
        options = [
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "-s",
            "/usr/sbin/nologin",
        ]
        execute([program, *options, _NAME], environment=dict(os.environ))
    account = _account_named(_NAME) or _account_named("nobody")
    if account is None:
        raise EmbeddedServerFailed(
            f"PostgreSQL does not run as root, and the account {_NAME} could not be created. "
            "Run this as an ordinary user."
        )
    return account


def _account_named(name: str) -> Account | None:
    with contextlib.suppress(KeyError):
        found = pwd.getpwnam(name)
        return Account(found.pw_uid, found.pw_gid)
    return None


def _can_enter(path: Path, account: Account | None) -> bool:
    # cd proves every directory on the way, which mode bits (ACLs, capabilities, mounts) do not.
    command = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(path)]
    return execute(command, account, environment={"LC_ALL": "C"}).returncode == 0


@functools.cache
def _can_run(programs: Path, account: Account) -> bool:
    try:
        return all(
            execute([str(programs / name), "--version"], account, environment={"LC_ALL": "C"}).returncode == 0
            for name in ("postgres", "initdb", "psql", "pg_ctl")
        )
    except PermissionError:
        return False
