"""delete_my_account: shut at once, whatever token is left; erased by the job; nobody can end another's account."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.operations.health import examine
from support import ENVELOPE, profiles_schema

FORBIDDEN = "42501"


def call(database, role, user, confirm, *, commit=True):
    """The SQLSTATE of a call, or None."""
    with database.administrator.acting_as(role, user) as connection:
        try:
            connection.execute(text("select public.delete_my_account(:confirm)"), {"confirm": confirm})
        except DBAPIError as error:
            return error.orig.pgcode
        if commit:
            connection.get_transaction().commit()
    return None


def erase(database, *arguments):
    return profiles_schema(database.url, "users", "erase", *arguments)


def state(database, user):
    return database.administrator.run(
        "select p.is_active, e.requested_by, e.finished_at is not null as finished from public.user_profiles as p"
        " left join profiles_internal.erasures as e on e.user_id = p.user_id where p.user_id = :id",
        id=user,
    )[0]


def test_the_account_is_shut_at_once_and_erased_by_the_job(project):
    ada, eve = (project.sign_up(f"{name}@example.org") for name in ("ada", "eve"))
    project.administrator.run(
        f"insert into public.user_api_keys (user_id, openai_api_key) values (:id, '{ENVELOPE}')", id=ada
    )
    with project.administrator.acting_as("authenticated", ada) as held:
        assert held.scalar(text("select count(*) from public.user_profiles")) == 1
        assert call(project, "authenticated", ada, "Ada") is None
        # The token, and even the transaction, go on.
        for table in ("user_profiles", "user_api_keys", "user_progress"):
            assert held.scalar(text(f"select count(*) from public.{table}")) == 0
        assert held.execute(text("update public.user_profiles set bio = 'still here'")).rowcount == 0
    with project.administrator.acting_as("anon") as connection:
        assert connection.scalar(text("select count(*) from public.get_public_profile('ada')")) == 0
    assert tuple(state(project, ada)) == (False, "user", False)
    assert call(project, "authenticated", ada, "ada") == FORBIDDEN  # it is over already
    done = erase(project, "--pending")
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.profile(ada).email is None
    assert tuple(state(project, ada)) == (False, "user", True)
    assert tuple(state(project, eve)) == (True, None, False)
    assert erase(project, "--pending").stdout == "no user waits for an erasure\n"


@pytest.mark.parametrize(
    ("role", "who", "confirm", "refused"),
    [
        ("anon", None, "ada", FORBIDDEN),
        ("authenticated", None, "ada", FORBIDDEN),
        ("authenticated", "eve", "ada", "22023"),  # somebody else's name is not one's own
        ("authenticated", "ada", "eve", "22023"),
        ("authenticated", "ada", "", "22023"),
        ("authenticated", "ada", None, "22023"),
        ("service_role", None, "ada", FORBIDDEN),
        ("service_role", "ada", "ada", FORBIDDEN),
    ],
)
def test_who_else_calls_it_or_confirms_something_else_changes_nothing(database, role, who, confirm, refused):
    users = {name: database.sign_up(f"{name}@example.org") for name in ("ada", "eve")}
    assert call(database, role, users.get(who), confirm) == refused
    for user in users.values():
        assert tuple(state(database, user)) == (True, None, False)


def test_nobody_writes_or_reads_what_is_to_be_erased_themselves(project):
    ada, eve = (project.sign_up(f"{name}@example.org") for name in ("ada", "eve"))
    assert call(project, "authenticated", ada, "ada") is None
    for role, user in (("anon", None), ("authenticated", ada), ("authenticated", eve), ("service_role", None)):
        for statement in (
            "select count(*) from profiles_internal.erasures",
            "delete from profiles_internal.erasures",
            f"insert into profiles_internal.erasures (user_id, requested_by) values ('{eve}', 'user')",
            "update profiles_internal.erasures set finished_at = now()",
        ):
            with project.administrator.acting_as(role, user) as connection, pytest.raises(DBAPIError) as error:
                connection.execute(text(statement))
            assert error.value.orig.pgcode == FORBIDDEN


def test_an_account_without_a_profile_is_shut_too(database):
    ada = database.sign_up("ada@example.org")
    database.run("delete from public.user_profiles where user_id = :id", id=ada)
    assert call(database, "authenticated", ada, "ada") is None
    assert state(database, ada).is_active is False


def test_calls_at_once_end_the_account_once(database):
    ada = database.sign_up("ada@example.org")
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda _: call(database, "authenticated", ada, "ada"), range(6)))
    assert set(codes) <= {None, FORBIDDEN}
    assert None in codes
    assert database.value("select count(*) from profiles_internal.erasures") == 1


def test_a_sign_in_brings_nothing_back_where_the_auth_server_keeps_its_row(supabase):
    ada = supabase.sign_up("ada@example.org", raw_user_meta_data={"full_name": "Ada Lovelace"})
    assert call(supabase, "authenticated", ada, "ada") is None
    done = erase(supabase, "--pending")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "auth.admin.deleteUser(id)" in done.stdout
    with supabase.auth_server() as auth:
        auth.execute(
            text(
                "update users set last_sign_in_at = now(), email = 'ada.new@example.org', phone = '+49123',"
                """ raw_user_meta_data = '{"full_name": "Ada Again"}' where id = :id"""
            ),
            {"id": ada},
        )
    profiles_schema(supabase.url, "backfill")
    profile = supabase.profile(ada)
    assert (profile.email, profile.phone, profile.display_name, profile.is_active) == (None, None, None, False)
    with supabase.engine.connect() as connection:
        assert examine(connection, full=True).problems == []
    # The admin API deletes the user: for good, or softly.
    with supabase.auth_server() as auth:
        auth.execute(text("delete from users where id = :id"), {"id": ada})
    assert supabase.profile(ada) is None


def test_an_undelete_gives_the_account_back(database):
    ada = database.sign_up("ada@example.org")
    assert erase(database, str(ada), "--yes").returncode == 0
    database.run("update auth.users set deleted_at = null, email = 'ada@example.org' where id = :id", id=ada)
    assert tuple(state(database, ada)) == (True, None, False)
    assert database.profile(ada).email == "ada@example.org"


def test_health_tells_of_users_who_wait(database):
    ada = database.sign_up("ada@example.org")
    assert call(database, "authenticated", ada, "ada") is None
    with database.engine.connect() as connection:
        assert examine(connection, full=True).problems == []
    database.run("update profiles_internal.erasures set requested_at = now() - interval '25 hours'")
    with database.engine.connect() as connection:
        (finding,) = examine(connection, full=True).problems
    assert (finding.code, finding.count, finding.remedy) == (
        "erasure_pending",
        1,
        "profiles-schema users erase --pending",
    )
