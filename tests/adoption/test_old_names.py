"""Statements written for a table that was taken over: the view `profiles`, and schema `profiles_compat`."""

import threading
import uuid
from io import StringIO
from pathlib import Path

import pytest
from pytest_postgresql import factories
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.migrations import expected
from profiles_schema.schema.catalog import Key
from profiles_schema.schema.traits import trait_columns
from support import Database, Server, drift, profiles_schema, snapshot
from support.hosted import open_by_default, owned
from support.trait_columns import add_columns_sql

HERE = Path(__file__).parent
OWNER = "project_owner"
REPORTER = "old_names_reporter"
BOT = "old_names_bot"

ROLE = """
do $role$
begin
  if not exists (select from pg_roles where rolname = '{0}') then
    create role {0} login;
  end if;
exception when duplicate_object or unique_violation then
  null;
end
$role$;
"""


def refused(error):
    return error.value.orig.pgcode


def findings(database):
    with database.engine.connect() as connection:
        return expected.compare(connection)[1]


def columns_of(database, relation):
    return database.run(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = cast(:relation as regclass) and attnum > 0 and not attisdropped order by attnum",
        relation=relation,
    )


# The view profiles

PROFILES = """
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text,
  full_name text not null,
  bio text,
  key_metrics jsonb,
  website text,
  created_at timestamp with time zone default now(),
  updated_at timestamp with time zone default now()
);
alter table public.profiles enable row level security;
create policy "Anybody can read" on public.profiles for select using (true);
create policy "Users can write their own" on public.profiles for all using (auth.uid() = id) with check (auth.uid() = id);
insert into public.profiles (id, email, full_name, website)
select id, email, initcap(split_part(email, '@', 1)), 'https://example.org/' || id from auth.users;
"""
ANSWERS = {"policy:public.user_profiles:Anybody can read": "replace"}
OLD_COLUMNS = ["id", "email", "full_name", "bio", "key_metrics", "website", "created_at", "updated_at"]

# As PostgREST writes an upsert: it sets every column that came, the key as well.
UPSERT = (
    "insert into profiles (id, full_name, bio, updated_at) values (:id, :name, :bio, '2001-01-01')"
    " on conflict (id) do update set id = excluded.id, full_name = excluded.full_name, bio = excluded.bio,"
    " updated_at = excluded.updated_at returning *"
)


def _adopt_profiles(host, port, user, dbname, password, autocommit):
    open_by_default(host, port, user, dbname, password, autocommit)
    server = Server(host=host, port=port, user=user, options="", dbname=dbname)
    administrator = Database(server, dbname)
    administrator.script(
        ROLE.format(REPORTER)
        + "insert into auth.users (id, email, email_confirmed_at) select gen_random_uuid(), n || '@example.org', now()"
        " from unnest(array['ada', 'bob', 'cleo']) as n"
    )
    owner = Database(server, dbname, OWNER)
    owner.script(PROFILES + f"grant select, update (full_name) on public.profiles to {REPORTER};")
    owner.upgrade(adopt_table="profiles", answers=ANSWERS)


profiles_template = factories.postgresql_noproc(depends_on="server", dbname="adopted_profiles", load=[_adopt_profiles])
_profiles_client = factories.postgresql("profiles_template")


@pytest.fixture
def marketing(server, _profiles_client):
    """A hosted project, open by default, whose profiles were in a table named profiles."""
    return owned(server, _profiles_client.info.dbname)


def person(database, name="ada"):
    return database.administrator.value("select id from auth.users where email = :email", email=f"{name}@example.org")


def without_profile(database, email="new@example.org"):
    user = database.administrator.sign_up(email, raw_user_meta_data={"full_name": "New"})
    database.run("delete from public.user_profiles where user_id = :id", id=user)
    return user


def test_the_view_has_the_old_columns_in_their_order_and_the_rows(marketing):
    assert [name for name, _ in columns_of(marketing, "public.profiles")] == OLD_COLUMNS
    rows = marketing.run("select * from public.profiles order by email")
    assert [(row.email, row.full_name) for row in rows] == [
        (f"{n}@example.org", n.title()) for n in ("ada", "bob", "cleo")
    ]
    assert [row.website for row in rows] == [f"https://example.org/{row.id}" for row in rows]


def test_a_column_of_the_application_goes_on_being_written_through_the_view(marketing):
    ada = person(marketing)
    write = "update profiles set website = 'https://ada.example' where id = auth.uid() returning website"
    with marketing.acting_as("authenticated", ada) as connection:
        assert connection.scalar(text(write)) == "https://ada.example"
    new = without_profile(marketing)
    with marketing.acting_as("authenticated", new) as connection:
        insert = "insert into profiles (id, website) values (auth.uid(), 'https://new.example') returning website"
        assert connection.scalar(text(insert)) == "https://new.example"


def test_a_person_sees_the_own_row_through_the_view(marketing):
    ada = person(marketing)
    with marketing.acting_as("authenticated", ada) as connection:
        assert connection.scalar(text("select full_name from profiles where id = auth.uid()")) == "Ada"
        assert connection.scalar(text("select count(*) from profiles")) == 1


@pytest.mark.parametrize("role", ["authenticated", "service_role", "owner"])
def test_an_upsert_changes_the_row_that_is_there(marketing, role):
    ada = person(marketing)
    before = marketing.profile(ada)
    with marketing.acting_as(OWNER if role == "owner" else role, ada) as connection:
        row = connection.execute(text(UPSERT), {"id": ada, "name": "Ada L.", "bio": "sums"}).one()
        assert (row.id, row.email, row.full_name, row.bio) == (ada, "ada@example.org", "Ada L.", "sums")
        assert row.updated_at > before.updated_at
        connection.exec_driver_sql("reset role")
        after = connection.execute(text("select * from user_profiles where user_id = :id"), {"id": ada}).one()
    assert (after.id, after.username, after.email_verified) == (ada, before.username, before.email_verified)


@pytest.mark.parametrize("role", ["authenticated", "service_role", "owner"])
def test_an_upsert_makes_the_row_that_is_missing_as_a_sign_up_would(marketing, role):
    user = without_profile(marketing)
    with marketing.acting_as(OWNER if role == "owner" else role, user) as connection:
        row = connection.execute(text(UPSERT), {"id": user, "name": "Newt", "bio": None}).one()
        assert (row.id, row.email, row.full_name) == (user, "new@example.org", "Newt")
        if role == "authenticated":
            assert row.updated_at.year > 2001
        connection.exec_driver_sql("reset role")
        made = connection.execute(text("select * from user_profiles where user_id = :id"), {"id": user}).one()
    assert (made.id, made.username, made.role) == (user, "new", "user")


def test_an_insert_gives_the_next_name_where_the_first_is_taken(marketing):
    user = without_profile(marketing, "ada@elsewhere.example")
    marketing.run("insert into profiles (id, full_name) values (:id, 'Another Ada')", id=user)
    assert marketing.profile(user).username == f"ada_{user.hex[-8:]}"


def test_a_row_that_is_there_is_not_inserted_again(marketing):
    ada = person(marketing)
    with pytest.raises(DBAPIError) as error:
        marketing.run("insert into profiles (id, full_name) values (:id, 'Ada')", id=ada)
    assert refused(error) == "23505"
    assert (
        marketing.run(
            "insert into profiles (id, full_name) values (:id, 'x') on conflict do nothing returning 1", id=ada
        )
        == []
    )


def test_upserts_at_once_make_one_profile(marketing):
    user = without_profile(marketing)
    failures, barrier = [], threading.Barrier(4)

    def upsert(number):
        with marketing.engine.connect() as connection:
            barrier.wait()
            try:
                connection.execute(text(UPSERT), {"id": user, "name": f"n{number}", "bio": None})
                connection.commit()
            except DBAPIError as error:
                failures.append(error)

    threads = [threading.Thread(target=upsert, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert marketing.value("select count(*) from profiles where id = :id", id=user) == 1


ATTACKS = {
    "another's row, by insert": ("insert into profiles (id, full_name) values (:other, 'me')", "42501"),
    "another's row, by upsert": (
        "insert into profiles (id, full_name) values (:other, 'me') on conflict (id) do update set full_name = excluded.full_name",
        "42501",
    ),
    "another's row, from the own": ("update profiles set id = :other where id = auth.uid()", "42501"),
    "an email": ("update profiles set email = 'x@example.org' where id = auth.uid()", "42501"),
    "an email, by insert": ("insert into profiles (id, email, full_name) values (:own, 'x@example.org', 'x')", "42501"),
    "a role, behind the view": ("insert into user_profiles (user_id, role) values (:own, 'admin')", "42501"),
    "an id, behind the view": ("insert into user_profiles (id, user_id) values (gen_random_uuid(), :own)", "23514"),
    "a role, by update": ("update user_profiles set role = 'admin' where user_id = auth.uid()", "42501"),
    "the row away": ("delete from profiles where id = auth.uid()", "42501"),
    "all rows away": ("truncate user_profiles", "42501"),
    "a known name": ("insert into user_profiles (user_id, username) values (:own, 'admin')", "23514"),
    "a known name, behind the trigger": (
        "insert into user_profiles (user_id, username)"
        " select :own, case when set_config('profiles_internal.creating', 'yes', true) = 'yes' then 'admin' end",
        "23514",
    ),
}  # fmt: skip


@pytest.mark.parametrize("has_profile", [True, False], ids=["with a profile", "without one"])
def test_a_person_cannot_write_what_is_not_theirs(marketing, has_profile):
    own = person(marketing) if has_profile else without_profile(marketing)
    codes = {}
    for attack, (statement, _) in ATTACKS.items():
        with marketing.acting_as("authenticated", own) as connection:
            try:
                done = connection.execute(text(statement), {"own": own, "other": person(marketing, "bob")})
                codes[attack] = f"{done.rowcount} rows"
            except DBAPIError as error:
                codes[attack] = error.orig.pgcode
    wanted = {attack: code for attack, (_, code) in ATTACKS.items()}
    if not has_profile:
        wanted["another's row, from the own"] = "0 rows"
    assert codes == wanted


def test_a_person_changes_no_other_row(marketing):
    with marketing.acting_as("authenticated", person(marketing)) as connection:
        assert connection.execute(text("update profiles set full_name = 'mine'")).rowcount == 1


def test_anon_sees_and_writes_nothing(marketing):
    with marketing.acting_as("anon") as connection:
        assert connection.execute(text("select * from profiles")).all() == []
        assert connection.execute(text("update profiles set website = 'x'")).rowcount == 0
    with pytest.raises(DBAPIError) as error, marketing.acting_as("anon") as connection:
        connection.execute(text(UPSERT.replace("returning *", "")), {"id": person(marketing), "name": "x", "bio": None})
    assert refused(error) == "42501"


def test_a_role_of_the_application_keeps_its_rights(marketing):
    marketing.script(f'create policy "Reporters read all" on user_profiles for select to {REPORTER} using (true)')
    with marketing.administrator.acting_as(REPORTER) as connection:
        assert connection.scalar(text("select count(*) from profiles")) == 3
        with pytest.raises(DBAPIError) as error:
            connection.execute(text("update profiles set bio = 'x'"))
        assert refused(error) == "42501"
    with marketing.administrator.acting_as(REPORTER) as connection:
        # The right is there; a policy for it is not.
        assert connection.execute(text("update profiles set full_name = 'x'")).rowcount == 0


def test_what_belongs_to_the_view_is_no_drift_there_and_exists_nowhere_else(marketing, database):
    assert drift(marketing) == []
    assert findings(marketing) == {}
    elsewhere = snapshot(database)
    extra = {key for key, value in snapshot(marketing).items() if elsewhere.get(key) != value}
    beside_a_view = set(expected.load()["OWN_INSERTS"])
    assert {
        Key("policy", "public", "user_profiles", "Owners can make their own profile"),
        Key("grant", "public", "user_profiles", "user_id", "authenticated"),
    } <= beside_a_view
    assert extra & beside_a_view == beside_a_view
    assert not [key for key in elsewhere if key in beside_a_view and key.kind != "grant"]
    assert database.value("select to_regclass('public.profiles')") is None


def test_losing_what_belongs_to_the_view_is_found(marketing):
    marketing.script(
        'drop policy "Owners can make their own profile" on user_profiles; drop trigger fill_profile_of_view on user_profiles;'
        "revoke insert on user_profiles from authenticated"
    )
    named = {str(key) for key in findings(marketing) if key.kind != "grant"}
    assert named == {
        "policy public.user_profiles.Owners can make their own profile",
        "trigger public.user_profiles.fill_profile_of_view",
    }
    rights = [line for line in drift(marketing) if line.startswith("authenticated has ")]
    assert rights
    assert len(drift(marketing)) == len(rights) + 2


def test_sign_up_goes_on_beside_the_view(marketing):
    user = marketing.administrator.sign_up("dora@example.org", raw_user_meta_data={"full_name": "Dora"})
    profile = marketing.profile(user)
    assert (profile.id, profile.username, profile.display_name) == (user, "dora", "Dora")
    assert marketing.value("select full_name from profiles where id = :id", id=user) == "Dora"


def test_downgrade_gives_the_table_its_name_and_what_was_written_through_the_view(marketing):
    ada, user = person(marketing), without_profile(marketing)
    for someone, name in ((ada, "Ada L."), (user, "Newt")):
        marketing.run(UPSERT, id=someone, name=name, bio="since")
    marketing.downgrade("base", allow_data_loss="yes")
    assert marketing.value("select relkind from pg_class where oid = 'public.profiles'::regclass") == "r"
    assert [name for name, _ in columns_of(marketing, "public.profiles")] == OLD_COLUMNS
    rows = {row.id: row for row in marketing.run("select * from profiles where bio = 'since'")}
    assert {row_id: row.full_name for row_id, row in rows.items()} == {ada: "Ada L.", user: "Newt"}
    marketing.upgrade(adopt_table="profiles", answers=ANSWERS)
    assert drift(marketing) == []
    assert marketing.value("select full_name from profiles where id = :id", id=user) == "Newt"


# Schema profiles_compat

BOT_TABLES = (
    """
create table public.user_profiles (
  id text primary key,
  user_id text not null unique,
  username text not null,
  display_name text,
  first_seen_at bigint not null,
  last_interaction_at bigint not null,
  last_analyzed_at bigint,
  last_photo_analyzed_at bigint,
  message_count integer default 0,
  created_at bigint,
  updated_at bigint,
  avatar_url text,
  bio text,
  preferences jsonb,
  xp smallint default 5
);
"""
    + add_columns_sql()
    + """;
create index idx_user_profiles_user_id on public.user_profiles (user_id);
create table public.user_analysis_history (
  id text primary key, user_id text references public.user_profiles (user_id) on delete cascade, analysis_timestamp bigint
);
insert into public.user_profiles (
  id, user_id, username, display_name, first_seen_at, last_interaction_at, message_count, created_at, updated_at, bio,
  openness_score, archetype_confidence, primary_interests, feelings_json
)
select
  'p' || g, (234567890123456780 + g)::text, 'Name ' || g, 'Name №' || g, 1600000000 + g, 1600000000 + g, g,
  case g when 1 then 0 when 2 then 99999999999999999 else 1600000000 + g end, 1600000000 + g, repeat('x', 5000 * (g = 7)::integer),
  g, case g when 4 then '-0' when 5 then 'NaN' else g / 3.0 end::real, jsonb_build_array(g), case when g = 6 then 'null'::jsonb end
from generate_series(1, 20) as g;
insert into public.user_analysis_history select 'h' || g, (234567890123456780 + g)::text, g from generate_series(1, 20) as g;
-- What the old program would see, and the table that it knew.
create table public.before as select * from public.user_profiles;
"""
    + ROLE.format(BOT)
    + f"grant select, insert, update, delete on public.user_profiles to {BOT}; grant select on public.user_analysis_history to {BOT};"
)


def _adopt_a_bot(host, port, user, dbname, password, autocommit):
    database = Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname)
    database.script(BOT_TABLES)
    database.upgrade(backfill="defer")


bot_template = factories.postgresql_noproc(depends_on="server", dbname="adopted_bot", load=[_adopt_a_bot])
_bot_client = factories.postgresql("bot_template")


@pytest.fixture
def expanded(server, _bot_client):
    """A bot's database after the upgrade; its wide columns are there, and no row is converted."""
    return Database(server, _bot_client.info.dbname)


def contract(database):
    database.script(
        "update user_profiles set user_id = user_id; select profiles_internal.convert_traits((select array_agg(user_id) from user_profiles));"
        "select profiles_internal.finish_conversion(); select profiles_internal.contract_traits()"
    )


@pytest.fixture(params=["expanded", "contracted"])
def bot(request, expanded):
    """The same with wide columns, and with JSON alone."""
    if request.param == "contracted":
        contract(expanded)
        assert expanded.value("select count(*) from profiles_internal.legacy_columns where state = 'contracted'") == 106
    return expanded


class Program:
    """The old program: its own role, its own search path, one transaction per statement."""

    def __init__(self, database, role=BOT):
        self.database, self.role = database, role

    def run(self, statement, **values):
        with self.database.engine.begin() as connection:
            connection.exec_driver_sql("set local search_path = profiles_compat, public")
            connection.exec_driver_sql(f"set local role {self.role}")
            result = connection.execute(text(statement), values)
            return result.mappings().all() if result.returns_rows else result.rowcount

    def one(self, statement, **values):
        (row,) = self.run(statement, **values)
        return dict(row)


INSERT = (
    "insert into user_profiles (id, user_id, username, display_name, first_seen_at, last_interaction_at, created_at, updated_at,"
    " openness_score, primary_interests) values (:id, :user_id, :username, 'Zoë', 1700000000, 1700000001, 1700000002, 1700000003, 44,"
    " '[\"a\"]') returning *"
)
SOMEBODY = "234567890123456783"


def test_the_old_shape_is_there_with_its_types_and_its_order(bot):
    assert columns_of(bot, "profiles_compat.user_profiles") == columns_of(bot, "public.before")
    assert len(columns_of(bot, "profiles_compat.user_profiles")) == 15 + 106


def test_every_old_value_reads_as_before_but_those_that_a_rule_changed(bot):
    names = [name for name, _ in columns_of(bot, "public.before")]
    different = bot.run(
        " union all ".join(
            f"select '{name}' as name, b.id from public.before as b join profiles_compat.user_profiles as v on v.id = b.id"
            f" where row(v.{name})::record *<> row(b.{name})::record"
            for name in names
        )
        + " order by 1, 2"
    )
    changed = {}
    for name, row_id in different:
        changed.setdefault(name, []).append(row_id)
    # Usernames are made to fit, a bio is cut, what was NULL in a required column is the default. The epoch that no time
    # can hold reads as it was.
    assert {name: len(rows) for name, rows in changed.items()} == {"username": 20, "bio": 1, "preferences": 20}
    assert changed["bio"] == ["p7"]
    assert bot.value("select count(*) from profiles_compat.user_profiles") == 20


def test_insert_with_an_id_makes_a_user_and_writes_every_column(bot):
    program = Program(bot)
    row = program.one(INSERT, id="mine", user_id="42", username="zoe")
    given = {"id": "mine", "user_id": "42", "username": "zoe", "display_name": "Zoë", "first_seen_at": 1700000000,
             "last_interaction_at": 1700000001, "created_at": 1700000002, "openness_score": 44, "primary_interests": ["a"]}  # fmt: skip
    assert {name: row[name] for name in given} == given
    assert row == program.one("select * from user_profiles where user_id = '42'")
    profile = bot.run("select * from public.user_profiles where external_id = '42'")[0]
    assert (profile.id, profile.personality_traits) == ("mine", {"bigFive": {"openness": 44}})
    assert profile.behavioral_metrics == {"interests": {"primary": ["a"]}}
    assert bot.value("select count(*) from auth.users where id = :id", id=profile.user_id) == 1
    assert bot.value("select count(*) from public.user_progress where user_id = :id", id=profile.user_id) == 1


def test_insert_without_an_id_returns_the_new_one_and_the_defaults(bot):
    row = Program(bot).one(
        "insert into user_profiles (user_id, username, first_seen_at, last_interaction_at) values ('43', 'yan', 1, 2) returning *"
    )
    assert uuid.UUID(row["id"])
    assert (row["message_count"], row["xp"], row["appearance_confidence"], row["bio"]) == (0, 5, 0.0, None)
    assert row["created_at"] > 1700000000
    assert bot.value("select user_id::text from public.user_profiles where external_id = '43'") == row["id"]


def test_copy_goes_in_as_well(bot):
    raw = bot.engine.raw_connection()
    try:
        with raw.cursor() as cursor:
            cursor.execute(f"set role {BOT}")
            cursor.execute("set search_path = profiles_compat, public")
            cursor.copy_expert(
                "copy user_profiles (id, user_id, username, first_seen_at, last_interaction_at) from stdin",
                StringIO("c1\t61\tcopied\t1\t2\nc2\t62\tcopied\t1\t2\n"),
            )
        raw.commit()
    finally:
        raw.close()
    assert bot.value("select count(distinct username) from public.user_profiles where id in ('c1', 'c2')") == 2


def test_update_writes_what_changed_and_nothing_else(bot):
    program = Program(bot)
    before = program.one("select * from user_profiles where user_id = :id", id=SOMEBODY)
    row = program.one(
        "update user_profiles set openness_score = 77, dominant_archetype = 'sage', archetype_confidence = null,"
        " last_interaction_at = 1800000000, message_count = message_count + 1, display_name = 'D', xp = xp + 1, created_at = 1500000000"
        " where user_id = :id returning *",
        id=SOMEBODY,
    )
    wanted = {"openness_score": 77, "dominant_archetype": "sage", "archetype_confidence": None, "last_interaction_at": 1800000000,
              "message_count": 4, "display_name": "D", "xp": 6, "created_at": 1500000000}  # fmt: skip
    assert {name: row[name] for name in row if row[name] != before[name] and name != "updated_at"} == wanted
    traits = bot.value("select personality_traits from public.user_profiles where external_id = :id", id=SOMEBODY)
    assert traits["bigFive"]["openness"] == 77
    assert traits["archetypes"] == {"dominant": "sage"}


def test_every_trait_is_written_and_read_back(bot):
    program = Program(bot)
    values = {
        "text": "'Zoë 🎈 \"'",
        "integer": "'-2147483648'",
        "bigint": "9007199254740993",
        "real": "'-0'",
        "jsonb": "'null'",
    }
    assert {trait.data_type for trait in trait_columns()} <= set(values)
    wanted = ", ".join(f"{values[trait.data_type]}::{trait.data_type}" for trait in trait_columns())
    names = ", ".join(trait.name for trait in trait_columns())
    program.run(
        "update user_profiles set "
        + ", ".join(f"{t.name} = {values[t.data_type]}" for t in trait_columns())
        + " where user_id = :id",
        id=SOMEBODY,
    )
    same = f"select row({names})::record *= row({wanted})::record from user_profiles where user_id = :id"
    assert program.one(same, id=SOMEBODY) == {"?column?": True}
    program.run(
        "update user_profiles set " + ", ".join(f"{t.name} = null" for t in trait_columns()) + " where user_id = :id",
        id=SOMEBODY,
    )
    nothing = f"select row({names})::record *= row({', '.join(f'null::{t.data_type}' for t in trait_columns())})::record from user_profiles where user_id = :id"
    assert program.one(nothing, id=SOMEBODY) == {"?column?": True}


def test_delete_takes_the_user_and_the_history_along(bot):
    program = Program(bot)
    user = bot.value("select user_id from public.user_profiles where external_id = :id", id=SOMEBODY)
    assert program.one("delete from user_profiles where user_id = :id returning id", id=SOMEBODY) == {"id": "p3"}
    assert bot.value("select count(*) from auth.users where id = :id", id=user) == 0
    assert bot.value("select count(*) from user_analysis_history where user_id = :id", id=SOMEBODY) == 0
    assert program.run("delete from user_profiles where user_id = :id", id=SOMEBODY) == 0


def test_joins_locks_and_conditions_work(bot):
    program = Program(bot)
    row = program.one(
        "select h.id, p.username, p.openness_score from user_analysis_history as h join user_profiles as p using (user_id)"
        " where p.user_id = :id and p.openness_score between 1 and 5 for update of p",
        id=SOMEBODY,
    )
    assert row == {"id": "h3", "username": "name3", "openness_score": 3}
    moved = program.run(
        "update user_profiles as p set last_analyzed_at = h.analysis_timestamp from user_analysis_history as h where h.user_id = p.user_id"
    )
    assert moved == 20
    assert bot.value("select sum(last_analyzed_at) from public.user_profiles") == 210


def test_reading_one_row_uses_the_index(bot):
    bot.run(
        "insert into public.user_profiles (user_id, username, external_id) select gen_random_uuid(), 'x', 'y' where false"
    )
    with bot.engine.connect() as connection:
        connection.exec_driver_sql("set enable_seqscan = off")
        plan = (
            connection.execute(text("explain select * from profiles_compat.user_profiles where user_id = '1'"))
            .scalars()
            .all()
        )
    assert "uq_user_profiles_external_id" in "\n".join(plan)


def test_two_counts_at_once_both_count(bot):
    first, second = bot.engine.connect(), bot.engine.connect()
    count = "update profiles_compat.user_profiles set message_count = message_count + 1, last_interaction_at = {0} where user_id = '{1}'"
    first.exec_driver_sql(count.format(1, SOMEBODY))
    done = []

    def wait():
        second.exec_driver_sql(count.format(2, SOMEBODY))
        second.commit()
        done.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.3)
    assert done == []
    first.commit()
    thread.join()
    first.close()
    second.close()
    assert Program(bot).one("select message_count, last_interaction_at from user_profiles where user_id = :id", id=SOMEBODY) == {
        "message_count": 5, "last_interaction_at": 2,
    }  # fmt: skip


def test_a_change_of_one_column_does_not_take_back_anothers_of_the_same_moment(bot):
    first, second = bot.engine.connect(), bot.engine.connect()
    update = "update profiles_compat.user_profiles set {0} where user_id = '{1}'"
    first.exec_driver_sql(update.format("openness_score = 91", SOMEBODY))
    thread = threading.Thread(
        target=lambda: (
            second.exec_driver_sql(update.format("bio = 'two', trust_level = 2", SOMEBODY)),
            second.commit(),
        )
    )
    thread.start()
    thread.join(0.2)
    first.commit()
    thread.join()
    first.close()
    second.close()
    row = Program(bot).one(
        "select openness_score, bio, trust_level from user_profiles where user_id = :id", id=SOMEBODY
    )
    assert row == {"openness_score": 91, "bio": "two", "trust_level": 2}


FITS = [
    ("username", "Zoë 🎈 X", "zox"),
    ("username", "name4", "name4_{tail}"),
    ("username", "Name 3", "name3"),
    ("username", "…", "user_{tail}"),
    ("username", "admin", "admin"),
    ("bio", "x" * 4001, "x" * 4000),
    ("display_name", "é" * 201, "é" * 200),
    ("avatar_url", "ftp://example.org", None),
    ("avatar_url", "https://example.org/a.png", "https://example.org/a.png"),
    ("message_count", -5, 0),
    ("message_count", None, 0),
    ("created_at", 1500000000, 1500000000),
    ("created_at", None, 1500000000),
    ("created_at", 99999999999999999, None),
    ("first_seen_at", None, 1600000003),
]


def test_what_the_rules_refuse_is_made_to_fit(bot):
    program = Program(bot)
    tail = bot.value("select user_id from public.user_profiles where external_id = :id", id=SOMEBODY).hex[-8:]
    for name, value, wanted in FITS:
        row = program.one(
            f"update user_profiles set {name} = :value where user_id = :id returning {name}", value=value, id=SOMEBODY
        )
        assert row == {name: wanted.format(tail=tail) if isinstance(wanted, str) else wanted}, (name, value)


def test_preferences_that_are_no_object_become_one(bot):
    program = Program(bot)
    for value in ("[1]", '"x"', "null", '{"a": "' + "x" * 70000 + '"}'):
        row = program.one(
            "update user_profiles set preferences = cast(:v as jsonb) where user_id = :id returning preferences",
            v=value,
            id=SOMEBODY,
        )
        assert row == {"preferences": {}}


def test_names_that_meet_at_once_are_both_kept_apart(bot):
    failures = []

    def join(number):
        try:
            Program(bot).run(INSERT, id=f"t{number}", user_id=str(number), username="Same Name")
        except DBAPIError as error:
            failures.append(error)

    threads = [threading.Thread(target=join, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert bot.value("select count(distinct username) from public.user_profiles where username ~ '^samename(_|$)'") == 6


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("insert into user_profiles (id, user_id, username) values ('x', :id, 'n')", "23505"),
        ("insert into user_profiles (id, user_id, username) values ('p4', '44', 'n')", "23505"),
        ("insert into user_profiles (id, username) values ('x', 'n')", "23502"),
        ("update user_profiles set user_id = null where user_id = :id", "23502"),
        ("update user_profiles set username = null where user_id = :id", "23502"),
        ("update user_profiles set user_id = '1' where user_id = :id", "23503"),
        (
            "insert into user_profiles (id, user_id, username) values ('x', '44', 'n') on conflict (user_id) do nothing",
            "42P10",
        ),
        ("insert into user_profiles (id, user_id, username) values ('x', :id, 'n') on conflict do nothing", "23505"),
    ],
)
def test_what_the_old_table_refused_is_refused_and_so_is_on_conflict(bot, statement, code):
    with pytest.raises(DBAPIError) as error:
        Program(bot).run(statement, id=SOMEBODY)
    assert refused(error) == code
    if "on conflict do" in statement:
        assert "ON CONFLICT does not work on this view" in str(error.value)


def test_the_statements_that_replace_on_conflict_work(bot):
    program = Program(bot)
    upsert = (
        "with seen as (update user_profiles set message_count = message_count + 1 where user_id = :id returning 1)"
        " insert into user_profiles (id, user_id, username, first_seen_at, last_interaction_at, message_count)"
        " select :row_id, :id, 'n', 1, 2, 1 where not exists (select from seen)"
    )
    assert program.run(upsert, row_id="n1", id="77") == 1
    assert program.run(upsert, row_id="n1", id="77") == 0
    assert program.one("select message_count from user_profiles where user_id = '77'") == {"message_count": 2}


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", REPORTER])
def test_nobody_else_gets_in(bot, role):
    bot.script(ROLE.format(REPORTER))
    for statement in (
        "select 1 from profiles_compat.user_profiles",
        "insert into profiles_compat.user_profiles (user_id) values ('1')",
        "delete from profiles_compat.user_profiles",
        "select profiles_compat.write_user_profile()",
    ):
        with pytest.raises(DBAPIError) as error:
            Program(bot, role).run(statement)
        assert refused(error) == "42501"


def test_the_bot_reaches_nothing_behind_the_view_and_makes_no_table_before_it(bot):
    for statement in (
        "delete from auth.users",
        "select profiles_internal.make_user(null, null, '1', null, null)",
        "create table if not exists user_analysis_history (id text)",
        "create table profiles_compat.t ()",
    ):
        with pytest.raises(DBAPIError) as error:
            Program(bot).run(statement)
        assert refused(error) == "42501"


def test_a_column_of_the_application_is_written_by_a_role_that_it_is_granted_to_on_the_old_shape(bot):
    bot.script(
        ROLE.format(REPORTER)
        + f"grant usage on schema profiles_compat to {REPORTER};"
        + f"grant select (user_id, xp), update (xp) on profiles_compat.user_profiles to {REPORTER}"
    )
    reporter = Program(bot, REPORTER)
    assert reporter.one(f"update user_profiles set xp = xp + 1 where user_id = '{SOMEBODY}' returning xp") == {"xp": 6}
    with pytest.raises(DBAPIError) as denied:
        reporter.run(f"update user_profiles set bio = 'x' where user_id = '{SOMEBODY}'")
    assert refused(denied) == "42501"


def test_not_even_the_owner_may_create_in_the_schema(bot):
    rights = bot.run(
        "select grantee::regrole::text, privilege_type from pg_namespace cross join lateral aclexplode(nspacl)"
        " where nspname = 'profiles_compat' order by 1, 2"
    )
    owner = bot.value("select nspowner::regrole::text from pg_namespace where nspname = 'profiles_compat'")
    assert rights == sorted([(BOT, "USAGE"), (owner, "USAGE")])


def test_the_rights_are_those_of_the_old_table(expanded):
    def rights(relation):
        return expanded.run(
            "select grantee::regrole::text, privilege_type from pg_class cross join lateral aclexplode(relacl)"
            " where oid = cast(:relation as regclass) and grantee <> relowner order by 1, 2", relation=relation,
        )  # fmt: skip

    assert rights("profiles_compat.user_profiles") == [(BOT, kind) for kind in ("DELETE", "INSERT", "SELECT", "UPDATE")]


def test_the_schema_is_no_drift(bot):
    assert drift(bot) == []
    assert findings(bot) == {}


def test_the_view_goes_on_while_the_columns_go_and_come_back(expanded):
    program = Program(expanded)
    count = "update user_profiles set openness_score = openness_score + 1 where user_id = :id returning openness_score"
    assert program.one(count, id=SOMEBODY) == {"openness_score": 4}
    for verb in (("normalize", "run"), ("normalize", "contract", "--now")):
        done = profiles_schema(expanded.url, *verb)
        assert done.returncode == 0, done.stdout + done.stderr
    assert program.one(count, id=SOMEBODY) == {"openness_score": 5}
    done = profiles_schema(expanded.url, "normalize", "restore")
    assert done.returncode == 0, done.stdout + done.stderr
    assert program.one(count, id=SOMEBODY) == {"openness_score": 6}
    assert expanded.value("select openness_score from public.user_profiles where external_id = :id", id=SOMEBODY) == 6


@pytest.mark.slow
def test_downgrade_takes_the_schema_away_and_keeps_what_was_written(bot):
    program = Program(bot)
    program.run(INSERT, id="mine", user_id="42", username="zoe")
    program.run("update user_profiles set trust_level = 9 where user_id = :id", id=SOMEBODY)
    bot.downgrade("0021_backfill_identity")
    assert bot.value("select to_regnamespace('profiles_compat')") is None
    bot.downgrade("base", allow_data_loss="yes")
    # Columns that were dropped come back behind the others.
    assert sorted(columns_of(bot, "public.user_profiles")) == sorted(columns_of(bot, "public.before"))
    row = bot.run("select * from public.user_profiles where user_id = '42'")[0]
    assert (row.id, row.username, row.created_at, row.openness_score) == ("mine", "zoe", 1700000002, 44)
    assert bot.value("select trust_level from public.user_profiles where user_id = :id", id=SOMEBODY) == 9
    bot.upgrade(backfill="defer")
    assert program.one("select openness_score from user_profiles where user_id = '42'") == {"openness_score": 44}


def test_downgrade_drops_nothing_of_the_applications(expanded):
    expanded.script("create view public.names as select username from profiles_compat.user_profiles")
    with pytest.raises(Exception, match=r"depend on: view public\.names"):
        expanded.downgrade("0021_backfill_identity")
    assert expanded.value("select count(*) from public.names") == 20


def test_there_is_no_such_schema_elsewhere(database):
    assert database.value("select to_regnamespace('profiles_compat')") is None


# Other tables of these kinds


@pytest.mark.slow
def test_a_table_that_had_usernames_takes_them_through_its_view(hosted):
    hosted.administrator.script(
        "insert into auth.users (id, email) select gen_random_uuid(), n || '@example.org' from unnest(array['ada', 'bob']) as n"
    )
    hosted.script(
        'create table public."Old profiles" (id uuid primary key references auth.users, username text unique, full_name text, "Web site" text);'
        "insert into public.\"Old profiles\" select id, case email when 'ada@example.org' then 'admin' else 'Bob!' end from auth.users;"
        'alter table public."Old profiles" enable row level security; grant all on public."Old profiles" to authenticated;'
        'create policy "Own" on public."Old profiles" using (auth.uid() = id);'
    )
    hosted.upgrade(adopt_table="Old profiles")
    upsert = (
        'insert into "Old profiles" (id, username, full_name) values (auth.uid(), :username, :name) on conflict (id) do update'
        " set id = excluded.id, username = excluded.username, full_name = excluded.full_name returning username"
    )
    ada, bob = (
        hosted.value("select id from auth.users where email = :email", email=f"{n}@example.org") for n in ("ada", "bob")
    )
    new = without_profile(hosted)
    for user, username, wanted in (
        (ada, "admin", "admin"),  # a reserved name that somebody has stays theirs
        (bob, "bob", "bob"),
        (bob, "bobby", "bobby"),
        (bob, "root", "23514"),
        (bob, "Bobby", "23514"),
        (bob, "admin", "23514"),
        (new, "newt", "newt"),
        (new, "root", "23514"),
        (new, "bob", "23505"),
    ):
        with hosted.acting_as("authenticated", user) as connection:
            try:
                got = connection.scalar(text(upsert), {"username": username, "name": "N"})
            except DBAPIError as error:
                got = error.orig.pgcode
        assert got == wanted, (user, username)
    assert drift(hosted) == []
    hosted.downgrade("base", allow_data_loss="yes")
    assert columns_of(hosted, 'public."Old profiles"')[3] == ("Web site", "text")


MEMBERS = """
create table public.members (
  id varchar(40) primary key,
  user_id varchar(20) not null unique,
  username varchar(64),
  created_at timestamp without time zone,
  updated_at double precision,
  is_active smallint default 1,
  preferences json,
  level numeric(10, 2) default 1.5,
  warning_count smallint default 0,
  "Odd Name" text default 'x''y',
  made integer generated always as (warning_count + 1) stored,
  dominant_archetype varchar(10) not null default 'hero',
  openness_score smallint check (openness_score < 101),
  archetype_confidence numeric,
  emoji_usage_rate double precision,
  attachment_style boolean
);
insert into public.members (id, user_id, username, created_at, updated_at, is_active, preferences, openness_score, archetype_confidence)
select 'm' || g, g::text, 'm' || g || 'x', '2020-01-01 12:00:00.5', 1600000000.25, g % 2, '{"a":  1}', g, 'NaN'
from generate_series(1, 6) as g;
create table public.before as select * from public.members;
"""


@pytest.mark.parametrize("contracted", [False, True], ids=["expanded", "contracted"])
def test_a_table_of_other_types_under_another_name_reads_and_writes_as_it_did(empty, contracted):
    empty.script(MEMBERS)
    empty.upgrade(adopt_table="members", **({"contract": "now"} if contracted else {}))
    assert empty.value("select count(*) from profiles_internal.legacy_columns where state = 'contracted'") == (
        5 if contracted else 0
    )
    assert empty.value("select to_regclass('public.members')") is None
    plain = {"character varying(40)": "text", "character varying(20)": "text"}
    wanted = [(name, plain.get(kind, kind)) for name, kind in columns_of(empty, "public.before")]
    assert columns_of(empty, "profiles_compat.members") == wanted
    names = [name for name, kind in wanted if kind != "json"]
    listed = ", ".join(f'"{name}"' for name in names)
    rows = {
        relation: empty.run(f"select {listed}, preferences::jsonb from {relation} order by id")
        for relation in ("public.before", "profiles_compat.members")
    }
    assert [str(row) for row in rows["profiles_compat.members"]] == [str(row) for row in rows["public.before"]]
    row = empty.run(
        "insert into profiles_compat.members (id, user_id, username, created_at, updated_at, is_active, preferences,"
        " level, openness_score, archetype_confidence, emoji_usage_rate, attachment_style) values ('n', '77', 'newt', '2001-02-03', 5, 0,"
        " '{\"b\": 2}', 7.25, 50, 1e30, '-0', false) returning *"
    )[0]
    got = row._mapping
    assert (got["id"], got["created_at"].year, got["is_active"], got["preferences"]) == ("n", 2001, 0, {"b": 2})
    assert [str(got[n]) for n in ("level", "openness_score", "emoji_usage_rate", "attachment_style")] == [
        "7.25",
        "50",
        "-0.0",
        "False",
    ]
    assert got["archetype_confidence"] == 10**30
    assert (got["dominant_archetype"], got["warning_count"], got["made"], got["Odd Name"]) == ("hero", 0, 1, "x'y")
    row = empty.run(
        'update profiles_compat.members set warning_count = warning_count + 2, is_active = 1, "Odd Name" = null,'
        " dominant_archetype = 'sage', attachment_style = null, created_at = created_at + interval '1 year' where user_id = '77' returning *"
    )[0]
    got = row._mapping
    assert (got["warning_count"], got["made"], got["is_active"], got["Odd Name"]) == (2, 3, 1, None)
    assert (got["dominant_archetype"], got["attachment_style"], got["created_at"].year) == ("sage", None, 2002)
    assert drift(empty) == []
    empty.downgrade("base", allow_data_loss="yes")
    assert sorted(columns_of(empty, "public.members")) == sorted(columns_of(empty, "public.before"))
    assert (
        empty.value(
            "select count(*) from public.members as m join public.before as b on b.id = m.id and b.created_at = m.created_at"
        )
        == 6
    )
