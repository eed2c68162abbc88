"""A database in another encoding than UTF8 is refused before anything is made, and its remedy works."""

import os
import subprocess

import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine, text

from profiles_schema import database as connecting
from profiles_schema import local
from profiles_schema.cli import main
from profiles_schema.errors import UnsupportedEncoding
from profiles_schema.migrations import paths
from support import Database


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def foreign(request, server, monkeypatch):
    """A database in another encoding, with a table of users and one of the application's; DATABASE_URL names it."""
    name = f"encoded_{request.param.lower()}_{os.getpid()}"
    administrator = create_engine(
        server.url("postgres").replace("postgresql:", "postgresql+psycopg2:"),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    with administrator.connect() as connection:
        for each in (name, f"{name}_utf8"):
            connection.exec_driver_sql(f"drop database if exists {each} with (force)")
        connection.exec_driver_sql(f"create database {name} encoding '{request.param}' locale 'C' template template0")
    database = Database(server, name)
    letter = {"LATIN1": "chr(233)", "SQL_ASCII": r"convert_from('\xc3a9'::bytea, 'SQL_ASCII')"}[request.param]
    database.run(f"create table public.orders as select {letter} as buyer")
    monkeypatch.setenv("DATABASE_URL", database.url)
    yield database
    with administrator.connect() as connection:
        for each in (name, f"{name}_utf8"):
            connection.exec_driver_sql(f"drop database if exists {each} with (force)")


def made(database):
    return database.run("select nspname from pg_namespace where nspname = 'profiles_internal' or nspname = 'auth'")


def test_every_verb_says_one_sentence_and_makes_nothing(foreign, capsys):
    for verb in (
        ["upgrade"], ["downgrade", "base"], ["current"], ["check"], ["health"], ["smoke"], ["backfill"], ["adopt", "--dry-run"],
        ["normalize", "status"], ["jobs", "list"], ["keys", "status"], ["settings", "get"], ["rehearse", "--source", foreign.url],
    ):  # fmt: skip
        assert main(verb) == 1, verb
        said = capsys.readouterr().err
        assert said.startswith(f'error: Database "{foreign.name}" has the encoding '), (verb, said)
        assert said.count("error:") == 1
        assert "createdb -E UTF8 -T template0" in said
    for alembic in (command.upgrade, command.stamp):
        with pytest.raises(UnsupportedEncoding):
            alembic(paths.config(), "head")
    assert made(foreign) == []


def test_a_connection_that_is_lent_is_looked_at_too(foreign):
    with pytest.raises(UnsupportedEncoding):
        foreign.upgrade()
    assert made(foreign) == []


def test_the_printed_commands_make_a_database_that_can_be_migrated(foreign, capsys):
    assert main(["upgrade"]) == 1
    commands = capsys.readouterr().err.splitlines()[1]
    # Host, port and user are in the commands.
    place = {"PATH": f"{local.binaries()}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        commands, shell=True, env=os.environ | place, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    copy = Database(foreign.server, f"{foreign.name}_utf8")
    assert copy.value("select buyer from public.orders") == "é"
    copy.upgrade()
    assert copy.profile(copy.sign_up("ada@example.org")).username == "ada"


def test_the_encoding_of_the_client_is_ours_whatever_the_environment_says(empty_database, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = connecting.create_engine(connecting.normalize_url(empty_database))
    with connecting.connect(engine) as connection:
        assert connection.scalar(text("show client_encoding")) == "UTF8"
