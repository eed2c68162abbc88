"""Policies of the application on adopted tables: what reads through them keeps its meaning, or is a question."""

import re

import pytest
from sqlalchemy.exc import DBAPIError

from profiles_schema.errors import MigrationFailed
from profiles_schema.migrations import answers
from profiles_schema.operations import adopt, health, smoke
from support import drift, profiles_schema, snapshot

OPEN = "policy:public.user_profiles:Profiles are viewable"
ADA, BOB = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
APPLICATION = """
create table public.{table} (id uuid primary key references auth.users (id) on delete cascade, username text, is_private boolean default true);
alter table public.{table} enable row level security;
create policy "Profiles are viewable" on public.{table} for select using (true);
create policy "Own profile" on public.{table} for update using (auth.uid() = id);
create table public.posts (id int primary key, author uuid not null);
alter table public.posts enable row level security;
create policy "Posts of those who are not private" on public.posts for select
  using (author = auth.uid() or not exists (select 1 from public.{table} p where p.id = author and p.is_private));
grant select on public.posts, public.{table} to anon, authenticated;
grant update on public.{table} to authenticated;
create view public.directory with (security_invoker = true) as select username from public.{table};
grant select on public.directory to authenticated;
create view public.counted as select count(*) from public.{table};
create function public.is_known(p uuid) returns boolean language sql stable as $$ select exists (select from {table} where id::text = p::text) $$;
create function public.is_admin() returns boolean language plpgsql stable security definer as $$
begin return exists (select from public.{table} where id = auth.uid() and username = 'admin'); end $$;
insert into auth.users (id, email) values ('{ada}', 'ada@example.org'), ('{bob}', 'bob@example.org');
insert into public.{table} select id, 'name' || row_number() over () from auth.users;
insert into public.posts select n, case when n = 1 then '{ada}'::uuid else '{bob}'::uuid end from generate_series(1, 8) as n;
"""


@pytest.fixture
def application(hosted):
    hosted.script(APPLICATION.format(table="user_profiles", ada=ADA, bob=BOB))
    return hosted


def seen(database, statement, user=ADA, role="authenticated"):
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"set local role {role}")
        connection.exec_driver_sql(f"select set_config('request.jwt.claims', '{{\"sub\": \"{user}\"}}', true)")
        return connection.exec_driver_sql(statement).scalar()


def plan(database, *x):
    with database.engine.connect() as connection:
        return adopt.plan(connection, x=x)


def is_well(database):
    assert drift(database) == []
    with database.engine.connect() as connection:
        assert [f.message for f in health.examine(connection, full=True).problems] == []
        connection.rollback()
        assert [step for step in smoke.smoke(connection) if not step.passed] == []


def test_an_open_policy_that_others_read_through_is_a_question(application):
    assert seen(application, "select count(*) from public.posts") == 1
    (question,) = plan(application).questions
    assert question.id == OPEN
    assert set(question.answers) == {"keep", "replace"}
    for name in (
        "policy public.posts:Posts of those who are not private",
        "view public.directory",
        "function public.is_known(uuid)",
    ):
        assert name in question.answers["replace"]
    assert "is_admin" not in question.answers["replace"]  # reads as its owner
    assert "counted" not in question.answers["replace"]
    said, _, all_of_them = question.answers["keep"].partition("\nAll of them: ")
    assert re.search(
        r"reads the \d\d columns that the upgrade adds, too: email, phone, first_name, .*, and \d\d more$", said
    )
    assert {"email", "timezone"} <= set(all_of_them.split(", "))
    assert re.search(
        r"\n#     All of them: \w+, .*(\n#     .*)*timezone",
        answers.render([question], {}, name="adopt.toml"),
    )
    shown = profiles_schema(application.url, "adopt", "--dry-run").stdout
    question_shown = shown.partition("1 question is open:")[2].partition("\nFirst, in")[0]
    assert re.search(r"and\s+\d\d\s+more", question_shown)
    assert "timezone" not in question_shown
    with pytest.raises(MigrationFailed, match=r"^questions about what exists already are open:\n.*Answer") as refused:
        application.upgrade()
    assert "taken over" not in str(refused.value)
    assert "adopt --dry-run --write-answers adopt.toml; then: profiles-schema upgrade -x answers=" in str(refused.value)
    assert "timezone" not in str(refused.value)


@pytest.mark.slow
def test_a_kept_policy_keeps_what_reads_through_it(application):
    found = application.run(
        "select polname, pg_get_expr(polqual, polrelid) from pg_policy where polrelid = 'public.user_profiles'::regclass order by 1"
    )
    application.upgrade(answers={OPEN: "keep"})
    assert seen(application, "select count(*) from public.posts") == 1
    assert seen(application, "select count(*) from public.directory") == 2
    assert seen(application, "select count(username) from public.user_profiles", role="anon") == 2
    assert not application.value("select has_column_privilege('anon', 'public.user_profiles', 'email', 'select')")
    is_well(application)
    application.downgrade("0011_create_functions")
    application.upgrade(answers={OPEN: "keep"})
    assert seen(application, "select count(username) from public.user_profiles", role="anon") == 2
    application.downgrade("base", allow_data_loss="yes")
    assert (
        application.run(
            "select polname, pg_get_expr(polqual, polrelid) from pg_policy where polrelid = 'public.user_profiles'::regclass order by 1"
        )
        == found
    )
    assert seen(application, "select count(*) from public.posts") == 1


@pytest.mark.slow
def test_each_object_that_finds_less_is_a_question_of_its_own(application):
    assert {q.id for q in plan_with(application, {OPEN: "replace"}).questions} == {
        "reads:policy public.posts:Posts of those who are not private",
        "reads:view public.directory",
        "reads:function public.is_known(uuid)",
    }
    application.upgrade(answers=application.answers("replace", "accept"))
    assert seen(application, "select count(*) from public.posts") == 8  # as accepted
    is_well(application)


def plan_with(database, answers):
    with database.engine.connect() as connection:
        return adopt.plan(connection, answers=answers)


@pytest.mark.slow
def test_a_table_without_row_level_security_is_the_same_question(application):
    application.script(
        'drop policy "Profiles are viewable" on public.user_profiles; alter table public.user_profiles disable row level security'
    )
    (question,) = plan(application).questions
    assert question.id == "rls:public.user_profiles"
    application.upgrade(answers={question.id: "keep"})
    assert seen(application, "select count(*) from public.posts") == 1
    assert seen(application, "select count(username) from public.user_profiles", role="anon") == 2
    is_well(application)
    application.downgrade("base", allow_data_loss="yes")
    assert application.value("select not relrowsecurity from pg_class where oid = 'public.user_profiles'::regclass")
    assert application.value("select count(*) from pg_policy where polrelid = 'public.user_profiles'::regclass") == 1


@pytest.mark.slow
def test_a_restrictive_policy_stays(application):
    application.script(
        "create policy \"Not banned\" on public.user_profiles as restrictive using (username <> 'banned')"
    )
    application.upgrade(answers={OPEN: "keep"})
    application.run("update public.user_profiles set username = 'banned' where id::text = :id", id=ADA)
    assert seen(application, "select count(*) from public.user_profiles", user=BOB) == 1
    is_well(application)


@pytest.mark.slow
def test_policies_that_let_users_write_others_rows_are_asked_about_or_named(application):
    application.script(
        """
        create policy "Trigger inserts" on public.user_profiles for insert with check (true);
        create policy "Anybody edits" on public.user_profiles for update using (true);
        create policy "Editors do all" on public.user_profiles using (auth.role() = 'editor');
        create policy "Own is not all" on public.user_profiles for select using (auth.uid() = id and username <> 'banned');
        create policy "Own, differently" on public.user_profiles for select to authenticated using ((select auth.uid())::text = id::text);
        create policy "For the server" on public.user_profiles to service_role using (true);
        """
    )
    found = plan(application)
    assert {question.id.rpartition(":")[2] for question in found.questions} == {
        "Profiles are viewable", "Anybody edits", "Editors do all", "Own is not all",
    }  # fmt: skip
    asked = {question.id.rpartition(":")[2]: question.answers for question in found.questions}
    assert "could change, in every row that it shows," in asked["Editors do all"]["keep"]
    assert "could change, in every row that it shows," in asked["Anybody edits"]["keep"]
    (named,) = [step for step in found.steps if step.object == 'policy "Trigger inserts" on public.user_profiles']
    assert "insert rows" in named.remedy
    answers = {question.id: "keep" for question in found.questions}
    application.upgrade(answers=answers)
    is_well(application)
    assert seen(application, "select count(*) from public.user_profiles") == 2
    repaired = "revoke update (bio) on public.user_profiles from authenticated"
    application.script(repaired)
    done = profiles_schema(application.url, "repair")
    assert done.returncode == 0, done.stdout
    assert seen(application, "select count(username) from public.user_profiles", role="anon") == 2
    is_well(application)


@pytest.mark.slow
def test_reads_through_a_kept_policy_go_on_under_the_old_name(hosted):
    hosted.script(APPLICATION.format(table="profiles", ada=ADA, bob=BOB))
    options = {"adopt_table": "profiles"}
    hosted.upgrade(**options, answers={OPEN: "keep"})
    assert seen(hosted, "select count(*) from public.posts") == 1
    assert seen(hosted, "select count(*) from public.profiles") == 2
    assert seen(hosted, "select count(*) from (select * from public.profiles) as p", role="anon") == 2
    assert seen(hosted, f"select public.is_known('{BOB}')") is True
    is_well(hosted)


def test_an_upgrade_that_goes_on_half_way_keeps_what_was_answered(application):
    application.upgrade("0008_create_user_api_keys", answers={OPEN: "keep"})
    application.upgrade()
    assert seen(application, "select count(*) from public.posts") == 1
    is_well(application)


READER = """
alter table public.user_profiles add column preferences text;
create function public.likes(p uuid) returns boolean language sql stable as
$$ select exists (select from public.user_profiles where preferences like '%x%') $$;
"""


@pytest.mark.slow
def test_a_function_that_would_no_longer_run_stops_the_upgrade_with_the_error_of_the_server(application):
    application.script(READER)
    found = snapshot(application)
    with pytest.raises(MigrationFailed) as refused:
        application.upgrade(answers={OPEN: "keep"})
    assert "would no longer run: function public.likes(uuid) (operator does not exist: jsonb ~~ unknown)" in str(
        refused.value
    )
    assert {k: v for k, v in snapshot(application).items() if k.relation == "public.user_profiles"} == {
        k: v for k, v in found.items() if k.relation == "public.user_profiles"
    }
    # It stopped before anything began, so nothing was remembered.
    application.script("drop function public.likes(uuid)")
    application.upgrade(answers={OPEN: "keep"})


@pytest.mark.slow
def test_a_function_that_did_not_run_before_stops_nothing(application):
    application.script(
        "set local check_function_bodies = off; create function public.broken() returns text language sql as"
        " $$ select gone from public.user_profiles $$;"
    )
    application.upgrade(answers={OPEN: "keep"})


def test_functions_in_plpgsql_are_checked_where_the_checker_is_and_named_where_not(application):
    application.script(
        READER.replace("language sql", "language plpgsql")
        .replace("$$ select exists", "$$ begin return exists")
        .replace("'%x%') $$", "'%x%'); end $$")
    )
    (note,) = [note for note in plan(application).notes if note.wanted == "not verified"]
    assert note.object == "function public.is_admin(), function public.likes(uuid)"
    application.script(
        """
        create schema checker;
        create function checker.plpgsql_check_function_tb(f regprocedure, r oid, out level text, out message text) returns setof record
        language sql as $$ select 'error', 'column is jsonb' from pg_attribute as a join pg_class as c on c.oid = a.attrelid
          where c.relname = 'user_profiles' and a.attname = 'preferences' and a.atttypid = 'jsonb'::regtype and f::text like '%likes%' $$;
        """
    )
    assert [note for note in plan(application).notes if note.wanted == "not verified"] == []
    with pytest.raises(MigrationFailed, match=r"function public.likes\(uuid\) \(column is jsonb\)"):
        application.upgrade(answers={OPEN: "keep"})


def test_what_anon_reads_elsewhere_goes_on_where_a_policy_looks_at_an_adopted_table(application):
    application.script(
        'drop policy "Profiles are viewable" on public.user_profiles;'
        'create policy "Own" on public.user_profiles for select using (auth.uid() = id);'
        'drop policy "Posts of those who are not private" on public.posts;'
        'create policy "Published, or an admin" on public.posts for select'
        " using (id < 4 or exists (select from public.user_profiles as p where p.id = auth.uid() and p.username = 'admin'))"
    )
    assert seen(application, "select count(*) from public.posts", role="anon") == 3
    application.upgrade()
    assert seen(application, "select count(*) from public.posts", role="anon") == 3
    assert seen(application, "select count(*) from public.user_profiles", role="anon") == 0
    is_well(application)


OWN = """
create table public.{table} (id uuid primary key references auth.users (id) on delete cascade, username text, city text, deleted_at date);
alter table public.{table} enable row level security;
create policy "Read" on public.{table} for select using (auth.uid() = id and deleted_at is null);
create policy "Edit" on public.{table} for update using ((select auth.uid()) = id);
{more}
grant all on public.{table} to anon, authenticated;
insert into auth.users (id, email) values ('{ada}', 'ada@example.org'), ('{bob}', 'bob@example.org');
insert into public.{table} select id, 'name' || row_number() over (), null, case id when '{bob}' then date '2024-01-01' end from auth.users;
"""
INSERTS = 'create policy "Make" on public.{table} for insert with check (auth.uid() = id);'
READ = "policy:public.user_profiles:Read"
UPSERT = "insert into public.{table} (id, city) values (auth.uid(), 'Oslo') on conflict (id) do update set city = excluded.city returning city"


def own(database, table="user_profiles", more=""):
    database.script(OWN.format(table=table, more=more.format(table=table), ada=ADA, bob=BOB))
    return database


def code(database, statement, **who):
    with pytest.raises(DBAPIError) as error:
        seen(database, statement, **who)
    return error.value.orig.pgcode


@pytest.mark.slow
def test_a_policy_that_shows_less_than_the_own_row_stays_as_a_restrictive_one(hosted):
    found = snapshot(own(hosted))
    (question,) = plan(hosted).questions
    assert set(question.answers) == {"keep", "replace", "restrict"}
    assert "without its further condition" in question.answers["keep"]
    hosted.upgrade(answers={READ: "restrict"})
    assert [seen(hosted, "select count(*) from public.user_profiles", user=user) for user in (ADA, BOB)] == [1, 0]
    is_well(hosted)
    hosted.downgrade("base", allow_data_loss="yes")
    assert {k: v for k, v in snapshot(hosted).items() if k.kind == "policy"} == {
        k: v for k, v in found.items() if k.kind == "policy"
    }


def test_a_narrower_condition_below_an_or_is_none(hosted):
    own(
        hosted,
        more="create policy \"More\" on public.{table} for select using ((auth.uid() = id and city is null) or username = 'x');"
        'create policy "Not" on public.{table} for select using (not (city is null and auth.uid() = id));'
        'create policy "Text" on public.{table} for select to authenticated using (city is null and (select auth.uid())::text = id::text);',
    )
    asked = {question.id.rpartition(":")[2]: set(question.answers) for question in plan(hosted).questions}
    assert {name for name, answers in asked.items() if "restrict" in answers} == {"Read", "Text"}
    assert set(asked) == {"Read", "Text", "More", "Not"}


@pytest.mark.slow
@pytest.mark.parametrize("table", ["user_profiles", "profiles"])
def test_users_insert_their_own_row_where_a_policy_let_them(hosted, table):
    own(hosted, table, INSERTS)
    hosted.upgrade(**({"adopt_table": table} if table != "user_profiles" else {}), answers={READ: "restrict"})
    assert seen(hosted, UPSERT.format(table=table)) == "Oslo"
    for forbidden in ("role", "email"):
        assert (
            code(hosted, f"insert into public.user_profiles (id, {forbidden}) values (auth.uid(), 'admin')") == "42501"
        )
    assert code(hosted, f"insert into public.{table} (id) values ('{BOB}')") == "42501"
    is_well(hosted)
    hosted.script('drop policy "Owners can make their own profile" on public.user_profiles')
    assert profiles_schema(hosted.url, "repair").returncode == 0
    assert seen(hosted, UPSERT.format(table=table)) == "Oslo"
    is_well(hosted)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["user_profiles", "profiles"])
def test_users_insert_nothing_where_no_policy_let_them(hosted, table):
    own(hosted, table)
    hosted.upgrade(**({"adopt_table": table} if table != "user_profiles" else {}), answers={READ: "restrict"})
    assert code(hosted, UPSERT.format(table=table)) == "42501"
    assert seen(hosted, f"update public.{table} set city = 'Rome' returning city") == "Rome"
    is_well(hosted)


@pytest.mark.slow
def test_own_columns_and_anon_keep_their_rights_after_a_repair_and_half_way_back(hosted):
    own(hosted)
    notes = {note.wanted: note.remedy for note in plan_with(hosted, {READ: "restrict"}).notes}
    assert "city, deleted_at" in notes["kept by name"]
    assert "anon (no account) keeps its rights" in notes["on the columns of today"]
    hosted.upgrade(answers={READ: "restrict"})
    hosted.script("revoke update (bio) on public.user_profiles from authenticated")
    assert profiles_schema(hosted.url, "repair").returncode == 0
    hosted.downgrade("0011_create_functions")
    hosted.upgrade(answers={READ: "restrict"})
    assert seen(hosted, "update public.user_profiles set city = 'Rome' returning city") == "Rome"
    assert seen(hosted, "select count(id) from public.user_profiles", role="anon") == 0
    is_well(hosted)


READS_BY_FUNCTION = """
create type public.visibility as enum ('public', 'private', 'friends');
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade, full_name text, profile_visibility public.visibility default 'friends'
);
alter table public.profiles enable row level security;
create policy "Own profile" on public.profiles using (auth.uid() = id);
create function public.my_name() returns text language sql stable as $$ select full_name from public.profiles where id = auth.uid() $$;
create function public.is_friend() returns boolean language sql stable as $$
  select exists (select from public.profiles where id = auth.uid() and {condition}) $$;
create table public.notes (id int primary key, author text default public.my_name(), is_shared boolean default public.is_friend());
alter table public.notes enable row level security;
create policy "Own name, read here" on public.notes for select
  using (exists (select from public.profiles as p where p.id = auth.uid() and p.full_name = author));
create policy "Own name, by a function" on public.notes for insert with check (author = public.my_name() and public.is_friend());
grant all on public.profiles, public.notes to authenticated;
insert into public.profiles (id, full_name) select id, 'name of ' || email from auth.users;
"""


@pytest.fixture
def reads_by_function(hosted):
    """Makes a table whose policies and defaults read profiles, themselves and by functions."""

    def make(condition):
        hosted.administrator.script(f"insert into auth.users (id, email) values ('{ADA}', 'ada@example.org')")
        hosted.script(READS_BY_FUNCTION.format(condition=condition))
        return hosted

    return make


def note(database, number):
    added = f"insert into public.notes (id) values ({number}) returning author || is_shared"
    assert seen(database, added) == "name of ada@example.orgtrue"
    assert seen(database, "select count(*) from public.notes") == number


@pytest.mark.slow
def test_stored_policies_and_defaults_run_after_names_have_changed(reads_by_function):
    database = reads_by_function("full_name like 'name%'")
    note(database, 1)
    database.upgrade(adopt_table="profiles")
    # Both are stored parsed, and follow a rename: what they call is all that could fail.
    assert database.value("select relkind from pg_class where oid = 'public.profiles'::regclass") == "v"
    note(database, 2)
    database.downgrade("base", allow_data_loss="yes")
    note(database, 3)


def test_a_function_that_fails_inside_a_policy_or_a_default_stops_the_upgrade(reads_by_function):
    database = reads_by_function("profile_visibility = 'friends'::public.visibility")
    note(database, 1)
    with pytest.raises(
        MigrationFailed,
        match=r"no longer run: function public.is_friend\(\) \(operator does not exist: text = .*visibility",
    ):
        database.upgrade(adopt_table="profiles")
    note(database, 2)


def test_a_policy_that_reads_a_column_whose_type_changes_stops_the_upgrade(reads_by_function):
    database = reads_by_function("true")
    database.script(
        "create policy \"Friends\" on public.notes using (exists (select from public.profiles where profile_visibility = 'friends'))"
    )
    (stop,) = plan(database, "adopt-table=profiles").stoppers
    assert 'policy "Friends" on public.notes' in stop.remedy


@pytest.mark.slow
@pytest.mark.parametrize("with_view", [True, False])
def test_functions_in_standard_form_are_among_those_that_find_less(application, with_view):
    application.script(
        "create function public.is_private(p uuid) returns boolean language sql stable"
        " begin atomic select exists (select from public.user_profiles as u where u.id = p and u.is_private); end;"
        "create function public.is_private_too(p uuid) returns boolean language sql stable begin atomic select public.is_private(p); end;"
        "create table public.pictures (author uuid);"
        'create policy "Open ones" on public.pictures for select using (not public.is_private_too(author))'
    )
    if not with_view:
        application.script("drop view public.directory, public.counted")
    assert {q.id for q in plan_with(application, {OPEN: "replace"}).questions} >= {
        "reads:function public.is_private(uuid)",
        "reads:function public.is_private_too(uuid)",
        "reads:policy public.pictures:Open ones",
    }
    application.upgrade(answers=application.answers("replace", "accept"))
    application.downgrade("base", allow_data_loss="yes")


@pytest.mark.slow
def test_a_table_with_our_columns_and_nothing_else_is_closed_like_any_other(database, empty):
    columns = database.value(
        "select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)"
        " from pg_attribute as a where a.attrelid = 'public.user_profiles'::regclass and a.attnum > 0"
    )
    empty.script(
        f"create table public.user_profiles ({columns}); create policy open on public.user_profiles using (true);"
        "grant all on public.user_profiles to public"
    )
    empty.answering = ("replace",)
    empty.upgrade()
    assert drift(empty) == []
    assert empty.value("select count(*) from pg_policy where polname = 'open'") == 0
