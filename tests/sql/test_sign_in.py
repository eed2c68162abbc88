"""Whatever happens to a user later (signing in, changing, leaving) reaches the profile, and never fails for it."""

import json
import re
import time
import uuid
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from profiles_schema.driver import execute_literally
from support import ENVELOPE, insert_user

# Generous: what is guarded against is a wait of many seconds, or for ever.
ABOUT_A_SECOND = 2.5


def change(database, user_id, **columns):
    """Change the row of a user as the auth server does."""
    values = {k: json.dumps(v) if k.startswith("raw_") else v for k, v in columns.items()}
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    with database.auth_server() as connection:
        connection.execute(
            text(f"update auth.users set {assignments} where id = :user_id"), {**values, "user_id": user_id}
        )


def sign_in(database, user_id, at="2026-01-31T12:00:00+00:00"):
    change(database, user_id, last_sign_in_at=at)


def edit(database, user_id, **columns):
    """Edit a profile as its owner does."""
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    database.run(f"update public.user_profiles set {assignments} where user_id = :user_id", **columns, user_id=user_id)


def audit(database, user_id=None):
    """(action, origin, changed, actor) of every audit row of a user."""
    rows = database.run(
        "select action, origin, changed, actor from public.user_profile_audit_logs"
        " where user_id is not distinct from cast(:id as uuid) order by created_at, id",
        id=str(user_id) if user_id else None,
    )
    return [tuple(row) for row in rows]


def set_setting(database, key, value):
    database.administrator.run(
        "insert into profiles_internal.settings (key, value) values (:key, cast(:value as jsonb))"
        " on conflict (key) do update set value = excluded.value",
        key=key, value=json.dumps(value),
    )  # fmt: skip


# Signing in -----------------------------------------------------------------------------------------------------------


def test_a_sign_in_carries_its_time_and_count_over_and_leaves_updated_at_alone(project):
    user_id = project.sign_up("ada@example.org")
    before = project.profile(user_id)
    assert (before.last_login, before.login_count) == (None, 0)
    for day in ("01", "02", "03"):
        sign_in(project, user_id, f"2026-01-{day}T12:00:00+00:00")
    after = project.profile(user_id)
    assert (after.last_login.isoformat()[:10], after.login_count) == ("2026-01-03", 3)
    assert after.updated_at == before.updated_at
    assert audit(project, user_id) == []


def test_the_same_time_of_sign_in_counts_once(database):
    user_id = database.sign_up("ada@example.org")
    sign_in(database, user_id)
    sign_in(database, user_id)
    change(database, user_id, raw_app_meta_data={"provider": "email"})
    assert database.profile(user_id).login_count == 1


def test_a_user_who_signs_up_signed_in_counts_as_one_login(database):
    user_id = database.sign_up("ada@example.org", last_sign_in_at="2026-01-31T12:00:00Z")
    assert (database.profile(user_id).last_login is not None, database.profile(user_id).login_count) == (True, 1)


def test_an_update_that_concerns_no_profile_does_not_touch_it(database):
    user_id = database.sign_up("ada@example.org")
    version = "select xmin::text from public.user_profiles where user_id = :id"
    before = database.value(version, id=user_id)
    change(
        database, user_id, raw_app_meta_data={"provider": "email"}, banned_until="2030-01-01", updated_at="2026-01-01"
    )
    assert database.value(version, id=user_id) == before


def test_a_missing_profile_is_made_at_the_next_update(project):
    user_id = project.sign_up("ada@example.org", raw_user_meta_data={"name": "Ada"})
    project.run("delete from public.user_profiles where user_id = :id", id=user_id)
    project.run("delete from public.user_progress where user_id = :id", id=user_id)
    project.run("delete from public.user_profile_audit_logs")
    change(project, user_id, raw_app_meta_data={"any": "change"})
    profile = project.profile(user_id)
    assert (profile.id, profile.username, profile.display_name) == (str(user_id), "ada", "Ada")
    assert project.value("select count(*) from public.user_progress where user_id = :id", id=user_id) == 1
    assert audit(project, user_id) == [("repaired", "trigger", None, None)]


def test_a_missing_profile_is_made_at_sign_in_with_that_sign_in_counted(database):
    user_id = database.sign_up("ada@example.org")
    database.run("delete from public.user_profiles")
    sign_in(database, user_id)
    assert database.profile(user_id).login_count == 1


# What follows the user, and what does not -----------------------------------------------------------------------------


def test_email_phone_and_their_confirmation_follow(project):
    user_id = project.sign_up("ada@example.org")
    change(project, user_id, email_confirmed_at="2026-01-01")
    assert project.profile(user_id).email_verified is True
    change(project, user_id, email="ada@new.example", phone="+491")
    profile = project.profile(user_id)
    assert (profile.email, profile.phone, profile.email_verified) == ("ada@new.example", "+491", True)
    change(project, user_id, email=None, phone=None)
    profile = project.profile(user_id)
    assert (profile.email, profile.phone, profile.email_verified) == (None, "+491", False)


def test_a_contact_number_is_the_persons_and_follows_only_while_it_is_the_user_rows(database):
    user_id = database.sign_up("ada@example.org", raw_user_meta_data={"phone": " +49 30 1 "})
    assert database.profile(user_id).phone == "+49 30 1"
    change(database, user_id, phone="+491")
    assert database.profile(user_id).phone == "+491"
    with database.acting_as("authenticated", user_id) as connection:
        assert connection.scalar(text('select (public.update_my_profile_v2(\'{"phone": "+492"}\')).phone')) == "+492"
        assert connection.scalar(text("update public.user_profiles set phone = '+493' returning phone")) == "+493"
    database.run("update public.user_profiles set phone = '+493' where user_id = :id", id=user_id)
    change(database, user_id, phone="+494", last_sign_in_at="2026-01-01")
    change(database, user_id, phone=None, last_sign_in_at="2026-01-02")
    assert database.profile(user_id).phone == "+493"


def test_an_address_stays_where_the_auth_server_never_had_one(database):
    user_id = database.sign_up(None, phone="+491")
    database.run(
        "update public.user_profiles set email = 'ada@example.org', email_verified = true where user_id = :id",
        id=user_id,
    )
    change(database, user_id, last_sign_in_at="2026-01-01")
    change(database, user_id, raw_user_meta_data={"name": "Ada"})
    profile = database.profile(user_id)
    assert (profile.email, profile.email_verified, profile.login_count) == ("ada@example.org", False, 1)


def test_a_pending_change_of_address_is_never_carried_over(supabase):
    user_id = supabase.sign_up("ada@example.org", phone="+491")
    change(
        supabase, user_id, email_change="pending@example.org", email_change_token_new="t", phone_change="+492",
        last_sign_in_at="2026-01-31",
    )  # fmt: skip
    profile = supabase.profile(user_id)
    assert (profile.email, profile.phone) == ("ada@example.org", "+491")
    assert "pending" not in str(profile)
    assert "+492" not in str(profile)


def test_names_and_picture_follow_until_they_are_edited(database):
    user_id = database.sign_up(
        "ada@example.org",
        raw_user_meta_data={"name": "A", "given_name": "A", "family_name": "L", "picture": "https://p.example/1"},
    )
    change(
        database, user_id,
        raw_user_meta_data={"name": "B", "given_name": "B", "family_name": "M", "picture": "https://p.example/2"},
    )  # fmt: skip
    profile = database.profile(user_id)
    followed = (profile.display_name, profile.first_name, profile.last_name, profile.avatar_url)
    assert followed == ("B", "B", "M", "https://p.example/2")

    edit(database, user_id, display_name="mine", first_name=None)
    change(
        database, user_id,
        raw_user_meta_data={"name": "C", "given_name": "C", "family_name": "N", "picture": "https://p.example/3"},
    )  # fmt: skip
    profile = database.profile(user_id)
    kept = (profile.display_name, profile.first_name, profile.last_name, profile.avatar_url)
    assert kept == ("mine", None, "N", "https://p.example/3")


def test_a_name_the_provider_no_longer_sends_is_kept(database):
    user_id = database.sign_up("ada@example.org", raw_user_meta_data={"name": "Ada", "picture": "https://p.example/1"})
    change(database, user_id, raw_user_meta_data={})
    profile = database.profile(user_id)
    assert (profile.display_name, profile.avatar_url) == ("Ada", "https://p.example/1")


def test_what_a_user_uploaded_stays(database):
    user_id = database.sign_up("ada@example.org")
    edit(database, user_id, profile_picture_url="https://mine.example/1", language="de", timezone="Europe/Berlin")
    change(
        database, user_id,
        raw_user_meta_data={"picture": "https://p.example/1", "language": "fr", "timezone": "Europe/Paris"},
    )  # fmt: skip
    profile = database.profile(user_id)
    assert (profile.profile_picture_url, profile.language, profile.timezone, profile.avatar_url) == (
        "https://mine.example/1", "de", "Europe/Berlin", "https://p.example/1",
    )  # fmt: skip


def test_metadata_gives_no_authority_later_either(database):
    user_id = database.sign_up("ada@example.org")
    change(database, user_id, raw_user_meta_data={"role": "admin", "email_verified": True, "username": "root"})
    profile = database.profile(user_id)
    assert (profile.role, profile.email_verified, profile.username) == ("user", False, "ada")


def test_a_generated_username_follows_the_address_and_an_edited_one_stays(database):
    follows = database.sign_up("ada@example.org")
    stays = database.sign_up("bob@example.org")
    edit(database, stays, username="bobby")
    for user_id, email in ((follows, "lovelace@example.org"), (stays, "other@example.org")):
        change(database, user_id, email=email)
    assert (database.profile(follows).username, database.profile(stays).username) == ("lovelace", "bobby")


def test_a_username_that_follows_and_is_taken_gets_the_suffix(database):
    database.sign_up("lovelace@example.org")
    user_id = database.sign_up("ada@example.org")
    change(database, user_id, email="lovelace@new.example")
    assert database.profile(user_id).username == f"lovelace_{user_id.hex[-8:]}"


def test_a_change_of_domain_alone_keeps_the_username(database):
    database.sign_up("ada@first.example")
    user_id = database.sign_up("ada@example.org")
    change(database, user_id, email="ada@new.example")
    assert database.profile(user_id).username == f"ada_{user_id.hex[-8:]}"


def test_an_anonymous_user_who_becomes_permanent_gets_a_name_of_the_address(project):
    user_id = project.sign_up(is_anonymous=True)
    before = project.profile(user_id)
    assert (before.is_anonymous, before.username) == (True, f"user_{user_id.hex[-8:]}")
    change(
        project, user_id, is_anonymous=False, email="ada@example.org", email_confirmed_at="2026-01-01",
        raw_user_meta_data={"name": "Ada"},
    )  # fmt: skip
    after = project.profile(user_id)
    assert (after.is_anonymous, after.username, after.email, after.email_verified, after.display_name) == (
        False, "ada", "ada@example.org", True, "Ada",
    )  # fmt: skip


def test_an_anonymous_user_who_chose_a_name_keeps_it(database):
    user_id = database.sign_up(is_anonymous=True)
    edit(database, user_id, username="nightingale")
    change(database, user_id, is_anonymous=False, email="ada@example.org")
    assert database.profile(user_id).username == "nightingale"


def test_no_shape_of_metadata_fails_an_update(database):
    user_id = database.sign_up("ada@example.org")
    shapes = [None, [], 5, "x", {"name": {"a": 1}}, {"picture": 7}, {"name": "x" * 100_000}]
    for day, metadata in enumerate(shapes, 1):
        change(database, user_id, raw_user_meta_data=metadata, last_sign_in_at=f"2026-01-{day:02}")
    assert database.profile(user_id).login_count == len(shapes)
    assert audit_failures(database) == []


def audit_failures(database):
    rows = database.run(
        "select user_id, error_code, error_message from public.user_profile_audit_logs where action = 'failed'"
    )
    return [tuple(row) for row in rows]


# Failures -------------------------------------------------------------------------------------------------------------


def own_trigger(body):
    return (
        f"create function public.applications_own() returns trigger language plpgsql as $own$begin {body} return new; end$own$;"
        "create trigger applications_own before update on public.user_profiles"
        " for each row execute function public.applications_own();"
    )


BREAKAGES = {
    "a trigger that raises": (own_trigger("raise exception 'secret % is refused', new.email;"), {"P0001"}),
    "a trigger that asserts": (own_trigger("assert false, 'secret';"), {"P0004"}),
    "a trigger that is cancelled": (own_trigger("raise exception using errcode = '57014';"), {"57014"}),
    "a column is missing": ("alter table public.user_profiles drop column phone", {"42703"}),
    "a CHECK": ("alter table public.user_profiles add constraint none check (email like '%@example.org')", {"23514"}),
    "profiles are away": ("alter table public.user_profiles rename to somewhere_else", {"42P01", "42704"}),
    "a function is away": ("drop function profiles_internal.follow_user(jsonb, jsonb)", {"42883"}),
}


def test_whatever_fails_the_update_goes_on_and_leaves_a_record(database):
    user_id = database.sign_up("secret@example.org")
    for breakage, (sql, sqlstates) in BREAKAGES.items():
        with database.engine.connect() as connection, connection.begin() as transaction:
            execute_literally(connection, sql)
            connection.execute(text("update auth.users set email = 'secret@new.example', last_sign_in_at = now()"))
            query = "select user_id, action, error_code, to_jsonb(a)::text from public.user_profile_audit_logs as a"
            rows = connection.execute(text(query)).all()
            assert [row[:2] for row in rows] == [(user_id, "failed")], breakage
            assert rows[0][2] in sqlstates, breakage
            assert "secret" not in rows[0][3], breakage
            transaction.rollback()


def test_a_sign_in_whose_profile_fails_commits(database):
    user_id = database.sign_up("ada@example.org")
    database.script(own_trigger("raise exception 'no';"))
    started = time.monotonic()
    sign_in(database, user_id)
    assert time.monotonic() - started < ABOUT_A_SECOND
    assert database.value("select last_sign_in_at is not null from auth.users where id = :id", id=user_id)
    assert [(row[0], row[1]) for row in audit_failures(database)] == [(user_id, "P0001")]


def test_a_change_that_failed_to_follow_follows_at_the_next_sign_in(project):
    user_id = project.sign_up("ada@example.org")
    with locked(project, "public.user_profiles"):
        change(project, user_id, email="ada@new.example", email_confirmed_at="2026-01-01")
    assert project.profile(user_id).email == "ada@example.org"
    sign_in(project, user_id)
    profile = project.profile(user_id)
    assert (profile.email, profile.email_verified) == ("ada@new.example", True)


def test_a_statement_timeout_inside_does_not_fail_the_sign_in(database):
    user_id = database.sign_up("ada@example.org")
    database.script(own_trigger("perform pg_sleep(30);"))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local statement_timeout = '300ms'")
        connection.execute(text("update auth.users set last_sign_in_at = now()"))
    assert [row[1] for row in audit_failures(database)] == ["57014"]
    assert database.value("select last_sign_in_at is not null from auth.users where id = :id", id=user_id)


@contextmanager
def locked(database, *tables):
    with database.engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql(f"lock table {', '.join(tables)} in access exclusive mode")
        yield
        transaction.rollback()


@pytest.mark.parametrize(
    "tables", [["public.user_profiles"], ["public.user_profiles", "public.user_profile_audit_logs"]]
)
def test_a_locked_table_holds_a_sign_in_up_for_about_a_second_at_most(project, tables):
    user_id = project.sign_up("ada@example.org")
    with locked(project, *tables):
        started = time.monotonic()
        with project.auth_server() as connection:
            for day in (1, 2, 3):
                statement = text("update auth.users set last_sign_in_at = make_date(2026, 1, :day) where id = :id")
                connection.execute(statement, {"day": day, "id": user_id})
        assert time.monotonic() - started < ABOUT_A_SECOND
    if len(tables) == 1:
        assert audit_failures(project)[0][:2] == (user_id, "55P03")
    sign_in(project, user_id)
    assert project.profile(user_id).last_login.year == 2026


def test_a_profile_locked_by_its_owner_does_not_hold_the_sign_in_up(database):
    user_id = database.sign_up("ada@example.org")
    with database.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(text("update public.user_profiles set bio = 'writing'"))
        started = time.monotonic()
        sign_in(database, user_id)
        assert time.monotonic() - started < ABOUT_A_SECOND
        transaction.rollback()
    assert [row[1] for row in audit_failures(database)] == ["55P03"]


# Leaving --------------------------------------------------------------------------------------------------------------

PERSONAL = {
    "external_id": "intimate-1", "username": "intimate", "display_name": "intimate", "first_name": "intimate",
    "last_name": "intimate", "email": "intimate@example.org", "phone": "+49intimate", "bio": "intimate",
    "company_name": "intimate", "target_audience": "intimate", "business_context": "intimate",
    "master_system_prompt": "intimate", "avatar_emoji": "intimate", "avatar_url": "https://intimate.example",
    "profile_picture_url": "https://intimate.example", "logo_url": "https://intimate.example",
    "profile_visibility": "public", "referral_code": "intimate", "key_metrics": '["intimate"]',
    "preferences": '{"intimate": 1}', "notification_settings": '{"intimate": 1}', "timezone": "Europe/Berlin",
    "language": "de", "personality_traits": '{"intimate": 1}', "appearance_traits": '{"intimate": 1}',
    "behavioral_metrics": '{"intimate": 1}', "cultural_attributes": '{"intimate": 1}',
    "analysis_summary": '{"intimate": 1}', "metadata": '{"intimate": 1}',
}  # fmt: skip


def a_full_user(database):
    """A user with something personal in every place."""
    user_id = database.sign_up("intimate@example.org", phone="+49intimate", raw_user_meta_data={"name": "intimate"})
    edit(database, user_id, **PERSONAL)
    sign_in(database, user_id)
    database.run(
        "insert into public.user_api_keys (user_id, openai_api_key) values (:id, :key)", id=user_id, key=ENVELOPE
    )
    database.run(
        "insert into public.export_history (user_id, export_type, export_format, filters, data, file_url)"
        " values (:id, 'all', 'json', '{\"intimate\": 1}', '{\"intimate\": 1}', 'https://intimate.example')",
        id=user_id,
    )
    database.run(
        "insert into public.export_history (user_id, export_type, export_format, filters) values (:id, 'all', 'json', '{}')",
        id=user_id,
    )
    for status in ("processing", "completed"):
        database.run("update public.export_history set status = :status where data is not null", status=status)
    database.administrator.run(
        "insert into public.sessions (user_id, started_at, ended_at, qa_attempts)"
        " values (:id, now() - interval '1 hour', now(), 3), (:id, now(), null, 0)",
        id=user_id,
    )
    return user_id


HASH = "5e884898da28047151d0e56f8dc62927"


def soft_delete(database, user_id, **columns):
    change(
        database, user_id, email=HASH, phone=HASH[:15], raw_user_meta_data={}, raw_app_meta_data={},
        deleted_at="2026-02-01", **columns,
    )  # fmt: skip


def test_a_soft_delete_erases_what_is_personal(project):
    user_id = a_full_user(project)
    assert project.value("select total_sessions from public.user_progress") == 1
    soft_delete(project, user_id)
    everything = [
        row[0]
        for table in (
            "user_profiles",
            "user_progress",
            "user_api_keys",
            "export_history",
            "sessions",
            "user_profile_audit_logs",
        )
        for row in project.administrator.run(f"select to_jsonb(t)::text from public.{table} as t")
    ]
    assert len(everything) >= 5
    for trace in ("intimate", HASH[:15], "Europe/Berlin", ENVELOPE):
        assert not [row for row in everything if trace in row], trace

    profile = project.profile(user_id)
    assert (profile.is_active, profile.profile_visibility, profile.email_verified) == (False, "private", False)
    assert (profile.role, profile.last_login) == ("user", None)
    # Random, so that nobody can have taken it.
    assert re.fullmatch("[0-9a-f]{32}", profile.username)
    assert profile.username != user_id.hex
    counts = {
        table: project.administrator.value(f"select count(*) from public.{table}")
        for table in ("user_api_keys", "sessions", "export_history")
    }
    assert counts == {"user_api_keys": 0, "sessions": 0, "export_history": 2}
    assert project.value("select total_sessions from public.user_progress") == 0


def test_every_personal_column_of_the_profile_is_erased(database):
    """A column that is added later must be put on one side or the other."""
    kept = {"id", "user_id", "username", "role", "is_active", "is_anonymous", "email_verified", "login_count",
            "first_seen_at", "last_interaction_at", "last_analyzed_at", "last_photo_analyzed_at", "message_count",
            "created_at", "updated_at", "profile_visibility"}  # fmt: skip
    user_id = a_full_user(database)
    soft_delete(database, user_id)
    fresh = database.profile(database.sign_up())._mapping
    erased = database.profile(user_id)._mapping
    differing = {key for key in fresh if fresh[key] != erased[key]}
    assert differing <= kept
    assert set(PERSONAL) | {"last_login"} == (set(fresh) - kept) | {"username", "profile_visibility"}


def test_a_deleted_user_stays_erased_whatever_the_auth_server_does_next(database):
    user_id = a_full_user(database)
    soft_delete(database, user_id)
    change(database, user_id, email="hash-of-the-second-kind@example.org", raw_user_meta_data={"name": "x"})
    sign_in(database, user_id, "2026-03-01")
    profile = database.profile(user_id)
    assert (profile.email, profile.display_name, profile.last_login, profile.is_active) == (None, None, None, False)


def test_a_deleted_user_without_a_profile_gets_none(database):
    user_id = database.sign_up("ada@example.org")
    database.run("delete from public.user_profiles")
    soft_delete(database, user_id)
    sign_in(database, user_id)
    assert database.profile(user_id) is None


def test_an_erased_user_frees_the_name(database):
    user_id = database.sign_up("ada@example.org")
    soft_delete(database, user_id)
    assert database.profile(database.sign_up("ada@example.org", is_sso_user=True)).username == "ada"


def test_nobody_can_prevent_the_erasure_of_another_by_taking_a_name(database):
    """get_public_profile shows the id, so everybody knows the name that an erased profile would get."""
    victim = a_full_user(database)
    mallory = database.sign_up("mallory@example.org")
    edit(database, mallory, username=victim.hex)
    soft_delete(database, victim)
    assert audit_failures(database) == []
    profile = database.profile(victim)
    assert (profile.email, profile.bio, profile.is_active) == (None, None, False)
    assert database.value("select count(*) from public.user_api_keys") == 0


def test_a_failing_erasure_does_not_fail_the_deletion_and_is_recorded(database):
    user_id = a_full_user(database)
    database.script(own_trigger("raise exception 'intimate';"))
    soft_delete(database, user_id)
    assert database.value("select deleted_at is not null from auth.users where id = :id", id=user_id)
    assert [(row[0], row[1]) for row in audit_failures(database)] == [(user_id, "P0001")]


def test_a_restored_user_is_followed_again(database):
    user_id = database.sign_up("ada@example.org")
    soft_delete(database, user_id)
    change(database, user_id, deleted_at=None, email="ada@example.org", phone=None)
    profile = database.profile(user_id)
    assert (profile.is_active, profile.email, profile.phone) == (True, "ada@example.org", None)


def test_sessions_of_another_kind_do_not_stop_an_erasure(empty):
    empty.script("create table public.sessions (token text primary key, expires timestamptz)")
    empty.upgrade()
    user_id = empty.sign_up("ada@example.org")
    soft_delete(empty, user_id)
    assert empty.profile(user_id).email is None
    assert audit_failures(empty) == []


def test_a_hard_delete_takes_everything_and_leaves_the_audit_log_without_a_name(project):
    user_id = a_full_user(project)
    rows = project.value("select count(*) from public.user_profile_audit_logs where user_id = :id", id=user_id)
    assert rows > 0
    with project.auth_server() as connection:
        connection.execute(text("delete from auth.users where id = :id"), {"id": user_id})
    counts = {
        table: project.administrator.value(f"select count(*) from public.{table}")
        for table in ("user_profiles", "user_progress", "user_api_keys", "export_history", "sessions")
    }
    assert set(counts.values()) == {0}
    assert audit(project, user_id) == []
    assert len(audit(project)) == rows + 1
    assert ("deleted", None) in [(row[0], row[3]) for row in audit(project)]


def test_many_users_can_be_deleted_at_once(database):
    for _ in range(5):
        user_id = database.sign_up("ada@example.org", is_sso_user=True)
        database.run("insert into public.sessions (user_id, ended_at) values (:id, now())", id=user_id)
    database.run("delete from auth.users")
    for table in ("user_profiles", "user_progress", "sessions"):
        assert database.value(f"select count(*) from public.{table}") == 0


# The audit log --------------------------------------------------------------------------------------------------------

LEVELS = {
    "failures": [],
    "changes": [
        ("updated", "manual", ["bio", "display_name"], None),
        ("updated", "trigger", ["email"], None),
        ("deleted", "manual", None, None),
    ],
    "all": [
        ("created", "trigger", None, None),
        ("updated", "manual", ["bio", "display_name"], None),
        ("updated", "trigger", ["email"], None),
        ("deleted", "manual", None, None),
    ],
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_audit_level_decides_what_leaves_a_row(project, level):
    set_setting(project, "audit_level", level)
    user_id = project.sign_up("ada@example.org")
    edit(project, user_id, bio="secret", display_name="secret")
    change(project, user_id, email="ada@secret.example")
    sign_in(project, user_id)
    project.run("delete from public.user_profiles where user_id = :id", id=user_id)
    assert audit(project, user_id) == LEVELS[level]
    assert "secret" not in str(project.run("select to_jsonb(a)::text from public.user_profile_audit_logs as a"))


def test_without_a_setting_the_level_is_changes(database):
    database.run("delete from profiles_internal.settings")
    user_id = database.sign_up("ada@example.org")
    edit(database, user_id, bio="x")
    assert audit(database, user_id) == [("updated", "manual", ["bio"], None)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_failure_is_recorded_at_every_level(database, level):
    set_setting(database, "audit_level", level)
    database.script("alter table public.user_profiles drop column avatar_url")
    user_id = database.sign_up("ada@example.org")
    assert [row[:2] for row in audit_failures(database)] == [(user_id, "42703")]


def test_the_row_names_the_user_who_did_it_and_the_user_can_read_it(project):
    user_id = project.sign_up("ada@example.org")
    with project.acting_as("authenticated", user_id) as connection:
        connection.execute(text("update public.user_profiles set bio = 'secret'"))
        rows = connection.execute(text("select * from public.user_profile_audit_logs")).all()
    assert [(r.user_id, r.action, r.origin, r.actor, r.changed) for r in rows] == [
        (user_id, "updated", "manual", user_id, ["bio"])
    ]


def test_an_update_that_changes_nothing_leaves_no_row(database):
    user_id = database.sign_up("ada@example.org")
    edit(database, user_id, bio=None, username="ada")
    edit(database, user_id, message_count=7, last_interaction_at=5)
    assert audit(database, user_id) == []


def test_an_audit_log_that_cannot_be_written_does_not_hold_a_change_up(database):
    user_id = database.sign_up("ada@example.org")
    with locked(database, "public.user_profile_audit_logs"):
        started = time.monotonic()
        edit(database, user_id, bio="x")
        assert time.monotonic() - started < ABOUT_A_SECOND
    assert database.profile(user_id).bio == "x"
    database.script("alter table public.user_profile_audit_logs rename to somewhere_else")
    edit(database, user_id, bio="y")
    assert database.profile(user_id).bio == "y"


def test_a_bulk_update_counts_each_user_alone(database):
    ids = [database.sign_up(f"u{n}@example.org") for n in range(20)]
    with database.auth_server() as connection:
        insert_user(connection, id=(late := uuid.uuid4()), email="late@example.org")
        connection.execute(text("update auth.users set last_sign_in_at = '2026-01-31' where email like 'u1%'"))
    counts = {user_id: database.profile(user_id).login_count for user_id in [*ids, late]}
    assert sum(counts.values()) == 11
    assert counts[late] == 0


def test_a_lost_undelete_is_made_up_for_once_and_an_inactive_profile_stays_inactive(database):
    user_id = database.sign_up("ada@example.org")
    change(database, user_id, deleted_at="2026-01-01", email=None)
    with database.engine.begin() as holder:
        holder.execute(text("update public.user_profiles set bio = null where user_id = :id"), {"id": user_id})
        change(database, user_id, deleted_at=None, email="ada@example.org")
    assert (database.profile(user_id).is_active, database.profile(user_id).email) == (False, None)
    sign_in(database, user_id)
    assert (database.profile(user_id).is_active, database.profile(user_id).email) == (True, "ada@example.org")
    assert ("repaired", "trigger", None, None) in audit(database, user_id)

    edit(database, user_id, is_active=False)
    sign_in(database, user_id, "2026-02-28")
    change(database, user_id, phone="+491")
    assert (database.profile(user_id).is_active, database.profile(user_id).login_count) == (False, 2)


def test_whatever_a_transaction_loses_after_a_wait_in_vain_is_on_record(database):
    """A sign-in, too: without a record nobody would know that last_login is stale."""
    user_id, other = database.sign_up("ada@example.org"), database.sign_up("grace@example.org")
    with database.engine.begin() as holder:
        holder.execute(text("update public.user_profiles set bio = 'x' where user_id = :id"), {"id": user_id})
        with database.auth_server() as connection:
            for who in (user_id, other):
                connection.execute(
                    text("update auth.users set last_sign_in_at = '2026-01-31' where id = :id"), {"id": who}
                )
    assert "failed" in {action for action, *_ in audit(database, user_id)}
    assert audit(database, other) == [("skipped", "trigger", None, None)]
    sign_in(database, other)
    assert database.profile(other).login_count == 1
