"""A table auth.users that has an id and an email only, as applications make one of their own, is served like any other."""

import pytest

from support import drift, profiles_schema

MINIMAL = """
create schema auth;
create table auth.users (id uuid primary key default gen_random_uuid(), email text);
create function auth.uid() returns uuid language sql stable
  as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
grant usage on schema auth to public;
insert into auth.users (email) values ('ada@example.org'), ('bob@example.org');
"""


@pytest.fixture
def minimal(empty):
    empty.script(MINIMAL)
    empty.upgrade()
    return empty


def test_upgrade_check_health_smoke_and_backfill_work(minimal):
    assert drift(minimal) == []
    minimal.script(
        "insert into public.user_profile_audit_logs (user_id, action, origin, error_code) select id, 'failed', 'trigger', '23505' from auth.users"
    )
    for command in (("health", "--full"), ("smoke",), ("backfill", "--dry-run"), ("backfill",), ("health",)):
        done = profiles_schema(minimal.url, *command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_a_missing_profile_is_found_and_made(minimal):
    minimal.script("delete from public.user_profiles where email = 'ada@example.org'")
    assert "have no profile" in profiles_schema(minimal.url, "health", "--full").stdout
    assert profiles_schema(minimal.url, "backfill").returncode == 0
    assert minimal.value("select username from public.user_profiles where email = 'ada@example.org'") == "ada"


def test_a_stale_email_after_a_failure_is_found_and_repaired(minimal):
    minimal.script(
        "alter table auth.users disable trigger user;"
        "update auth.users set email = 'eve@example.org' where email = 'ada@example.org';"
        "alter table auth.users enable trigger user;"
        "insert into public.user_profile_audit_logs (user_id, action, origin, error_code)"
        " select id, 'failed', 'trigger', '40P01' from auth.users where email = 'eve@example.org'"
    )
    assert "40P01 (1)" in profiles_schema(minimal.url, "health").stdout
    assert profiles_schema(minimal.url, "backfill").returncode == 0
    assert minimal.value("select count(*) from public.user_profiles where email = 'eve@example.org'") == 1
    assert profiles_schema(minimal.url, "health").returncode == 0


def test_a_sign_up_a_change_of_email_and_a_deletion_are_followed(minimal):
    user = minimal.sign_up("new@example.org")
    minimal.run("update auth.users set email = 'newer@example.org' where id = :id", id=user)
    assert minimal.profile(user).email == "newer@example.org"
    minimal.run("delete from auth.users where id = :id", id=user)
    assert minimal.profile(user) is None


@pytest.mark.slow
def test_it_can_be_rehearsed(minimal, empty):
    done = profiles_schema(minimal.url, "rehearse", "--source", minimal.url, process=True)
    assert done.returncode == 0, done.stdout + done.stderr
