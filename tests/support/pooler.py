"""A real PgBouncer in front of a test's database."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

ROADS = ("direct", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("session", "transaction")))
"""How an application reaches the server, to parametrize with."""


def program():
    """The path of PgBouncer, which an ordinary user's PATH may leave out; None without one."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def by_road(url, road):
    """The URL that an application takes on this road, and what it tells the engine."""
    if road == "direct":
        yield url, {}
    else:
        with pooled(url, road, pool_size=20) as through:
            yield through.replace("postgres://", "postgresql://"), {"pooler": road}


@contextmanager
def pooler(url):
    """Yields a function that starts PgBouncer in front of a database and returns the URL through it."""
    with ExitStack() as stack:
        yield lambda mode, pool_size=3: stack.enter_context(pooled(url, mode, pool_size))


@contextmanager
def pooled(url, mode, pool_size=3):
    """The URL through a pooler in this mode, to the database and role of the URL."""
    binary = program()
    if binary is None:
        pytest.skip("no pgbouncer on this machine: install it to test poolers")
    target = make_url(url)
    host = target.host or target.query.get("host")
    port = _free_port()
    # Not below pytest's own temporary directory: it is closed to the account that serves root.
    directory = Path(tempfile.mkdtemp(prefix="profiles-pooler-"))
    users = directory / "users.txt"
    users.write_text(f'"{target.username}" ""\n')
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={host} port={target.port or target.query.get('port') or 5432} user={target.username}"
        + (f" password={target.password}" if target.password else "")
        + f"\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {pool_size}\nlogfile = {directory / 'log'}\n"
        f"auth_file = {users}\nserver_login_retry = 1\nclient_login_timeout = 5\n"
    )
    command = [binary, str(configuration)]
    if os.geteuid() == 0:  # it refuses to run as root; the server's own account may enter its directories
        account = Path(host).owner() if str(host).startswith("/") else "nobody"
        for path in (directory, users, configuration):
            shutil.chown(path, account)
        command[1:1] = ["-u", account]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield f"postgres://{target.username}@127.0.0.1:{port}/{target.database}"
    finally:
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(directory)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_port(port):
    give_up = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return
