"""An erased user, and one whose profile is inactive, reads and writes nothing, whatever token they still hold."""

import json

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from test_rights import ALLOWED, CALLS, DENIED, EXECUTABLE, EXPECTED, NO_ROWS, OWNER, Cast, attack, outcome

from support import ENVELOPE, profiles_schema

ROLES_COLUMN = 1

REFUSED = {
    "erased": "update auth.users set deleted_at = now() where id = :id",
    "inactive": "update public.user_profiles set is_active = false where user_id = :id",
    # The profile could not be erased, and waits for backfill.
    "erased in vain": "with mute as materialized (select set_config('profiles_internal.gave_up', 'mute', true))"
    " update auth.users set deleted_at = now() from mute where id = :id",
    "erased without a profile": "with gone as (delete from public.user_profiles where user_id = :id),"
    " gone_too as (delete from public.user_progress where user_id = :id)"
    " update auth.users set deleted_at = now() where id = :id",
}


@pytest.fixture(params=list(REFUSED))
def refused(request, project):
    """Ada, who had rows in every table before that happened to her."""
    cast = Cast(project)
    project.administrator.run(REFUSED[request.param], id=cast.ada)
    for table in ("user_api_keys", "sessions"):
        # An erasure took them. Rows that come later (from a service) are no more hers to see.
        if not project.administrator.value(f"select count(*) from public.{table} where user_id = :id", id=cast.ada):
            values = (
                f"(user_id, openai_api_key) values (:id, '{ENVELOPE}')"
                if table == "user_api_keys"
                else "(user_id) values (:id)"
            )
            project.administrator.run(f"insert into public.{table} {values}", id=cast.ada)
    return cast


def test_no_command_on_any_table_reads_or_writes(refused):
    with refused.acting_as(OWNER, refused.ada) as connection:
        for table, commands in EXPECTED.items():
            for command, expected in commands.items():
                if expected[ROLES_COLUMN] == ALLOWED:
                    seen = outcome(connection, attack(table, command), id=refused.ada)
                    assert seen == (DENIED if command == "insert" else NO_ROWS), (table, command)


def test_an_upsert_writes_nothing_either(refused):
    with refused.acting_as(OWNER, refused.ada) as connection:
        for table, column, value in (
            ("user_api_keys", "openai_api_key", f"'{ENVELOPE}'"),
            ("user_progress", "new_words_count", "1"),
        ):
            upsert = f"insert into public.{table} (user_id) values (:id) on conflict (user_id) do update set {column} = {value}"
            assert outcome(connection, upsert, id=refused.ada) == DENIED, table


def test_every_function_refuses_with_a_plain_sentence(refused):
    calls = {name: call for name, call in CALLS.items() if "authenticated" in EXECUTABLE[name]}
    assert len(calls) == 10
    profiles = refused.database.administrator.value("select count(*) from public.user_profiles")
    for call in calls.values():
        with refused.acting_as(OWNER, refused.ada) as connection:
            with pytest.raises(DBAPIError) as error:
                connection.execute(text("select " + call.format(ada=refused.ada)))
            assert error.value.orig.pgcode == "42501", call
            assert error.value.orig.diag.message_primary == "this account is erased or inactive", call
    assert refused.database.administrator.value("select count(*) from public.user_profiles") == profiles


def test_others_and_services_go_on(refused):
    with refused.acting_as(OWNER, refused.eve) as connection:
        assert connection.scalar(text("select count(*) from public.user_profiles")) == 1
        assert connection.scalar(text('select (public.update_my_profile_v2(\'{"bio"\\: "x"}\')).bio')) == "x"
    with refused.acting_as("anon", None) as connection:
        assert connection.scalar(text("select count(*) from public.get_public_profile('eve')")) == 1
    with refused.acting_as("service_role", None) as connection:
        assert connection.scalar(text("select count(*) from public.user_profiles")) >= 1
        assert connection.scalar(text("select public.gen_available_username('new@example.org')")) == "new"


def test_a_service_that_names_a_refused_user_in_its_claims_is_not_refused(project):
    user_id = project.sign_up("ada@example.org")
    project.administrator.run(REFUSED["inactive"], id=user_id)
    with project.administrator.acting_as("service_role", user_id) as connection:
        assert (
            connection.scalar(text("select public.ensure_user_profile(:id) ->> 'is_active'"), {"id": user_id})
            == "false"
        )


def test_an_inactive_user_cannot_become_active_again_alone(project):
    user_id = project.sign_up("ada@example.org")
    project.administrator.run(REFUSED["inactive"], id=user_id)
    with project.administrator.acting_as("authenticated", user_id) as connection:
        assert outcome(connection, "update public.user_profiles set is_active = true") == DENIED
        assert (
            outcome(connection, "update public.user_profiles set is_active = true where user_id = :id", id=user_id)
            == DENIED
        )
        call = "select public.update_my_profile_v2('{\"is_active\"\\: true}')"
        assert outcome(connection, call) in {DENIED, "22023"}
    assert project.profile(user_id).is_active is False


def test_a_user_who_is_made_active_again_or_undeleted_goes_on(project):
    inactive, erased = project.sign_up("ada@example.org"), project.sign_up("grace@example.org")
    project.administrator.run(REFUSED["inactive"], id=inactive)
    project.administrator.run(REFUSED["erased"], id=erased)
    with project.administrator.acting_as("service_role", None) as connection:
        connection.execute(
            text("update public.user_profiles set is_active = true where user_id = :id"), {"id": inactive}
        )
        connection.get_transaction().commit()
    project.administrator.run("update auth.users set deleted_at = null where id = :id", id=erased)
    for user_id in (inactive, erased):
        with project.administrator.acting_as("authenticated", user_id) as connection:
            assert connection.scalar(text("select (public.get_my_profile_v2()).user_id")) == user_id
            assert outcome(connection, attack("user_api_keys", "insert"), id=user_id) == ALLOWED


def test_a_user_without_a_profile_stores_rows_and_gets_the_profile_on_request(project):
    cast = Cast(project)
    with cast.acting_as(OWNER, cast.grace) as connection:
        for table in ("user_api_keys", "user_progress", "export_history"):
            assert outcome(connection, attack(table, "insert"), id=cast.grace) == ALLOWED, table
        assert connection.scalar(text("select (public.get_my_profile_v2()).user_id")) == cast.grace
        assert outcome(connection, attack("user_profiles", "update"), id=cast.grace) == ALLOWED


def test_the_question_is_asked_once_per_statement(database):
    user_id = database.sign_up("ada@example.org")
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) select :id, 'all', 'json' from generate_series(1, 500)",
        id=user_id,
    )
    asked = "select coalesce(pg_stat_get_xact_function_calls('profiles_internal.may_use_own_rows()'::regprocedure), 0)"
    for statement, rows in (
        ("select id from public.export_history", 500),
        ("update public.export_history set filters = '{}'", 500),
        ("select id from public.user_profiles", 1),
        (
            "insert into public.export_history (user_id, export_type, export_format) values (:id, 'a', 'b'), (:id, 'c', 'd')",
            2,
        ),
    ):
        with database.engine.connect() as connection:
            connection.exec_driver_sql("set track_functions = 'all'")
            connection.execute(
                text("select set_config('request.jwt.claims', :claims, true)"),
                {"claims": f'{{"sub": "{user_id}", "role": "authenticated"}}'},
            )
            connection.exec_driver_sql("set local role authenticated")
            assert connection.execute(text(statement), {"id": user_id}).rowcount == rows
            connection.exec_driver_sql("reset role")
            # An update asks for the old row and for the new one.
            assert connection.scalar(text(asked)) in {1, 2}, statement


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_no_key_is_added_from_a_snapshot_older_than_the_erasure(database, isolation):
    ada = database.sign_up("ada@example.org")
    with database.engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql(f"set transaction isolation level {isolation}")
        connection.execute(
            text("select set_config('request.jwt.claims', :c, true)"), {"c": json.dumps({"sub": str(ada)})}
        )
        connection.exec_driver_sql("set local role authenticated")
        assert connection.scalar(text("select count(*) from public.user_profiles")) == 1
        database.run(REFUSED["erased"], id=ada)
        with pytest.raises(DBAPIError) as error:
            connection.execute(
                text("insert into public.user_api_keys (user_id, openai_api_key) values (:id, :key)"),
                {"id": ada, "key": ENVELOPE},
            )
        assert error.value.orig.pgcode == "40001"
        transaction.rollback()


def test_an_undelete_that_a_repair_held_up_is_repaired(database):
    """The failure is recorded later than the repair that held it up, although its transaction is older."""
    ada = database.sign_up("ada@example.org")
    database.run(REFUSED["erased"], id=ada)
    with database.engine.connect() as undelete, database.engine.connect() as other:
        undelete.exec_driver_sql("select count(*) from auth.users")
        undelete.commit()
        undelete.exec_driver_sql("select now()")
        other.exec_driver_sql("update public.user_profiles set bio = null")
        other.execute(
            text("select profiles_internal.record_events(array[cast(:id as uuid)], 'repaired', 'backfill')"),
            {"id": ada},
        )
        undelete.execute(text("update auth.users set deleted_at = null where id = :id"), {"id": ada})
        undelete.commit()
        other.commit()
    assert profiles_schema(database.url, "backfill").returncode == 0
    assert database.profile(ada).is_active
    assert profiles_schema(database.url, "health", "--full").returncode == 0
