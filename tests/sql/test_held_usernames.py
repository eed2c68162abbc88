"""A username that somebody gave up is held for them: nobody else takes it, by any way, and it leads to the new one."""

import threading
import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from support import profiles_schema

HELD = "select username, user_id from profiles_internal.held_usernames order by 1"


def rename(database, user, name, role="authenticated"):
    """The SQLSTATE and message of an UPDATE as a role of the API, or None."""
    with database.administrator.acting_as(role, user) as connection:
        try:
            connection.execute(
                text("update public.user_profiles set username = :name where user_id = :id"), {"name": name, "id": user}
            )
        except DBAPIError as error:
            return error.orig.pgcode, error.orig.diag.message_primary
        connection.get_transaction().commit()
    return None


def public_profile(database, name):
    with database.administrator.acting_as("anon") as connection:
        return connection.scalars(text("select username from public.get_public_profile(:name)"), {"name": name}).all()


@pytest.fixture
def users(project):
    """Ada, who is called lovelace now, and Eve."""
    ada, eve = project.sign_up("ada@example.org"), project.sign_up("eve@example.org")
    assert rename(project, ada, "lovelace") is None
    return project, ada, eve


def test_nobody_else_takes_a_held_name(users):
    database, ada, eve = users
    refused = ("23505", 'the username "ada" is held for its former owner')
    assert rename(database, eve, "ada") == refused
    assert rename(database, eve, "ada", "service_role") == refused
    with database.administrator.acting_as("authenticated", eve) as connection, pytest.raises(DBAPIError) as error:
        connection.execute(text("""select public.update_my_profile_v2('{"username"\\: "ada", "bio"\\: "x"}')"""))
    assert error.value.orig.pgcode == "23505"
    assert error.value.orig.diag.message_primary.endswith("username: is held for its former owner")
    with database.administrator.acting_as("service_role") as connection:
        assert connection.scalar(text("select public.gen_available_username('ada@new.example')")).startswith("ada_")
    newcomer = database.sign_up("ada@other.example")
    assert database.profile(newcomer).username == f"ada_{newcomer.hex[-8:]}"
    with database.administrator.acting_as("service_role") as connection:
        connection.execute(text("delete from public.user_profiles where user_id = :id"), {"id": eve})
        with pytest.raises(DBAPIError) as error:
            connection.execute(
                text("insert into public.user_profiles (user_id, username) values (:id, 'ada')"), {"id": eve}
            )
    assert error.value.orig.pgcode == "23505"
    assert database.administrator.run(HELD) == [("ada", ada)]


def test_the_old_name_leads_to_the_new_one_while_the_profile_is_public(users):
    database, ada, _ = users
    assert public_profile(database, "Ada") == ["lovelace"]
    database.administrator.run(
        "update public.user_profiles set profile_visibility = 'private' where user_id = :id", id=ada
    )
    assert public_profile(database, "ada") == []


def test_the_former_owner_takes_the_name_back(users):
    database, ada, _ = users
    assert rename(database, ada, "ada") is None
    assert database.administrator.run(HELD) == [("lovelace", ada)]
    assert public_profile(database, "lovelace") == ["ada"]


def test_after_its_time_anybody_takes_it_and_it_leads_nowhere_else(users):
    database, _, eve = users
    database.administrator.run("update profiles_internal.held_usernames set held_until = now() - interval '1 s'")
    assert public_profile(database, "ada") == []
    assert rename(database, eve, "ada") is None
    assert public_profile(database, "ada") == ["ada"]
    assert database.administrator.run(HELD) == [("eve", eve)]


def test_whoever_waited_for_the_renaming_does_not_get_the_name(database):
    ada, eve = database.sign_up("ada@example.org"), database.sign_up("eve@example.org")
    outcome = []
    with database.engine.begin() as connection:
        connection.execute(
            text("update public.user_profiles set username = 'lovelace' where user_id = :id"), {"id": ada}
        )
        other = threading.Thread(target=lambda: outcome.append(rename(database, eve, "ada")))
        other.start()
        with database.engine.connect() as watching:
            while not watching.scalar(text("select count(*) from pg_locks where not granted")):
                watching.rollback()
    other.join()
    assert outcome[0][0] == "23505"


def test_a_name_that_follows_a_changed_address_does_not_take_a_held_one(database):
    ada, eve = database.sign_up("ada@example.org"), database.sign_up("eve@example.org")
    assert rename(database, ada, "lovelace") is None
    database.run("update auth.users set email = 'ada@new.example' where id = :id", id=eve)
    assert database.profile(eve).username == f"ada_{eve.hex[-8:]}"
    assert public_profile(database, "eve") == [f"ada_{eve.hex[-8:]}"]


def test_one_user_holds_three_names_at_most(database):
    ada = database.sign_up("ada@example.org")
    for n in range(6):
        assert rename(database, ada, f"name{n}") is None
    assert database.run(HELD) == [("name2", ada), ("name3", ada), ("name4", ada)]


def test_the_setting_says_for_how_long(database):
    ada = database.sign_up("ada@example.org")
    assert rename(database, ada, "lovelace") is None
    assert database.value(
        "select held_until - now() between '89 days' and '90 days' from profiles_internal.held_usernames"
    )
    assert profiles_schema(database.url, "settings", "set", "username_hold_days", "0").returncode == 0
    assert rename(database, ada, "byron") is None
    assert database.run(HELD) == [("ada", ada)]


def test_an_erasure_forgets_the_names(database):
    for erasure in ("soft", "hard"):
        ada = database.sign_up(f"ada{erasure}@example.org")
        assert rename(database, ada, f"lovelace{erasure}") is None
        database.run(
            "update auth.users set deleted_at = now() where id = :id"
            if erasure == "soft"
            else "delete from auth.users where id = :id",
            id=ada,
        )
        assert database.run(HELD) == []


def test_the_name_that_create_user_does_not_want_is_not_held(database):
    with database.acting_as("service_role") as connection:
        connection.execute(text("select public.create_user('ada@example.org', username => 'lovelace')"))
        connection.get_transaction().commit()
    assert database.run(HELD) == []


def test_names_whose_time_is_over_are_forgotten_with_the_audit_log(users):
    database, ada, _ = users
    database.administrator.run(
        "insert into profiles_internal.held_usernames values ('old', :id, now() - interval '1 day')", id=ada
    )
    assert profiles_schema(database.administrator.url, "audit", "purge").returncode == 0
    assert database.administrator.run(HELD) == [("ada", ada)]


def test_nobody_reads_or_writes_the_table(users):
    database, ada, eve = users
    for role, user in (("anon", None), ("authenticated", ada), ("authenticated", eve), ("service_role", None)):
        for statement in (
            "select * from profiles_internal.held_usernames",
            f"insert into profiles_internal.held_usernames values ('admin', '{uuid.uuid4()}', now())",
            "delete from profiles_internal.held_usernames",
        ):
            with database.administrator.acting_as(role, user) as connection, pytest.raises(DBAPIError) as error:
                connection.execute(text(statement))
            assert error.value.orig.pgcode == "42501"
