"""A sign-up always commits, and whenever it can it leaves a profile with a legal, unique username."""

import json
import random
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import psycopg2
import pytest
from sqlalchemy import text

from profiles_schema.driver import execute_literally
from support import insert_user

# Generous: what is guarded against is a wait of many seconds, or for ever.
ABOUT_A_SECOND = 2.5
A_FEW_SECONDS = 6.0

RESERVED = {
    "abuse", "admin", "administrator", "anon", "anonymous", "api", "authenticated", "authenticator", "billing", "contact",
    "deleted", "help", "helpdesk", "hostmaster", "info", "mail", "mailerdaemon", "me", "moderator", "news", "nobody",
    "noreply", "null", "official", "operator", "owner", "pgbouncer", "postgres", "postgresql", "postmaster", "privacy",
    "root", "security", "service", "servicerole", "staff", "supabase", "supabaseadmin", "superadmin", "superuser",
    "support", "sysadmin", "system", "team", "undefined", "user", "webmaster", "www",
}  # fmt: skip


def is_reserved(name):
    """Whether a name is on the list, or looks like one that is."""
    bare = re.sub("[_.-]", "", name)
    return any(bare.translate(str.maketrans("1034578", one + "oeastb")) in RESERVED for one in "il")


def username_of(email, user_id, taken):
    """The rule of usernames, written a second time and in another language."""
    local_part = (email or "").split("@")[0]
    lowered = "".join(c.lower() if c.isascii() else c for c in local_part)
    base = re.sub(r"[^a-z0-9_.-]", "", lowered)[:32]
    digits = user_id.hex
    names = [f"{base[:23]}_{digits[-8:]}", digits]
    if len(base) < 3 or is_reserved(base):
        names[0] = f"user_{digits[-8:]}"
    else:
        names.insert(0, base)
    return next(name for name in names if name not in taken)


def usernames(database):
    return {row.user_id: row.username for row in database.run("select user_id, username from public.user_profiles")}


def missing(database):
    """Users without a profile or without a progress row."""
    return database.value(
        "select count(*) from auth.users as u"
        " left join public.user_profiles as p on p.user_id = u.id left join public.user_progress as g on g.user_id = u.id"
        " where p.user_id is null or g.user_id is null"
    )


def failures(database):
    """What the audit log says about sign-ups that left no profile."""
    return database.run(
        "select user_id, action, origin, error_code, error_message, metadata from public.user_profile_audit_logs"
        " where action in ('failed', 'skipped') order by created_at, id"
    )


# Sign-ups of every kind -----------------------------------------------------------------------------------------------

PROVIDERS = [
    {"iss": "https://accounts.google.com", "sub": "1", "name": "Ada Lovelace", "full_name": "Ada Lovelace",
     "picture": "https://lh3.googleusercontent.com/a/x=s96-c", "email_verified": True, "locale": "en-GB"},
    {"user_name": "ada", "preferred_username": "ada", "full_name": None, "avatar_url": "https://avatars.example/1?v=4"},
    {"email": "a@b.c", "email_verified": "true", "name": {"firstName": "Ada", "lastName": "L"}},
    {"full_name": "Ada", "custom_claims": {"global_name": "ada"}, "provider_id": "80351110224678912"},
    {"given_name": "Ada", "family_name": "Lovelace", "tid": str(uuid.UUID(int=7)), "groups": ["a", "b"]},
    {"first_name": "Ada", "last_name": "Lovelace", "language": "pt_BR", "timezone": "America/Sao_Paulo"},
]  # fmt: skip
GARBAGE = [
    None, [], {}, "", "text", 0, -1, 1e300, True, [1, [2, {"name": "x"}]], {"": ""}, {"name": ""}, {"name": "   "},
    {"name": None, "full_name": None}, {"name": 7}, {"name": []}, {"name": {}}, {"name": True},
    {"full_name": "x" * 100_000}, {"avatar_url": "https://a.example/" + "x" * 100_000}, {"avatar_url": "javascript:alert(1)"},
    {"avatar_url": 5, "picture": ["https://a.example"]}, {"timezone": "FOO+5"}, {"timezone": 3}, {"timezone": "x" * 100_000},
    {"language": "!!"}, {"language": {"a": 1}, "locale": 9}, {"language": "x" * 100_000}, {"locale": "a" * 9},
    {"first_name": ["Ada"], "last_name": 1}, {"role": "admin", "is_active": False, "email_verified": True, "id": "x"},
    {"username": "admin", "user_id": str(uuid.UUID(int=1)), "login_count": 99}, {"name": "\u202e\u0001\t'; drop table users; --"},
    {"name": "n\u0303" * 150}, {"name": "👩‍👩‍👧" * 100}, {"is_anonymous": "maybe"}, {"a": {"b": {"c": [None] * 1000}}},
]  # fmt: skip
LOCAL_PARTS = [
    "ada", "Ada", "ADA", "ada.lovelace", "ada+news", "a", "ab", "abc", "admin", "Root", "SUPPORT", "support+1", "user",
    "me", "jürgen", "Ωmega", "李小龙", "o'brien", '"john doe"', "x" * 33, "x" * 64, "X" * 40, "...", "---", "_._", "%s",
    "a\tb", "ada_lovelace-1.2", "\u212aelvin", "İstanbul", "no-reply", "\u017fecurity", "0000", "\\", "{}", "$1",
]  # fmt: skip


def a_thousand_users(seed):
    chance = random.Random(seed)
    for n in range(1000):
        user = {"id": uuid.UUID(int=chance.getrandbits(128))}
        kind = n % 10
        if kind <= 4:
            user["email"] = f"{chance.choice(LOCAL_PARTS)}@d{n}.example"
            user["email_confirmed_at"] = "2026-01-01T00:00:00Z" if n % 2 else None
        elif kind == 5:
            user["phone"] = f"+49{n}" if n % 50 else "+49" + str(n) * 30
        elif kind == 6:
            user["is_anonymous"] = True
        elif kind == 7:
            user["email"] = f"shared{n % 3}@sso.example"
            user["is_sso_user"] = True
        elif kind == 8:
            user["email"] = f"oauth{n % 40}@o{n}.example"
            user["raw_user_meta_data"] = PROVIDERS[n // 10 % len(PROVIDERS)]
            user["raw_app_meta_data"] = {"provider": "google", "providers": ["google"]}
        else:
            user["email"] = ["", "@", "no-at-sign", "@@"][n // 10] if n < 40 else f"g{n}@garbage.example"
        if kind not in {6, 8}:
            user["raw_user_meta_data"] = GARBAGE[(n // 10 * 7 + kind) % len(GARBAGE)]
        yield user


def test_a_thousand_sign_ups_of_every_kind_give_a_thousand_profiles(project):
    users = list(a_thousand_users(seed=20260131))
    with project.auth_server() as connection:
        for user in users:
            insert_user(connection, **user)
    expected, taken = {}, set()
    for user in users:
        expected[user["id"]] = username_of(user.get("email"), user["id"], taken)
        taken.add(expected[user["id"]])

    assert usernames(project) == expected
    assert missing(project) == 0
    assert failures(project) == []
    rows = project.run("select * from public.user_profiles")
    assert len(rows) == 1000
    assert all(row.id == str(row.user_id) for row in rows)
    assert all(re.fullmatch(r"[a-z0-9_.-]{3,32}", row.username) for row in rows)
    assert {(r.role, r.is_active, r.login_count, r.profile_visibility, r.avatar_emoji) for r in rows} == {
        ("user", True, 0, "public", "👶")
    }
    profiles = {row.user_id: row for row in rows}
    for user in users:
        profile = profiles[user["id"]]
        phone = user.get("phone")
        assert profile.email == (user.get("email") or None)
        assert profile.phone == (phone if phone is None or len(phone) <= 40 else None)
        assert profile.is_anonymous is user.get("is_anonymous", False)
        assert profile.email_verified is bool(profile.email and user.get("email_confirmed_at"))


METADATA = [
    ({"full_name": "Ada Lovelace", "name": "ada"}, {"display_name": "Ada Lovelace"}),
    ({"name": "Ada"}, {"display_name": "Ada"}),
    ({"full_name": " ", "name": "Ada"}, {"display_name": "Ada"}),
    ({"full_name": 5, "preferred_username": "ada"}, {"display_name": "ada"}),
    ({"user_name": "  ada \n"}, {"display_name": "ada"}),
    ({"name": "x" * 100_000}, {"display_name": "x" * 200}),
    ({"first_name": "Ada", "last_name": "L"}, {"first_name": "Ada", "last_name": "L", "display_name": None}),
    ({"given_name": "Ada", "family_name": "L"}, {"first_name": "Ada", "last_name": "L"}),
    ({"avatar_url": "https://a.example/1"}, {"avatar_url": "https://a.example/1", "profile_picture_url": None}),
    ({"picture": "http://a.example/1"}, {"avatar_url": "http://a.example/1"}),
    ({"avatar_url": "https://a.example/" + "x" * 2030}, {"avatar_url": "https://a.example/" + "x" * 2030}),
    ({"avatar_url": "https://a.example/" + "x" * 2031}, {"avatar_url": None}),
    ({"avatar_url": "javascript:alert(1)"}, {"avatar_url": None}),
    ({"avatar_url": "/images/a.svg"}, {"avatar_url": "/images/a.svg"}),
    ({"avatar_url": "//evil.example/a.svg"}, {"avatar_url": None}),
    ({"avatar_url": "/\\evil.example/a.svg"}, {"avatar_url": None}),
    ({"avatar_url": "/\t/evil.example/a.svg"}, {"avatar_url": None}),
    ({"avatar_url": "https://a.example/a b"}, {"avatar_url": None}),
    ({"timezone": "Europe/Berlin"}, {"timezone": "Europe/Berlin"}),
    ({"timezone": "FOO+5"}, {"timezone": "UTC"}),
    ({"timezone": "europe/berlin"}, {"timezone": "UTC"}),
    ({"language": "pt_BR"}, {"language": "pt-BR"}),
    ({"locale": "de"}, {"language": "de"}),
    ({"language": "x" * 36, "locale": "de"}, {"language": "en"}),
    ({"language": "no such language"}, {"language": "en"}),
    ({"role": "admin", "is_active": False, "referral_code": "x", "external_id": "x", "login_count": 5},
     {"role": "user", "is_active": True, "referral_code": None, "external_id": None, "login_count": 0}),
    ({"email": "evil@example.org", "email_verified": True, "username": "admin", "bio": "x"},
     {"email": None, "email_verified": False, "bio": None}),
    *((garbage, {"display_name": None, "language": "en", "timezone": "UTC"}) for garbage in (None, [], "x", 1, True)),
]  # fmt: skip


def test_metadata_fills_names_picture_language_and_time_zone_and_nothing_of_authority(database):
    ids = [database.sign_up(raw_user_meta_data=json.dumps(metadata)) for metadata, _ in METADATA]
    for user_id, (metadata, expected) in zip(ids, METADATA, strict=True):
        profile = database.profile(user_id)._mapping
        assert {key: profile[key] for key in expected} == expected, str(metadata)[:100]


def test_an_sql_null_as_metadata_is_as_good_as_none(database):
    user_id = database.sign_up("ada@example.org", raw_user_meta_data=None, raw_app_meta_data=None)
    assert database.profile(user_id).display_name is None


def test_app_metadata_decides_nothing(database):
    user_id = database.sign_up("ada@example.org", raw_app_meta_data={"role": "admin", "name": "Ada"})
    assert (database.profile(user_id).role, database.profile(user_id).display_name) == ("user", None)


# Usernames ------------------------------------------------------------------------------------------------------------

ENDS_IN_456789AB = uuid.UUID("f0e1d2c3-b4a5-4687-8796-0123456789ab")
HEX = "f0e1d2c3b4a5468787960123456789ab"
NAMES = [
    # email, names that others have, the name
    ("ada@example.org", [], "ada"),
    ("Ada.Lovelace-1_x@example.org", [], "ada.lovelace-1_x"),
    ("ada+news@example.org", [], "adanews"),
    ("Jürgen@example.org", [], "jrgen"),
    ("x" * 40 + "@example.org", [], "x" * 32),
    ("abc@example.org", [], "abc"),
    ("ab@example.org", [], "user_456789ab"),
    ("李小龙@example.org", [], "user_456789ab"),
    ("@example.org", [], "user_456789ab"),
    ("", [], "user_456789ab"),
    (None, [], "user_456789ab"),
    ("admin@example.org", [], "user_456789ab"),
    ("ROOT@example.org", [], "user_456789ab"),
    ("support@example.org", [], "user_456789ab"),
    ("ad+min@example.org", [], "user_456789ab"),
    ("user@example.org", [], "user_456789ab"),
    ("ada@example.org", ["ada"], "ada_456789ab"),
    ("ADA@example.org", ["ada"], "ada_456789ab"),
    ("x" * 40 + "@example.org", ["x" * 32], "x" * 23 + "_456789ab"),
    ("ada@example.org", ["ada", "ada_456789ab"], HEX),
    ("admin@example.org", ["user_456789ab"], HEX),
]


def test_the_username_is_made_by_the_rule(database):
    made = []
    with database.engine.connect() as connection:
        for email, taken, _ in NAMES:
            with connection.begin() as transaction:
                for name in taken:
                    other = insert_user(connection)
                    connection.execute(
                        text("update public.user_profiles set username = :name where user_id = :id"),
                        {"name": name, "id": other},
                    )
                insert_user(connection, id=ENDS_IN_456789AB, email=email)
                query = text("select username from public.user_profiles where user_id = :id")
                made.append((email, taken, connection.scalar(query, {"id": ENDS_IN_456789AB})))
                transaction.rollback()
    assert made == NAMES


def test_every_reserved_name_gives_a_made_up_one(database):
    for name in sorted(RESERVED):
        database.sign_up(f"{name}@example.org")
    names = set(usernames(database).values())
    assert len(names) == len(RESERVED)
    assert all(re.fullmatch(r"user_[0-9a-f]{8}", name) for name in names)


def test_a_name_stored_in_upper_case_counts_as_taken(database):
    """An adopted table may hold such a name until it is renamed."""
    first = database.sign_up("other@example.org")
    database.script("alter table public.user_profiles drop constraint ck_user_profiles_username_is_3_to_32_of_a_z_0_9")
    database.run("update public.user_profiles set username = 'ADA' where user_id = :id", id=first)
    second = database.sign_up("ada@example.org")
    assert database.profile(second).username == f"ada_{second.hex[-8:]}"


def test_a_user_whose_three_names_are_all_taken_gets_a_random_one(database):
    for name in ("ada", "ada_456789ab", HEX):
        other = database.sign_up()
        database.run("update public.user_profiles set username = :name where user_id = :id", name=name, id=other)
    database.sign_up("ada@example.org", id=ENDS_IN_456789AB)
    assert re.fullmatch("[0-9a-f]{32}", database.profile(ENDS_IN_456789AB).username)
    assert failures(database) == []


def test_a_unique_index_of_the_applications_own_costs_no_sign_up_and_leaves_a_record(database):
    database.script("create unique index on public.user_profiles (email)")
    database.sign_up("ada@example.org")
    second = database.sign_up("ada@example.org", is_sso_user=True)
    assert database.value("select count(*) from auth.users") == 2
    assert database.profile(second) is None
    assert [(row.user_id, row.action) for row in failures(database)] == [(second, "failed")]


# Roads of insertion ---------------------------------------------------------------------------------------------------


def test_one_insert_of_many_users_makes_all_their_profiles(project):
    with project.auth_server() as connection:
        connection.execute(
            text(
                "insert into auth.users (id, email, is_sso_user)"
                " select gen_random_uuid(), 'ada' || n % 10 || '@example.org', true from generate_series(1, 200) as n"
            )
        )
    assert missing(project) == 0
    assert len(set(usernames(project).values())) == 200


def test_inserts_with_on_conflict_make_a_profile_for_the_new_users_alone(database):
    old = database.sign_up("ada@example.org")
    database.run(
        "insert into auth.users (id, email) values (:old, 'ada@example.org'), (:new, 'eve@example.org')"
        " on conflict do nothing",
        old=old, new=(new := uuid.uuid4()),
    )  # fmt: skip
    database.run(
        "insert into auth.users (id, email) values (:old, 'ada@new.example'), (:newer, 'bob@example.org')"
        " on conflict (id) do update set email = excluded.email",
        old=old, newer=(newer := uuid.uuid4()),
    )  # fmt: skip
    assert usernames(database) == {old: "ada", new: "eve", newer: "bob"}
    assert database.profile(old).email == "ada@new.example"
    assert missing(database) == 0


def test_copy_makes_profiles(database):
    with psycopg.connect(database.url) as connection, connection.cursor() as cursor:
        with cursor.copy("copy auth.users (id, email, raw_user_meta_data) from stdin") as copy:
            for n in range(100):
                copy.write_row((uuid.uuid4(), f"ada{n % 7}@example.org", '{"name": "Ada"}'))
        connection.commit()
    assert database.value("select count(*) from public.user_profiles where display_name = 'Ada'") == 100
    assert missing(database) == 0


def test_an_insert_of_no_rows_is_no_sign_up(database):
    database.run("insert into auth.users (email) select 'ada@example.org' where false")
    assert database.value("select count(*) from public.user_profile_audit_logs") == 0


def test_a_sign_up_that_is_rolled_back_leaves_nothing(database):
    with database.engine.connect() as connection, connection.begin() as transaction:
        insert_user(connection, email="ada@example.org")
        transaction.rollback()
    assert usernames(database) == {}


def test_the_auth_server_signs_up_without_any_right_in_public(supabase):
    for table in ("user_profiles", "user_progress", "user_profile_audit_logs"):
        for right in ("select", "insert", "update"):
            assert not supabase.administrator.value(
                f"select has_table_privilege('supabase_auth_admin', 'public.{table}', '{right}')"
            )
    with supabase.auth_server() as connection:
        assert connection.scalar(text("select current_user")) == "supabase_auth_admin"
        assert connection.scalar(text("select auth.uid()")) is None
        user_id = insert_user(connection, email="ada@example.org")
    assert supabase.profile(user_id).username == "ada"


def test_the_owner_of_the_tables_needs_no_bypassrls(hosted):
    """FORCE ROW LEVEL SECURITY is the application's choice; without it an owner passes its own policies."""
    hosted.upgrade()
    administrator = hosted.administrator
    try:
        administrator.script("alter role project_owner nobypassrls")
        with hosted.auth_server() as connection:
            user_id = insert_user(connection, email="ada@example.org")
            connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
        profile = administrator.profile(user_id)
        assert (profile.username, profile.login_count) == ("ada", 1)
    finally:
        administrator.script("alter role project_owner bypassrls")


def test_a_hostile_search_path_changes_nothing(database):
    database.script(
        "create schema evil; create table evil.user_profiles (user_id uuid);"
        "create function evil.lower(text) returns text language plpgsql as $$begin raise 'hijacked'; end$$;"
        "create function evil.gen_random_uuid() returns uuid language plpgsql as $$begin raise 'hijacked'; end$$;"
    )
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local search_path = evil, pg_catalog")
        connection.exec_driver_sql("create temporary table settings (key text, value jsonb)")
        user_id = insert_user(connection, email="ada@example.org")
    assert database.profile(user_id).username == "ada"
    assert failures(database) == []


# Shapes of auth.users -------------------------------------------------------------------------------------------------

SHAPES = {
    "older": "alter table auth.users drop column is_anonymous, drop column is_sso_user, drop column deleted_at,"
    " drop column banned_until",
    "newer": 'alter table auth.users add column passkeys integer not null default 0, add column "Mixed Case" jsonb,'
    " add column tags text[] default '{a,b}', add column place point, add column document xml",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_older_and_a_newer_auth_users_work(hosted, shape):
    hosted.administrator.script(SHAPES[shape])
    hosted.upgrade()
    with hosted.auth_server() as connection:
        user_id = insert_user(connection, email="ada@example.org", raw_user_meta_data={"name": "Ada"})
        connection.execute(text("update auth.users set last_sign_in_at = now(), email = 'ada@new.example'"))
    profile = hosted.profile(user_id)
    assert (profile.username, profile.email, profile.login_count, profile.is_anonymous) == (
        "ada", "ada@new.example", 1, False
    )  # fmt: skip
    assert failures(hosted) == []
    with hosted.auth_server() as connection:
        connection.execute(text("delete from auth.users"))
    assert hosted.profile(user_id) is None


AUTH_MIGRATIONS = [
    "alter table auth.users alter column email type text",
    "alter table auth.users alter column phone type varchar(15)",
    "alter table auth.users alter column last_sign_in_at type timestamp with time zone using last_sign_in_at",
    "alter table auth.users drop column is_anonymous",
    "alter table auth.users drop column deleted_at cascade",
    "alter table auth.users rename column raw_user_meta_data to user_metadata",
    "alter table auth.users add column passkeys integer not null default 0",
    "alter table auth.users add constraint email_is_short check (length(email) < 100)",
]


def test_the_auth_servers_own_migrations_are_not_blocked(hosted):
    hosted.upgrade()
    with hosted.auth_server() as connection:
        for migration in AUTH_MIGRATIONS:
            connection.exec_driver_sql(migration)
            user_id = insert_user(connection, email=f"a{uuid.uuid4().hex[:8]}@example.org")
            connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
    assert hosted.value("select count(*) from public.user_profiles where login_count = 1") == len(AUTH_MIGRATIONS)
    assert failures(hosted) == []


# Concurrency ----------------------------------------------------------------------------------------------------------


def test_eight_threads_signing_up_the_same_name_all_get_a_profile(database):
    rounds, threads = 4, 8
    barrier = threading.Barrier(threads)

    def sign_up(n):
        for turn in range(rounds):
            with database.engine.connect() as connection:
                barrier.wait(30)
                with connection.begin():
                    user_id = insert_user(connection, email=f"ada{turn}@d{n}.example")
                    connection.execute(
                        text("update auth.users set raw_app_meta_data = '{}' where id = :id"), {"id": user_id}
                    )
                    connection.execute(
                        text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id}
                    )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sign_up, range(threads)))
    names = usernames(database)
    assert len(names) == rounds * threads
    assert missing(database) == 0
    assert {f"ada{turn}" for turn in range(rounds)} <= set(names.values())
    assert all(name in (f"ada{name[3]}", f"ada{name[3]}_{user_id.hex[-8:]}") for user_id, name in names.items())


def test_two_imports_with_the_same_names_both_get_all_profiles(database):
    barrier = threading.Barrier(2)

    def import_users(start):
        with database.engine.connect() as connection:
            barrier.wait(30)
            with connection.begin():
                connection.execute(
                    text(
                        "insert into auth.users (email) select 'ada' || n || '@example.org'"
                        f" from generate_series(1, 300) as n order by {start} * n"
                    )
                )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(import_users, (1, -1)))
    assert missing(database) == 0
    assert len(set(usernames(database).values())) == 600


def test_a_name_held_by_an_open_transaction_is_not_waited_for_long(database):
    with database.engine.connect() as holder, holder.begin() as open_transaction:
        insert_user(holder, email="ada@example.org")
        started = time.monotonic()
        user_id = database.sign_up("ada@elsewhere.example")
        assert time.monotonic() - started < ABOUT_A_SECOND
        open_transaction.rollback()
    assert database.profile(user_id).username == f"ada_{user_id.hex[-8:]}"
    assert failures(database) == []


# Failures -------------------------------------------------------------------------------------------------------------


def own_trigger(body, when="before insert on public.user_profiles"):
    return (
        f"create function public.applications_own() returns trigger language plpgsql as $own$begin {body} return new; end$own$;"
        f"create trigger applications_own {when} for each row execute function public.applications_own();"
    )


BREAKAGES = {
    "a trigger that raises": (own_trigger("raise exception 'secret % is refused', new.email;"), "P0001"),
    "a trigger that asserts": (own_trigger("assert false, 'secret ' || new.email;"), "P0004"),
    "a trigger that divides by zero": (own_trigger("perform 1 / (length(new.email) - length(new.email));"), "22012"),
    "a trigger that is cancelled": (own_trigger("raise exception using errcode = '57014';"), "57014"),
    "a trigger after the insert": (own_trigger("raise exception 'secret';", "after insert on public.user_profiles"), "P0001"),
    "a trigger on progress": (own_trigger("raise exception 'secret';", "before insert on public.user_progress"), "P0001"),
    "a column is missing": ("alter table public.user_profiles drop column avatar_url", "42703"),
    "a column without default": ("alter table public.user_profiles add column tenant text not null", "23502"),
    "a CHECK": ("alter table public.user_profiles add constraint none check (email is null)", "23514"),
    "profiles are away": ("alter table public.user_profiles rename to somewhere_else", "42P01"),
    "progress is away": ("alter table public.user_progress rename to somewhere_else", "42P01"),
    "time zones are away": ("alter table profiles_internal.timezones rename to somewhere_else", "42P01"),
    "a function is away": (
        "do $$begin execute 'drop function ' || 'profiles_internal.profile_values'::regproc::oid::regprocedure; end$$",
        "42883",
    ),
}  # fmt: skip


def test_whatever_fails_the_sign_up_goes_on_and_leaves_a_record(database):
    seen = {}
    for breakage, (sql, _) in BREAKAGES.items():
        with database.engine.connect() as connection, connection.begin() as transaction:
            execute_literally(connection, sql)
            user_id = insert_user(
                connection, email="secret@example.org", raw_user_meta_data={"name": "secret", "timezone": "Asia/Tokyo"}
            )
            query = (
                "select user_id, action, origin, error_code, to_jsonb(a)::text from public.user_profile_audit_logs as a"
            )
            rows = connection.execute(text(query)).all()
            assert [row[:3] for row in rows] == [(user_id, "failed", "trigger")], breakage
            assert "secret" not in rows[0][4], breakage
            seen[breakage] = rows[0][3]
            transaction.rollback()
    assert seen == {breakage: sqlstate for breakage, (_, sqlstate) in BREAKAGES.items()}


def test_a_sign_up_whose_profile_fails_commits(database):
    database.script(BREAKAGES["a trigger that raises"][0])
    started = time.monotonic()
    user_id = database.sign_up("ada@example.org")
    assert time.monotonic() - started < ABOUT_A_SECOND
    assert database.value("select email from auth.users where id = :id", id=user_id) == "ada@example.org"
    assert [row.error_code for row in failures(database)] == ["P0001"]


def test_without_settings_the_sign_up_commits(database):
    database.script("alter table profiles_internal.settings rename to somewhere_else")
    user_id = database.sign_up("ada@example.org")
    recorded = [(row.user_id, row.error_code) for row in failures(database)]
    assert database.profile(user_id) is not None or recorded == [(user_id, "42P01")]


def test_the_record_names_the_table_and_the_constraint(database):
    database.script("alter table public.user_profiles add constraint own_rule check (email is null)")
    database.sign_up("ada@example.org")
    assert failures(database)[0].error_message.startswith("user_profiles own_rule")


def test_without_an_audit_table_the_sign_up_still_commits(project):
    project.script("alter table public.user_profile_audit_logs rename to somewhere_else")
    with project.auth_server() as connection:
        first = insert_user(connection, email="ada@example.org")
    assert project.value("select count(*) from auth.users where id = :id", id=first) == 1
    project.script("alter table public.user_profiles drop column avatar_url")
    with project.auth_server() as connection:
        second = insert_user(connection, email="eve@example.org")
        connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": second})
    assert project.value("select last_sign_in_at is not null from auth.users where id = :id", id=second)


def test_a_statement_timeout_inside_costs_the_profile_and_not_the_sign_up(database):
    database.script(own_trigger("perform pg_sleep(30);"))
    started = time.monotonic()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local statement_timeout = '300ms'")
        user_id = insert_user(connection, email="ada@example.org")
    assert time.monotonic() - started < ABOUT_A_SECOND
    assert [(row.user_id, row.error_code) for row in failures(database)] == [(user_id, "57014")]


def test_a_cancelled_sign_up_commits_too(database):
    database.script(own_trigger("perform pg_sleep(30);"))
    with database.engine.begin() as connection:
        pid = connection.scalar(text("select pg_backend_pid()"))

        def cancel():
            while not database.value("select wait_event = 'PgSleep' from pg_stat_activity where pid = :pid", pid=pid):
                time.sleep(0.02)
            database.run("select pg_cancel_backend(:pid)", pid=pid)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        user_id = insert_user(connection, email="ada@example.org")
        canceller.join()
    assert [(row.user_id, row.error_code) for row in failures(database)] == [(user_id, "57014")]


def test_one_bad_row_of_an_import_costs_one_profile(project):
    project.script(own_trigger("if new.email like 'bad%' then raise exception 'no'; end if;"))
    with project.auth_server() as connection:
        connection.execute(
            text(
                "insert into auth.users (id, email) select gen_random_uuid(),"
                " case n when 25 then 'bad' else 'good' end || n || '@example.org' from generate_series(1, 50) as n"
            )
        )
    assert project.value("select count(*) from auth.users") == 50
    assert project.value("select count(*) from public.user_profiles") == 49
    assert [(row.action, row.error_code) for row in failures(project)] == [("failed", "P0001")]


# Locks ----------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(database, *tables):
    """The tables locked by another session, as by a migration."""
    with database.engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql(f"lock table {', '.join(tables)} in access exclusive mode")
        yield
        transaction.rollback()


LOCKED = {
    "profiles": (["public.user_profiles"], "55P03"),
    "progress": (["public.user_progress"], "55P03"),
    "time zones": (["profiles_internal.timezones"], "55P03"),
    "everything": (["public.user_profiles", "public.user_progress", "public.user_profile_audit_logs",
                    "profiles_internal.settings"], None),
}  # fmt: skip


@pytest.mark.parametrize("what", LOCKED)
def test_a_locked_table_holds_a_sign_up_up_for_about_a_second_at_most(database, what):
    tables, sqlstate = LOCKED[what]
    with locked(database, *tables):
        started = time.monotonic()
        user_id = database.sign_up("ada@example.org", raw_user_meta_data={"timezone": "Europe/Berlin"})
        assert time.monotonic() - started < ABOUT_A_SECOND
    assert database.value("select count(*) from auth.users") == 1
    assert [(row.user_id, row.error_code) for row in failures(database)] == ([(user_id, sqlstate)] if sqlstate else [])


def test_locked_settings_hold_a_sign_up_up_for_about_a_second_at_most(database):
    with locked(database, "profiles_internal.settings"):
        started = time.monotonic()
        user_id = database.sign_up("ada@example.org")
        assert time.monotonic() - started < ABOUT_A_SECOND
    recorded = [(row.user_id, row.error_code) for row in failures(database)]
    assert database.profile(user_id) is not None or recorded == [(user_id, "55P03")]


def test_an_audit_log_that_is_away_costs_no_profile(database):
    database.script("alter table public.user_profile_audit_logs rename to somewhere_else")
    assert database.profile(database.sign_up("ada@example.org")) is not None


def test_a_locked_audit_log_costs_no_profile(database):
    with locked(database, "public.user_profile_audit_logs"):
        started = time.monotonic()
        user_id = database.sign_up("ada@example.org")
        assert time.monotonic() - started < ABOUT_A_SECOND
    assert database.profile(user_id) is not None


@pytest.mark.parametrize(
    "tables", [["public.user_profiles"], ["public.user_profiles", "public.user_profile_audit_logs"]]
)
def test_the_auth_servers_insert_and_two_updates_wait_once(project, tables):
    with locked(project, *tables):
        started = time.monotonic()
        with project.auth_server() as connection:
            user_id = insert_user(connection, email="ada@example.org")
            connection.execute(text("update auth.users set raw_app_meta_data = '{}' where id = :id"), {"id": user_id})
            connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
        assert time.monotonic() - started < ABOUT_A_SECOND
    assert project.value("select last_sign_in_at is not null from auth.users where id = :id", id=user_id)

    with project.auth_server() as connection:
        connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
    assert project.profile(user_id).username == "ada"
    assert missing(project) == 0


@pytest.mark.parametrize(
    "tables", [["public.user_profiles"], ["public.user_profiles", "public.user_profile_audit_logs"]]
)
def test_an_import_of_a_thousand_users_waits_once(database, tables):
    one_statement = (
        "insert into auth.users (email) select 'ada' || n || '@example.org' from generate_series(1, 500) as n"
    )
    many_statements = (
        "do $$begin for n in 1 .. 500 loop insert into auth.users (email) values ('eve' || n); end loop; end$$"
    )
    with locked(database, *tables):
        for statement in (one_statement, many_statements):
            started = time.monotonic()
            database.script(statement)
            assert time.monotonic() - started < A_FEW_SECONDS / 2
    assert database.value("select count(*) from auth.users") == 1000
    assert database.value("select count(*) from public.user_profiles") == 0
    if len(tables) == 1:
        recorded = database.run("select action, error_code, count(*) from public.user_profile_audit_logs group by 1, 2")
        assert sorted(map(tuple, recorded)) == [("failed", "55P03", 501), ("skipped", "55P03", 499)]


def test_giving_up_ends_with_the_transaction(database):
    with database.engine.connect() as connection:
        with locked(database, "public.user_profiles"), connection.begin():
            lost = insert_user(connection, email="ada@example.org")
        with connection.begin():
            made = insert_user(connection, email="eve@example.org")
    assert set(usernames(database)) == {made}
    assert [row.user_id for row in failures(database)] == [lost]


# The feature flag -----------------------------------------------------------------------------------------------------


def test_the_feature_flag_switches_the_work_of_the_trigger_off_and_on(project):
    administrator = project.administrator
    flag = (
        "insert into profiles_internal.settings (key, value) values ('auto_create_profiles', :value)"
        " on conflict (key) do update set value = excluded.value"
    )
    administrator.run(flag.replace(":value", "'false'"))
    with project.auth_server() as connection:
        user_id = insert_user(connection, email="ada@example.org")
        connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
    assert project.profile(user_id) is None
    assert project.value("select count(*) from public.user_profile_audit_logs") == 0

    administrator.run(flag.replace(":value", "'true'"))
    with project.auth_server() as connection:
        connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
        other = insert_user(connection, email="eve@example.org")
    assert usernames(project) == {user_id: "ada", other: "eve"}


def test_one_bad_row_costs_an_import_no_more_than_its_own_thousand(database):
    database.run("alter table public.user_profiles add constraint none check (email <> 'bad@example.org')")

    def import_users(first, last):
        started = time.monotonic()
        database.run(
            "insert into auth.users (email) select case when g = :last then 'bad' else 'user' || g end || '@example.org'"
            " from generate_series(cast(:first as int), cast(:last as int)) as g",
            first=first, last=last,
        )  # fmt: skip
        return time.monotonic() - started

    small, large = import_users(1, 1000), import_users(10_001, 16_000)
    assert database.value("select count(*) from public.user_profiles") == 6998
    # Linear would be 6 at most, quadratic 36.
    assert large / small < 15


def test_a_sign_up_with_one_snapshot_gets_its_profile_though_the_name_was_taken_since(database):
    first = psycopg2.connect(database.url)
    with first.cursor() as cursor:
        cursor.execute("begin isolation level repeatable read; select 1")
        database.sign_up("same@example.org")
        cursor.execute(
            "insert into auth.users (id, email, is_sso_user) values ('00000000-0000-4000-8000-0000456789ab', 'same@example.org', true)"
        )
        cursor.execute("commit")
    first.close()
    assert (
        database.value("select username from public.user_profiles where username like 'same%456789ab'")
        == "same_456789ab"
    )
