"""Functions of the application that have a name of ours: which are replaced, and that it is asked before."""

from pathlib import Path

import pytest

from profiles_schema.driver import execute_literally
from profiles_schema.errors import MigrationFailed
from profiles_schema.migrations.paths import script_location
from profiles_schema.operations import adopt
from support import drift, profiles_schema

FUNCTIONS = """
create function public.get_public_profile(name text) returns json language sql stable security definer as $$ select json_build_object('name', name) $$;
create function public.get_public_profile(profile uuid) returns json language sql stable as $$ select json_build_object('id', profile) $$;
create function public.get_user_profile_stats(uid uuid default gen_random_uuid()) returns integer language sql stable as $$ select 7 $$;
create function public.update_my_profile_v2(bio text) returns text language sql as $$ select bio $$;
create function public.create_user(email text) returns text language sql as $$ select 'made ' || email $$;
create function public.get_my_referral_code() returns uuid language sql as $$ select gen_random_uuid() $$;
"""


def test_the_planner_knows_our_public_functions(database):
    body = Path(script_location() / "adoption" / "functions_we_replace.sql").read_text(encoding="utf-8")
    with database.engine.connect() as connection:
        execute_literally(connection, body)
        known = connection.exec_driver_sql(
            "select r.function_id::regprocedure::text from profiles_internal.functions_we_replace() as r order by 1"
        ).scalars()
        ours = connection.exec_driver_sql(
            "select p.oid::regprocedure::text from pg_proc as p where p.pronamespace = 'public'::regnamespace order by 1"
        ).scalars()
        assert list(known) == list(ours)


@pytest.mark.slow
def test_a_function_that_ours_replaces_is_a_question_and_others_of_the_name_stay(hosted_open):
    hosted_open.script(FUNCTIONS)
    with hosted_open.engine.connect() as connection:
        questions = {question.id: question for question in adopt.plan(connection).questions}
    # On a hosted project there is no create_user of ours.
    assert questions.keys() == {
        "function:public.get_public_profile(text)",
        "function:public.get_user_profile_stats(uuid)",
        "function:public.get_my_referral_code()",
        "function:public.get_public_profile(uuid)",
        "function:public.update_my_profile_v2(text)",
    }
    question = questions["function:public.get_public_profile(text)"]
    assert question.found == (
        "has one of our names; returns json, with the rights of its owner; may be called by anon, authenticated, service_role"
    )
    assert "may be called by anon, authenticated and service_role" in question.answers["replace"]
    with pytest.raises(MigrationFailed, match=r"function public.get_public_profile\(text\)"):
        hosted_open.upgrade()
    given = {id_: "keep" if "keep" in each.answers else "replace" for id_, each in questions.items()}
    assert sorted(id_ for id_, answer in given.items() if answer == "keep") == [
        "function:public.get_public_profile(uuid)", "function:public.update_my_profile_v2(text)",
    ]  # fmt: skip
    hosted_open.upgrade(answers=given)
    assert hosted_open.value("select public.create_user('x')") == "made x"
    assert hosted_open.value("select public.update_my_profile_v2('x'::text)") == "x"
    assert "id" in hosted_open.value("select public.get_public_profile(gen_random_uuid())")
    assert drift(hosted_open) == []
    for command in (["check"], ["health"], ["smoke"]):
        done = profiles_schema(hosted_open.url, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert hosted_open.value("select public.get_user_profile_stats()") == 7
    assert hosted_open.value("select count(*) from pg_proc where pronamespace = 'public'::regnamespace") == 6


@pytest.mark.slow
def test_a_function_of_other_types_can_be_replaced_too(hosted_open):
    hosted_open.script(FUNCTIONS)
    hosted_open.upgrade(answers=hosted_open.answers("replace"))
    # Of ours, and create_user, which is not.
    assert hosted_open.value("select count(*) from pg_proc where pronamespace = 'public'::regnamespace") == 13 + 1
    assert hosted_open.value("select public.create_user('x')") == "made x"
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert hosted_open.value("select count(*) from pg_proc where pronamespace = 'public'::regnamespace") == 6


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ("create function public.get_user_profile_stats() returns jsonb language sql as 'select null::jsonb'", "get_user_profile_stats()"),
        ("create function public.gen_available_username(text) returns text language sql as 'select 1::text'", "gen_available_username(text)"),
    ],
)  # fmt: skip
def test_functions_of_our_names_are_set_aside_and_come_back(empty, found, name):
    body = f"select prosrc from pg_proc where oid = to_regprocedure('public.{name}')"
    empty.script(found)
    before = empty.value(body)
    empty.answering = ("replace",)
    empty.upgrade()
    assert drift(empty) == []
    assert empty.value(body) != before
    empty.downgrade("base")
    assert empty.value(body) == before
