"""What people get wrong, given to `alembic` and to `profiles-schema` alike: one short message, the right exit code."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import make_url

from profiles_schema import database, errors
from support import REPOSITORY, alembic, profiles_schema
from support.pooler import pooler

SECRET = "hunter2secret"


@pytest.fixture(params=["alembic", "profiles_schema"])
def command(request):
    """Run either command with a DATABASE_URL; returns what a finished process would be."""
    call = {"alembic": alembic, "profiles_schema": profiles_schema}[request.param]

    def run(*arguments, url=None, environ=None):
        return call(url, *arguments, environment={"PROFILES_DEBUG": ""} | (environ or {}))

    run.name = request.param
    return run


def assert_one_message(process, exit_code, *parts):
    output = process.stdout + process.stderr
    assert process.returncode == exit_code, output
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    message = process.stderr[process.stderr.index("error: ") :]
    assert len(message) < 600
    for part in parts:
        assert part in message
    assert "Traceback" not in output
    assert SECRET not in output


def administrator(url):
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


@pytest.fixture
def role(empty_database):
    """A role with a password and no rights; dropped afterwards."""
    name = f"role_{make_url(empty_database).database}"
    with administrator(empty_database) as connection, connection.cursor() as cursor:
        cursor.execute(f"create role {name} login password '{SECRET}'")
    connection.close()
    yield name
    connection = administrator(empty_database)
    with connection.cursor() as cursor:
        cursor.execute(f"drop owned by {name}")
        cursor.execute(f"drop role {name}")
    connection.close()


def as_role(url, role, **changes):
    return make_url(url).set(username=role, password=SECRET, **changes).render_as_string(hide_password=False)


def test_database_url_unset(command):
    assert_one_message(command("upgrade", "head"), 3, "DATABASE_URL is not set", "--local", "postgresql://")


def test_database_url_empty(command):
    assert_one_message(command("upgrade", "head", url=" "), 3, "DATABASE_URL is not set")


def test_unreachable_server(command):
    url = f"postgres://ada:{SECRET}@127.0.0.1:1/app"
    assert_one_message(command("upgrade", "head", url=url), 3, "127.0.0.1, port 1", "that the server runs")


@pytest.mark.slow
def test_a_server_that_never_answers(command):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"postgres://ada:{SECRET}@127.0.0.1:{listener.getsockname()[1]}/app?connect_timeout=2"
        started = time.monotonic()
        assert_one_message(command("upgrade", "head", url=url), 3, "does not answer", "timeout")
    assert time.monotonic() - started < 10


@contextmanager
def listener(answer):
    """A port of this machine; ``answer`` gets each connection."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve():
            with suppress(OSError):
                while True:
                    answer(listening.accept()[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def connection_error(url):
    """The message for a URL that cannot be connected to."""
    with pytest.raises(errors.DatabaseUnreachable) as refused:
        database.connect(database.create_engine(database.normalize_url(url)))
    assert refused.value.exit_code == 3
    return str(refused.value)


def test_encryption_that_the_server_does_not_have(server):
    def hand_over(client):
        """To the server, whose socket never encrypts."""
        with client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(f"{server.host}/.s.PGSQL.{server.port}")
            upstream.sendall(client.recv(8))
            client.sendall(upstream.recv(1))

    with listener(hand_over) as port:
        for mode in ("require", "verify-full"):
            said = connection_error(f"postgres://{server.user}@127.0.0.1:{port}/postgres?sslmode={mode}")
            assert "does not encrypt connections" in said
            assert "sslmode=prefer" in said
            assert "host and port" not in said


def certificate(name, directory):
    """A certificate and its key, for a host, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    issued = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / f"{name}.crt", directory / f"{name}.key"
    chain.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*plain))
    return chain, secret


def test_a_certificate_that_does_not_verify(tmp_path):
    chain, secret = certificate("db.example.org", tmp_path)
    other, _ = certificate("other.example.org", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)

    def encrypt(client):
        with client:
            client.recv(8)
            client.sendall(b"S")
            with suppress(OSError), context.wrap_socket(client, server_side=True) as encrypted:
                encrypted.recv(1)

    with listener(encrypt) as port:
        url = f"postgres://ada:{SECRET}@127.0.0.1:{port}/app"
        for query, named in (
            (f"sslmode=verify-full&sslrootcert={chain}", 'certificate for "db.example.org"'),
            (f"sslmode=verify-ca&sslrootcert={other}", "does not confirm"),
            (f"sslmode=verify-ca&sslrootcert={tmp_path}/none.crt", f"no root certificate {tmp_path}/none.crt"),
        ):
            said = connection_error(f"{url}?{query}")
            assert named in said
            assert "host and port" not in said
            assert SECRET not in said


def test_unreachable_socket(command, tmp_path):
    url = f"postgres://ada:{SECRET}@/app?host={tmp_path}"
    assert_one_message(command("upgrade", "head", url=url), 3, str(tmp_path))


def test_wrong_password(command, ask_for_password, role):
    url = ask_for_password(f"not{SECRET}")
    assert_one_message(command("upgrade", "head", url=url), 3, f'refused the password of role "{role}"', "%40")


def test_no_password(command, ask_for_password, role):
    process = command("upgrade", "head", url=ask_for_password(None), environ={"PGPASSFILE": os.devnull})
    assert_one_message(process, 3, f'refused the password of role "{role}"')


@pytest.mark.parametrize("written", ["p%40ss%25w%2Frd", "p@ss%25w/rd"])
def test_password_with_percent_and_at(command, ask_for_password, empty_database, role, written):
    with administrator(empty_database) as connection, connection.cursor() as cursor:
        cursor.execute(f"alter role {role} password 'p@ss%w/rd'")
    connection.close()
    template = ask_for_password("PLACEHOLDER")
    process = command("current", url=template.replace("PLACEHOLDER", written))
    assert process.returncode == 0, process.stderr


def test_password_with_unencoded_percent(command):
    url = f"postgres://ada:{SECRET}%@127.0.0.1:1/app"
    assert_one_message(command("upgrade", "head", url=url), 2, "Write % as %25")


def test_database_that_does_not_exist(command, server):
    url = make_url(server.url("postgres")).set(database="nosuch_database").render_as_string(hide_password=False)
    assert_one_message(
        command("upgrade", "head", url=url), 3, 'no database "nosuch_database"', "createdb nosuch_database"
    )


def test_role_that_does_not_exist(command, server):
    url = as_role(server.url("postgres"), "nosuch_role")
    assert_one_message(command("upgrade", "head", url=url), 3, '"nosuch_role"')


def test_role_without_create(command, empty_database, role):
    process = command("upgrade", "head", url=as_role(empty_database, role))
    database = make_url(empty_database).database
    assert_one_message(process, 1, role, f"grant create on database {database} to {role}")


def test_server_of_an_old_version(command, empty_database):
    """The rule itself is tested in test_database.py; here a stand-in range shows what the user sees."""
    code = (
        "import sys; from profiles_schema import database; database.OLDEST_SERVER = 99\n"
        f"import runpy; sys.argv = [{command.name!r}, 'upgrade', 'head']\n"
        f"runpy.run_module({command.name!r}, run_name='__main__', alter_sys=True)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ | {"DATABASE_URL": empty_database},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert_one_message(process, 1, "reports version", "needs PostgreSQL 99 to 18")


@pytest.mark.parametrize("url", ["sqlite:///app.db", f"mysql://ada:{SECRET}@db/app", f"redis://:{SECRET}@db"])
def test_url_of_another_product(command, url):
    assert_one_message(command("upgrade", "head", url=url), 2, f"{url.partition('://')[0]}://", "PostgreSQL only")


def test_url_without_a_scheme(command):
    assert_one_message(command("upgrade", "head", url=f"ada:{SECRET}@db/app"), 2, "postgresql://")


def test_pgbouncer_parameter_is_no_obstacle(command, empty_database):
    separator = "&" if "?" in empty_database else "?"
    process = command("current", url=f"{empty_database}{separator}pgbouncer=true&connection_limit=1")
    assert process.returncode == 0, process.stderr
    assert "error" not in process.stderr


def test_unknown_parameter(command, empty_database):
    separator = "&" if "?" in empty_database else "?"
    process = command("upgrade", "head", url=f"{empty_database}{separator}nosuch=1")
    assert_one_message(process, 2, '"nosuch"', "Remove it")


def test_unknown_revision(command, empty_database):
    assert_one_message(command("upgrade", "nosuch", url=empty_database), 2, "'nosuch'", "profiles-schema history")
    assert_one_message(command("downgrade", "nosuch", url=empty_database), 2, "'nosuch'")


def test_an_unknown_revision_leaves_the_database_as_it_was(command, empty_database):
    command("upgrade", "nosuch", url=empty_database)
    command("downgrade", "base", url=empty_database)
    connection = administrator(empty_database)
    with connection.cursor() as cursor:
        cursor.execute("select nspname from pg_namespace where nspname = 'profiles_internal'")
        assert cursor.fetchall() == []
    connection.close()


def test_too_many_steps(command, empty_database):
    assert_one_message(command("upgrade", "+99", url=empty_database), 2, "+99")


def test_database_newer_than_the_package(command, empty_database):
    connection = administrator(empty_database)
    with connection.cursor() as cursor:
        cursor.execute("create schema profiles_internal")
        cursor.execute("create table profiles_internal.alembic_version (version_num varchar(32) primary key)")
        cursor.execute("insert into profiles_internal.alembic_version values ('9999_from_the_future')")
    connection.close()
    assert_one_message(command("upgrade", "head", url=empty_database), 1, "9999_from_the_future", "upgrade the package")
    assert_one_message(command("current", url=empty_database), 1, "9999_from_the_future", "upgrade the package")


def test_unknown_option(command, empty_database):
    arguments = ["-x", "nosuch=1", "upgrade", "head"]
    if command.name != "alembic":
        arguments = ["upgrade", "head", "-x", "nosuch=1"]
    assert_one_message(command(*arguments, url=empty_database), 2, '"nosuch"', "lock-timeout")


def test_check_of_a_database_behind(command, empty_database):
    assert_one_message(command("check", url=empty_database), 1, "not at the newest revision", "upgrade")


def test_pooler_in_transaction_mode(command, pgbouncer):
    assert_one_message(command("upgrade", "head", url=pgbouncer("transaction")), 1, "transaction mode", "direct port")


def test_pooler_in_transaction_mode_with_a_single_connection(command, pgbouncer):
    assert_one_message(command("upgrade", "head", url=pgbouncer("transaction", pool_size=1)), 1, "transaction mode")


def test_pooler_in_statement_mode(command, pgbouncer):
    assert_one_message(command("upgrade", "head", url=pgbouncer("statement")), 1, "statement mode", "direct port")


@pytest.mark.slow
@pytest.mark.parametrize("pool_size", [1, 5])
def test_pooler_in_session_mode_is_fine(command, pgbouncer, pool_size):
    process = command("upgrade", "head", url=pgbouncer("session", pool_size=pool_size))
    assert process.returncode == 0, process.stderr


def test_history_needs_no_database(command):
    process = command("history")
    assert process.returncode == 0, process.stderr
    assert "(head)" in process.stdout


@pytest.mark.parametrize("arguments", [["nosuch"], ["upgrade", "--nosuch"], ["downgrade"], ["upgrade", "a", "b"]])
def test_a_wrong_command_line_is_a_usage_error(arguments):
    process = profiles_schema(None, *arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr


@pytest.fixture
def ask_for_password(empty_database, role):
    """Make the server ask this role for its password; returns the URL with a given one."""
    own_lines = f"local all {role} scram-sha-256\nhost all {role} all scram-sha-256\n"
    connection = administrator(empty_database)
    with connection.cursor() as cursor:
        cursor.execute("show hba_file")
        path = cursor.fetchone()[0]
        cursor.execute("select pg_advisory_lock(4711)")  # the file belongs to the whole server
        cursor.execute("select pg_read_file(%s)", (path,))
        rules = cursor.fetchone()[0]
        write_server_file(cursor, path, own_lines + rules)

    def url(password):
        return make_url(empty_database).set(username=role, password=password).render_as_string(hide_password=False)

    yield url
    with connection.cursor() as cursor:
        cursor.execute("select pg_read_file(%s)", (path,))
        write_server_file(cursor, path, cursor.fetchone()[0].replace(own_lines, ""))
    connection.close()


def write_server_file(cursor, path, text):
    cursor.execute(
        f"copy (select line from unnest(string_to_array(%s, E'\\n')) line) to '{path}'", (text.rstrip("\n"),)
    )
    cursor.execute("select pg_reload_conf()")
    time.sleep(0.3)  # the signal is handled after the answer


@pytest.fixture
def pgbouncer(empty_database):
    """Start PgBouncer in front of the database; returns the URL through it."""
    with pooler(empty_database) as start:
        yield start
