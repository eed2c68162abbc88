"""A search path of the database, with functions and types that hide the built-in ones, changes nothing for a migration."""

import pytest
from alembic import command

from profiles_schema.migrations import paths
from profiles_schema.migrations.session import catalog_first
from profiles_schema.schema.catalog import differences
from support import Database, alembic, alembic_config, drift, profiles_schema, psql, snapshot

TRAPS = """
create schema evil;
create function evil.now() returns timestamptz language sql as 'select null::timestamptz';
create function evil.format(text, text) returns text language plpgsql as $$begin raise exception 'trapped'; end$$;
create function evil.count(text) returns bigint language plpgsql as $$begin raise exception 'trapped'; end$$;
create function evil.to_regclass(text) returns regclass language plpgsql as $$begin raise exception 'trapped'; end$$;
create domain evil.uuid as integer;
create domain evil.jsonb as integer;
"""


@pytest.fixture(params=["evil, pg_catalog", "evil, public", '"$user", public, pg_catalog', "''"])
def misled(request, empty):
    """A database whose search path does not look into pg_catalog first."""
    empty.script(TRAPS)
    empty.script(f"alter database {empty.name} set search_path = {request.param}")
    return empty


def test_a_misled_database_is_migrated_like_any_other_and_check_is_clean(misled, database):
    misled.upgrade()
    assert differences(snapshot(misled), snapshot(database)) == []
    assert drift(misled) == []
    misled.downgrade("base", allow_data_loss="yes")
    misled.upgrade()
    misled.run("insert into auth.users (email) values ('ada@example.org')")
    assert misled.value("select username from public.user_profiles") == "ada"


@pytest.mark.slow
def test_the_script_of_a_migration_is_not_misled_either(misled, database):
    from io import StringIO

    config = paths.config()
    config.output_buffer = StringIO()
    command.upgrade(config, "head", sql=True)
    done = psql(misled, config.output_buffer.getvalue())
    assert done.returncode == 0, done.stderr
    assert differences(snapshot(misled), snapshot(database)) == []


@pytest.mark.parametrize(
    ("search_path", "wanted"),
    [
        ('"$user", public', '"$user", public'),
        ("evil, pg_catalog", "evil"),
        ('pg_catalog, "Mixed, ""x""", app', '"Mixed, ""x""", app'),
        ('"pg_catalog",public', "public"),
        ('""', '""'),
        ("", ""),
    ],
)
def test_only_an_explicit_pg_catalog_leaves_the_search_path(search_path, wanted):
    assert catalog_first(search_path) == wanted


def test_the_search_path_of_a_lent_connection_comes_back(empty: Database):
    with empty.engine.connect() as connection:
        connection.exec_driver_sql("set search_path = evil, pg_catalog")
        connection.commit()
        command.upgrade(alembic_config(connection), "0005_create_sign_up_functions")
        assert connection.exec_driver_sql("show search_path").scalar_one() == "evil, pg_catalog"


@pytest.mark.slow
@pytest.mark.parametrize("search_path", ['"$user"', "app", "''", "app, public, auth"])
def test_the_search_path_of_the_role_makes_no_false_differences(database, search_path):
    database.run("create schema app")
    database.script(f'alter role postgres in database "{database.name}" set search_path = {search_path}')
    for arguments in (("check",), ("health", "--full"), ("smoke",), ("repair", "--dry-run"), ("repair",)):
        done = profiles_schema(database.url, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert done.stdout == "Nothing to repair: the database is as this version declares it.\n"
    done = alembic(database.url, "check")
    assert done.returncode == 0, done.stderr
