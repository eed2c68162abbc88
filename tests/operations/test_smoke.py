"""smoke: it passes where things work, names the step where they do not, and leaves nothing behind."""

import json

import pytest

from profiles_schema.operations.smoke import smoke
from support import profiles_schema


def steps(database):
    with database.engine.connect() as connection:
        return list(smoke(connection))


def contents(database):
    return database.run(
        "select (select count(*) from auth.users), (select count(*) from public.user_profiles),"
        " (select count(*) from public.user_profile_audit_logs), (select count(*) from public.export_history)"
    )


def test_everything_passes_and_nothing_is_kept(database):
    database.sign_up("ada@example.org")
    before = contents(database)
    tried = steps(database)
    assert [step for step in tried if not step.passed] == []
    assert len(tried) == 24
    assert contents(database) == before


def test_everything_passes_on_a_hosted_project(supabase):
    tried = steps(supabase)
    assert [step for step in tried if not step.passed] == []
    assert len(tried) == 23  # create_user does not exist there


def test_it_passes_while_the_flag_is_off_and_leaves_it_off(database):
    database.run("update profiles_internal.settings set value = 'false' where key = 'auto_create_profiles'")
    assert all(step.passed for step in steps(database))
    assert database.value("select value from profiles_internal.settings where key = 'auto_create_profiles'") is False


@pytest.mark.parametrize(
    "table",
    ["user_profiles", "user_progress", "user_api_keys", "export_history", "user_profile_audit_logs", "sessions"],
)
def test_row_level_security_that_is_off_is_named_for_every_table(database, table):
    database.script(f"alter table public.{table} disable row level security")
    failed = {step.name: step.detail for step in steps(database) if not step.passed}
    assert failed["another user's rows are invisible"] == f"rows of others can be read in {table}"
    changeable = table not in {"user_profile_audit_logs", "sessions"}
    assert (f" in {table}" in failed.get("another user's rows cannot be changed", "")) == changeable


def test_a_foreign_policy_that_opens_a_table_is_named(database):
    database.script("create policy opened on public.user_api_keys for select using (true)")
    failed = {step.name: step.detail for step in steps(database) if not step.passed}
    assert failed == {"another user's rows are invisible": "rows of others can be read in user_api_keys"}


@pytest.mark.parametrize(
    ("damage", "causes"),
    [
        ("revoke usage on schema profiles_internal from authenticated",
         "permission denied for schema profiles_internal (SQLSTATE 42501)"),
        ("create or replace function auth.uid() returns uuid language plpgsql as $$ begin raise exception 'no claims today'; end $$",
         "no claims today (SQLSTATE P0001)"),
        ("alter table public.user_profiles rename column bio to biography", 'column "bio" '),
        ("revoke usage on schema auth from anon, public; revoke usage on schema public from anon, authenticated, public",
         "grant usage on schema auth to anon; grant usage on schema public to anon; grant usage on schema public to authenticated"),
    ],
)  # fmt: skip
def test_each_step_shows_its_own_cause(database, damage, causes):
    database.script(damage)
    details = [step.detail for step in steps(database) if not step.passed]
    assert any(causes in detail for detail in details), details
    assert not [detail for detail in details if "25P02" in detail]


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        ("drop trigger profiles_on_auth_user_created on auth.users", "a sign-up creates profile and progress"),
        ("drop trigger profiles_on_auth_user_updated on auth.users", "a sign-in reaches the profile"),
        ("grant update on public.user_profiles to authenticated", "a user cannot change their own role"),
        ("grant select on public.user_api_keys to anon", "anon can read no table"),
        ("alter table public.user_profiles disable row level security", "another user's rows are invisible"),
        ("revoke execute on function public.get_public_profile(text) from anon", "anon can call get_public_profile"),
        ("grant execute on function profiles_internal.profile_stats(), public.get_user_profile_stats() to authenticated",
         "get_user_profile_stats is for service_role"),
        ("drop function public.get_my_profile_v2() cascade", "get_my_profile_v2 returns the caller's profile"),
        ("revoke usage on schema auth from anon, public", "the roles of the API may use the schemas"),
        ("revoke usage on schema public from anon, authenticated, public", "the roles of the API may use the schemas"),
    ],
)  # fmt: skip
def test_the_step_that_fails_is_named(database, damage, failing):
    database.script(damage)
    assert failing in [step.name for step in steps(database) if not step.passed]
    assert contents(database) == [(0, 0, 0, 0)]


def test_the_command_exits_with_1_and_says_why(database):
    assert profiles_schema(database.url, "smoke").returncode == 0
    database.script("drop trigger profiles_on_auth_user_created on auth.users")
    failed = profiles_schema(database.url, "smoke")
    assert failed.returncode == 1
    assert "FAIL  a sign-up creates profile and progress: the number of profiles is 0 instead of 1" in failed.stdout
    assert "Traceback" not in failed.stderr
    as_json = profiles_schema(database.url, "smoke", "--json")
    assert json.loads(as_json.stdout)["passed"] is False


def test_a_database_without_our_tables_is_refused(empty):
    refused = profiles_schema(empty.url, "smoke")
    assert refused.returncode == 1
    assert refused.stderr.strip() == "error: This database is not migrated. Run: profiles-schema upgrade"


def test_a_policy_that_asks_for_a_second_factor_is_no_failure_and_another_is_named(database):
    policy = 'create policy "{0}" on public.user_profiles as restrictive using ({1})'
    database.script(policy.format("MFA needed", "(select auth.jwt() ->> 'aal') = 'aal2'"))
    done = profiles_schema(database.url, "smoke")
    assert done.returncode == 0, done.stdout
    database.script(policy.format("Members only", "auth.jwt() ->> 'tenant' = 'acme'"))
    done = profiles_schema(database.url, "smoke")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "get_my_profile_v2 returns" in line]
    assert 'restrictive policies: "MFA needed" (' in line
    assert "\"Members only\" (((auth.jwt() ->> 'tenant'::text) = 'acme'::text))" in line


def test_a_trigger_that_refuses_rows_of_others_is_no_failure(database):
    database.script(
        "create function public.not_you() returns trigger language plpgsql as $$ begin"
        " if auth.uid() is distinct from new.user_id and auth.uid() is not null then raise exception 'not you'; end if;"
        " return new; end $$;"
        "create trigger not_you before insert on public.user_progress for each row execute function public.not_you()"
    )
    done = profiles_schema(database.url, "smoke")
    assert done.returncode == 0, done.stdout
    database.script(
        'create policy "Anybody adds" on public.user_progress for insert to authenticated with check (true);'
        "drop trigger not_you on public.user_progress"
    )
    assert "inserted into user_progress" in profiles_schema(database.url, "smoke").stdout
