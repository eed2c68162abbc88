"""The callable functions: what they return, to whom, and which SQLSTATE says that they will not."""

import json
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

FORBIDDEN, NO_DATA, INVALID, DUPLICATE, CHECK = "42501", "P0002", "22023", "23505", "23514"


def call(database, role, user_id, expression, **values):
    """The value of an expression, asked by a role for a user. The transaction is rolled back."""
    with database.acting_as(role, user_id) as connection:
        return connection.scalar(text(f"select {expression}"), values)


def error_of(database, role, user_id, expression, **values):
    """(SQLSTATE, message, hint) of the error that an expression raises."""
    with pytest.raises(DBAPIError) as caught:
        call(database, role, user_id, expression, **values)
    diagnosis = caught.value.orig.diag
    return diagnosis.sqlstate, diagnosis.message_primary, diagnosis.message_hint or ""


def without_profile(database, email="ada@example.org", **columns):
    """A user who signed up while the trigger failed."""
    user_id = database.sign_up(email, **columns)
    database.run("delete from public.user_profiles where user_id = :id", id=user_id)
    database.run("delete from public.user_progress where user_id = :id", id=user_id)
    return user_id


# gen_available_username -----------------------------------------------------------------------------------------------


def test_gen_available_username_gives_a_free_name(database):
    user_id = database.sign_up("ada@example.org")
    ask = "public.gen_available_username(:email)"
    assert call(database, "authenticated", user_id, ask, email="Eve.L+x@example.org") == "eve.lx"
    taken = call(database, "authenticated", user_id, ask, email="ADA@example.org")
    assert len(taken) == 12
    assert taken.startswith("ada_")
    for email in (None, "", "a@b", "admin@example.org", "李@example.org"):
        made = call(database, "service_role", None, ask, email=email)
        assert (made[:5], len(made)) == ("user_", 13)
    long = call(database, "service_role", None, ask, email="x" * 70)
    assert long == "x" * 32
    database.sign_up("x" * 32)
    assert len(call(database, "service_role", None, ask, email="x" * 70)) == 32


# ensure_user_profile --------------------------------------------------------------------------------------------------


def test_ensure_user_profile_returns_the_own_profile_as_json(project):
    user_id = project.sign_up("ada@example.org")
    for expression in ("public.ensure_user_profile()", f"public.ensure_user_profile('{user_id}')"):
        profile = call(project, "authenticated", user_id, expression)
        assert (profile["user_id"], profile["username"], profile["preferences"]) == (str(user_id), "ada", {})
    assert set(profile) == set(project.profile(user_id)._mapping)


def test_ensure_user_profile_makes_a_missing_one_and_its_progress(project):
    user_id = without_profile(project)
    with project.acting_as("authenticated", user_id) as connection:
        profile = connection.scalar(text("select public.ensure_user_profile()"))
        again = connection.scalar(text("select public.ensure_user_profile()"))
        assert connection.scalar(text("select count(*) from public.user_progress")) == 1
        log = connection.execute(
            text("select action, origin, actor from public.user_profile_audit_logs where action = 'repaired'")
        ).all()
    assert (profile["id"], profile["username"]) == (str(user_id), "ada")
    assert again == profile
    assert [tuple(row)[:2] for row in log] == [("repaired", "registration")]


def test_ensure_user_profile_for_another_is_refused_and_says_nothing_of_them(project):
    ada, eve = project.sign_up("ada@example.org"), project.sign_up("eve@example.org")
    for role, user_id in (("authenticated", eve), ("authenticated", None)):
        for target in (ada, uuid.uuid4()):
            sqlstate, message, hint = error_of(project, role, user_id, f"public.ensure_user_profile('{target}')")
            assert (sqlstate, message) == (FORBIDDEN, "not allowed to act for this user")
            assert "service_role" in hint
    assert error_of(project, "anon", ada, f"public.ensure_user_profile('{ada}')")[0] == FORBIDDEN


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_ensure_user_profile_without_claims_is_refused(database, role):
    assert error_of(database, role, None, "public.ensure_user_profile()")[0] == FORBIDDEN
    assert error_of(database, role, None, "public.ensure_user_profile(null)")[0] == FORBIDDEN


def test_ensure_user_profile_works_for_service_role_and_for_the_owner_of_the_schema(project):
    user_id = without_profile(project)
    expression = f"public.ensure_user_profile('{user_id}') ->> 'username'"
    assert call(project, "service_role", None, expression) == "ada"
    assert project.value(f"select {expression}") == "ada"


def test_ensure_user_profile_for_nobody_or_a_deleted_user_is_no_data(project):
    deleted = without_profile(project, deleted_at="2026-01-01")
    for user_id in (deleted, uuid.uuid4()):
        for role, claimed in (("service_role", None), ("authenticated", user_id)):
            sqlstate, message, _ = error_of(project, role, claimed, f"public.ensure_user_profile('{user_id}')")
            # Whoever holds the token of a deleted user is refused: test_erased_users.py.
            if (role, user_id) == ("authenticated", deleted):
                assert sqlstate == "42501"
            else:
                assert (sqlstate, message) == (NO_DATA, f"there is no user {user_id}")
    assert project.profile(deleted) is None


SEVEN = "public.ensure_user_profile(:id, 'x@evil.example', ' Eve ', 'X', '+666', 'sv_SE', 'admin')"
GIVEN = ("email", "first_name", "last_name", "phone", "language", "role")


def test_the_seven_argument_form_uses_what_a_user_may_write_when_it_makes_the_profile(project):
    user_id = without_profile(project)
    profile = call(project, "authenticated", user_id, SEVEN, id=user_id)
    assert tuple(profile[key] for key in GIVEN) == ("ada@example.org", "Eve", "X", "+666", "sv-SE", "user")
    other = project.sign_up("eve@example.org")
    assert error_of(project, "authenticated", other, SEVEN, id=user_id)[0] == FORBIDDEN
    assert error_of(project, "anon", user_id, SEVEN, id=user_id)[0] == FORBIDDEN


def test_the_seven_argument_form_changes_no_profile_that_is_there(project):
    user_id = project.sign_up("ada@example.org")
    profile = call(project, "authenticated", user_id, SEVEN, id=user_id)
    assert tuple(profile[key] for key in GIVEN) == ("ada@example.org", None, None, None, "en", "user")


@pytest.mark.parametrize("given", ["null", "''", "repeat('x', 500)", r"e'\u200b'"])
def test_the_seven_argument_form_fails_for_no_value(database, given):
    user_id = without_profile(
        database, raw_user_meta_data={"first_name": "Ada", "last_name": 7, "phone": "+46 8 123", "language": "sv"}
    )
    profile = call(
        database, "authenticated", user_id, f"public.ensure_user_profile(:id, {', '.join([given] * 6)})", id=user_id
    )
    if given in {"null", "''"}:
        assert tuple(profile[key] for key in GIVEN) == ("ada@example.org", "Ada", None, "+46 8 123", "sv", "user")
    else:
        assert profile["email"] == "ada@example.org"


def test_the_phone_of_the_metadata_fills_the_contact_number_of_a_new_profile(project):
    for phone, wanted in ((" +46 8 123 ", "+46 8 123"), ("1" * 41, None), (46, None), ("  ", None), ("", None)):
        user_id = project.sign_up(raw_user_meta_data={"phone": phone})
        assert project.profile(user_id).phone == wanted
    user_id = project.sign_up(phone="4681", raw_user_meta_data={"phone": "4682"})
    assert project.profile(user_id).phone == "4681"


# get_my_referral_code -------------------------------------------------------------------------------------------------


def test_a_referral_code_is_made_at_random_on_the_first_request_and_stays(project):
    ada, eve = project.sign_up("ada@example.org"), project.sign_up("eve@example.org")
    assert project.profile(ada).referral_code is None
    with project.acting_as("authenticated", ada) as connection:
        first, again = (connection.scalar(text("select public.get_my_referral_code()")) for _ in range(2))
        assert connection.scalar(text("select referral_code from public.user_profiles")) == first
    other = call(project, "authenticated", eve, "public.get_my_referral_code()")
    assert first == again
    assert first != other
    assert re.fullmatch("[0-9A-F]{10}", first)


def test_a_referral_code_that_is_there_is_returned_and_a_missing_profile_made(project):
    ada = project.sign_up("ada@example.org")
    project.run("update public.user_profiles set referral_code = 'OLD' where user_id = :id", id=ada)
    assert call(project, "authenticated", ada, "public.get_my_referral_code()") == "OLD"
    bob = without_profile(project, email="bob@example.org")
    assert len(call(project, "authenticated", bob, "public.get_my_referral_code()")) == 10


def test_a_referral_code_is_for_signed_in_users_only(project):
    ada = project.sign_up("ada@example.org")
    for role, user in (
        ("anon", None),
        ("anon", ada),
        ("service_role", None),
        ("service_role", ada),
        ("authenticated", None),
    ):
        assert error_of(project, role, user, "public.get_my_referral_code()")[0] == FORBIDDEN
    project.run("update public.user_profiles set is_active = false where user_id = :id", id=ada)
    assert error_of(project, "authenticated", ada, "public.get_my_referral_code()")[0] == FORBIDDEN


def test_ensure_user_profile_from_eight_threads_makes_one_profile(database):
    user_id = without_profile(database)
    barrier = threading.Barrier(8)

    def ensure(_):
        with database.engine.connect() as connection:
            barrier.wait(30)
            with connection.begin():
                return connection.scalar(text(f"select public.ensure_user_profile('{user_id}') ->> 'username'"))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ensure, range(8))) == {"ada"}
    assert database.value("select count(*) from public.user_profiles") == 1


# get_my_profile_v2 ----------------------------------------------------------------------------------------------------


def test_get_my_profile_v2_is_the_own_row(project):
    user_id = project.sign_up("ada@example.org")
    project.sign_up("eve@example.org")
    with project.acting_as("authenticated", user_id) as connection:
        rows = connection.execute(text("select * from public.get_my_profile_v2()")).all()
    assert [tuple(row) for row in rows] == [tuple(project.profile(user_id))]


def test_get_my_profile_v2_makes_a_missing_profile(project):
    user_id = without_profile(project)
    assert call(project, "authenticated", user_id, "(public.get_my_profile_v2()).username") == "ada"


def test_get_my_profile_v2_without_a_user_is_refused(database):
    assert error_of(database, "authenticated", None, "public.get_my_profile_v2()")[0] == FORBIDDEN
    assert error_of(database, "anon", None, "public.get_my_profile_v2()")[0] == FORBIDDEN


# update_my_profile_v2 -------------------------------------------------------------------------------------------------

CHANGES = {
    "username": "lovelace", "display_name": "Ada", "first_name": "A", "last_name": "L", "phone": "+49 30 1", "bio": "Analyst",
    "company_name": "Engine", "target_audience": "all", "business_context": "b", "master_system_prompt": "m",
    "avatar_emoji": "🦉", "profile_picture_url": "https://a.example/1", "logo_url": "https://a.example/2",
    "profile_visibility": "private", "timezone": "Europe/London", "language": "en-GB", "key_metrics": [1, None, {"a": 2}],
    "preferences": {"a": None}, "notification_settings": {"mail": False},
}  # fmt: skip
UPDATE = "public.update_my_profile_v2(cast(:changes as jsonb))"


def update(database, user_id, changes):
    with database.acting_as("authenticated", user_id) as connection:
        return connection.execute(
            text("select * from public.update_my_profile_v2(cast(:changes as jsonb))"), {"changes": json.dumps(changes)}
        ).one()


def test_update_my_profile_v2_changes_every_column_a_user_may_write(project):
    user_id = project.sign_up("ada@example.org")
    changed = update(project, user_id, CHANGES)
    assert {key: changed._mapping[key] for key in CHANGES} == CHANGES
    assert changed.updated_at > project.profile(user_id).updated_at


def test_update_my_profile_v2_leaves_alone_what_is_not_named(database):
    user_id = database.sign_up("ada@example.org", raw_user_meta_data={"name": "Ada"})
    before = database.profile(user_id)
    after = update(database, user_id, {"bio": "x"})
    differing = {key for key in before._mapping if before._mapping[key] != after._mapping[key]}
    assert differing == {"bio", "updated_at"}
    assert update(database, user_id, {"display_name": None}).display_name is None
    assert update(database, user_id, {}).updated_at == before.updated_at


def test_update_my_profile_v2_touches_no_other_row(database):
    ada, eve = database.sign_up("ada@example.org"), database.sign_up("eve@example.org")
    with database.acting_as("authenticated", ada) as connection:
        connection.execute(text('select public.update_my_profile_v2(\'{"bio": "x"}\')'))
        connection.exec_driver_sql("reset role")
        bios = connection.execute(text("select user_id, bio from public.user_profiles")).all()
    assert dict(map(tuple, bios)) == {ada: "x", eve: None}


def test_update_my_profile_v2_makes_a_missing_profile_first(database):
    user_id = without_profile(database)
    assert update(database, user_id, {"bio": "x"}).bio == "x"


def test_everything_wrong_is_listed_in_one_error(project):
    user_id = project.sign_up("ada@example.org")
    changes = {"bio": 5, "role": "admin", "no_such": 1, "username": {"a": 1}, "first_name": True, "display_name": "fine",
               "email": "x", "user_id": "x", "login_count": 9, "preferences": {}}  # fmt: skip
    sqlstate, message, hint = error_of(project, "authenticated", user_id, UPDATE, changes=json.dumps(changes))
    assert sqlstate == INVALID
    assert message == (
        "the profile cannot be changed like this: bio: must be a text, email: cannot be changed here,"
        " first_name: must be a text, login_count: cannot be changed here, no_such: cannot be changed here,"
        " role: cannot be changed here, user_id: cannot be changed here, username: must be a text"
    )
    assert all(key in hint for key in CHANGES)


def test_no_column_that_is_not_the_users_can_be_changed(database):
    user_id = database.sign_up("ada@example.org")
    forbidden = set(database.profile(user_id)._mapping) - set(CHANGES)
    assert len(forbidden) == 25
    for key in forbidden:
        sqlstate, message, _ = error_of(database, "authenticated", user_id, UPDATE, changes=json.dumps({key: "x"}))
        assert (sqlstate, message.endswith(f": {key}: cannot be changed here")) == (INVALID, True), key


def test_a_key_of_any_length_is_no_trouble(database):
    user_id = database.sign_up("ada@example.org")
    _, message, _ = error_of(database, "authenticated", user_id, UPDATE, changes=json.dumps({"x" * 10_000: 1, "%s": 1}))
    assert len(message) < 300
    assert "%s: cannot be changed here" in message


@pytest.mark.parametrize("changes", ["[]", "null", "5", '"bio"', None])
def test_changes_that_are_no_object_are_refused(database, changes):
    user_id = database.sign_up("ada@example.org")
    sqlstate, message, _ = error_of(database, "authenticated", user_id, UPDATE, changes=changes)
    assert (sqlstate, message) == (INVALID, "the changes must be a JSON object")


def test_values_that_rules_refuse_are_listed_with_their_columns_and_rules_in_one_error(project):
    user_id = project.sign_up("ada@example.org")
    project.sign_up("eve@example.org")
    changes = {
        "username": "ADMIN", "bio": "x" * 5_000, "timezone": "Mars", "profile_visibility": "all", "language": "no language",
        "display_name": "Ada\u202e", "first_name": "fine", "logo_url": None, "key_metrics": {}, "preferences": None,
    }  # fmt: skip
    sqlstate, message, hint = error_of(project, "authenticated", user_id, UPDATE, changes=json.dumps(changes))
    assert (sqlstate, message) == (
        CHECK,
        "the profile cannot be changed like this: bio: up to 4000 characters, display_name: names without hidden characters,"
        " key_metrics: array 64 kb 32 levels, language: is a bcp 47 tag, preferences: cannot be null,"
        " profile_visibility: is public or private, timezone: is a name of pg_timezone_names,"
        " username: is 3 to 32 of a z 0 9",
    )
    assert all(key in hint for key in CHANGES)
    for name, rule in (("eve", "is taken"), ("supp0rt", "is reserved"), (None, "cannot be null")):
        message = error_of(project, "authenticated", user_id, UPDATE, changes=json.dumps({"username": name}))[1]
        assert message == f"the profile cannot be changed like this: username: {rule}"


def test_wrong_keys_and_values_that_rules_refuse_are_listed_together(database):
    user_id = database.sign_up("ada@example.org")
    changes = {"role": "admin", "display_name": 5, "bio": "x" * 5_000, "username": "root"}
    sqlstate, message, _ = error_of(database, "authenticated", user_id, UPDATE, changes=json.dumps(changes))
    assert (sqlstate, message) == (
        INVALID,
        "the profile cannot be changed like this: display_name: must be a text, role: cannot be changed here,"
        " bio: up to 4000 characters, username: is reserved",
    )


def test_every_rule_of_a_column_that_a_user_writes_has_words_that_name_the_column(database):
    user_id = database.sign_up("ada@example.org")
    wrong = {
        "username": "A", "display_name": "x" * 201, "first_name": "x" * 201, "last_name": "x" * 201, "phone": "x" * 41, "bio": "x" * 4001,
        "company_name": "x" * 201, "target_audience": "x" * 20_001, "business_context": "x" * 20_001,
        "master_system_prompt": "x" * 20_001, "avatar_emoji": "<b>", "profile_picture_url": "//x", "logo_url": "x:y",
        "profile_visibility": "x", "timezone": "x", "language": "x", "key_metrics": {}, "preferences": [],
        "notification_settings": [],
    }  # fmt: skip
    assert set(wrong) == set(CHANGES)
    _, message, _ = error_of(database, "authenticated", user_id, UPDATE, changes=json.dumps(wrong))
    listed = dict(part.split(": ", 1) for part in message.partition(": ")[2].split(", "))
    assert set(listed) == set(wrong)
    assert all(re.fullmatch("[a-z0-9 _]+", rule) and "ck" not in rule for rule in listed.values()), listed


def test_no_value_of_the_row_is_part_of_the_error(database):
    user_id = database.sign_up("ada-secret@example.org", raw_user_meta_data={"name": "Ada Secret"})
    with pytest.raises(DBAPIError) as caught:
        call(
            database,
            "authenticated",
            user_id,
            UPDATE,
            changes='{"bio": "%s", "timezone": "Secretland"}' % ("s" * 5_000),
        )
    diagnosis = caught.value.orig.diag
    shown = "\n".join(str(getattr(diagnosis, name)) for name in dir(diagnosis) if name[0] != "_")
    assert "ecret" not in shown
    assert "ssss" not in shown
    assert "char_length(bio) <= 4000" in diagnosis.message_detail


def test_rules_of_the_applications_own_are_listed_too(database):
    user_id = database.sign_up("ada@example.org")
    database.run("update public.user_profiles set bio = 'x', display_name = 'x'")
    database.script(
        "alter table public.user_profiles add constraint no_shouting check (bio <> upper(bio)),"
        " add constraint name_or_bio check (display_name is not null or bio is not null);"
        "create function public.moody() returns trigger language plpgsql as $$begin"
        " if new.bio = 'mood' then raise exception 'not today' using errcode = 'check_violation'; end if; return new; end$$;"
        "create trigger moody before update on public.user_profiles for each row execute function public.moody()"
    )
    for changes, expected in (
        ({"bio": "LOUD", "language": "?"}, "bio: breaks the rule no_shouting, language: is a bcp 47 tag"),
        ({"bio": None, "display_name": None}, "bio, display_name: break the rule name_or_bio"),
    ):
        message = error_of(database, "authenticated", user_id, UPDATE, changes=json.dumps(changes))[1]
        assert message.removeprefix("the profile cannot be changed like this: ") == expected
    assert error_of(database, "authenticated", user_id, UPDATE, changes='{"bio": "mood"}')[:2] == (CHECK, "not today")


@pytest.mark.parametrize("bad", ["\\u0000", "\\ud800", "\\udc00x"])
def test_text_that_postgresql_cannot_hold_is_refused_as_such(database, bad):
    user_id = database.sign_up("ada@example.org")
    sqlstate = error_of(database, "authenticated", user_id, UPDATE, changes=f'{{"bio": "{bad}"}}')[0]
    assert sqlstate in {"22P05", "22P02"}


MERGE = "(public.update_my_profile_v2(cast(:changes as jsonb), p_merge => true)).preferences"

# The examples of RFC 7386, appendix A, that are objects at the top.
MERGES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("before", "patch", "after"), MERGES)
def test_p_merge_merges_documents_by_rfc_7386(database, before, patch, after):
    user_id = database.sign_up("ada@example.org")
    database.run("update public.user_profiles set preferences = cast(:value as jsonb)", value=json.dumps(before))
    assert call(database, "authenticated", user_id, MERGE, changes=json.dumps({"preferences": patch})) == after
    assert update(database, user_id, {"preferences": patch}).preferences == patch


def test_a_merge_that_breaks_a_rule_is_listed_like_any_change(database):
    user_id = database.sign_up("ada@example.org")
    database.run("update public.user_profiles set preferences = cast(:v as jsonb)", v=json.dumps({"a": "x" * 60_000}))
    deep = "[" * 40 + "]" * 40
    changes = f'{{"preferences": {{"b": "{"y" * 10_000}"}}, "notification_settings": {{"a": {deep}}}, "bio": "x"}}'
    sqlstate, message, _ = error_of(database, "authenticated", user_id, MERGE, changes=changes)
    assert (sqlstate, message.removeprefix("the profile cannot be changed like this: ")) == (
        CHECK, "notification_settings: object 64 kb 32 levels, preferences: object 64 kb 32 levels"
    )  # fmt: skip
    assert error_of(database, "authenticated", user_id, MERGE, changes='{"preferences": []}')[0] == CHECK


def test_merges_of_two_sessions_at_once_both_count(database):
    user_id = database.sign_up("ada@example.org")
    claims = json.dumps({"sub": str(user_id), "role": "authenticated"})

    def merge(connection, name):
        connection.execute(text("select set_config('request.jwt.claims', :c, true)"), {"c": claims})
        connection.exec_driver_sql("set local role authenticated")
        connection.execute(text(f"select {MERGE}"), {"changes": json.dumps({"preferences": {name: 1}})})

    with database.engine.begin() as first, ThreadPoolExecutor(1) as pool:
        merge(first, "a")

        def second():
            with database.engine.begin() as connection:
                merge(connection, "b")

        waiting = pool.submit(second)
        while not database.value("select count(*) from pg_locks where not granted"):
            assert not waiting.done()
        first.commit()
        waiting.result(30)
    assert database.profile(user_id).preferences == {"a": 1, "b": 1}


def test_p_if_updated_at_changes_only_the_profile_that_was_read(database):
    user_id = database.sign_up("ada@example.org")
    guarded = '(public.update_my_profile_v2(\'{"bio": "x"}\', p_if_updated_at => cast(:read as timestamptz))).bio'
    read = database.profile(user_id).updated_at
    assert call(database, "authenticated", user_id, guarded, read=read) == "x"
    assert call(database, "authenticated", user_id, guarded, read=None) == "x"
    database.run("update public.user_profiles set bio = 'y'")
    sqlstate, message, hint = error_of(database, "authenticated", user_id, guarded, read=read)
    assert (sqlstate, message) == ("PT409", "the profile has changed since it was read")
    assert "updated_at" in hint
    assert database.profile(user_id).bio == "y"


REFUSED = [
    ({"username": "eve"}, DUPLICATE),
    ({"username": "EVE"}, CHECK),
    ({"username": "a"}, CHECK),
    ({"username": None}, "23502"),
    ({"bio": "x" * 4001}, CHECK),
    ({"logo_url": "javascript:alert(1)"}, CHECK),
    ({"timezone": "FOO+5"}, CHECK),
    ({"timezone": None}, "23502"),
    ({"language": "no language"}, CHECK),
    ({"profile_visibility": "friends"}, CHECK),
    ({"preferences": []}, CHECK),
    ({"preferences": None}, CHECK),
    ({"key_metrics": {}}, CHECK),
    ({"notification_settings": {"x": "x" * 70_000}}, CHECK),
]


def test_a_value_that_a_rule_refuses_is_that_rules_error(database):
    user_id = database.sign_up("ada@example.org")
    database.sign_up("eve@example.org")
    seen = [
        (changes, error_of(database, "authenticated", user_id, UPDATE, changes=json.dumps(changes))[0])
        for changes, _ in REFUSED
    ]
    assert seen == REFUSED


def test_update_my_profile_v2_without_a_user_is_refused(database):
    for role in ("anon", "authenticated"):
        assert error_of(database, role, None, UPDATE, changes='{"bio": "x"}')[0] == FORBIDDEN


# get_public_profile ---------------------------------------------------------------------------------------------------


def public(database, username, role="anon", user_id=None):
    with database.acting_as(role, user_id) as connection:
        query = text("select * from public.get_public_profile(:username)")
        return [dict(row._mapping) for row in connection.execute(query, {"username": username})]


def test_get_public_profile_shows_seven_columns_to_everybody(project):
    user_id = project.sign_up("ada@example.org", raw_user_meta_data={"name": "Ada", "picture": "https://p.example/1"})
    eve = project.sign_up("eve@example.org")
    expected = {
        "id": str(user_id), "username": "ada", "display_name": "Ada", "avatar_emoji": "👶",
        "avatar_url": "https://p.example/1", "profile_picture_url": None, "bio": None,
    }  # fmt: skip
    for role, reader in (("anon", None), ("authenticated", eve), ("authenticated", user_id), ("service_role", None)):
        assert public(project, "ada", role, reader) == [expected]
    assert public(project, "ADA") == [expected]


def test_get_public_profile_shows_no_private_inactive_deleted_or_unknown_one(database):
    private, inactive, deleted = (database.sign_up(f"{name}@example.org") for name in ("private", "inactive", "erased"))
    database.run("update public.user_profiles set profile_visibility = 'private' where user_id = :id", id=private)
    database.run("update public.user_profiles set is_active = false where user_id = :id", id=inactive)
    database.run("update auth.users set deleted_at = now() where id = :id", id=deleted)
    for username in ("private", "inactive", "erased", deleted.hex, "nobody-here", "", "%", None):
        assert public(database, username) == [], username
    assert public(database, "private", "authenticated", private) == []


# get_public_profiles --------------------------------------------------------------------------------------------------


def test_get_public_profiles_shows_public_and_active_ones_of_those_asked_for(project):
    users = {name: project.sign_up(f"{name}@example.org") for name in ("ada", "private", "inactive", "erased", "other")}
    project.run(
        "update public.user_profiles set profile_visibility = 'private' where user_id = :id", id=users["private"]
    )
    project.run("update public.user_profiles set is_active = false where user_id = :id", id=users["inactive"])
    project.run("update auth.users set deleted_at = now() where id = :id", id=users["erased"])
    asked = [users[name] for name in ("ada", "private", "inactive", "erased")] + [uuid.uuid4(), users["ada"], None]
    statement = text("select * from public.get_public_profiles(cast(:ids as uuid[]))")
    for role, reader in (("anon", None), ("authenticated", users["other"]), ("service_role", None)):
        with project.acting_as(role, reader) as connection:
            rows = [dict(row._mapping) for row in connection.execute(statement, {"ids": asked})]
        assert [(row["user_id"], row["username"]) for row in rows] == [(users["ada"], "ada")]
        assert list(rows[0]) == [
            "id", "user_id", "username", "display_name", "avatar_emoji", "avatar_url", "profile_picture_url", "bio",
        ]  # fmt: skip
    with project.acting_as("anon") as connection:
        assert connection.execute(statement, {"ids": []}).all() == []
        assert connection.execute(statement, {"ids": None}).all() == []
        assert len(connection.execute(statement, {"ids": [users["ada"]] * 200}).all()) == 1
        with pytest.raises(DBAPIError, match="201 user ids are too many") as refused:
            connection.execute(statement, {"ids": [users["ada"]] * 201})
    assert refused.value.orig.pgcode == "22023"


def test_both_ways_to_public_profiles_use_an_index(database):
    database.run(
        "insert into auth.users (email) select 'usr' || g || '@example.org' from generate_series(1, 3000) as g"
    )
    database.run("analyze public.user_profiles")
    for name, ids in (("'usr7'", "null"), ("null", f"array['{uuid.uuid4()}']")):
        lines = database.run(
            "explain select from public.user_profiles as p"
            f" where lower(p.username) = lower({name}::text) or p.user_id = any ({ids}::uuid[]) or p.user_id = ("
            "select h.user_id from profiles_internal.held_usernames as h"
            f" where h.username = lower({name}::text) and h.held_until > now() and not exists ("
            f"select from public.user_profiles as n where lower(n.username) = lower({name}::text)))"
        )
        assert "Seq Scan" not in "".join(row[0] for row in lines), lines


def test_what_can_be_called_says_what_it_does(database):
    found = database.run(
        "select p.oid::regprocedure::text as name, obj_description(p.oid, 'pg_proc') as said from pg_proc as p"
        " where p.pronamespace = 'public'::regnamespace"
        " and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')"
    )
    assert len(found) == 14
    assert [row.name for row in found if not row.said or len(row.said) < 20] == []


# get_user_profile_stats -----------------------------------------------------------------------------------------------


def test_get_user_profile_stats_counts_what_its_keys_say(project):
    def of_profiles(assignments, user_id):
        project.run(f"update public.user_profiles set {assignments} where user_id = :id", id=user_id)

    today = datetime.now(UTC)
    ada = project.sign_up(
        "ada@example.org", email_confirmed_at=today, last_sign_in_at=today,
        raw_user_meta_data={"name": "A", "first_name": "A", "last_name": "L", "picture": "https://p.example/1"},
    )  # fmt: skip
    of_profiles("bio = 'x'", ada)
    eve = project.sign_up("eve@example.org", raw_user_meta_data={"name": "Eve", "first_name": "Eve"})
    of_profiles("is_active = false, created_at = now() - interval '5 days'", eve)
    bob = project.sign_up("bob@example.org", raw_user_meta_data={"name": "B", "first_name": "B", "last_name": "B"})
    of_profiles("profile_visibility = 'private', created_at = now() - interval '40 days'", bob)
    project.sign_up(is_anonymous=True)
    without_profile(project, "lost@example.org")
    without_profile(project, "gone@example.org", deleted_at=today)
    project.administrator.run("delete from public.user_profile_audit_logs")
    project.administrator.run(
        "insert into public.user_profile_audit_logs (user_id, action, origin, error_code, created_at)"
        " values (:id, 'failed', 'trigger', '55P03', now()), (:id, 'failed', 'trigger', '55P03', now()),"
        " (:id, 'failed', 'trigger', null, now()), (:id, 'failed', 'trigger', '23505', now() - interval '31 days'),"
        " (:id, 'skipped', 'trigger', '23514', now())",
        id=ada,
    )
    stats = call(project, "service_role", None, "public.get_user_profile_stats()")
    day, five_days_ago = today.date().isoformat(), (today - timedelta(days=5)).date().isoformat()
    assert stats == {
        "users": 5, "profiles": 4, "missing": 1, "active": 3, "anonymous": 1, "public": 3,
        "new_per_day": {day: 2, five_days_ago: 1}, "active_per_day": {day: 1},
        "failures_by_sqlstate": {"55P03": 2, "unknown": 1},
        "completion": {"0-24": 1, "25-49": 1, "50-74": 1, "75-100": 1},
    }  # fmt: skip


def test_get_user_profile_stats_of_an_empty_database(database):
    stats = call(database, "service_role", None, "public.get_user_profile_stats()")
    assert stats == {
        "users": 0, "profiles": 0, "missing": 0, "active": 0, "anonymous": 0, "public": 0, "new_per_day": {},
        "active_per_day": {}, "failures_by_sqlstate": {}, "completion": {"0-24": 0, "25-49": 0, "50-74": 0, "75-100": 0},
    }  # fmt: skip


# create_user ----------------------------------------------------------------------------------------------------------


def create(database, **arguments):
    """create_user as service_role, committed."""
    names = ", ".join(f"{name} => :{name}" for name in arguments)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local role service_role")
        return connection.scalar(text(f"select public.create_user({names})"), arguments)


def test_create_user_makes_a_user_with_a_profile(database):
    user_id = create(
        database, email="ada@example.org", phone="+491", external_id="80351110224678912", username="lovelace",
        metadata='{"name": "Ada", "role": "admin"}',
    )  # fmt: skip
    profile = database.profile(user_id)
    assert (profile.email, profile.phone, profile.external_id, profile.username, profile.display_name, profile.role) == (
        "ada@example.org", "+491", "80351110224678912", "lovelace", "Ada", "user",
    )  # fmt: skip
    assert database.value("select count(*) from public.user_progress where user_id = :id", id=user_id) == 1


def test_create_user_needs_nothing(database):
    first, second = create(database), create(database, metadata=None)
    assert first != second
    assert {database.profile(first).external_id, database.profile(second).external_id} == {None}


def test_create_user_returns_the_known_user_of_an_external_id_unchanged(database):
    first = create(database, external_id="7", username="ada")
    assert create(database, external_id="7", username="other", email="x@example.org") == first
    assert (database.profile(first).username, database.profile(first).email) == ("ada", None)
    assert create(database, external_id="8") != first


def test_create_user_from_eight_threads_makes_one_user(database):
    barrier = threading.Barrier(8)

    def make(_):
        barrier.wait(30)
        return create(database, external_id="80351110224678912", email="ada@example.org")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    assert database.value("select count(*) from auth.users") == 1
    assert database.value("select count(*) from public.user_profiles") == 1


@pytest.mark.parametrize(("username", "sqlstate"), [("ada", DUPLICATE), ("A", CHECK), ("Ada Lovelace", CHECK)])
def test_create_user_with_a_name_that_cannot_be_makes_nothing(database, username, sqlstate):
    database.sign_up("ada@example.org")
    with pytest.raises(DBAPIError) as caught:
        create(database, external_id="7", username=username)
    assert caught.value.orig.pgcode == sqlstate
    assert database.value("select count(*) from auth.users") == 1


def test_create_user_makes_the_profile_itself_while_the_flag_is_off(database):
    database.run("update profiles_internal.settings set value = 'false' where key = 'auto_create_profiles'")
    database.run(
        "insert into profiles_internal.settings (key, value) values ('auto_create_profiles', 'false') on conflict do nothing"
    )
    assert database.profile(create(database, email="ada@example.org", external_id="7")).external_id == "7"


def test_create_user_that_leaves_no_profile_is_an_error(database):
    """A caller who asks for a user must not get one without a profile, or under another name."""
    database.script("alter table public.user_profiles add constraint none check (email is null)")
    with pytest.raises(DBAPIError) as caught:
        create(database, email="ada@example.org", external_id="7")
    assert caught.value.orig.pgcode in {CHECK, "P0001"}
    assert database.value("select count(*) from auth.users") == 0


def test_create_user_is_for_service_role_alone(database):
    user_id = database.sign_up("ada@example.org")
    for role in ("anon", "authenticated"):
        assert error_of(database, role, user_id, "public.create_user('x@example.org')")[0] == FORBIDDEN


def test_a_hosted_project_has_no_create_user(supabase):
    assert supabase.value("select to_regproc('public.create_user')") is None


# export_my_data -------------------------------------------------------------------------------------------------------


def exported(database, user):
    with database.acting_as("authenticated", user) as connection:
        export = connection.scalar(text("select public.export_my_data()"))
        connection.commit()
    return export


def test_export_my_data_queues_one_export_of_everything_at_a_time(project):
    ada, bob = project.sign_up("ada.exports@example.org"), project.sign_up("bob.exports@example.org")
    first = exported(project, ada)
    assert exported(project, ada) == first
    other = exported(project, bob)
    assert other != first
    (row,) = project.run("select * from public.export_history where user_id = :ada", ada=ada)
    assert (row.id, row.export_type, row.export_format, row.status) == (first, "everything", "json", "pending")
    (logged,) = project.run(
        "select * from public.user_profile_audit_logs where user_id = :ada and metadata ->> 'export' is not null",
        ada=ada,
    )
    assert logged.metadata == {"export": str(first), "status": "pending"}
    project.run("update public.export_history set status = 'processing' where id = :id", id=first)
    assert exported(project, ada) == first
    project.run("update public.export_history set status = 'completed' where id = :id", id=first)
    assert exported(project, ada) != first
    for role, user in (("anon", None), ("authenticated", None), ("service_role", ada)):
        assert error_of(project, role, user, "public.export_my_data()")[0] == FORBIDDEN


def test_requests_for_an_export_at_once_give_one(project):
    ada = project.sign_up("ada.at.once@example.org")
    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(lambda _: exported(project, ada), range(6)))
    assert len(ids) == 1
