"""Existing tables that nobody foresaw: taken over whole, or refused before the first change."""

import re
import uuid
from collections.abc import Iterable

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from profiles_schema import UserProfile
from profiles_schema.errors import MigrationFailed, UsageError
from profiles_schema.operations.adopt import plan
from profiles_schema.operations.health import examine
from profiles_schema.operations.rehearse import contents
from profiles_schema.operations.smoke import smoke
from support import drift, shapes

USERS = "insert into auth.users (id, email) select md5(g::text)::uuid, 'a' || g || '@example.org' from generate_series(1, 5) as g"
PERSON = uuid.UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b")  # md5 of 1
PROFILES = """
create table public.user_profiles (
  id uuid primary key, username text, bio text, updated_at timestamptz default now()
);
insert into public.user_profiles (id, username) select md5(g::text)::uuid, 'name' || g from generate_series(1, 5) as g;
"""


@pytest.fixture
def found(hosted_open):
    """Makes a table of an application in a hosted project with five users, and remembers how it was found."""

    def make(*scripts: str, administrator: str = ""):
        hosted_open.administrator.script(USERS)
        for script in filter(None, scripts or (PROFILES,)):
            hosted_open.script(script)
        if administrator:
            hosted_open.administrator.script(administrator)
        hosted_open.before = look(hosted_open)
        hosted_open.answering = ("replace", "accept")
        return hosted_open

    return make


def look(database):
    with database.administrator.engine.begin() as connection:
        return shapes.Found(contents.remember(connection, shapes.SCHEMAS, []), shapes.more(connection), set())


def came_back(database, ignored: Iterable[str] = ()):
    """Downgrade; what of catalog and rows is not as it was found."""
    database.downgrade("base", allow_data_loss="yes")
    changed = shapes.changes(database, database.before)
    rows = [str(change) for change in shapes.row_changes(database, database.before)]
    return [line for line in changed + rows if not any(part in line for part in ignored)]


def signs_up(database):
    """Whether somebody who signs up gets a profile."""
    return database.profile(database.administrator.sign_up(f"{uuid.uuid4().hex}@example.org")) is not None


@pytest.mark.slow
def test_a_policy_named_like_ours_is_set_aside_like_any_other(found):
    database = found(
        PROFILES,
        "alter table public.user_profiles enable row level security;"
        'create policy "Owners can do all" on public.user_profiles using (true) with check (true);'
        'create policy "Owners can read their own profile" on public.user_profiles using (true);'
        'create policy "Service role can do what its grants allow" on public.user_profiles using (true);'
        "comment on policy \"Owners can do all\" on public.user_profiles is 'a hole'",
    )
    database.upgrade()
    assert drift(database) == []
    with database.acting_as("authenticated", uuid.uuid4()) as connection:
        assert connection.exec_driver_sql("select count(*) from public.user_profiles").scalar() == 0
    assert came_back(database) == []


def handler(body, when="after insert"):
    return (
        f"create function public.handle_new_user() returns trigger language plpgsql security definer as $f$ begin {body} return new; end $f$;"
        f"create trigger on_auth_user_created {when} on auth.users for each row execute function public.handle_new_user();"
    )


INSERT = "insert into public.user_profiles (id, username) values (new.id, new.email);"


@pytest.mark.slow
def test_columns_named_like_what_adoption_calls_things_lose_nothing(found):
    names = [
        "t",
        "u",
        "v",
        "r",
        "s",
        "m",
        "n",
        "w",
        "x",
        "k",
        "key",
        "old",
        "new",
        "row_data",
        "reason",
        "select",
        "User Name",
        "a'b",
        "%s",
    ]
    names += ["{column}", "adopted_user", "row_key", "adopted nothing"]
    database = found(
        PROFILES,
        "".join(f'alter table public.user_profiles add "{name}" text;' for name in names),
        "update public.user_profiles set t = 'kept', u = bio, \"select\" = username, bio = repeat('x', 5000), username = 'A ' || username;"
        "insert into public.user_profiles (id, username, t) values (md5('nobody')::uuid, 'nobody', 'kept, too');",
    )
    database.upgrade()
    assert drift(database) == []
    assert database.value("select row_data ->> 't' from profiles_internal.quarantine") == "kept, too"
    assert signs_up(database)
    database.administrator.run("delete from auth.users where email like '%@example.org' and length(email) > 30")
    assert came_back(database) == []


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("create function public.mine() returns uuid language sql stable as 'select auth.uid()';"
         "alter table public.user_profiles add column created_by uuid default public.mine();"
         "update public.user_profiles set created_by = id; alter table public.user_profiles alter column created_by set not null",
         "public.user_profiles.created_by"),
        ("create function public.team() returns uuid language plpgsql as $f$ begin raise 'no team, %', auth.uid(); end $f$;"
         "alter table public.user_profiles add column team uuid; alter table public.user_profiles alter column team set default public.team()",
         "P0001"),
        ("create function public.stamp() returns trigger language plpgsql as $f$ begin new.stamped := auth.uid(); return new; end $f$;"
         "alter table public.user_profiles add column stamped uuid default gen_random_uuid() not null;"
         "create trigger stamp before insert on public.user_profiles for each row execute function public.stamp()",
         "column stamped"),
        ("create table public.teams (id integer primary key); "
         "alter table public.user_profiles add column team integer references public.teams;"
         "alter table public.user_profiles alter column team set default 7",
         "user_profiles_team_fkey"),
        ("create function public.told() returns trigger language plpgsql as $f$ begin raise 'nobody is there'; end $f$;"
         "create trigger told after insert on public.user_profiles for each row execute function public.told()",
         "nobody is there"),
    ],
)  # fmt: skip
def test_what_would_refuse_every_sign_up_stops_the_upgrade_and_is_named(found, own, named):
    database = found(PROFILES, own)
    with pytest.raises(MigrationFailed) as refused:
        database.upgrade()
    assert named in str(refused.value)
    assert came_back(database) == []


@pytest.mark.slow
def test_defaults_of_the_application_stay_where_our_code_can_live_with_them(found):
    database = found(
        "create type public.member_role as enum ('member', 'admin');"
        "create table public.user_profiles (id uuid primary key, username text, role public.member_role not null default 'member',"
        " language varchar(5) default 'el', timezone text default 'Europe/Athens', profile_visibility text default 'private',"
        " preferences jsonb default '{\"theme\": \"dark\"}', avatar_emoji text default repeat('x', 3), key_metrics jsonb default '{}');"
        "alter table public.user_profiles enable row level security;"
        "insert into public.user_profiles (id, username) select md5(g::text)::uuid, 'name' || g from generate_series(1, 5) as g"
    )
    with database.engine.connect() as connection:
        notes = {
            step.object.rpartition(".")[2]: step
            for step in plan(connection).notes
            if step.seq and re.search(r"(^| )default ", step.found)
        }
    assert {name: note.wanted == "stays" for name, note in notes.items()} == {
        "role": True, "language": True, "timezone": True, "profile_visibility": True, "preferences": True, "avatar_emoji": False,
        "key_metrics": False,
    }  # fmt: skip
    database.upgrade()
    assert drift(database) == []
    with database.engine.connect() as connection:
        assert [f.message for f in examine(connection, full=True).problems] == []
    profile = database.profile(database.administrator.sign_up("ada@example.org"))
    assert (profile.role, profile.language, profile.timezone, profile.profile_visibility, profile.preferences, profile.key_metrics) == (
        "member", "el", "Europe/Athens", "private", {"theme": "dark"}, [],
    )  # fmt: skip
    profile = database.profile(database.administrator.sign_up("bob@example.org", raw_user_meta_data={"language": "fr"}))
    assert profile.language == "fr"
    database.administrator.run("delete from auth.users where email in ('ada@example.org', 'bob@example.org')")
    assert came_back(database) == []


@pytest.mark.slow
def test_contact_data_that_the_auth_server_contradicts_is_kept_named_and_brought_back(found):
    database = found(
        PROFILES,
        "alter table public.user_profiles add phone text, add email varchar(100), add email_verified boolean;"
        "update public.user_profiles set phone = '+49 30 ' || username, email = 'own-' || username || '@example.org', email_verified = true",
        administrator="update auth.users set phone = null;"
        "update auth.users set email = null where email = 'a2@example.org'",
    )
    with database.engine.connect() as connection:
        notes = {step.object: step.remedy for step in plan(connection).notes}
    assert notes["public.user_profiles.email"].startswith("4 rows: email follows auth.users.")
    assert notes["public.user_profiles.email_verified"].startswith("5 rows: ")
    database.upgrade()
    database.administrator.run("update auth.users set last_sign_in_at = now()")
    assert database.run(
        "select email, phone, email_verified from public.user_profiles where username in ('name1', 'name2') order by username"
    ) == [("a1@example.org", "+49 30 name1", False), ("own-name2@example.org", "+49 30 name2", False)]
    assert came_back(database, ignored=["auth.users", "public.user_profiles: 5 rows changed"]) == []
    assert set(
        database.run(
            "select email = 'own-' || username || '@example.org', phone = '+49 30 ' || username, email_verified from public.user_profiles"
        )
    ) == {(True, True, True)}


@pytest.mark.slow
def test_nobody_reads_what_is_new_before_our_policies_are_there(found):
    database = found(
        PROFILES,
        "alter table public.user_profiles enable row level security;"
        'create policy "Everybody can see profiles" on public.user_profiles for select using (true);'
        "create function public.nobody() returns trigger language plpgsql as $$ begin raise 'nobody changed this'; end $$;"
        "create trigger nobody before update on public.user_profiles for each row execute function public.nobody()",
    )
    database.upgrade("0011_create_functions")
    with database.acting_as("anon") as connection:
        shown = connection.exec_driver_sql("select count(*), count(email) from public.user_profiles").one()
    assert tuple(shown) == (5, 0)
    database.upgrade()
    assert database.value("select count(*) from public.user_profiles where email ~ '^a[1-5]@example.org$'") == 5
    assert came_back(database) == []


def test_values_come_back_in_a_session_of_another_time_zone(found):
    database = found(
        "create table public.user_profiles (id uuid primary key, username text, created_at timestamptz, updated_at timestamp);"
        "insert into public.user_profiles (id, username) select md5(g::text)::uuid, 'name' || g from generate_series(1, 5) as g"
    )
    database.upgrade()
    database.administrator.run(f"alter database {database.name} set timezone = 'Asia/Tokyo'")
    database.administrator.run(f"alter database {database.name} set datestyle = 'German'")
    database.downgrade("base", allow_data_loss="yes")
    assert (
        database.value("select count(*) from public.user_profiles where created_at is null and updated_at is null") == 5
    )


@pytest.mark.slow
def test_functions_and_triggers_that_are_set_aside_come_back_as_they_were(found):
    database = found(
        PROFILES,
        "create function public.gen_available_username(p_email text default 'x') returns text language sql as"
        " $$ select username from user_profiles limit 1 $$;"
        "create function public.get_my_profile_v2() returns setof user_profiles language plpgsql as"
        " $$ declare p user_profiles%rowtype; begin return query select * from user_profiles; end $$;"
        "create procedure public.create_user(a text) language sql as $$ select 1 $$;"
        "grant execute on function public.gen_available_username to anon with grant option;"
        "create function public.make_profile(u uuid) returns void language sql as"
        " $$ insert into public.user_profiles (id) values (u) $$;",
        handler("perform public.make_profile(new.id);"),
        "create trigger again after update of email on auth.users for each row when (new.email is not null)"
        " execute function public.handle_new_user('a', 'b');",
        administrator="alter table auth.users disable trigger again; comment on trigger again on auth.users is 'rests'",
    )
    database.upgrade()
    assert signs_up(database)
    database.administrator.run("delete from auth.users where length(email) > 30")
    assert came_back(database) == []


def test_a_function_with_the_rights_of_its_owner_comes_back_with_no_more(empty):
    empty.script(PROFILES)
    empty.script(
        "do $$ begin create role application_owner; exception when duplicate_object then null; end $$;"
        "create function public.get_public_profile(x text) returns text language sql security definer as $$ select x $$;"
        "alter function public.get_public_profile owner to application_owner"
    )
    try:
        empty.upgrade(answers=empty.answers("replace"))
        empty.downgrade("base", allow_data_loss="yes")
        assert (
            empty.value("select proowner::regrole::text from pg_proc where proname = 'get_public_profile'")
            == "application_owner"
        )
    finally:
        empty.script("drop function public.get_public_profile(text); drop role application_owner")


@pytest.mark.slow
def test_rows_come_back_past_keys_that_are_checked_at_commit(found):
    database = found(
        "create table public.teams (id int primary key); insert into public.teams values (1);",
        PROFILES,
        "alter table public.user_profiles add team int references public.teams deferrable initially deferred;"
        "insert into public.user_profiles (id, team) values (md5('nobody')::uuid, 1)",
    )
    database.upgrade()
    assert came_back(database) == []


@pytest.mark.slow
def test_rows_that_share_an_id_or_have_none_are_kept_aside(found):
    database = found(
        "create table public.user_profiles (id uuid, user_id uuid, email text, created_at timestamptz);"
        "insert into public.user_profiles (id, user_id) select md5('row')::uuid, md5(g::text)::uuid from generate_series(1, 3) as g;"
        "insert into public.user_profiles (user_id) values (md5('4')::uuid), (md5('5')::uuid)"
    )
    database.upgrade()
    reasons = database.run("select reason, count(*) from profiles_internal.quarantine group by 1 order by 1")
    assert [tuple(row) for row in reasons] == [("no id", 2), ("second row of the same id", 2)]
    database.administrator.run(
        "delete from public.user_profiles where created_at > now() - interval '1 hour' and id <> md5('row')::uuid"
    )
    assert came_back(database) == []


@pytest.mark.slow
def test_what_a_narrower_type_cannot_hold_does_not_stop_the_way_back(found):
    database = found(
        "create type public.who as enum ('everyone', 'friends'); create domain public.tongue as text check (value in ('sv', 'de'));",
        PROFILES,
        "alter table public.user_profiles add profile_visibility public.who default 'everyone', add language public.tongue,"
        " add role public.who not null default 'friends';"
        "update public.user_profiles set profile_visibility = 'friends', language = 'sv'",
    )
    database.upgrade()
    person = database.administrator.sign_up("new@example.org")
    assert [line for line in came_back(database) if "more" not in line] == []
    kept = database.run(
        "select id = :id, profile_visibility::text, language, role::text from public.user_profiles", id=person
    )
    assert sorted(map(tuple, kept)) == [(False, "friends", "sv", "friends")] * 5 + [(True, None, None, "friends")]


@pytest.mark.slow
def test_indexes_that_another_type_would_break_rest_and_come_back(found):
    database = found(
        'create table public.user_profiles (id text primary key, username varchar(60) collate "C", created_at timestamp, updated_at bigint);'
        "insert into public.user_profiles (id, username) select md5(g::text)::uuid, 'name' || g from generate_series(1, 5) as g;"
        "create index by_day on public.user_profiles (date_trunc('day', created_at));"
        "create index recent on public.user_profiles (username) where created_at > timestamp '2020-01-01';"
        "create index pattern on public.user_profiles (id text_pattern_ops);"
        "create index minmax on public.user_profiles using brin (updated_at int8_minmax_multi_ops)",
    )
    database.upgrade()
    assert drift(database) == []
    assert came_back(database) == []


@pytest.mark.slow
def test_an_identity_column_becomes_the_old_id(found):
    database = found(
        "create table public.user_profiles (id bigint generated always as identity primary key, user_id uuid, email text);"
        "insert into public.user_profiles (user_id) select md5(g::text)::uuid from generate_series(1, 5) as g"
    )
    database.upgrade()
    person = database.administrator.sign_up("new@example.org")
    assert database.profile(person).legacy_id > 5
    database.administrator.run("delete from auth.users where email = 'new@example.org'")
    assert came_back(database) == []


def test_what_the_application_drops_meanwhile_does_not_stop_the_way_back(found):
    database = found(
        PROFILES,
        "alter table public.user_profiles add plan text, add seats int;"
        "update public.user_profiles set plan = 'free'; alter table public.user_profiles alter plan set not null;"
        "create table public.posts (author uuid references public.user_profiles (id));"
        "create table public.likes (liker uuid constraint likes_liker references public.user_profiles (id));"
        "create function public.look() returns trigger language plpgsql as $$ begin return new; end $$;"
        "create trigger look before update on public.user_profiles for each row execute function public.look();"
        "insert into public.user_profiles (id, plan, seats) values (md5('nobody')::uuid, 'free', 2)",
    )
    database.upgrade()
    database.script(
        "drop table public.posts; alter table public.likes drop constraint likes_liker; drop trigger look on public.user_profiles;"
        "alter table public.user_profiles drop column plan, drop column seats"
    )
    database.downgrade("base", allow_data_loss="yes")
    assert database.value("select count(*) from public.user_profiles") == 6


@pytest.mark.slow
def test_a_quarantined_row_does_not_come_back_twice(found):
    database = found(
        PROFILES,
        "insert into public.user_profiles (id) select md5('nobody' || g)::uuid from generate_series(1, 3) as g",
    )
    database.upgrade()
    database.administrator.run("insert into auth.users (id, email) values (md5('nobody1')::uuid, 'late@example.org')")
    database.downgrade("base", allow_data_loss="yes")
    assert database.value("select count(*) from public.user_profiles") == 8
    assert database.value("select contype from pg_constraint where conname = 'user_profiles_pkey'") is not None


# What is refused before the first change: how it is made, by whom, and what the refusal says.
REFUSED = {
    "rights that somebody else gave": (
        "grant select, update on public.user_profiles to supabase_auth_admin with grant option",
        "set role supabase_auth_admin; grant update on public.user_profiles to authenticated; reset role",
        "revoke all on public.user_profiles from authenticated",
    ),
    "a handler that writes a quoted name": (
        'create table public."my-log" (id uuid);' + handler(INSERT + ' insert into public."my-log" values (new.id);'),
        "",
        "it also writes my-log",
    ),
    "a handler that calls what writes": (
        "create table public.log (id uuid); create function public.welcome(u uuid) returns void language sql as"
        " $$ insert into public.log values (u) $$;" + handler(INSERT + " perform public.welcome(new.id);"),
        "",
        "it also writes log",
    ),
    "a handler that notifies": (handler(INSERT + " perform pg_notify('new', new.email);"), "", "it also notifies"),
    "a handler that changes the user": (
        handler("new.email := lower(new.email); " + INSERT, "before insert"),
        "",
        "it also changes the row of the user",
    ),
    "a handler made of strings": (
        handler("execute format('insert into %I (id) values ($1)', 'user_profiles') using new.id;"),
        "",
        "cannot be seen",
    ),
    "a handler that reads": (
        "alter table public.user_profiles add first_name varchar(50);"
        + handler(
            "if exists (select from public.user_profiles where first_name = new.email) then raise 'twice'; end if;"
        ),
        "",
        "reads columns that change",
    ),
    "a handler that writes a table whose trigger writes ours": (
        "create table public.users (id uuid); create function public.next() returns trigger language plpgsql as"
        " $$ begin insert into public.user_profiles (id) values (new.id); return new; end $$;"
        "create trigger next after insert on public.users for each row execute function public.next();"
        + handler("insert into public.users values (new.id);"),
        "",
        "writes public.users, whose trigger next writes ours",
    ),
    "a trigger that does more than ours": (
        "create table public.log (id uuid); create table public.user_progress (id uuid primary key, user_id uuid);"
        "create function public.start() returns trigger language plpgsql as $$ begin insert into public.user_progress values (new.id, new.id);"
        " insert into public.log values (new.id); return new; end $$;"
        "create trigger start after insert on public.user_profiles for each row execute function public.start();",
        "",
        "it also writes log",
    ),
    "a trigger that keeps a column of the application's": (
        "alter table public.user_profiles add searched tsvector; create function public.search() returns trigger language plpgsql as"
        " $$ begin update public.user_profiles set searched = to_tsvector(new.bio) where id = new.id; return new; end $$;"
        "create trigger search after update of bio on public.user_profiles for each row execute function public.search();",
        "",
        "it also writes public.user_profiles.searched",
    ),
    "a trigger that reads a quoted column": (
        "alter table public.user_profiles add first_name varchar(50);"
        "create function public.check_name() returns trigger language plpgsql as $$ begin if new.\"first_name\" = '' then raise 'no'; end if; return new; end $$;"
        "create trigger check_name before insert on public.user_profiles for each row execute function public.check_name();",
        "",
        "reads a column whose name or type changes",
    ),
    "a publication of a part": (
        "",
        "create publication part for table public.user_profiles (id, username)",
        "alter publication part drop table public.user_profiles",
    ),
    "rows held as values": (
        "create table public.snapshots (taken public.user_profiles[])",
        "",
        "public.snapshots.taken",
    ),
    "a foreign key of somebody else's table": (
        "grant references on public.user_profiles to supabase_auth_admin; insert into public.user_profiles (id) values (md5('nobody')::uuid)",
        "set role supabase_auth_admin; create table auth.extra (id uuid references public.user_profiles (id)); reset role;"
        "insert into auth.extra values (md5('nobody')::uuid)",
        "Let its owner drop this foreign key",
    ),
    "a name of ours on something else": (
        "alter table public.user_profiles add z int constraint uq_user_profiles_external_id unique",
        "",
        "Rename it: that name is needed",
    ),
    "a check that a sign-up would break": (
        "alter table public.user_profiles add age int default 20 constraint of_age check (age is not null); alter table public.user_profiles alter age drop default",
        "",
        "leaves these columns at their defaults",
    ),
    "a type that a sign-up would break": (
        "create domain public.name as text not null default 'x'; alter table public.user_profiles add called public.name default 'y';"
        "alter table public.user_profiles alter called set default null",
        "",
        "which its type refuses",
    ),
    "an index that the second sign-up would break": (
        "alter table public.user_profiles add slug text; update public.user_profiles set slug = id::text;"
        "alter table public.user_profiles alter slug set default '', add unique (slug)",
        "",
        "at the same default",
    ),
    "an aggregate of our name": (
        "create aggregate public.get_public_profile(text) (sfunc = textcat, stype = text)",
        "",
        "It is an aggregate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_anything_is_changed(case, found):
    script, administrator, remedy = REFUSED[case]
    database = found(PROFILES, script, administrator=administrator)
    with pytest.raises(MigrationFailed, match="cannot be taken over") as refused:
        database.upgrade()
    assert remedy in str(refused.value)
    changed = shapes.changes(database, database.before)
    assert [line for line in changed if not line.startswith("schema profiles_internal:")] == []


TEXTS_OF_OTHER_TYPES = (
    "create domain public.a_text as text; create domain public.address as text check (value ~ '@');"
    "create type public.visibility as enum ('public', 'private', 'friends');"
    "create table public.{table} (id uuid primary key references auth.users (id) on delete cascade, username {insensitive} unique,"
    " email {insensitive}, display_name varchar(255), bio varchar(255), avatar_url varchar, avatar_emoji varchar(16) default 'x',"
    " company_name public.a_text, first_name varchar(50), last_name char(20), logo_url varchar(255), phone public.address,"
    " profile_visibility public.visibility not null default 'friends');"
    "alter table public.{table} enable row level security;"
    "create view public.everybody as select username, email, display_name, bio, avatar_url, avatar_emoji, company_name from public.{table};"
    "insert into public.{table} (id, username, email, display_name, bio, first_name)"
    " select md5(n.key)::uuid, n.name, n.name || '@example.org', n.name, n.name, n.name"
    " from (values ('1', 'Ada'), ('2', 'bob'), ('3', 'Cleo'), ('4', 'Dan'), ('5', 'eve')) as n (key, name);"
)
KEPT_TYPES = {
    "username": "{insensitive}", "email": "{insensitive}", "display_name": "character varying(255)", "bio": "character varying(255)",
    "avatar_url": "character varying", "avatar_emoji": "character varying(16)", "company_name": "public.a_text",
    "logo_url": "character varying(255)", "first_name": "text", "last_name": "text", "phone": "text", "profile_visibility": "text",
}  # fmt: skip


@pytest.mark.parametrize("table", ["user_profiles", "profiles"])
@pytest.mark.parametrize("insensitive", ["public.citext", "character varying(320)"])
def test_texts_of_other_types_stay_where_everything_we_write_fits(hosted_open, found, insensitive, table):
    extension = ""
    if "citext" in insensitive:
        if not hosted_open.value("select count(*) from pg_available_extensions where name = 'citext'"):
            pytest.skip("this server has no citext")
        extension = "create extension citext with schema public"
    database = found(extension, TEXTS_OF_OTHER_TYPES.format(table=table, insensitive=insensitive))
    before = database.run("select * from public.everybody order by email")
    options = {"adopt_table": table} if table == "profiles" else {}
    with database.engine.connect() as connection:
        planned = plan(connection, x=[f"adopt-table={table}"] * bool(options))
    assert planned.stoppers == []
    known = [step for step in planned.worth_knowing if "as the old type" in step.remedy]
    for column, type_found in {
        "first_name": "character varying(50)", "last_name": "character(20)", "phone": "public.address", "profile_visibility": "public.visibility",
    }.items():  # fmt: skip
        assert any(f"{column} {type_found}" in step.found for step in known), column
    database.upgrade(**options)
    types = dict(
        map(tuple, database.run(
            "set local search_path = pg_catalog; select a.attname, format_type(a.atttypid, a.atttypmod) from pg_attribute as a"
            " where a.attrelid = 'public.user_profiles'::regclass and a.attnum > 0 and not a.attisdropped"
        ))
    )  # fmt: skip
    assert {name: types[name] for name in KEPT_TYPES} == {
        name: kept.format(insensitive=insensitive) for name, kept in KEPT_TYPES.items()
    }
    assert drift(database) == []
    with database.engine.connect() as connection:
        assert [f.message for f in examine(connection, full=True).problems] == []
        connection.rollback()
        assert [step for step in smoke(connection) if not step.passed] == []
    # The longest of everything that a sign-up can bring.
    person = database.administrator.sign_up(
        "e" * 64 + "@" + "d" * 185 + ".org", phone="not an address",
        raw_user_meta_data={
            "full_name": "n" * 300, "first_name": "f" * 300, "last_name": "l" * 300, "avatar_url": "https://e.org/" + "p" * 2000, "language": "de-" + "x" * 8,
        },
    )  # fmt: skip
    profile = database.profile(person)
    assert (len(profile.email), len(profile.display_name), len(profile.first_name), len(profile.avatar_url)) == (
        254,
        200,
        200,
        2014,
    )
    assert (profile.avatar_emoji, profile.profile_visibility) == ("x", "public")
    with database.acting_as("authenticated", person) as connection:
        for changes, refusal in (
            ('{"username": "new_name", "bio": "b", "company_name": "c", "profile_visibility": "private", "avatar_emoji": "y"}', None),
            ('{"username": "New"}', "username: is 3 to 32 of a z 0 9"),
            (f'{{"bio": "{"b" * 300}"}}', "too long for type character varying"),
        ):  # fmt: skip
            savepoint = connection.begin_nested()
            if refusal is None:
                connection.exec_driver_sql(f"select public.update_my_profile_v2('{changes}')")
                savepoint.commit()
            else:
                with pytest.raises(DBAPIError, match=refusal):
                    connection.exec_driver_sql(f"select public.update_my_profile_v2('{changes}')")
                savepoint.rollback()
        assert connection.exec_driver_sql("select username from public.get_my_profile_v2()").scalar() == "new_name"
    with Session(database.engine) as session:
        mapped = session.scalar(select(UserProfile).where(UserProfile.username == profile.username))
        mapped.email, mapped.bio, mapped.company_name = "other@example.org", "of the model", "company"
        session.commit()
    if "citext" in insensitive:
        assert database.value("select count(*) from public.user_profiles where username = 'ADA'") == 1
    database.administrator.run("delete from auth.users where id = :id", id=person)
    assert came_back(database) == []
    assert database.run("select * from public.everybody order by email") == before


ODD_NAMES = [
    'say "profiles"', "o'profiles\\1", "a%s %%b:name", "user", "Ünïcode ☃ $x$ {y}", " -- pro/*files; ", "schema.profiles", "x" * 63,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_table_of_any_name_is_taken_over(found, name):
    quoted = '"' + name.replace('"', '""') + '"'
    database = found(
        f"create table public.{quoted} (id uuid primary key references auth.users (id) on delete cascade, username text, full_name text);"
        f"alter table public.{quoted} enable row level security;"
        f'create policy "Own" on public.{quoted} using (auth.uid() = id);'
        f"create function public.count_them() returns bigint language sql as $f$ select count(*) from public.{quoted} $f$;"
        f"insert into public.{quoted} select id, 'name_' || left(email, 2), email from auth.users"
    )
    with database.engine.connect() as connection:
        assert plan(connection, x=[f"adopt-table={name}"], answers={}).stoppers == []
    database.upgrade(adopt_table=name)
    assert database.value(f"select count(full_name) from public.{quoted}") == 5
    assert database.value("select public.count_them()") == 5
    assert drift(database) == []
    with database.engine.connect() as connection:
        assert [f.message for f in examine(connection, full=True).problems] == []
    assert signs_up(database)
    database.administrator.run("delete from auth.users where email not like 'a_@example.org'")
    assert came_back(database) == []


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x01b", "a\x7fb", "a\u0085b", "a\x00b", "x" * 64, "ü" * 32, "\n"])
def test_a_name_that_no_table_has_is_one_clear_error(found, name):
    database = found()
    with pytest.raises(
        UsageError,
        match=r"^-x adopt-table takes the name of a table in schema public, of up to 63 bytes and without control characters",
    ):
        database.upgrade(adopt_table=name)
    assert not database.value("select to_regnamespace('profiles_internal') is not null")
