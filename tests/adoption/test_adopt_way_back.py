"""Keys and indexes of the application: what becomes of them, and that the way back never stops for them."""

import pytest

from profiles_schema.errors import MigrationFailed
from profiles_schema.operations import adopt
from support import profiles_schema, snapshot

PROGRESS = (
    "create table public.courses (id serial primary key);"
    "create table public.user_progress (user_id uuid not null references auth.users on delete cascade,"
    " course_id int not null references public.courses, primary key (user_id, course_id));"
    "create table public.marks (user_id uuid, course_id int, foreign key (user_id, course_id) references public.user_progress);"
    "insert into public.courses default values; insert into auth.users (id) values (gen_random_uuid());"
    "insert into public.user_progress select u.id, 1 from auth.users as u"
)


@pytest.mark.slow
@pytest.mark.parametrize("signs_up", [True, False])
def test_a_key_over_a_column_that_may_be_null_now_does_not_stop_the_way_back(hosted_open, signs_up, caplog):
    hosted_open.script(PROGRESS)
    found = snapshot(hosted_open)
    hosted_open.answering = ("relax", "keep", "accept")
    hosted_open.upgrade()
    if signs_up:
        hosted_open.sign_up("ada@example.org")
    hosted_open.downgrade("base", allow_data_loss="yes")
    key = "select count(*) from pg_constraint where conrelid in ('public.user_progress'::regclass, 'public.marks'::regclass) and contype in ('p', 'f')"
    if signs_up:
        assert hosted_open.value(key) == 2  # to users and to courses
        assert "user_progress_pkey did not come back" in caplog.text
        assert hosted_open.value("select count(*) from public.user_progress") == 2
    else:
        assert hosted_open.value(key) == 4
        assert snapshot(hosted_open) == found


@pytest.mark.slow
def test_nothing_is_compiled_while_tables_are_locked(hosted_open):
    hosted_open.administrator.script(f"alter database {hosted_open.name} set jit = on")
    hosted_open.script(
        "create table public.user_profiles (id uuid primary key references auth.users, jit text default current_setting('jit'));"
        "alter table public.user_profiles enable row level security; insert into auth.users (id) values (gen_random_uuid())"
    )
    assert hosted_open.value("show jit") == "on"
    hosted_open.upgrade()
    assert hosted_open.run("select p.jit from public.user_profiles as p") == [("off",)]


PROFILES = (
    "create table public.user_profiles (id uuid primary key references auth.users on delete cascade,"
    " username text not null{unique}, email text{unique});"
    "{index}"
    "alter table public.user_profiles enable row level security;"
    "create policy own on public.user_profiles for select to authenticated using (auth.uid() = id);"
    "create table public.posts (id int primary key, author text not null references public.user_profiles (username) on update cascade);"
    "create table public.invites (id int primary key, mail text references public.user_profiles (email));"
    "insert into auth.users (id, email) values (gen_random_uuid(), 'ada@example.org');"
    "insert into public.user_profiles select id, '{name}', email from auth.users;"
    "insert into public.posts values (1, '{name}'); insert into public.invites values (1, 'ada@example.org')"
)
INDEX = "create unique index names on public.user_profiles (username); create unique index mails on public.user_profiles (email);"


@pytest.mark.slow
@pytest.mark.parametrize(("unique", "index"), [(" unique", ""), ("", INDEX)], ids=["constraint", "index"])
def test_what_a_foreign_key_needs_stays(hosted_open, unique, index):
    hosted_open.script(PROFILES.format(unique=unique, index=index, name="ada_l"))
    found = snapshot(hosted_open)
    hosted_open.upgrade()
    hosted_open.script("update public.user_profiles set username = 'ada_m'")
    assert hosted_open.value("select author from public.posts") == "ada_m"
    hosted_open.sign_up("bo@example.org")
    for command in (["check"], ["health", "--full"], ["smoke"]):
        done = profiles_schema(hosted_open.url, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    hosted_open.script("update public.user_profiles set username = 'ada_l' where username = 'ada_m'")
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert snapshot(hosted_open) == found


def test_a_foreign_key_to_a_value_that_would_change_stops_the_plan(hosted_open):
    hosted_open.script(PROFILES.format(unique=" unique", index="", name="Ada.Lovelace"))
    found = snapshot(hosted_open)
    with hosted_open.engine.connect() as connection:
        (stop,) = adopt.plan(connection).stoppers
    assert (stop.object, stop.found) == (
        "public.posts.posts_author_fkey",
        "refers to username; values there that break our rules: 1",
    )
    with pytest.raises(MigrationFailed, match="drop this foreign key"):
        hosted_open.upgrade()
    assert snapshot(hosted_open) == found


@pytest.mark.slow
def test_an_index_on_what_becomes_external_id_is_not_ours_on_user_id(empty):
    empty.script(
        "create table public.users (id bigserial primary key, email varchar(255) not null unique);"
        "create table public.profiles (id bigserial primary key, user_id bigint not null references public.users on delete cascade, first_name varchar(100));"
        "create unique index index_profiles_on_user_id on public.profiles (user_id);"
        "insert into public.users (email) values ('ada@example.org'); insert into public.profiles (user_id) values (1)"
    )
    found = snapshot(empty)
    x = {"identity": "public.users", "adopt_table": "profiles"}
    with empty.engine.connect() as connection:
        plan = adopt.plan(connection, x=["identity=public.users", "adopt-table=profiles"])
    (note,) = [note for note in plan.notes if note.wanted == "a view that they read and write unchanged"]
    assert note.object == "profiles_compat.profiles"
    assert "public.profiles is gone" in note.remedy
    assert [step for step in plan.steps if step.wanted == "a view of the old name"] == []
    empty.upgrade(**x)
    assert empty.value("select to_regclass('public.profiles') is null")
    assert empty.run("select user_id, first_name from profiles_compat.profiles") == [(1, None)]
    for command in (["check"], ["health", "--full"]):
        done = profiles_schema(empty.url, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    empty.script("drop index idx_user_profiles_user_id")
    assert profiles_schema(empty.url, "repair").returncode == 0
    assert profiles_schema(empty.url, "check").returncode == 0
    empty.downgrade("base", allow_data_loss="yes")
    left = snapshot(empty)
    assert {key: left[key] for key in found} == found
