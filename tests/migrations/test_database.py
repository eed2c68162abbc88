"""URL rules, the version rule, and what a refused connection says."""

import traceback

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles_schema import database
from profiles_schema.errors import (
    DatabaseAccessRefused,
    DatabaseMissing,
    DatabaseUnreachable,
    DatabaseUrlMissing,
    InvalidDatabaseUrl,
    UnsupportedServer,
)
from profiles_schema.migrations.target import resolve_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "POSTGRES", "postgresql+asyncpg", "postgresql+psycopg"])
def test_every_postgresql_scheme_becomes_psycopg2(scheme):
    url = database.normalize_url(f"{scheme}://ada:secret@db.example:6543/app")
    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "ada", "secret", "db.example", 6543, "app",
    )  # fmt: skip


@pytest.mark.parametrize("text", ["  postgres://h/d\n", '"postgres://h/d"', "' postgres://h/d '"])
def test_blanks_and_quotes_around_a_url_are_tolerated(text):
    assert database.normalize_url(text).host == "h"


def test_parameters_of_other_clients_are_dropped_and_libpq_ones_kept():
    url = database.normalize_url(
        "postgres://h/d?pgbouncer=true&connection_limit=1&pool_timeout=5&statement_cache_size=0&schema=public"
        "&sslmode=require&connect_timeout=3"
    )
    assert dict(url.query) == {"sslmode": "require", "connect_timeout": "3"}


def test_the_ssl_parameter_of_asyncpg_becomes_sslmode():
    assert dict(database.normalize_url("postgresql+asyncpg://h/d?ssl=require").query) == {"sslmode": "require"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("p%40ss%25w%2Frd", "p@ss%w/rd"),
        ("p@ss", "p@ss"),
        ("p@ss@word", "p@ss@word"),
        ("p%25%34%31", "p%41"),
        ("p/s:s", "p/s:s"),
        ("p?s", "p?s"),
    ],
)
def test_percent_and_at_in_passwords_are_understood(written, meant):
    url = database.normalize_url(f"postgres://ada:{written}@db/app")
    assert (url.password, url.host) == (meant, "db")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("postgres://ada:hunter2%zz@db/app", "%25"),
        ("postgres://ada:hunter2%00@db/app", "%00"),
        ("postgres://ada:hunter2%ff@db/app", "cannot be read"),
        ("postgres://ada:x@db:hunter2/app", "port"),
        ("postgres://ada:hunter2@db:0/app", "port 0"),
        ("postgres://ada:hunter2@db:65536/app", "65536"),
        ("host=db password=hunter2", "scheme"),
        ("hunter2 x://db", "scheme"),
        ("sqlite:///hunter2.db", "sqlite://"),
        ("mysql+pymysql://ada:hunter2@db/app", "mysql+pymysql://"),
        ("postgres://ada:hunter2?a@mark@db/app", "%3F"),
    ],
)
def test_a_malformed_url_is_named_without_its_password(text, named):
    with pytest.raises(InvalidDatabaseUrl) as caught:
        database.normalize_url(text)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, chain=True)).partition("Error")[2]
    assert caught.value.__context__ is None or "hunter2" not in str(caught.value.__context__)


@given(st.text(max_size=30), st.text(max_size=60))
def test_no_text_makes_the_url_rules_fail_otherwise_than_by_their_own_errors(scheme, rest):
    for text in (rest, f"{scheme}://{rest}", f"postgres://{rest}", f"postgres://ada:{rest}@db/app"):
        try:
            url = database.normalize_url(text)
        except (InvalidDatabaseUrl, DatabaseUrlMissing):
            continue
        assert url.drivername == "postgresql+psycopg2"


@pytest.mark.parametrize("text", ["", "  ", "''"])
def test_an_empty_url_is_missing(text):
    with pytest.raises(DatabaseUrlMissing) as caught:
        resolve_url(environ={"DATABASE_URL": text})
    assert caught.value.exit_code == 3
    assert "--local" in str(caught.value)


@pytest.mark.parametrize("number", [150000, 150007, 160000, 180004])
def test_servers_15_to_18_pass(number):
    database.check_server_version(number)


@pytest.mark.parametrize(
    ("number", "reported", "named"),
    [
        (140023, "14.23", "14.23"),
        (80002, "8.0.2", "8.0.2"),
        (130000, "13.0.0", "CockroachDB"),
        (190000, "19devel", "newer"),
        (150012, "15.12-YB-2025.1.0.0-b0", "YugabyteDB"),
    ],
)
def test_other_servers_are_refused_by_name(number, reported, named):
    with pytest.raises(UnsupportedServer, match="15 to 18") as caught:
        database.check_server_version(number, reported)
    assert named in str(caught.value)


def test_the_version_rule_stands_in_front_of_every_connection(empty_database, monkeypatch):
    monkeypatch.setattr(database, "OLDEST_SERVER", 99)
    with pytest.raises(UnsupportedServer):
        database.connect(database.create_engine(database.normalize_url(empty_database)))


def test_a_connection_carries_its_name_and_hides_parameters(empty_database):
    engine = database.create_engine(database.normalize_url(empty_database), application_name="a test")
    with database.connect(engine) as connection:
        assert connection.exec_driver_sql("select current_setting('application_name')").scalar_one() == "a test"
    assert engine.hide_parameters


def test_a_missing_database_is_named_with_its_remedy(server):
    with pytest.raises(DatabaseMissing, match="createdb nosuch_database"):
        database.connect(database.create_engine(database.normalize_url(server.url("nosuch_database"))))


def test_a_role_that_does_not_exist_is_named(server):
    url = database.normalize_url(server.url("postgres")).set(username="nosuch_role", password="hunter2")
    with pytest.raises(DatabaseAccessRefused, match="nosuch_role") as caught:
        database.connect(database.create_engine(url))
    assert "hunter2" not in str(caught.value)


def test_an_unknown_parameter_is_named(server):
    url = database.normalize_url(server.url("postgres")).update_query_dict({"nosuch_parameter": "1"})
    with pytest.raises(InvalidDatabaseUrl, match="nosuch_parameter"):
        database.connect(database.create_engine(url))


def test_a_host_that_does_not_answer_is_named():
    url = database.normalize_url("postgres://ada:hunter2@127.0.0.1:1/app")
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1, port 1") as caught:
        database.connect(database.create_engine(url))
    assert "hunter2" not in str(caught.value)


def test_a_host_without_an_address_is_named():
    url = database.normalize_url("postgres://ada:hunter2@db.invalid/app")
    with pytest.raises(DatabaseUnreachable, match=r"db\.invalid"):
        database.connect(database.create_engine(url))


@pytest.mark.parametrize(
    "message", ["FATAL:  the database system is starting up", "FATAL:  sorry, too many clients already"]
)
def test_a_server_that_is_busy_is_asked_again(message, empty_database, monkeypatch):
    calls = []
    engine = database.create_engine(database.normalize_url(empty_database))

    def starting(*_):
        calls.append(1)
        if len(calls) == 1:
            raise psycopg2.OperationalError(f'connection to server at "h", port 1 failed: {message}')

    from sqlalchemy import event

    event.listen(engine, "do_connect", starting)
    monkeypatch.setattr(database, "_RETRY_PAUSE_SECONDS", 0.01)
    database.connect(engine).close()
    assert len(calls) == 2
