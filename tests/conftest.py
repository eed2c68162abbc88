"""Fixtures. The database is always a real PostgreSQL: the embedded one, started once per run (and xdist worker), or the
one whose programs PROFILES_TEST_POSTGRES names (`make matrix`).

`database` is a clone of a template at head, `empty` an empty one, `supabase` one with a hosted project's auth schema, `wide` one with
trait columns.
"""

import os
import shutil
import signal
import tempfile
import time
import uuid
from pathlib import Path

import psycopg
import pytest
from pytest_postgresql import factories
from pytest_postgresql.janitor import DatabaseJanitor

from profiles_schema import local
from support import Database, Server
from support.hosted import host_a_project, open_by_default, owned
from support.pooler import by_road
from support.services import DRIVERS, Services
from support.trait_columns import BEFORE, add_columns

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")


def pytest_configure(config):
    # Every test clones a database and drops it; in memory that costs a tenth. What a worker has at most: servers of half a GiB.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or getattr(config.option, "numprocesses", None) or 1)
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > workers << 30:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None
    # A run started in the background of a shell ignores SIGINT, and so would the commands that the tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--update-catalog", action="store_true", help="write the fingerprints that health compares with")
    parser.addoption(
        "--update-docs", action="store_true", help="write docs/reference/commands.md from the --help of every verb"
    )


@pytest.fixture(scope="session")
def server():
    # Not below pytest's own temporary directory: it is closed to the account that serves root.
    base = Path(tempfile.mkdtemp(prefix="profiles-tests-"))
    base.chmod(0o755)
    programs = os.environ.get("PROFILES_TEST_POSTGRES")
    running = local.start(base / "postgres", programs=Path(programs) if programs else None)
    try:
        executor = Server(
            host=str(running.socket_directory), port=running.port, user="postgres", dbname="empty", options=""
        )
        with psycopg.connect(executor.url("postgres"), autocommit=True) as connection:
            connection.execute("alter system set timezone = 'UTC'")
            # Nothing here needs to survive a power failure.
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set synchronous_commit = off")
            connection.execute("alter system set full_page_writes = off")
            connection.execute("alter system set max_wal_size = '128MB'")
            connection.execute("select pg_reload_conf()")
        # A template must have no connections; it is made here because every other one is cloned from it.
        with DatabaseJanitor(
            host=executor.host,
            port=executor.port,
            user=executor.user,
            dbname=executor.template_dbname,
            as_template=True,
        ):
            yield executor
    finally:
        os.kill(running.pid, signal.SIGINT)  # fast shutdown
        for _ in range(300):
            if local.status(base / "postgres") is None:
                break
            time.sleep(0.1)
        shutil.rmtree(base, ignore_errors=True)


def _upgrade(host, port, user, dbname, password, autocommit):
    Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname).upgrade()


def _upgrade_as_owner(host, port, user, dbname, password, autocommit):
    Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname, "project_owner").upgrade()


def _widen(host, port, user, dbname, password, autocommit):
    database = Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname)
    database.upgrade(BEFORE)
    add_columns(database)
    database.upgrade(backfill="defer")


migrated_template = factories.postgresql_noproc(depends_on="server", dbname="migrated", load=[_upgrade])
hosted_template = factories.postgresql_noproc(depends_on="server", dbname="hosted", load=[host_a_project])
open_template = factories.postgresql_noproc(depends_on="server", dbname="hosted_open", load=[open_by_default])
hosted_at_head_template = factories.postgresql_noproc(
    depends_on="server", dbname="hosted_at_head", load=[host_a_project, _upgrade_as_owner]
)
open_at_head_template = factories.postgresql_noproc(
    depends_on="server", dbname="open_at_head", load=[open_by_default, _upgrade_as_owner]
)
wide_template = factories.postgresql_noproc(depends_on="server", dbname="trait_columns", load=[_widen])

_empty_client = factories.postgresql("server")
_migrated_client = factories.postgresql("migrated_template")
_hosted_client = factories.postgresql("hosted_template")
_open_client = factories.postgresql("open_template")
_hosted_at_head_client = factories.postgresql("hosted_at_head_template")
_open_at_head_client = factories.postgresql("open_at_head_template")

_wide_client = factories.postgresql("wide_template")


@pytest.fixture
def empty(server, _empty_client):
    """An empty database."""
    return Database(server, _empty_client.info.dbname)


@pytest.fixture
def empty_database(empty):
    """The URL of an empty database."""
    return empty.url


@pytest.fixture
def database(server, _migrated_client):
    """A plain database at head."""
    return Database(server, _migrated_client.info.dbname)


@pytest.fixture(scope="module")
def shared(server, migrated_template):
    """A plain database at head for all tests of a module, which make users of their own."""
    name = f"shared_{uuid.uuid4().hex[:12]}"
    options = {"host": server.host, "port": server.port, "user": server.user, "dbname": name}
    with DatabaseJanitor(**options, template_dbname=migrated_template.template_dbname):
        yield Database(server, name)


@pytest.fixture(scope="module")
def app_url(shared):
    """The URL of the shared database for the role of an application, made as require_rls says."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    shared.script(f"create role {role} login noinherit; grant anon, authenticated, service_role to {role}")
    yield shared.server.url(shared.name, role)
    shared.script(f"drop role {role}")


@pytest.fixture
def wide(server, _wide_client):
    """A plain database at head whose wide columns are recorded, and no row is converted."""
    return Database(server, _wide_client.info.dbname)


@pytest.fixture
def hosted(server, _hosted_client):
    """A hosted project, not migrated, connected to as its owner."""
    return owned(server, _hosted_client.info.dbname)


@pytest.fixture
def hosted_open(server, _open_client):
    """A hosted project whose default privileges open every new object to the API roles; not migrated."""
    return owned(server, _open_client.info.dbname)


@pytest.fixture
def hosted_at_head(server, _hosted_at_head_client):
    """A hosted project at head, connected to as its owner."""
    return owned(server, _hosted_at_head_client.info.dbname)


@pytest.fixture
def hosted_open_at_head(server, _open_at_head_client):
    """The same, with default privileges that open every new object to the API roles."""
    return owned(server, _open_at_head_client.info.dbname)


@pytest.fixture(params=[pytest.param("hosted", marks=pytest.mark.slow), "hosted_open"])
def supabase(request, server):
    """A hosted project at head, with and without hosted default privileges, connected to as its owner."""
    return request.getfixturevalue(f"{request.param}_at_head")


@pytest.fixture(params=["plain", pytest.param("hosted", marks=pytest.mark.slow), "hosted_open"])
def project(request, server):
    """A database at head of every kind: plain, and hosted with and without open default privileges."""
    return request.getfixturevalue("database" if request.param == "plain" else f"{request.param}_at_head")


@pytest.fixture
def crowd(database):
    """Makes users without profiles, in `database`."""

    def make(users):
        database.script(
            "alter table auth.users disable trigger profiles_on_auth_user_created;"
            f"insert into auth.users (email) select 'usr' || g % 997 || '@example.org' from generate_series(1, {users}) as g;"
            "alter table auth.users enable trigger profiles_on_auth_user_created; analyze auth.users"
        )
        return database

    return make


@pytest.fixture
def road():
    """How services reach the server; a module that always tries poolers, too, has a fixture of its own.

    All of them: PROFILES_TEST_ROAD=transaction (or session) make test-all ARGS=tests/services.
    """
    return os.environ.get("PROFILES_TEST_ROAD", "direct")


@pytest.fixture(params=DRIVERS)
def services(request, database, road):
    """Makes profile services in `database`, on each driver."""
    with by_road(database.url, road) as (url, options):
        made = Services(database, request.param, url, **options)
        yield made
        made.close()


@pytest.fixture
def service(services):
    """A profile service as service_role, on each driver."""
    return services.service()
