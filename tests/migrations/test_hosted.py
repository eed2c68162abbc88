"""On a hosted project: the auth server's table is used and never altered, and tables of others are left alone."""

import logging

import pytest
from sqlalchemy.schema import CreateIndex, CreateTable

from profiles_schema import metadata
from profiles_schema.errors import MigrationFailed
from support import drift

# Everything the catalog says about a table, internal triggers of foreign keys that lead to it aside.
ALL_OF_A_TABLE = """
with t as (select * from pg_class where oid = cast(:name as regclass))
select 'table', concat_ws(' ', relowner::regrole, relrowsecurity, relforcerowsecurity, relacl, reloptions, obj_description(oid)) from t
union all
select 'column ' || attname, concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, attacl, attisdropped,
  pg_get_expr(adbin, adrelid), col_description(t.oid, attnum))
from t join pg_attribute on attrelid = t.oid and attnum > 0 left join pg_attrdef on adrelid = attrelid and adnum = attnum
union all select 'index', pg_get_indexdef(indexrelid) from t join pg_index on indrelid = t.oid
union all select 'constraint ' || conname, pg_get_constraintdef(c.oid) from t join pg_constraint as c on conrelid = t.oid
union all
select 'policy ' || polname, concat_ws(' ', polcmd, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
from t join pg_policy on polrelid = t.oid
union all select 'trigger ' || tgname, pg_get_triggerdef(g.oid) from t join pg_trigger as g on tgrelid = t.oid and not tgisinternal
order by 1, 2
"""
FUNCTIONS = """
select p.oid::regprocedure::text, p.prosrc, p.proacl::text, p.proowner::regrole::text from pg_proc as p
where p.pronamespace = 'auth'::regnamespace order by 1
"""
OUTSIDE = """
select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in ('public', 'auth') union all select p.oid::regprocedure::text from pg_proc as p
where p.pronamespace in ('public'::regnamespace, 'auth'::regnamespace) order by 1
"""
OUR_TRIGGERS = {"trigger profiles_on_auth_user_created", "trigger profiles_on_auth_user_updated"}

WEB_LOGIN = """
create table public.sessions (sid varchar not null primary key, sess json not null, expire timestamp(6) not null);
insert into public.sessions values ('s1', '{}', now());
"""
LEARNING = """
create table public.sessions (
  id bigint generated always as identity primary key, user_id uuid, started_at timestamptz default now(), ended_at timestamptz,
  duration_minutes integer, descriptions_generated integer, images_processed integer, qa_attempts integer,
  vocabulary_learned integer, room text
);
alter table public.sessions enable row level security;
create policy "Members see their room" on public.sessions for select to authenticated using (room is not null);
grant select on public.sessions to anon;
"""


def all_of(database, table):
    return [tuple(row) for row in database.administrator.run(ALL_OF_A_TABLE, name=table)]


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="profiles_schema.migrations")
    return caplog


# auth.users


@pytest.mark.parametrize("kind", ["hosted", "hosted_open"])
def test_auth_users_gets_two_triggers_and_nothing_else_changes(request, kind):
    project = request.getfixturevalue(kind)
    before, functions = all_of(project, "auth.users"), project.run(FUNCTIONS)
    project.upgrade()
    after = all_of(project, "auth.users")
    assert {name for name, _ in set(after) - set(before)} == OUR_TRIGGERS
    assert set(before) <= set(after)
    assert project.run(FUNCTIONS) == functions
    project.downgrade("base")
    assert all_of(project, "auth.users") == before
    assert project.run(FUNCTIONS) == functions


def test_only_foreign_keys_lead_to_auth_users(supabase):
    leading = supabase.run(
        "select distinct conrelid::regclass::text, contype::text, confdeltype::text from pg_constraint"
        " where confrelid = 'auth.users'::regclass order by 1"
    )
    assert [tuple(row) for row in leading] == [
        ("export_history", "f", "c"), ("profiles_internal.active_days", "f", "c"),
        ("profiles_internal.erasures", "f", "c"), ("profiles_internal.held_usernames", "f", "c"), ("profiles_internal.identity_links", "f", "c"),
        ("profiles_internal.kept_json", "f", "c"), ("profiles_internal.point_awards", "f", "c"), ("profiles_internal.stale_progress", "f", "c"),
        ("sessions", "f", "c"), ("user_api_keys", "f", "c"),
        ("user_profile_audit_logs", "f", "n"), ("user_profiles", "f", "c"), ("user_progress", "f", "c"), ("user_provider_keys", "f", "c"),
    ]  # fmt: skip


def test_an_auth_server_keeps_the_making_of_users_to_itself(supabase):
    assert supabase.value("select to_regproc('public.create_user')") is None
    assert supabase.value("select to_regproc('profiles_internal.make_user')") is None


@pytest.mark.parametrize(
    "migration",
    [
        "alter table auth.users add column favourite_colour text not null default 'blue'",
        "alter table auth.users alter column email type varchar(320)",
        "alter table auth.users alter column phone type varchar(40)",
        "alter table auth.users alter column last_sign_in_at set default now()",
        "alter table auth.users drop column is_super_admin",
        "alter table auth.users drop column if exists deleted_at",
        "alter table auth.users rename column aud to audience",
        "create index users_by_aud on auth.users (aud)",
        "create unique index users_by_token on auth.users (confirmation_token) where confirmation_token <> ''",
        "alter table auth.users alter column is_anonymous drop not null",
        "alter table auth.users add constraint phone_length check (length(phone) < 40)",
    ],
)
def test_the_auth_servers_own_migrations_still_work(supabase, migration):
    ada = supabase.sign_up("ada@example.org")
    with supabase.auth_server() as auth:
        auth.exec_driver_sql(migration)
    with supabase.auth_server() as auth:
        auth.exec_driver_sql(f"update auth.users set email = 'lovelace@example.org' where id = '{ada}'")
    assert supabase.profile(ada).email == "lovelace@example.org"
    assert supabase.profile(supabase.sign_up("grace@example.org")).username == "grace"
    assert drift(supabase) == []


# Tables with our names


@pytest.mark.parametrize(
    ("existing", "complaints"),
    [
        (
            "create table public.user_profiles (id uuid primary key); create table public.export_history (id uuid, status text)",
            ["public.export_history: no column user_id"],
        ),
        ("create view public.user_progress as select 1 as id", ["public.user_progress: no ordinary table"]),
    ],
    ids=["two tables", "view"],
)
def test_what_cannot_be_taken_over_stops_the_upgrade_before_the_first_change(hosted, existing, complaints):
    hosted.script(existing)
    before = hosted.run(OUTSIDE), all_of(hosted, "auth.users")
    with pytest.raises(MigrationFailed) as refused:
        hosted.upgrade()
    for complaint in complaints:
        assert complaint in str(refused.value)
    assert "Nothing was changed." in str(refused.value)
    assert (hosted.run(OUTSIDE), all_of(hosted, "auth.users")) == before
    assert hosted.value("select to_regnamespace('profiles_internal') is null")


@pytest.mark.slow
def test_a_table_in_our_shape_is_taken_with_its_rows(hosted):
    table = metadata.tables["user_profiles"]
    ada = hosted.sign_up("ada@example.org")
    with hosted.engine.begin() as connection:
        connection.execute(CreateTable(table))
        for index in table.indexes:
            connection.execute(CreateIndex(index))
    hosted.run("insert into public.user_profiles (user_id, username, bio) values (:id, 'countess', 'mine')", id=ada)
    hosted.upgrade()
    assert (hosted.profile(ada).username, hosted.profile(ada).bio) == ("countess", "mine")
    assert drift(hosted) == []


def test_an_auth_schema_without_uid_is_refused(hosted):
    hosted.administrator.run("drop function auth.uid()")
    with pytest.raises(MigrationFailed, match=r"auth\.uid\(\) does not"):
        hosted.upgrade()


# A sessions table of somebody else


@pytest.mark.parametrize("kind", ["empty", "hosted"])
def test_sessions_of_a_web_login_are_left_alone(request, log, kind):
    database = request.getfixturevalue(kind)
    database.script(WEB_LOGIN)
    before = all_of(database, "public.sessions")
    database.upgrade()
    assert "a table sessions exists already and is left as it is" in log.text
    assert all_of(database, "public.sessions") == before
    assert drift(database) == []
    assert database.value("select to_regproc('profiles_internal.roll_up_sessions')") is None
    assert database.profile(database.sign_up("ada@example.org")).username == "ada"
    database.downgrade("base", allow_data_loss="yes")
    assert all_of(database, "public.sessions") == before
    assert database.value("select sid from public.sessions") == "s1"


def test_sessions_of_a_web_login_are_refused_where_learning_sessions_are_required(hosted):
    hosted.script(WEB_LOGIN)
    before = hosted.run(OUTSIDE)
    with pytest.raises(MigrationFailed, match="sessions=require") as refused:
        hosted.upgrade(sessions="require")
    assert "Nothing was changed." in str(refused.value)
    assert hosted.run(OUTSIDE) == before


def test_required_learning_sessions_are_fine_where_the_table_is_made_here(hosted):
    hosted.upgrade(sessions="require")
    assert hosted.value("select to_regproc('profiles_internal.roll_up_sessions')") is not None


@pytest.mark.parametrize("kind", ["empty", "hosted"])
def test_learning_sessions_of_the_application_are_rolled_up_and_keep_their_rules(request, kind):
    request.getfixturevalue("migrated_template")  # makes the roles
    database = request.getfixturevalue(kind)
    database.script(LEARNING)
    before = all_of(database, "public.sessions")
    database.upgrade(sessions="require")
    added = set(all_of(database, "public.sessions")) - set(before)
    assert {name for name, _ in added} == {
        "trigger roll_up_inserted_sessions", "trigger roll_up_changed_sessions", "trigger roll_up_deleted_sessions",
        "trigger roll_up_truncated_sessions",
    }  # fmt: skip
    assert set(before) <= set(all_of(database, "public.sessions"))
    assert drift(database) == []

    ada = database.sign_up("ada@example.org")
    database.run(
        "insert into public.sessions (user_id, started_at, ended_at, descriptions_generated, images_processed, qa_attempts,"
        " vocabulary_learned) values (:id, now() - interval '30 minutes', now(), 2, 3, 4, 5)",
        id=ada,
    )
    (progress,) = database.run("select * from public.user_progress where user_id = :id", id=ada)
    assert (progress.total_sessions, progress.total_descriptions, progress.total_images) == (1, 2, 3)
    assert (progress.total_questions_answered, progress.total_vocabulary_learned) == (4, 5)
    assert (progress.total_time_spent_minutes, progress.average_accuracy) == (30, 0)

    database.downgrade("base", allow_data_loss="yes")
    assert all_of(database, "public.sessions") == before
    assert database.value("select count(*) from public.sessions") == 1


@pytest.mark.slow
def test_check_sees_a_missing_roll_up_on_the_applications_sessions(hosted):
    hosted.script(LEARNING)
    hosted.upgrade()
    hosted.script("drop trigger roll_up_changed_sessions on public.sessions")
    assert drift(hosted) == ["The trigger roll_up_changed_sessions of public.sessions is missing."]
