"""Sign-ups beside triggers of the application on auth.users, before and after an adoption."""

import json

import pytest
from sqlalchemy.exc import IntegrityError

from profiles_schema.errors import MigrationFailed
from profiles_schema.operations import adopt
from support import profiles_schema

TABLES = (
    "create table public.user_profiles (id uuid primary key references auth.users on delete cascade, nick text, plan text);"
    "create table public.settings (profile_id uuid primary key references public.user_profiles(id) on delete cascade);"
    "alter table public.user_profiles enable row level security;"
    "create policy own on public.user_profiles for all to authenticated using (auth.uid() = id) with check (auth.uid() = id);"
)
MAKES_PROFILES = (
    "create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as"
    " $$ begin insert into public.user_profiles (id{columns}) values (new.id{values}); return new; end $$"
)
REFERS = (
    "create function public.new_settings() returns trigger language plpgsql security definer set search_path = '' as"
    " $$ begin insert into public.settings (profile_id) values (new.id); return new; end $$"
)
READS = (
    "create function public.new_settings() returns trigger language plpgsql security definer set search_path = '' as $$"
    " declare found public.user_profiles%rowtype;"
    " begin select * into strict found from public.user_profiles where user_profiles.id = new.id; return new; end $$"
)


def triggers(database, **functions):
    """Row triggers on auth.users, as an administrator makes them."""
    for name, function in functions.items():
        database.administrator.script(
            f"create trigger {name} after insert on auth.users for each row execute function public.{function}()"
        )


def signs_up(database):
    """Sign up as the auth server does; whether there is a profile."""
    with database.auth_server() as connection:
        user = connection.exec_driver_sql(
            "insert into users (id, email) values (gen_random_uuid(), gen_random_uuid() || '@example.org') returning id"
        ).scalar_one()
    return database.value("select count(*) from public.user_profiles where id::text = :id", id=str(user)) == 1


@pytest.fixture
def adopting(hosted_open):
    """A table of profiles that a trigger fills."""
    hosted_open.script(TABLES + MAKES_PROFILES.format(columns="", values=""))
    triggers(hosted_open, a_on_auth_user_created="handle_new_user")
    return hosted_open


@pytest.mark.slow
@pytest.mark.parametrize("function", [REFERS, READS], ids=["refers", "reads"])
def test_a_trigger_that_needs_the_profile_finds_it_and_is_asked_about_before(adopting, function):
    adopting.script(function)
    triggers(adopting, b_on_auth_user_settings="new_settings")
    assert signs_up(adopting)
    with pytest.raises(MigrationFailed, match=r"trigger b_on_auth_user_settings on auth\.users"):
        adopting.upgrade()
    given = {"trigger:auth.users:b_on_auth_user_settings": "accept"}
    assert adopting.answers() == given
    adopting.upgrade(answers=given)
    assert signs_up(adopting)
    # A whole import, and users who are deleted already.
    with adopting.auth_server() as connection:
        connection.exec_driver_sql("insert into users (id) select gen_random_uuid() from generate_series(1, 3)")
    assert adopting.value("select count(*) from public.user_profiles") == 1 + 1 + 3
    assert adopting.value("select count(*) from public.user_profile_audit_logs where action <> 'created'") == 0
    assert profiles_schema(adopting.url, "check").returncode == 0
    health = profiles_schema(adopting.url, "health", "--full")
    assert (health.returncode, "too early" in health.stdout) == (0, False), health.stdout
    adopting.downgrade("base", allow_data_loss="yes")
    assert signs_up(adopting)


def test_a_trigger_that_would_fail_at_the_end_stops_the_upgrade(adopting):
    adopting.script(REFERS)
    # It sorts before ours.
    triggers(adopting, **{'"0"': "new_settings"})
    adopting.administrator.script('alter trigger a_on_auth_user_created on auth.users rename to " a"')
    assert signs_up(adopting)
    with pytest.raises(MigrationFailed, match=r'a sign-up that worked before the upgrade would fail: .*in trigger "0"'):
        adopting.upgrade(answers={"trigger:auth.users:0": "accept"})


def test_a_trigger_that_fails_without_an_address_does_not_stop_it(adopting):
    adopting.script(
        "create function public.needs_email() returns trigger language plpgsql as"
        " $$ begin if new.email is null then raise 'no address'; end if; return new; end $$"
    )
    triggers(adopting, b_needs_email="needs_email")
    adopting.upgrade()
    assert signs_up(adopting)


def test_health_names_a_later_trigger_that_runs_before_the_profile_is_there(hosted_at_head):
    hosted_at_head.script(
        "create table public.settings (profile_id text primary key references public.user_profiles (id) on delete cascade);"
        + REFERS
    )
    triggers(hosted_at_head, settings="new_settings")
    with pytest.raises(IntegrityError):
        signs_up(hosted_at_head)
    told = json.loads(profiles_schema(hosted_at_head.url, "health", "--json").stdout)
    (finding,) = [f for f in told["findings"] if f["code"] == "too_early"]
    assert '"settings" on auth.users' in finding["message"]
    hosted_at_head.script(finding["remedy"])
    assert signs_up(hosted_at_head)
    assert "too_early" not in profiles_schema(hosted_at_head.url, "health", "--json").stdout
    assert profiles_schema(hosted_at_head.url, "check").returncode == 0
    triggers(hosted_at_head, **{'"00"': "new_settings"})
    told = json.loads(profiles_schema(hosted_at_head.url, "health", "--json").stdout)
    (finding,) = [f for f in told["findings"] if f["code"] == "too_early"]
    hosted_at_head.administrator.script(finding["remedy"])
    assert "too_early" not in profiles_schema(hosted_at_head.url, "health", "--json").stdout


def test_a_row_trigger_of_ours_records_a_failure_once_and_never_fails(hosted_at_head):
    hosted_at_head.script(
        'create trigger "00_profiles_on_auth_user_created" after insert on auth.users for each row'
        " execute function profiles_internal.on_auth_user_created();"
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin if new.email like 'bad%' then raise 'no'; end if; return new; end $$;"
        "create trigger refuse before insert on public.user_profiles for each row execute function public.refuse()"
    )
    with hosted_at_head.auth_server() as connection:
        connection.exec_driver_sql(
            "insert into users (id, email) select gen_random_uuid(), n || '@example.org' from unnest(array['bad', 'ada', 'bad2']) as n"
        )
    assert hosted_at_head.value("select count(*) from public.user_profiles") == 1
    assert hosted_at_head.value("select count(*) from public.user_profile_audit_logs where action = 'failed'") == 2


LOST = {
    "inserts": (MAKES_PROFILES.format(columns=", nick, plan", values=", new.email, 'trial'"), "nick (null), public.user_profiles.plan ('free'::text)"),
    "inserts all": (MAKES_PROFILES.format(columns=") select new.id, new.email, 'trial'; return new; end $$ --", values="").replace("(id)", ""), "nick (null), public.user_profiles.plan ('free'::text)"),
    "updates": (MAKES_PROFILES.format(columns="", values="").replace("return new;", "update public.user_profiles as p set plan = 'trial' where p.nick is null and p.id = new.id; return new;"), "plan ('free'::text)"),
    "through another": (
        "create function public.make(person uuid) returns void language sql as $$ insert into user_profiles(id,\"nick\") values (person, 'x') $$;"
        "create function public.handle_new_user() returns trigger language plpgsql security definer as $$ begin perform public.make(new.id); return new; end $$",
        "nick (null)",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("function", "columns"), LOST.values(), ids=LOST)
def test_what_a_sign_up_trigger_puts_into_columns_of_its_own_is_a_question(hosted_open, function, columns):
    hosted_open.script(TABLES + "alter table public.user_profiles alter plan set default 'free';" + function)
    triggers(hosted_open, welcome="handle_new_user")
    with hosted_open.engine.connect() as connection:
        (question,) = adopt.plan(connection).questions
    assert question.id == "trigger:auth.users:welcome"
    assert f"has only the default there: public.user_profiles.{columns}." in question.answers["drop"]
    hosted_open.upgrade(answers={question.id: "drop"})
    assert signs_up(hosted_open)


def test_a_sign_up_trigger_that_fills_what_ours_fills_is_none(adopting):
    adopting.script(
        "alter table public.user_profiles add email text, add user_id uuid, add created_at timestamptz;"
        + MAKES_PROFILES.format(columns=", user_id, email, created_at", values=", new.id, new.email, now()").replace(
            "create function", "create or replace function"
        )
    )
    assert adopting.answers() == {}
