"""What users could not do with an adopted table before is a question, and never silently allowed."""

import pytest
from sqlalchemy.exc import DBAPIError

from profiles_schema.errors import MigrationFailed
from profiles_schema.operations import adopt, health, smoke
from support import drift, profiles_schema, snapshot

ADA, BOB = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
USERS = f"insert into auth.users (id, email) values ('{ADA}', 'ada@example.org'), ('{BOB}', 'bob@example.org');"
OWN = "create policy own on public.user_profiles for all to authenticated using (auth.uid() = id) with check (auth.uid() = id);"
TABLE = (
    USERS
    + "create table public.user_profiles (id uuid primary key references auth.users on delete cascade, {columns});"
)
GUARDED = "alter table public.user_profiles enable row level security;"
ROWS = "insert into public.user_profiles (id) select id from auth.users;"


def as_ada(database, statement):
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local role authenticated")
        connection.exec_driver_sql(f"select set_config('request.jwt.claims', '{{\"sub\": \"{ADA}\"}}', true)")
        done = connection.exec_driver_sql(statement)
        return done.all() if done.returns_rows else done.rowcount


def questions(database):
    with database.engine.connect() as connection:
        return {each.id: each for each in adopt.plan(connection).questions}


def is_well(database):
    assert drift(database) == []
    with database.engine.connect() as connection:
        assert [f.message for f in health.examine(connection, full=True).problems] == []
        connection.rollback()
        assert [step for step in smoke.smoke(connection) if not step.passed] == []


@pytest.mark.slow
def test_columns_that_users_could_not_select(hosted_open):
    hosted_open.script(
        TABLE.format(columns="nick text, internal_notes text default 'fraud suspected'") + GUARDED + OWN
        + "revoke all on public.user_profiles from anon, authenticated;"
        + "grant select (id, nick), update (nick) on public.user_profiles to authenticated;" + ROWS
    )  # fmt: skip
    asked = questions(hosted_open)
    assert set(asked) == {"columns:public.user_profiles"}
    assert asked["columns:public.user_profiles"].found == "users cannot read these columns: internal_notes"
    hosted_open.consents = False
    with pytest.raises(MigrationFailed, match="users cannot read these columns: internal_notes"):
        hosted_open.upgrade()
    hosted_open.upgrade(answers={"columns:public.user_profiles": "accept"})
    assert as_ada(hosted_open, "select internal_notes from public.user_profiles") == [("fraud suspected",)]
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "update public.user_profiles set internal_notes = ''")
    assert as_ada(hosted_open, "update public.user_profiles set nick = 'a'") == 1
    is_well(hosted_open)


@pytest.mark.slow
def test_a_table_for_the_server_alone(hosted_open):
    hosted_open.script(TABLE.format(columns="stripe_customer_id text default 'cus_1'") + GUARDED + ROWS)
    assert set(questions(hosted_open)) == {"columns:public.user_profiles"}
    hosted_open.upgrade(answers={"columns:public.user_profiles": "accept"})
    # A right without a policy was no right.
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "update public.user_profiles set stripe_customer_id = 'cus_2'")
    # Nobody was shown to anybody, and new users are not, either.
    cyd = hosted_open.sign_up("cyd@example.org")
    assert hosted_open.profile(cyd).profile_visibility == "private"
    assert hosted_open.run("select * from public.get_public_profile('cyd')") == []
    is_well(hosted_open)
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert as_ada(hosted_open, "select * from public.user_profiles") == []


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["accept", "keep"])
def test_users_who_could_read_and_not_write(hosted_open, answer):
    hosted_open.script(
        TABLE.format(columns="display_name text default 'Ada Verified', job_title text") + GUARDED + ROWS
        + 'create policy "read own" on public.user_profiles for select to authenticated using (auth.uid() = id);'
    )  # fmt: skip
    asked = questions(hosted_open)
    assert set(asked) == {"writes:public.user_profiles"}
    assert asked["writes:public.user_profiles"].found == "users cannot write these columns: display_name"
    hosted_open.upgrade(answers={"writes:public.user_profiles": answer})
    assert as_ada(hosted_open, "update public.user_profiles set display_name = 'x'") == (1 if answer == "accept" else 0)
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "update public.user_profiles set job_title = 'x'")
    is_well(hosted_open)
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert hosted_open.run("select polname from pg_policy where polrelid = 'public.user_profiles'::regclass") == [
        ("read own",)
    ]


def test_api_keys_that_users_only_read(hosted_open):
    hosted_open.script(
        USERS
        + "create table public.user_api_keys (id uuid primary key default gen_random_uuid(), user_id uuid not null"
        " references auth.users on delete cascade, revoked boolean default false);"
        "alter table public.user_api_keys enable row level security;"
        "create policy own on public.user_api_keys for select to authenticated using (auth.uid() = user_id);"
        "insert into public.user_api_keys (user_id) select id from auth.users;"
    )
    with hosted_open.engine.connect() as connection:
        found = [step.found for step in adopt.plan(connection).worth_knowing if step.object == "public.user_api_keys"]
    assert "users cannot insert and delete rows" in found
    hosted_open.upgrade()
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "update public.user_api_keys set revoked = false")


def test_an_is_active_that_means_something_else(hosted_open):
    hosted_open.script(TABLE.format(columns="is_active boolean default false") + GUARDED + OWN + ROWS)
    hosted_open.script(f"update public.user_profiles set is_active = null where id = '{BOB}'")
    asked = questions(hosted_open)
    assert set(asked) == {"active:public.user_profiles"}
    assert asked["active:public.user_profiles"].found == "default false, false in 1 rows and null in 1"
    hosted_open.upgrade(answers={"active:public.user_profiles": "accept"})
    is_well(hosted_open)


def test_inactive_users_of_the_same_meaning_are_named(hosted_open):
    hosted_open.script(TABLE.format(columns="is_active boolean not null default true") + GUARDED + OWN + ROWS)
    hosted_open.script(f"update public.user_profiles set is_active = false where id = '{BOB}'")
    with hosted_open.engine.connect() as connection:
        plan = adopt.plan(connection)
    assert plan.questions == []
    assert [step.found for step in plan.worth_knowing if step.object == "public.user_profiles.is_active"] == [
        "false in 1 rows"
    ]


def test_a_log_without_an_origin_is_taken_over(hosted_open):
    hosted_open.script(
        "create table public.user_profile_audit_logs (id bigserial primary key, user_id uuid, action text not null,"
        " created_at timestamptz default now()); insert into public.user_profile_audit_logs (action) values ('updated');"
    )
    hosted_open.upgrade(answers=hosted_open.answers("accept", "replace"))
    assert hosted_open.run("select action, origin from public.user_profile_audit_logs") == [("updated", "manual")]
    is_well(hosted_open)


@pytest.mark.slow
def test_exports_without_a_format_stop_the_plan_and_the_remedy_works(hosted_open):
    hosted_open.script(
        USERS
        + "create table public.export_history (id uuid primary key default gen_random_uuid(), user_id uuid references auth.users,"
        f" export_type text default 'csv', status text); insert into public.export_history (user_id, status) values ('{ADA}', 'done');"
    )
    with hosted_open.engine.connect() as connection:
        (stop,) = adopt.plan(connection).stoppers
    assert stop.found == "no column export_format"
    hosted_open.script(stop.remedy.partition("which: ")[2])
    hosted_open.upgrade(answers=hosted_open.answers("accept", "replace"))
    is_well(hosted_open)


SHOWING = """
create view public.members as select p.id, row_to_json(p) as profile from public.user_profiles as p;
create view public.names with (security_invoker = true) as select p as whole from public.user_profiles as p;
create view public.nicks as select nick from public.user_profiles;
create function public.everyone() returns setof jsonb language sql stable security definer as $$ select to_jsonb(p) from public.user_profiles p $$;
create function public.rows() returns setof public.user_profiles language sql stable security definer as $$ select p.* from public.user_profiles p $$;
create function public.count_all() returns bigint language sql stable security definer as $$ select count(*) from public.user_profiles p $$;
create function public.mine() returns setof jsonb language sql stable as $$ select to_jsonb(p) from public.user_profiles p $$;
create function public.modern() returns setof jsonb language sql stable security definer
  begin atomic select to_jsonb(p) from public.user_profiles p; end;
"""


@pytest.mark.slow
def test_what_shows_whole_rows_as_its_owner(hosted_open):
    hosted_open.script(TABLE.format(columns="nick text") + GUARDED + OWN + ROWS + SHOWING)
    asked = questions(hosted_open)
    assert set(asked) == {
        f"rows:{name}"
        for name in (
            "view public.members",
            "function public.everyone()",
            "function public.rows()",
            "function public.modern()",
        )
    }
    assert "email, email_verified" in asked["rows:view public.members"].answers["accept"]
    with pytest.raises(
        MigrationFailed, match=r"shows whole rows of public[.]user_profiles with the rights of its owner"
    ):
        hosted_open.upgrade()
    hosted_open.upgrade(answers=dict.fromkeys(asked, "accept"))
    is_well(hosted_open)


def test_a_function_that_returns_an_id_of_another_type_stops_before_anything_is_changed(hosted_open):
    hosted_open.script(
        "create table public.user_profiles (id bigint generated always as identity primary key,"
        " user_id uuid not null unique references auth.users on delete cascade, name text);"
        "alter table public.user_profiles enable row level security;"
        "create policy own on public.user_profiles for all to authenticated using (auth.uid() = user_id);"
        "create function public.my_id() returns bigint language sql stable security definer set search_path = public"
        " as $$ select id from user_profiles where user_id = auth.uid() $$;"
        "create function public.my_name() returns text language sql stable as"
        " $$ select name from public.user_profiles where user_id = auth.uid() $$"
    )
    found = snapshot(hosted_open)
    with pytest.raises(MigrationFailed) as refused:
        hosted_open.upgrade()
    assert "public.user_profiles: these would no longer run: function public.my_id() (return type mismatch" in str(
        refused.value
    )
    assert "my_name" not in str(refused.value)
    assert hosted_open.value("select to_regclass('profiles_internal.adopted') is null")
    assert snapshot(hosted_open) == found
    hosted_open.script("drop function public.my_id()")
    hosted_open.upgrade()


def test_a_trigger_that_copies_whole_rows_stops_the_upgrade(hosted_open):
    hosted_open.script(
        TABLE.format(columns="nick text") + GUARDED + OWN
        + "create table public.history (like public.user_profiles, op text);"
        "create function public.hist() returns trigger language plpgsql security definer set search_path = public as $$"
        " begin insert into history select old.*, tg_op; return coalesce(new, old); end $$;"
        "create trigger hist before update or delete on public.user_profiles for each row execute function public.hist();"
        + ROWS
    )  # fmt: skip
    with pytest.raises(MigrationFailed, match=r"would fail in function hist: INSERT has more expressions"):
        hosted_open.upgrade()
    # Before the application's own sign-up trigger is emptied.
    assert hosted_open.value("select to_regclass('profiles_internal.adopted') is null")
    hosted_open.script(
        "create or replace function public.hist() returns trigger language plpgsql security definer set search_path = public as $$"
        " begin insert into history (id, nick, op) values (old.id, old.nick, tg_op); return coalesce(new, old); end $$"
    )
    hosted_open.upgrade()
    assert as_ada(hosted_open, "update public.user_profiles set nick = 'a'") == 1
    assert hosted_open.value("select count(*) from public.history") == 1


@pytest.mark.slow
def test_a_policy_that_reads_its_own_table_cannot_stay_beside_ours(hosted_open):
    hosted_open.script(
        TABLE.format(columns="nick text, verified boolean default true") + GUARDED + ROWS
        + "create policy r on public.user_profiles for select to authenticated using (auth.uid() = id);"
        "create policy u on public.user_profiles for update to authenticated using (auth.uid() = id) with check (auth.uid() = id"
        " and verified = (select p.verified from public.user_profiles p where p.id = auth.uid()));"
    )  # fmt: skip
    (asked,) = questions(hosted_open).values()
    assert set(asked.answers) == {"replace"}
    assert "SECURITY DEFINER" in asked.answers["replace"]
    assert "every column that they have a right to" in asked.answers["replace"]
    # As it says.
    hosted_open.script(
        "create function public.my_verified() returns boolean language sql stable security definer set search_path = ''"
        " as $$ select p.verified from public.user_profiles as p where p.id = auth.uid() $$;"
        "alter policy u on public.user_profiles with check (auth.uid() = id and verified = public.my_verified())"
    )
    (asked,) = questions(hosted_open).values()
    hosted_open.upgrade(answers={asked.id: "restrict"})
    assert as_ada(hosted_open, "update public.user_profiles set nick = 'z'") == 1
    with pytest.raises(DBAPIError, match="violates row-level security"):
        as_ada(hosted_open, "update public.user_profiles set verified = false")
    is_well(hosted_open)


def test_a_restrictive_policy_that_reads_its_own_table_stops_the_plan(hosted_open):
    hosted_open.script(
        TABLE.format(columns="nick text") + GUARDED + OWN + ROWS
        + "create policy few on public.user_profiles as restrictive for update to authenticated"
        " using ((select count(*) from public.user_profiles) < 10);"
    )  # fmt: skip
    with hosted_open.engine.connect() as connection:
        (stop,) = adopt.plan(connection).stoppers
    assert stop.object == 'policy "few" on public.user_profiles'


def test_several_api_keys_of_one_user_are_a_question(hosted_open):
    hosted_open.script(
        USERS + "create table public.user_api_keys (user_id uuid not null references auth.users on delete cascade, provider text not null,"
        " primary key (user_id, provider)); alter table public.user_api_keys enable row level security;"
        "create policy own on public.user_api_keys for all to authenticated using (auth.uid() = user_id) with check (auth.uid() = user_id);"
        "insert into public.user_api_keys select id, 'openai' from auth.users;"
    )  # fmt: skip
    hosted_open.consents = False
    asked = questions(hosted_open)["one:public.user_api_keys"]
    assert asked.found == "unique: (user_id, provider)"
    with pytest.raises(MigrationFailed, match="one row from then on"):
        hosted_open.upgrade()


@pytest.mark.slow
def test_a_sign_up_function_that_was_deployed_meanwhile_stays(hosted_open, caplog):
    made = (
        "create or replace function public.handle_new_user() returns trigger language plpgsql security definer as $$"
        " begin insert into public.user_profiles (id) values (new.id); /* {} */ return new; end $$;"
    )
    hosted_open.script(
        TABLE.format(columns="nick text") + GUARDED + OWN + made.format("v1")
        + "create trigger on_auth_user_created after insert on auth.users for each row execute function public.handle_new_user();"
    )  # fmt: skip
    body = "select prosrc from pg_proc where proname = 'handle_new_user'"
    hosted_open.upgrade()
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert "v1" in hosted_open.value(body)
    hosted_open.upgrade("0011_create_functions")
    hosted_open.script(made.format("v2"))
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert "v2" in hosted_open.value(body)
    assert "function public.handle_new_user() has changed since it was set aside; it stays as it is" in caplog.text
    hosted_open.upgrade()
    hosted_open.script(made.format("v3"))
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert "v3" in hosted_open.value(body)
    assert hosted_open.value("select count(*) from pg_trigger where tgname = 'on_auth_user_created'") == 1


SERVICE = (
    "create policy service on public.user_profiles for all using (auth.role() = 'service_role');"
    "create policy mine on public.user_profiles for select to authenticated using (auth.uid() = id);"
)


@pytest.mark.slow
def test_a_policy_that_is_true_for_the_service_alone_lets_no_user_write(hosted_open):
    hosted_open.script(TABLE.format(columns="display_name text, plan text default 'free'") + GUARDED + SERVICE + ROWS)
    assert as_ada(hosted_open, "update public.user_profiles set plan = 'gold'") == 0
    assert set(questions(hosted_open)) == {"policy:public.user_profiles:service", "writes:public.user_profiles"}
    hosted_open.upgrade(answers=hosted_open.answers("keep"))
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "update public.user_profiles set plan = 'gold'")
    assert as_ada(hosted_open, "update public.user_profiles set display_name = 'A'") == 0
    is_well(hosted_open)


ADMINS = (
    "create function public.is_admin() returns boolean language sql stable security definer set search_path = ''"
    f" as $$ select auth.uid() = '{BOB}' $$;"
    "create policy mine on public.user_profiles for select to authenticated using (auth.uid() = id);"
    "create policy admins on public.user_profiles for all to authenticated using (public.is_admin());"
)


def as_bob(database, statement):
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local role authenticated")
        connection.exec_driver_sql(f"select set_config('request.jwt.claims', '{{\"sub\": \"{BOB}\"}}', true)")
        return connection.exec_driver_sql(statement).rowcount


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["accept", "keep"])
def test_what_only_administrators_change_is_a_question(hosted_open, answer):
    hosted_open.script(TABLE.format(columns="display_name text, plan text default 'free'") + GUARDED + ADMINS + ROWS)
    asked = questions(hosted_open)
    assert set(asked) == {"policy:public.user_profiles:admins", "writes:public.user_profiles"}
    hosted_open.upgrade(answers={"policy:public.user_profiles:admins": "keep", "writes:public.user_profiles": answer})
    assert as_ada(hosted_open, "update public.user_profiles set plan = 'gold'") == (1 if answer == "accept" else 0)
    assert as_ada(hosted_open, "update public.user_profiles set display_name = 'A'") == (1 if answer == "accept" else 0)
    # They go on changing everybody.
    assert as_bob(hosted_open, "update public.user_profiles set plan = 'silver', display_name = 'B'") == 2
    is_well(hosted_open)
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert as_ada(hosted_open, "update public.user_profiles set plan = 'gold'") == 0


def test_what_only_administrators_change_nobody_does_without_their_policy(hosted_open):
    hosted_open.script(TABLE.format(columns="plan text default 'free'") + GUARDED + ADMINS + ROWS)
    hosted_open.upgrade(answers={"policy:public.user_profiles:admins": "replace"})
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "update public.user_profiles set plan = 'gold'")


@pytest.mark.slow
def test_a_policy_for_owners_and_administrators_lets_users_write(hosted_open):
    hosted_open.script(
        TABLE.format(columns="display_name text, plan text default 'free'") + GUARDED + ROWS
        + "create function public.is_admin() returns boolean language sql stable as $$ select false $$;"
        "create policy p on public.user_profiles for all to authenticated using (auth.uid() = id or public.is_admin());"
    )  # fmt: skip
    assert set(questions(hosted_open)) == {"policy:public.user_profiles:p"}
    hosted_open.upgrade(answers={"policy:public.user_profiles:p": "keep"})
    assert as_ada(hosted_open, "update public.user_profiles set plan = 'gold', display_name = 'A'") == 1
    is_well(hosted_open)


@pytest.mark.slow
def test_hidden_columns_stay_hidden(hosted_open):
    hosted_open.script(
        TABLE.format(columns="nick text, internal_notes text default 'fraud suspected'") + GUARDED + OWN
        + "revoke all on public.user_profiles from anon, authenticated;"
        + "grant select (id, nick), update (nick) on public.user_profiles to authenticated;" + ROWS
    )  # fmt: skip
    hosted_open.upgrade(answers={"columns:public.user_profiles": "keep"})
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "select internal_notes from public.user_profiles")
    assert as_ada(hosted_open, "select nick, email from public.user_profiles") == [(None, "ada@example.org")]
    is_well(hosted_open)
    # Whatever gives rights anew keeps it so.
    hosted_open.script("grant select on public.user_profiles to authenticated")
    with hosted_open.engine.connect() as connection:
        (problem,) = health.examine(connection).problems
    assert "internal_notes" in problem.message
    profiles_schema(hosted_open.url, "repair")
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "select internal_notes from public.user_profiles")
    is_well(hosted_open)
    hosted_open.downgrade("base", allow_data_loss="yes")
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, "select internal_notes from public.user_profiles")
    assert as_ada(hosted_open, "select nick from public.user_profiles") == [(None,)]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["user_progress", "user_api_keys", "export_history"])
def test_hidden_columns_of_other_tables_stay_hidden(hosted_open, table):
    hosted_open.script(
        USERS
        + f"create table public.{table} (id uuid primary key default gen_random_uuid(), user_id uuid not null unique"
        " references auth.users on delete cascade, score int default 3);"
        f"alter table public.{table} enable row level security;"
        f"create policy own on public.{table} for select to authenticated using (auth.uid() = user_id);"
        f"revoke all on public.{table} from anon, authenticated; grant select (id, user_id) on public.{table} to authenticated;"
        f"insert into public.{table} (user_id) select id from auth.users;"
        if table != "export_history"
        else USERS
        + "create table public.export_history (id uuid primary key default gen_random_uuid(), user_id uuid not null"
        " references auth.users on delete cascade, export_type text default 'csv', export_format text default 'csv', score int default 3);"
        "alter table public.export_history enable row level security;"
        "create policy own on public.export_history for select to authenticated using (auth.uid() = user_id);"
        "revoke all on public.export_history from anon, authenticated; grant select (id, user_id) on public.export_history to authenticated;"
        "insert into public.export_history (user_id) select id from auth.users;"
    )
    assert f"columns:public.{table}" in questions(hosted_open)
    hosted_open.upgrade(answers=hosted_open.answers("keep", "accept"))
    with pytest.raises(DBAPIError, match="permission denied"):
        as_ada(hosted_open, f"select score from public.{table}")
    assert len(as_ada(hosted_open, f"select user_id from public.{table}")) == 1
    is_well(hosted_open)


def test_columns_of_ours_that_were_hidden_are_named_beside_an_open_policy(hosted_open):
    hosted_open.script(
        TABLE.format(columns="nick text, email text") + GUARDED
        + "create policy everybody on public.user_profiles for select to authenticated using (true);"
        + "revoke all on public.user_profiles from anon, authenticated;"
        + "grant select (id, nick) on public.user_profiles to authenticated;" + ROWS
    )  # fmt: skip
    (asked,) = questions(hosted_open).values()
    assert asked.id == "policy:public.user_profiles:everybody"
    assert "reads email, which users cannot read today" in asked.answers["keep"]


@pytest.mark.slow
def test_a_visibility_that_meant_something_else_is_a_question(hosted_open):
    hosted_open.script(TABLE.format(columns="profile_visibility text default 'public'") + GUARDED + OWN + ROWS)
    (asked,) = questions(hosted_open).values()
    assert asked.id == "visible:public.user_profiles"
    assert asked.found == "default 'public'::text, public in 2 rows, and no one reads rows of others"
    assert "and those of every new user" in asked.answers["accept"]
    hosted_open.upgrade(answers={asked.id: "accept"})
    assert [row.username for row in hosted_open.run("select * from public.get_public_profile('ada')")] == ["ada"]
    is_well(hosted_open)


def test_a_visibility_is_no_question_where_all_are_private_or_read_anyway(hosted_open):
    hosted_open.script(TABLE.format(columns="profile_visibility text default 'private'") + GUARDED + OWN + ROWS)
    assert questions(hosted_open) == {}
    hosted_open.script(
        "alter table public.user_profiles alter column profile_visibility set default 'public';"
        "create policy everybody on public.user_profiles for select using (true);"
    )
    assert set(questions(hosted_open)) == {"policy:public.user_profiles:everybody"}


def test_what_the_application_calls_anonymous_is_kept_for_the_way_back(hosted_open):
    hosted_open.script(TABLE.format(columns="is_anonymous boolean default false") + GUARDED + OWN + ROWS)
    hosted_open.script(f"update public.user_profiles set is_anonymous = true where id = '{ADA}'")
    with hosted_open.engine.connect() as connection:
        (note,) = [s for s in adopt.plan(connection).worth_knowing if s.object == "public.user_profiles.is_anonymous"]
    assert note.rows == 1
    hosted_open.upgrade()
    hosted_open.run("update auth.users set last_sign_in_at = now() where email = 'ada@example.org'")
    assert not hosted_open.value("select is_anonymous from public.user_profiles where email = 'ada@example.org'")
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert hosted_open.value(f"select is_anonymous from public.user_profiles where id = '{ADA}'")


def test_names_of_files_stay_and_can_be_written(hosted_open):
    hosted_open.script(TABLE.format(columns="avatar_url text") + GUARDED + OWN + ROWS)
    hosted_open.script(f"update public.user_profiles set avatar_url = '0.998.png' where id = '{ADA}'")
    hosted_open.upgrade()
    assert as_ada(hosted_open, "select avatar_url from public.user_profiles") == [("0.998.png",)]
    assert as_ada(hosted_open, "update public.user_profiles set avatar_url = 'ada/0.123.png'") == 1
    is_well(hosted_open)


def test_many_values_that_break_a_rule_are_worth_knowing(hosted_open):
    hosted_open.script(
        TABLE.format(columns="avatar_url text default 'data:image/png;base64,AAAA'") + GUARDED + OWN + ROWS
    )
    with hosted_open.engine.connect() as connection:
        (note,) = [s for s in adopt.plan(connection).worth_knowing if s.action == "fit"]
    assert (note.object, note.rows) == ("public.user_profiles.avatar_url", 2)
    assert "Of 2 rows, 2 change" in note.remedy
    assert "fails from then on" in note.remedy


@pytest.mark.slow
def test_columns_that_an_insert_of_the_own_row_may_not_name_are_told(hosted_open):
    hosted_open.script(
        "create table public.user_profiles (id uuid primary key references auth.users, email text, nick text, bio text);"
        "grant select, insert, update on public.user_profiles to authenticated;"
        "alter table public.user_profiles enable row level security;"
        "create policy own on public.user_profiles for all to authenticated using (auth.uid() = id)"
    )
    with hosted_open.engine.connect() as connection:
        notes = adopt.plan(connection).notes
    (told,) = [note for note in notes if note.found.startswith("users insert ")]
    assert (told.object, told.found) == ("public.user_profiles", "users insert email")
    assert told.remedy == (
        "An INSERT by authenticated that names one of these fails (42501), and so does an upsert: leave them out."
    )
    hosted_open.upgrade()
    allowed = "select has_column_privilege('authenticated', 'public.user_profiles', :name, 'insert')"
    assert {name: hosted_open.value(allowed, name=name) for name in ("id", "email", "nick", "bio")} == {
        "id": True, "email": False, "nick": True, "bio": True,
    }  # fmt: skip


def test_row_security_that_is_no_longer_forced_is_told(hosted_open):
    hosted_open.script(
        "create table public.user_profiles (id uuid primary key references auth.users, nick text);"
        "alter table public.user_profiles enable row level security;"
        "alter table public.user_profiles force row level security;"
        "create policy own on public.user_profiles for all to authenticated using (auth.uid() = id)"
    )
    with hosted_open.engine.connect() as connection:
        told = [step for step in adopt.plan(connection).worth_knowing if step.kind == "relax_row_security"]
    assert [step.remedy for step in told] == [
        "The owner of the table, and what runs with its rights, see and write every row from then on;"
        " a downgrade forces it again."
    ]


@pytest.mark.parametrize("name", ["userId", "Id: x"])
def test_the_policy_of_the_own_row_by_a_quoted_column_is_no_question(hosted_open, name):
    hosted_open.script(
        f'create table public.user_profiles ("{name}" uuid primary key references auth.users on delete cascade, nick text);'
        "alter table public.user_profiles enable row level security;"
        f'create policy own on public.user_profiles for all to authenticated using (auth.uid() = "{name}")'
    )
    assert "policy:public.user_profiles:own" not in questions(hosted_open)


def test_a_trigger_of_a_column_that_gets_another_name_is_not_refused_for_that(hosted_open):
    hosted_open.script(
        "create table public.profiles (id uuid primary key references auth.users on delete cascade, full_name text);"
        "alter table public.profiles enable row level security;"
        "create policy own on public.profiles for all to authenticated using (auth.uid() = id);"
        "create function public.nothing() returns trigger language plpgsql as $$ begin return new; end $$;"
        "create trigger renamed before update of full_name on public.profiles for each row execute function public.nothing()"
    )
    hosted_open.upgrade(adopt_table="profiles")
    assert "display_name" in hosted_open.value("select pg_get_triggerdef(oid) from pg_trigger where tgname = 'renamed'")
