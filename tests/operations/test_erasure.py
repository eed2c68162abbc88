"""Deleted users with personal data: health finds them, backfill erases again."""

import pytest

from profiles_schema.operations.backfill import backfill
from profiles_schema.operations.health import examine
from support import ENVELOPE, profiles_schema

WRITTEN = {
    "a biography": "update public.user_profiles set bio = 'I live at 5 High St' where user_id = :id",
    "a name": "update public.user_profiles set username = 'ghost1', first_name = 'Bob' where user_id = :id",
    "preferences": """update public.user_profiles set preferences = '{"diet": "vegan"}' where user_id = :id""",
    "traits": """update public.user_profiles set personality_traits = '{"bigFive": {"openness": 72}}' where user_id = :id""",
    "an API key": f"insert into public.user_api_keys (user_id, openai_api_key) values (:id, '{ENVELOPE}')",
    "an API key without a profile": (
        "with p as (delete from public.user_profiles where user_id = :id)"
        f" insert into public.user_api_keys (user_id, openai_api_key) values (:id, '{ENVELOPE}')"
    ),
    "an export": (
        "insert into public.export_history (user_id, export_type, export_format, filters)"
        """ values (:id, 'vocabulary', 'json', '{"about": "me"}')"""
    ),
    "activity": "update public.user_profiles set is_active = true where user_id = :id",
}


def look(database, **options):
    with database.engine.connect() as connection:
        return examine(connection, **options).findings


def run(database):
    with database.engine.connect() as connection:
        return list(backfill(connection))[-1]


@pytest.fixture
def erased(database):
    """A user who is deleted and erased, beside one who is not."""
    database.sign_up("bob@example.org", raw_user_meta_data={"full_name": "Bob"})
    user = database.sign_up("ada@example.org", raw_user_meta_data={"full_name": "Ada Lovelace"})
    database.run("update auth.users set deleted_at = now() where id = :id", id=user)
    assert look(database, full=True) == []
    return user


@pytest.mark.parametrize("full", [False, True], ids=["bounded", "full"])
@pytest.mark.parametrize("written", WRITTEN)
def test_what_was_written_after_an_erasure_is_found_and_erased_again(database, erased, written, full):
    database.run(WRITTEN[written], id=erased)
    (found,) = look(database, full=full)
    assert (found.code, found.severity, found.count) == ("not_erased", "problem", 1)
    assert found.message == "1 deleted user still has personal data."
    assert found.remedy == "profiles-schema backfill"
    assert run(database).counts["erased"] == 1
    assert look(database, full=True) == []
    assert database.value("select count(*) from public.user_api_keys") == 0
    assert run(database).counts == {}  # once is enough


def test_the_command_erases_again(database, erased):
    database.run(WRITTEN["a biography"], id=erased)
    assert profiles_schema(database.url, "health").returncode == 1
    assert profiles_schema(database.url, "backfill").returncode == 0
    assert profiles_schema(database.url, "health", "--full").stdout.splitlines()[-1] == "health: fine"


def test_an_export_that_was_asked_for_and_holds_nothing_is_no_finding(database, erased):
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:id, 'vocabulary', 'json')",
        id=erased,
    )
    assert look(database, full=True) == []


def test_the_bounded_look_finds_what_was_written_lately_among_many(database):
    database.script(
        "insert into auth.users (email) select 'u' || g || '@example.org' from generate_series(1, 6000) as g;"
        "update auth.users set deleted_at = now() where id = (select id from auth.users order by id offset 3000 limit 1);"
        "update public.user_profiles as p set bio = 'again' from auth.users as u where u.id = p.user_id and u.deleted_at is not null"
    )
    assert [finding.code for finding in look(database)] == ["not_erased"]


def test_a_hosted_project_whose_users_have_no_deleted_at_is_looked_at_too(supabase):
    with supabase.auth_server() as auth:
        auth.exec_driver_sql("alter table auth.users drop column deleted_at")
    supabase.sign_up("ada@example.org")
    assert look(supabase, full=True) == look(supabase) == []
    assert run(supabase).counts == {}
