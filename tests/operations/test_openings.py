"""Openings that somebody made: health finds each, and what it prints closes it."""

import json
import shlex

import pytest

from profiles_schema.operations.health import examine
from support import profiles_schema

# What was done, the code of the finding, and a part of its message. WEB is a login role that the test makes.
OPENINGS = {
    "policy for everybody": ("create policy x on public.user_api_keys for select using (true)", "policy", 'policy "x"'),
    "policy with an awkward name": (
        'create policy "it\'s ""open""" on public.user_profiles to anon using (true)', "policy", "lets anon read and write",
    ),
    "policy for service_role": (
        "create policy x on public.user_progress for update to service_role using (true)", "policy", "lets service_role change",
    ),
    "policy for a login role": (
        "create policy x on public.export_history for delete to WEB using (true)", "policy", "lets WEB delete",
    ),
    "policy with a name of ours": (
        'create policy "Service role can do what its grants allow" on public.user_api_keys to anon using (true)',
        "policy", "lets anon",
    ),
    "authenticated bypasses": ("alter role authenticated bypassrls", "role_rights", "authenticated has BYPASSRLS"),
    "anon bypasses": ("alter role anon bypassrls", "role_rights", "anon has BYPASSRLS"),
    "authenticated is superuser": ("alter role authenticated superuser", "role_rights", "authenticated has SUPERUSER"),
    "service_role makes roles": ("alter role service_role createrole", "role_rights", "service_role has CREATEROLE"),
    "member of service_role": ("grant service_role to authenticated", "role_rights", "authenticated is a member of service_role"),
    "member by way of another": (
        "grant pg_read_all_data to WEB; grant WEB to anon", "role_rights", "anon is a member of WEB and by that of pg_read_all_data",
    ),
    "column by way of a membership": (
        "grant update (role) on public.user_profiles to WEB; grant WEB to authenticated",
        "role_rights", "authenticated is a member of WEB, and so may do what is not declared: update the column role of public.user_profiles.",
    ),
    "table by way of two memberships": (
        "grant select, delete on public.user_api_keys to web_of_openings_2;"
        "grant web_of_openings_2 to WEB; grant WEB to anon",
        "role_rights", "anon is a member of WEB, and so may do what is not declared: delete on public.user_api_keys,",
    ),
    "function by way of a membership": (
        "grant execute on function public.get_user_profile_stats() to WEB; grant WEB to anon",
        "role_rights", "execute public.get_user_profile_stats()",
    ),
    "internal table by way of a membership": (
        "grant select on profiles_internal.quarantine to WEB; grant WEB to authenticated", "role_rights", "of profiles_internal.quarantine",
    ),
    "right with grant option": (
        "grant select, update (bio) on public.user_profiles to authenticated with grant option",
        "role_rights", "authenticated may pass on rights on public.user_profiles: select, update (bio).",
    ),
    "service_role reads everything": (
        "grant pg_read_all_data to service_role", "role_rights", "service_role is a member of pg_read_all_data",
    ),
    "table of another": ("alter table public.user_api_keys owner to WEB", "owner", "public.user_api_keys belongs to WEB"),
    "first table of another": ("alter table public.user_profiles owner to WEB", "owner", "public.user_profiles belongs to WEB"),
    "settings of another": (
        "alter table profiles_internal.settings owner to WEB", "owner", "profiles_internal.settings belongs to WEB",
    ),
    "login role may make users": (
        "grant execute on function public.create_user(text, text, text, text, jsonb) to WEB", "execute", "The role WEB may execute",
    ),
    "create on public": ("grant create on schema public to anon", "schema", "In the schema public, anon may create"),
    "create on public for everybody": ("grant create on schema public to public", "schema", "everybody may create"),
    "create on public by way of another": (
        "alter role authenticated inherit; grant create on schema public to WEB; grant WEB to authenticated with inherit true",
        "schema", "WEB may create",
    ),
    "no usage of auth": ("revoke usage on schema auth from authenticated", "schema", "authenticated may not use the schema auth"),
    "view": (
        "create view public.everyone as select * from public.user_api_keys; grant select on public.everyone to anon",
        "view", "view public.everyone shows anon rows",
    ),
    "view of a view": (
        "create view public.inner_one with (security_invoker = true) as select * from public.user_profiles;"
        'create view public."Outer" as select username from public.inner_one; grant select (username) on public."Outer" to authenticated',
        "view", 'view public."Outer" shows authenticated rows',
    ),
    "materialized view": (
        "create materialized view public.everyone as select * from public.user_profiles;"
        "grant select on public.everyone to authenticated, anon",
        "view", "materialized view public.everyone shows anon, authenticated rows",
    ),
    "definer function": (
        "create function public.peek(a integer) returns setof public.user_api_keys language sql security definer"
        " as 'select * from user_api_keys'",
        "definer", "public.peek(a integer) reaches our tables with the rights of postgres",
    ),
    "definer function with a parsed body": (
        "create function public.peek() returns bigint language sql security definer"
        " begin atomic; select count(*) from public.user_progress; end",
        "definer", "public.peek()",
    ),
    "definer procedure": (
        "create procedure public.wipe() language plpgsql security definer as 'begin delete from public.\"export_history\"; end'",
        "definer", "The procedure public.wipe()",
    ),
    "definer function by way of a view": (
        "create view public.lots with (security_invoker = true) as select * from public.user_api_keys;"
        "create function public.peek() returns setof public.lots language sql security definer as 'select * from public.lots'",
        "definer", "public.peek()",
    ),
    "rule": (
        "create rule swallow as on insert to public.user_progress do instead nothing", "rule", 'rule "swallow" on public.user_progress',
    ),
    "rule on users": ("create rule swallow as on insert to auth.users do instead nothing", "rule", "on auth.users"),
}  # fmt: skip

HARMLESS = {
    "restrictive policy": "create policy x on public.user_profiles as restrictive to authenticated using (is_active)",
    "invoker view": (
        "create view public.mine with (security_invoker = on) as select * from public.user_api_keys; grant all on public.mine to anon"
    ),
    "view that no role of the API may use": "create view public.everyone as select * from public.user_api_keys",
    "view of another table": (
        "create table public.posts (id int); create view public.all_posts as select * from public.posts;"
        "grant select on public.all_posts to anon"
    ),
    "definer function for nobody": (
        "create function public.peek() returns bigint language sql security definer as 'select count(*) from user_api_keys';"
        "revoke all on function public.peek() from public"
    ),
    "definer function of other tables": (
        "create function public.peek() returns bigint language sql security definer as"
        " '/* unlike user_profiles */ select count(*) from pg_class -- and not user_api_keys'"
    ),
    "trigger function": (
        "create function public.note() returns trigger language plpgsql security definer as"
        " 'begin insert into public.user_progress default values; return null; end'"
    ),
    "definer function in a closed schema": (
        "create schema private; create function private.peek() returns bigint language sql security definer as"
        " 'select count(*) from public.user_api_keys'"
    ),
    "definer function of a role that policies bind": (
        "grant create on schema public to WEB; create function public.peek() returns bigint language sql security definer as"
        " 'select count(*) from public.user_api_keys'; alter function public.peek() owner to WEB; revoke create on schema public from WEB"
    ),
    "membership without rights on ours": (
        "create table public.posts (id int); grant all on public.posts to WEB; alter role WEB login; grant WEB to authenticated, anon;"
        "alter table public.user_profiles add column plan text; grant update (plan) on public.user_profiles to WEB"
    ),
    "membership in a role with the rights that are declared": (
        "grant select (bio), update (bio) on public.user_profiles to WEB; grant WEB to authenticated"
    ),
    "login role as documented": "grant anon, authenticated, service_role to WEB",
}


def look(database):
    with database.engine.connect() as connection:
        return examine(connection)


def problems(database):
    return look(database).problems


@pytest.fixture
def web(database):
    """A login role of the application; afterwards the roles of the API are as they were."""
    database.script("create role web_of_openings login noinherit; create role web_of_openings_2")
    before = database.run(
        "select rolname, rolsuper, rolbypassrls, rolcreaterole, rolinherit from pg_roles where rolname ~ '^(anon|authenticated|service_role)$'"
    )
    yield "web_of_openings"
    for name, *attributes in before:
        words = ("superuser", "bypassrls", "createrole", "inherit")
        wanted = " ".join(word if has else f"no{word}" for word, has in zip(words, attributes, strict=True))
        database.script(f"alter role {name} {wanted}")
    database.script(
        "revoke service_role from authenticated, anon; revoke pg_read_all_data from service_role;"
        "reassign owned by web_of_openings, authenticated to postgres; drop owned by web_of_openings; drop role web_of_openings"
        "; drop owned by web_of_openings_2; drop role web_of_openings_2"
    )


@pytest.mark.parametrize("done", OPENINGS)
def test_an_opening_is_a_problem_and_the_printed_sql_closes_it(database, web, done):
    sql, code, said = OPENINGS[done]
    database.script(sql.replace("WEB", web))
    found = [finding for finding in problems(database) if finding.code == code]
    assert any(said.replace("WEB", web) in finding.message for finding in found), problems(database)
    for finding in problems(database):
        # A right that is taken away is in the fingerprints, too, and told once more.
        if finding.code != "drift":
            database.script(finding.remedy)
    assert problems(database) == []


def test_a_table_that_belongs_to_a_role_of_the_api_is_a_problem(database, web):
    database.script("alter table public.user_progress owner to authenticated")
    found = next(finding for finding in problems(database) if finding.code == "owner")
    assert "The table public.user_progress belongs to authenticated, the other tables to postgres" in found.message
    database.script(found.remedy)
    # The rights of a role go with its ownership: those are missing now, and the fingerprints say so.
    assert {finding.code for finding in problems(database)} == {"drift"}


@pytest.mark.parametrize("done", HARMLESS)
def test_what_opens_nothing_is_no_finding(database, web, done):
    database.script(HARMLESS[done].replace("WEB", web))
    assert look(database).findings == []


@pytest.mark.parametrize(
    ("done", "undone", "said"),
    [
        (
            "grant execute on function public.create_user(text, text, text, text, jsonb) to anon",
            "revoke execute on function public.create_user(text, text, text, text, jsonb) from anon",
            "anon may execute public.create_user(",
        ),
        ("grant execute on function auth.jwt() to service_role; grant execute on function public.get_user_profile_stats() to public",
         "revoke execute on function public.get_user_profile_stats() from public", "PUBLIC may execute public.get_user_profile_stats()"),
        (
            "alter table public.user_api_keys disable row level security",
            "alter table public.user_api_keys enable row level security",
            "user_api_keys",
        ),
    ],
    ids=["a right to execute", "a right to execute for everybody", "row level security"],
)  # fmt: skip
def test_what_is_in_the_fingerprints_is_drift(database, done, undone, said):
    database.script(done)
    (drift,) = problems(database)
    assert drift.code == "drift"
    assert said in drift.message
    database.script(undone)
    assert problems(database) == []


def test_functions_of_the_application_that_share_our_names_are_no_drift(database):
    database.script(
        "create function public.create_user(p_name text) returns text language sql as 'select p_name';"
        "create function auth.roles() returns text language sql as 'select 1::text'"
    )
    assert problems(database) == []


def test_a_trigger_that_can_refuse_rows_is_named(database):
    database.script(
        "create function public.theirs() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger theirs before insert on auth.users for each row execute function public.theirs();"
        "create trigger after_them after insert on auth.users for each row execute function public.theirs()"
    )
    (found,) = look(database).findings
    assert (found.code, found.severity) == ("foreign_trigger", "notice")
    assert '"theirs" on auth.users' in found.message


def test_a_trigger_that_sees_keys_is_named(database):
    database.script(
        "create function public.theirs() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger theirs after insert on public.user_api_keys for each row execute function public.theirs()"
    )
    (found,) = look(database).findings
    assert (found.code, found.severity) == ("foreign_trigger", "notice")
    assert found.message.endswith("runs after rows are written: it sees them.")


@pytest.mark.slow
def test_what_is_meant_can_be_accepted_as_health_prints_it(database):
    database.script(
        'create policy "Teams read" on public.user_profiles for select to authenticated using (true);'
        "create policy other on public.user_progress for select to authenticated using (true);"
        "create view public.everyone as select id from public.user_profiles; grant select on public.everyone to anon;"
        "create function public.peek() returns bigint language sql security definer as 'select count(*) from user_profiles';"
    )
    found = problems(database)
    assert [f.code for f in found] == ["policy", "policy", "view", "definer"]
    assert found[0].message.endswith(
        "If that is meant: profiles-schema settings set accepted_policies 'public.user_profiles.Teams read'"
    )
    assert found[2].message.endswith("profiles-schema settings set accepted_openings 'view public.everyone'")
    for finding in found:
        printed = finding.message.partition("If that is meant: profiles-schema ")[2]
        said = profiles_schema(database.url, *shlex.split(printed))
        assert said.returncode == 0, said.stderr
    assert look(database).findings == []
    listed = json.loads(profiles_schema(database.url, "settings", "get", "--json").stdout)
    assert listed["accepted_policies"] == ["public.user_profiles.Teams read", "public.user_progress.other"]

    # The whole list at once: what is not in it is a problem again.
    assert (
        profiles_schema(
            database.url, "settings", "set", "accepted_policies", '["public.user_progress.other"]'
        ).returncode
        == 0
    )
    assert [f.code for f in problems(database)] == ["policy"]


def test_only_what_is_there_can_be_accepted(database):
    database.script("create policy other on public.user_progress for select to authenticated using (true)")
    for value, said in (
        (
            "public.user_progress.Other",
            'health finds no "public.user_progress.Other" here. There are: public.user_progress.other.',
        ),
        ('["public.user_progress.other", 7]', "takes one name"),
        ("[", "takes one name"),
    ):
        refused = profiles_schema(database.url, "settings", "set", "accepted_policies", value)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert said in refused.stderr
    refused = profiles_schema(database.url, "settings", "set", "accepted_openings", "view public.everyone")
    assert "There is nothing to accept." in refused.stderr


def test_a_hosted_project_with_its_usual_roles_has_no_opening(supabase):
    supabase.administrator.script(
        "do $$ begin create role dashboard_user nologin createrole; exception when duplicate_object then null; end $$;"
        "grant pg_read_all_data to project_owner; grant usage on schema public to dashboard_user"
    )
    try:
        assert look(supabase).findings == []
    finally:
        # Roles are the server's: the next test of this worker would read everything.
        supabase.administrator.script("revoke pg_read_all_data from project_owner")


def test_a_view_that_a_hosted_project_opens_by_default_is_a_problem(hosted_open):
    hosted_open.upgrade()
    hosted_open.script("create view public.everyone as select username, email from public.user_profiles")
    (found,) = problems(hosted_open)
    assert (found.code, found.remedy) == ("view", "alter view public.everyone set (security_invoker = true)")
    hosted_open.script(found.remedy)
    assert problems(hosted_open) == []


@pytest.mark.slow
def test_what_an_adopted_application_had_before_is_a_notice_unless_it_shows_keys(hosted_open):
    hosted_open.script(
        "create table public.user_profiles (id uuid primary key, user_id uuid, display_name text);"
        "create table public.user_api_keys (id uuid primary key, user_id uuid, openai_api_key text);"
        "create view public.directory as select user_id, display_name from public.user_profiles;"
        "create view public.vault as select p.display_name, k.openai_api_key from public.user_profiles as p"
        "  join public.user_api_keys as k on k.user_id = p.user_id;"
        "create function public.members() returns bigint language sql security definer as 'select count(*) from public.user_profiles'"
    )
    hosted_open.answering = ("replace", "accept")
    hosted_open.upgrade()
    found = {
        finding.code + " " + finding.message.split()[2]: finding.severity
        for finding in look(hosted_open).findings
        if finding.code in {"view", "definer"}
    }
    assert found == {
        "view public.directory": "notice",
        "view public.vault": "problem",
        "definer public.members()": "notice",
    }
