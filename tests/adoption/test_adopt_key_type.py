"""The key of a profile keeps its type, and the column that says whose row it is is found by what it holds."""

import asyncio
import re
import uuid

import pytest
from sqlalchemy import create_engine, func, select, update
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from profiles_schema import AuthUser, UserProfile
from profiles_schema.errors import MigrationFailed
from profiles_schema.operations import adopt
from profiles_schema.operations.health import examine
from support import drift, profiles_schema, shapes

ADA = "11111111-1111-4111-8111-111111111111"
BOB = "22222222-2222-4222-8222-222222222222"
STRAY = "99999999-9999-4999-8999-999999999999"


def look(database):
    """The catalog, as the application knows it."""
    with database.administrator.engine.begin() as connection:
        return shapes.contents.catalog(connection, shapes.SCHEMAS) | shapes.more(connection)


def changed(then, now):
    """Keys of two such looks that differ, with both values."""
    return {key: (then.get(key), now.get(key)) for key in {*then, *now} if then.get(key) != now.get(key)}


@pytest.fixture
def application(hosted_open):
    """Two users of an auth server, and what a script makes beside them."""

    def make(script):
        hosted_open.administrator.script(
            f"insert into auth.users (id, email) values ('{ADA}', 'ada@example.org'), ('{BOB}', 'bob@example.org')"
        )
        hosted_open.script(script)
        for table in ("user_profiles", "collectors"):
            hosted_open.script(f"alter table if exists public.{table} enable row level security")
        return hosted_open

    return make


def stripped(plan):
    return [(step.object, step.found) for step in [*plan.stoppers, *plan.questions]]


def planned(database, *x):
    with database.engine.connect() as connection:
        return adopt.plan(connection, x=x)


BOOTSTRAP = f"""
    create table public.user_profiles (id uuid primary key references auth.users on delete cascade, username text, bio text);
    insert into public.user_profiles values ('{ADA}', 'ada', 'first'), ('{BOB}', 'bob', null);
    create table public.posts (id serial primary key, author uuid not null references public.user_profiles (id));
    insert into public.posts (author) values ('{ADA}');
    alter table public.posts enable row level security;
    create policy own on public.posts using (exists (select from public.user_profiles as p where p.id = author and p.id = auth.uid()));
    create view public.grouped_cards as select p.id, p.username, count(*) from public.user_profiles as p, public.posts group by p.id;
    create view public.cards as select id, username from public.user_profiles;
    create function public.bio_of(p uuid) returns text language sql stable as $$ select bio from public.user_profiles where id = p $$;
"""


@pytest.mark.slow
def test_what_hangs_on_a_uuid_key_is_not_touched(application):
    database = application(BOOTSTRAP)
    found = look(database)
    plan = planned(database)
    assert not [step for step in plan.steps if "posts" in step.object or "cards" in step.object]
    database.upgrade()
    kept = {key for key in found if "posts" in key or "cards" in key or "bio_of" in key}
    assert len(kept) > 8
    assert not kept & {*changed(found, look(database))}
    assert shapes.types(database, "user_profiles")["id"] == "uuid"
    assert drift(database) == []
    assert database.administrator.run("select id, user_id from public.user_profiles order by id") == [
        (uuid.UUID(ADA), uuid.UUID(ADA)),
        (uuid.UUID(BOB), uuid.UUID(BOB)),
    ]
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}


def test_statements_that_know_no_user_id_go_on_working(application):
    database = application(BOOTSTRAP)
    database.upgrade()
    run = database.administrator.run
    new, other = database.sign_up("new@example.org"), uuid.uuid4()
    assert run("select id, user_id from public.user_profiles where id = :id", id=new) == [(new, new)]
    with database.acting_as("authenticated", ADA) as connection:
        rows = connection.exec_driver_sql("select id from public.user_profiles where id = auth.uid()").all()
        assert rows == [(uuid.UUID(ADA),)]
    run("delete from public.user_profiles where id = :id", id=new)
    upsert = (
        "insert into public.user_profiles (id, bio) values (:id, :bio) on conflict (id) do update set bio = excluded.bio"
        " returning id, user_id, username, bio"
    )
    assert run(upsert, id=new, bio="made") == [(new, new, "new", "made")]
    assert run(upsert, id=new, bio="changed") == [(new, new, "new", "changed")]
    run("delete from public.user_profiles where id = :id", id=new)
    assert run("insert into public.user_profiles (user_id) values (:id) returning id, username", id=new) == [
        (new, "new")
    ]
    with pytest.raises(IntegrityError, match=r"fk_user_profiles_user_id_users|user_profiles_id_fkey"):
        run(upsert, id=other, bio="nobody")
    with pytest.raises(IntegrityError, match="null value in column"):
        run("insert into public.user_profiles (bio) values ('nobody')")
    # Nobody gets at another one's key, nor does a key leave its user.
    run("update public.user_profiles set id = :other where id = :id", id=BOB, other=BOB)
    with pytest.raises(IntegrityError):
        run("update public.user_profiles set id = :other where id = :id", id=BOB, other=other)


@pytest.mark.slow
def test_a_key_of_its_own_beside_user_id_stays_as_it_is(application):
    database = application(f"""
        create table public.user_profiles (id uuid primary key default gen_random_uuid(), user_id uuid unique, first_name text);
        insert into public.user_profiles (id, user_id, first_name) values ('{STRAY}', '{ADA}', 'Ada');
        create table public.referrals (referrer uuid references public.user_profiles, device uuid references public.user_profiles (user_id));
        insert into public.referrals values ('{STRAY}', '{ADA}')
    """)
    found = look(database)
    database.upgrade()
    assert not [step for step in planned(database).steps if "referrals" in step.object]
    assert database.administrator.run("select id from public.user_profiles where user_id = :id", id=ADA) == [
        (uuid.UUID(STRAY),)
    ]
    assert database.administrator.run("select id from public.user_profiles where user_id = :id", id=BOB) == [
        (uuid.UUID(BOB),)
    ]
    assert drift(database) == []
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}


@pytest.mark.slow
def test_a_foreign_key_to_the_users_says_whose_row_it_is(application):
    database = application(f"""
        create table public.collectors (collector_id uuid primary key references auth.users, motto text);
        create policy "Register" on public.collectors for insert with check (collector_id = auth.uid());
        insert into public.collectors values ('{ADA}', 'All of them');
        create table public.stamps (owner uuid references public.collectors, name text);
        insert into public.stamps values ('{ADA}', 'Blue Mauritius');
        create function public.motto_of(p uuid) returns text language sql stable begin atomic
          select c.motto from public.collectors as c where c.collector_id = p; end;
    """)
    found = look(database)
    database.upgrade(adopt_table="collectors")
    new = database.sign_up("new@example.org")
    assert database.administrator.run(
        "select collector_id, user_id, id from public.user_profiles order by motto, collector_id = :n", n=new
    ) == [
        (uuid.UUID(ADA), uuid.UUID(ADA), ADA),
        (uuid.UUID(BOB), uuid.UUID(BOB), BOB),
        (new, new, str(new)),
    ]
    database.administrator.run("delete from public.user_profiles where collector_id = :id", id=new)
    with database.acting_as("authenticated", new) as connection:
        upsert = "insert into public.collectors (collector_id) values (auth.uid())"
        connection.exec_driver_sql(upsert)
        with pytest.raises(ProgrammingError, match="row-level security"):
            connection.exec_driver_sql(f"update public.collectors set collector_id = '{BOB}'")
    assert database.administrator.run("select motto_of(:id)", id=ADA) == [("All of them",)]
    assert drift(database) == []
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}


def test_a_legacy_user_id_without_values_loses_to_an_id_with_users(application):
    database = application(f"""
        create table public.user_profiles (id uuid primary key, user_id uuid, bio text);
        insert into public.user_profiles (id, bio) values ('{ADA}', 'Ada'), ('{BOB}', 'Bob')
    """)
    found, rows = look(database), database.run("select * from public.user_profiles order by id")
    database.upgrade()
    assert database.value("select count(*) from profiles_internal.quarantine") == 0
    assert database.value("select count(*) from public.user_profiles where id = user_id") == 2
    assert drift(database) == []
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}
    assert database.run("select * from public.user_profiles order by id") == rows


CLERK = """
    create table public.user_profiles (id uuid primary key default gen_random_uuid(), clerk_user_id text unique, bio text);
    insert into public.user_profiles (clerk_user_id, bio) values ('user_2abc', 'Ada'), ('user_2abd', 'Bob')
"""


@pytest.mark.slow
def test_rows_that_lead_to_no_user_are_a_question(application):
    database = application(CLERK)
    found = look(database)
    (question,) = planned(database).questions
    assert question.id == "key:public.user_profiles"
    assert question.found == "no column of public.user_profiles leads to a user in auth.users"
    assert question.answers == {"id": "this column says whose row it is, and 2 of 2 rows go to quarantine"}
    with pytest.raises(MigrationFailed, match=r"key:public\.user_profiles"):
        database.upgrade()
    assert changed(found, look(database)) == {}
    with pytest.raises(MigrationFailed, match=r"quarantine:public\.user_profiles"):
        database.upgrade(answers={"key:public.user_profiles": "id"})
    database.upgrade(answers={"key:public.user_profiles": "id", "quarantine:public.user_profiles": "quarantine"})
    assert database.value("select count(*) from profiles_internal.quarantine") == 2
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}
    assert database.value("select count(*) from public.user_profiles") == 4


def test_a_foreign_key_that_is_unique_and_never_null_decides_without_a_look_at_the_rows(application):
    database = application(
        "create table public.user_profiles (id uuid primary key default gen_random_uuid(),"
        " member uuid not null unique references auth.users on delete cascade, invited_by uuid references auth.users);"
        f"insert into public.user_profiles (member, invited_by) values ('{ADA}', '{BOB}')"
    )
    owner = "select profiles_internal.adoption_context('user_profiles', 'public.user_profiles') ->> 'owner'"
    database.answering = ("replace", "accept")
    database.upgrade("0005_create_sign_up_functions")
    assert database.value(owner) == "member"
    database.upgrade()
    assert [str(user) for (user,) in database.run("select user_id from public.user_profiles where member is not null")][
        :1
    ] == [ADA]


def test_a_row_more_since_the_plan_does_not_stop_the_upgrade_half_way(application):
    database = application(
        "create table public.user_profiles (id uuid primary key, bio text);"
        f"insert into public.user_profiles select '{ADA}'; alter table public.user_profiles enable row level security"
    )
    database.upgrade("0005_create_sign_up_functions")
    database.administrator.script(
        "insert into auth.users (id) select gen_random_uuid() from generate_series(1, 98);"
        "insert into public.user_profiles (id) select u.id from auth.users as u on conflict do nothing;"
        "insert into public.user_profiles (id) select gen_random_uuid() from generate_series(1, 2)"
    )
    database.upgrade()
    assert database.value("select count(*) from profiles_internal.quarantine") == 2


@pytest.fixture(params=["psycopg2", "psycopg", "psycopg_async", "asyncpg"])
def session(request):
    """What opens a session on a database by a driver, and runs a function of it."""
    driver = request.param

    def run(database, work):
        url = database.engine.url.set(drivername=f"postgresql+{driver}")
        if driver in {"psycopg2", "psycopg"}:
            engine = create_engine(url)
            try:
                with Session(engine) as opened:
                    return work(opened)
            finally:
                engine.dispose()

        async def asynchronous():
            engine = create_async_engine(url)
            try:
                async with AsyncSession(engine) as opened:
                    return await opened.run_sync(work)
            finally:
                await engine.dispose()

        return asyncio.run(asynchronous())

    return run


@pytest.mark.parametrize("kind", ["uuid", "text"])
def test_models_read_and_bind_both_types(application, session, kind):
    database = application(BOOTSTRAP if kind == "uuid" else "select")
    database.upgrade()
    new, other = uuid.UUID(STRAY), uuid.uuid4()

    def work(opened):
        for key in (ADA, uuid.UUID(ADA)):
            assert opened.get(UserProfile, key).id == ADA
            assert opened.scalars(select(UserProfile.id).where(UserProfile.id == key)).one() == ADA
            assert set(opened.scalars(select(UserProfile.id).where(UserProfile.id.in_([key, BOB])))) == {ADA, BOB}
            opened.expire_all()
        profile = opened.get(UserProfile, BOB)
        profile.bio = "changed"
        opened.flush()
        opened.execute(update(UserProfile).where(UserProfile.id == uuid.UUID(ADA)).values(bio="changed"))
        joined = select(UserProfile.id).join(AuthUser, AuthUser.id == UserProfile.user_id).order_by(UserProfile.id)
        assert opened.scalars(joined).all() == [ADA, BOB]
        assert opened.scalar(select(func.count()).where(UserProfile.bio == "changed").select_from(UserProfile)) == 2
        opened.add_all([AuthUser(id=new, email="new@example.org"), AuthUser(id=other, email="other@example.org")])
        opened.flush()
        for profile in opened.scalars(select(UserProfile).where(UserProfile.user_id.in_([new, other]))).all():
            opened.delete(profile)
        opened.flush()
        made = [
            UserProfile(id=str(new), user_id=new, username="made"),
            UserProfile(id=other, user_id=other, username="made_too"),
        ]
        opened.add_all(made)
        opened.flush()
        assert made[0].id == STRAY
        opened.expire_all()
        assert {profile.id for profile in made} == {STRAY, str(other)}
        opened.rollback()

    session(database, work)


# Every table of profiles by its key, and rows that cannot stay in it.
SHAPES = {
    "id": "create table public.user_profiles (id uuid primary key, display_name text)",
    "id, referring": "create table public.user_profiles (id uuid primary key, display_name text);"
    " alter table public.user_profiles add foreign key (id) references auth.users not valid",
    "id, following": "create table public.user_profiles (id uuid primary key, display_name text);"
    " alter table public.user_profiles add foreign key (id) references auth.users on delete cascade not valid",
    "id, of text": "create table public.user_profiles (id text primary key, display_name text)",
    "id, without a key": "create table public.user_profiles (id uuid, display_name text)",
    "user_id alone": "create table public.user_profiles (user_id uuid primary key, display_name text)",
    "user_id alone, without a key": "create table public.user_profiles (user_id uuid, display_name text)",
    "user_id of text": "create table public.user_profiles (user_id text, display_name text)",
    "both": "create table public.user_profiles (id uuid primary key default gen_random_uuid(), user_id uuid, display_name text)",
    "both, unique": "create table public.user_profiles (id uuid primary key default gen_random_uuid(), user_id uuid unique, display_name text)",
    "a number beside user_id": "create table public.user_profiles (id bigserial primary key, user_id uuid, display_name text)",
    "legacy user_id": "create table public.user_profiles (id uuid primary key, user_id uuid, display_name text)",
    "another name": "create table public.collectors (collector_id uuid primary key, display_name text)",
    "another name, without a key": "create table public.collectors (collector_id uuid, display_name text)",
}  # fmt: skip
STAYS = ["id, following", "user_id alone", "both", "another name, without a key"]


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[] if shape in STAYS else pytest.mark.slow) for shape in SHAPES]
)
def test_every_row_that_cannot_stay_goes_down_again(application, shape):
    table = re.search(r"public\.\w+", SHAPES[shape])[0]
    owner = (
        "collector_id"
        if "collectors" in table
        else "user_id"
        if re.search(r"\buser_id\b.*display", SHAPES[shape])
        else "id"
    )
    owner = "id" if shape == "legacy user_id" else owner
    loose = "primary key" not in SHAPES[shape] or shape in {"both", "a number beside user_id"}
    database = application(
        f"{SHAPES[shape]}; create table public.notes (about text);"
        f"insert into {table} ({owner}, display_name) values ('{ADA}', 'Ada'), ('{BOB}', 'Bob')"
    )
    database.administrator.script(
        "set local session_replication_role = replica;"
        f"insert into {table} ({owner}, display_name) values ('{STRAY}', 'no user');"
        + f"insert into {table} ({owner}, display_name) values ('{ADA}', 'a second row'), (null, 'nobody')"
        * loose
    )
    found, rows = look(database), database.run(f"select t::text from {table} as t order by 1")
    options = {"adopt_table": "collectors"} if "collectors" in table else {}
    database.upgrade(**options, answers={"quarantine:public.user_profiles": "quarantine"})
    reasons = {row.reason for row in database.run("select reason from profiles_internal.quarantine")}
    assert len(reasons) == (3 if loose else 1)
    assert database.value("select count(*) from public.user_profiles") == 2
    assert drift(database) == []
    new = database.sign_up("new@example.org")
    assert database.profile(new) is not None
    database.run("delete from auth.users where id = :id", id=new)
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}
    assert database.run(f"select t::text from {table} as t order by 1") == rows


# Where the application's trigger stays on auth.users, the trial of sign-ups makes no users: their foreign keys refuse its rows.
ACTING = (
    "create table public.arrivals (user_id uuid); create function public.note_arrival() returns trigger language plpgsql security definer"
    " set search_path = '' as $$ begin insert into public.arrivals values (new.id); return new; end $$;"
    "create trigger note_arrival after insert on auth.users for each row execute function public.note_arrival();"
)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["id", "user_id", "collector_id"])
def test_a_key_that_refers_to_users_is_no_obstacle_to_sign_ups_whatever_its_name(application, key):
    database = application("create table public.user_profiles (display_name text)")
    database.script(
        f"alter table public.user_profiles add {key} uuid primary key constraint whose_it_is references auth.users on delete cascade;"
        f"insert into public.user_profiles ({key}) values ('{ADA}'), ('{BOB}')"
    )
    database.administrator.script(ACTING)
    found = look(database)
    database.upgrade()
    assert database.profile(database.sign_up("new@example.org")) is not None
    assert database.administrator.value("select count(*) from public.arrivals") == 1
    database.downgrade("base", allow_data_loss="yes")
    assert changed(found, look(database)) == {}


def test_a_key_that_refers_to_one_certain_user_is_an_obstacle_to_sign_ups(application):
    database = application(
        "create table public.user_profiles (user_id uuid primary key references auth.users on delete cascade);"
        f"alter table public.user_profiles add invited_by uuid default '{STRAY}' references auth.users;"
        f"insert into public.user_profiles values ('{ADA}', '{BOB}')"
    )
    with pytest.raises(
        MigrationFailed,
        match=r"left without a row in public\.user_profiles, because of constraint user_profiles_invited_by_fkey",
    ):
        database.upgrade()


@pytest.mark.slow
def test_losing_the_triggers_that_carry_the_user_is_found_and_mended(application):
    database = application(BOOTSTRAP)
    database.upgrade()
    database.script(
        "drop trigger carry_user_id on public.user_profiles; alter table public.user_profiles disable trigger carry_user_id_change"
    )
    assert len(drift(database)) == 1
    with database.engine.connect() as connection:
        assert any("carry_user_id" in finding.message for finding in examine(connection).problems)
    assert profiles_schema(database.url, "repair").returncode == 0
    assert drift(database) == []


@pytest.mark.slow
def test_a_user_id_that_is_another_user_than_the_key_is_refused(application):
    database = application(f"""
        create table public.user_profiles (id uuid primary key references auth.users, user_id uuid);
        insert into public.user_profiles values ('{ADA}', '{ADA}'), ('{BOB}', '{ADA}')
    """)
    (stopper,) = planned(database).stoppers
    assert (stopper.object, stopper.rows) == ("public.user_profiles.user_id", 1)
    assert stopper.remedy.endswith("alter table public.user_profiles rename column user_id to former_user_id;")
    database.script("alter table public.user_profiles rename column user_id to former_user_id")
    database.upgrade()
    assert drift(database) == []
