"""An application with its own table of users, -x identity=public.users: auth.users follows it, and nothing of ours fails it."""

import functools
import threading
import time
import uuid
from io import StringIO

import pytest
from alembic import command
from pytest_postgresql import factories
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.errors import InsufficientPrivilege, MigrationFailed, UsageError
from profiles_schema.migrations import paths
from profiles_schema.operations import backfill
from profiles_schema.operations.health import examine
from support import Database, Server, drift, profiles_schema, psql
from support.followed_users import KEYS, application
from support.health import monitored

BEFORE = "0019_contract_traits"


def _follow(key, host, port, user, dbname, password, autocommit):
    database = Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname)
    application(database, key).upgrade(identity="public.users")


uuid_template = factories.postgresql_noproc(
    depends_on="server", dbname="followed_by_uuid", load=[functools.partial(_follow, "uuid")]
)
bigint_template = factories.postgresql_noproc(
    depends_on="server", dbname="followed_by_bigint", load=[functools.partial(_follow, "bigint")]
)
_uuid_client = factories.postgresql("uuid_template")
_bigint_client = factories.postgresql("bigint_template")


@pytest.fixture(params=["uuid", "bigint"])
def app(request, server):
    """A database at head that follows public.users."""
    database = Database(server, request.getfixturevalue(f"_{request.param}_client").info.dbname)
    database.by_uuid = request.param == "uuid"
    return database


@pytest.fixture
def numbered(server, _bigint_client):
    """The same, with bigint keys only."""
    database = Database(server, _bigint_client.info.dbname)
    database.by_uuid = False
    return database


def of(database, key):
    """The profile of a row of public.users."""
    rows = database.run(
        "select p.*, u.raw_user_meta_data, u.deleted_at from profiles_internal.identity_links as k"
        " join auth.users as u on u.id = k.user_id left join public.user_profiles as p on p.user_id = u.id"
        " where k.external_id = cast(:key as text)",
        key=str(key),
    )
    return rows[0] if rows else None


def add(database, **columns):
    names = ", ".join(columns)
    return database.value(
        f"insert into public.users ({names}) values ({', '.join(':' + name for name in columns)}) returning id",
        **columns,
    )


def counts(database):
    return tuple(
        database.run(
            "select (select count(*) from public.users), (select count(*) from auth.users where deleted_at is null),"
            " (select count(*) from public.user_profiles where is_active), (select count(*) from public.user_progress)"
        )[0]
    )


def failures(database):
    return [
        (row.error_code, row.metadata.get("identity"), row.metadata.get("rows"))
        for row in database.run(
            "select error_code, metadata from public.user_profile_audit_logs"
            " where action in ('failed', 'skipped') and metadata ? 'identity' order by created_at, id"
        )
    ]


def health(database, *, full=False):
    with database.engine.connect() as connection:
        return examine(connection, full=full)


def codes(database, *, full=False):
    return {finding.code for finding in health(database, full=full).problems}


def repair(database, **options):
    with database.engine.connect() as connection:
        return list(backfill.backfill(connection, **options))[-1]


# What is followed


def test_an_insert_makes_a_user_with_a_profile(app):
    key = add(
        app,
        email="ada@example.org",
        name="Ada Lovelace",
        username="Countess",
        phone="+4712345678",
        avatar_url="https://e.org/a.png",
    )
    profile = of(app, key)
    assert (profile.email, profile.display_name, profile.username) == ("ada@example.org", "Ada Lovelace", "countess")
    assert (profile.phone, profile.avatar_url) == ("+4712345678", "https://e.org/a.png")
    assert profile.external_id == (None if app.by_uuid else str(key))
    assert (profile.user_id == key) == app.by_uuid
    assert app.value("select count(*) from public.user_progress where user_id = :id", id=profile.user_id) == 1
    assert codes(app, full=True) == set()
    assert drift(app) == []


def test_updates_are_followed(app):
    key = add(app, email="ada@example.org", name="Ada")
    app.run(
        "update public.users set email = 'countess@example.org', name = 'Lovelace', last_login_at = now() where id = :key",
        key=key,
    )
    profile = of(app, key)
    assert (profile.email, profile.display_name, profile.username) == ("countess@example.org", "Lovelace", "countess")
    assert profile.login_count == 1
    app.run("update public.users set username = 'Ada_L', phone = '+4799999999' where id = :key", key=key)
    assert (of(app, key).username, of(app, key).phone) == ("ada_l", "+4799999999")


def test_what_a_person_has_edited_stays_theirs(app):
    key = add(app, email="ada@example.org", name="Ada")
    app.run("update public.user_profiles set display_name = 'mine', username = 'chosen'")
    app.run("update public.users set name = 'Other', username = 'other' where id = :key", key=key)
    assert (of(app, key).display_name, of(app, key).username) == ("mine", "chosen")


def test_an_update_of_something_else_writes_nothing_of_ours(app):
    add(app, email="ada@example.org")
    before = app.run("select xmin::text, ctid::text from auth.users")
    app.run("update public.users set password_hash = 'x'")
    assert app.run("select xmin::text, ctid::text from auth.users") == before


def test_a_delete_takes_user_and_profile_along(app):
    key = add(app, email="ada@example.org")
    add(app, email="grace@example.org")
    app.run("delete from public.users where id = :key", key=key)
    assert of(app, key) is None
    assert counts(app) == (1, 1, 1, 1)


def test_a_soft_delete_is_an_erasure_and_can_be_taken_back(app):
    key = add(app, email="ada@example.org", name="Ada")
    app.run("update public.users set deleted_at = now() where id = :key", key=key)
    erased = of(app, key)
    assert (erased.email, erased.display_name, erased.external_id, erased.is_active) == (None, None, None, False)
    assert (erased.raw_user_meta_data, app.value("select email from auth.users")) == ({}, None)
    assert codes(app, full=True) == set()
    app.run("update public.users set deleted_at = null where id = :key", key=key)
    back = of(app, key)
    assert (back.email, back.is_active) == ("ada@example.org", True)
    assert back.external_id == (None if app.by_uuid else str(key))
    assert codes(app, full=True) == set()


def test_who_comes_deleted_gets_no_profile(app):
    key = add(app, email="ada@example.org", deleted_at="2020-01-01")
    assert of(app, key).username is None
    assert codes(app, full=True) == set()


def test_a_changed_key_keeps_the_person(app):
    key = add(app, email="ada@example.org")
    app.run("update public.user_profiles set bio = 'mine'")
    app.run("insert into public.user_api_keys (user_id) select id from auth.users")
    new = str(uuid.uuid4()) if app.by_uuid else "4711"
    app.run(f"update public.users set id = '{new}', email = 'new@example.org' where id = :key", key=key)
    profile = of(app, new)
    assert (profile.bio, profile.email) == ("mine", "new@example.org")
    assert (str(profile.user_id) == new) == app.by_uuid
    assert profile.external_id == (None if app.by_uuid else new)
    assert app.value("select count(*) from public.user_api_keys where user_id = :id", id=profile.user_id) == 1
    assert (of(app, key), counts(app)) == (None, (1, 1, 1, 1))
    assert failures(app) == []


def test_keys_that_move_up_by_one_keep_their_persons(numbered):
    numbered.run(
        "insert into public.users (id, email) select n, 'u' || n || '@example.org' from generate_series(1, 5) as n"
    )
    numbered.run("alter table public.users drop constraint users_pkey, add primary key (id) deferrable")
    numbered.run("update public.users set id = id + 1")
    assert failures(numbered) == []
    assert [of(numbered, n).email for n in range(2, 7)] == [f"u{n}@example.org" for n in range(1, 6)]


def test_a_truncate_lets_nobody_inherit_a_profile(numbered):
    add(numbered, email="ada@example.org")
    numbered.run("truncate public.users restart identity")
    assert counts(numbered) == (0, 0, 0, 0)
    assert of(numbered, add(numbered, email="grace@example.org")).username == "grace"


def test_upserts_and_merge_and_copy_are_followed(numbered):
    upsert = (
        "insert into public.users (id, email) values (1, 'a@example.org'), (2, 'bbb@example.org')"
        " on conflict (id) do update set email = 'again' || excluded.email"
    )
    numbered.run(upsert)
    numbered.run(upsert)
    assert (of(numbered, 1).email, of(numbered, 2).email) == ("againa@example.org", "againbbb@example.org")
    numbered.run(
        "merge into public.users as u using (values (1), (2), (3)) as v (id) on u.id = v.id"
        " when matched and v.id = 1 then delete when matched then update set name = 'Merged'"
        " when not matched then insert (id, email) values (v.id, 'merged@example.org')"
    )
    assert (of(numbered, 1), of(numbered, 2).display_name, of(numbered, 3).email) == (
        None,
        "Merged",
        "merged@example.org",
    )
    done = psql(numbered, "copy public.users (id, email) from stdin;\n7\tcopied@example.org\n\\.\n")
    assert done.returncode == 0, done.stderr
    assert of(numbered, 7).username == "copied"


def test_a_cascade_from_another_table_is_followed(numbered):
    numbered.script(
        "create table public.tenants (id int primary key); insert into public.tenants values (1);"
        "alter table public.users add tenant int references public.tenants on delete cascade"
    )
    numbered.run("insert into public.users (email, tenant) values ('ada@example.org', 1)")
    numbered.run("delete from public.tenants")
    assert counts(numbered) == (0, 0, 0, 0)


@pytest.mark.slow
def test_bulk_statements_are_followed(app):
    key = "gen_random_uuid()" if app.by_uuid else "n"
    app.run(
        f"insert into public.users (id, email) select {key}, 'user' || n % 700 || '@example.org' from generate_series(1, 2500) as n"
    )
    assert counts(app) == (2500, 2500, 2500, 2500)
    app.run("update public.users set name = 'Everybody', email = 'x' || email")
    assert (
        app.value("select count(*) from public.user_profiles where display_name = 'Everybody' and email like 'xuser%'")
        == 2500
    )
    assert health(app, full=True).problems == []
    app.run("delete from public.users")
    assert counts(app) == (0, 0, 0, 0)
    assert failures(app) == []


def test_any_shape_of_columns_is_read(empty):
    empty.script(
        'create table public."My Users" ("Key" smallint primary key, email varchar(80), metadata jsonb, created_at bigint,'
        " email_verified boolean, deleted_at integer, last_login text)"
    )
    empty.upgrade(identity='public."My Users"')
    empty.run(
        """insert into public."My Users" values (1, 'ada@example.org', '{"full_name": "Ada", "email": "other@example.org"}', 1700000000000, true, 0, 'never'),
        (2, '', '[1]', null, null, 1700000000, '2026-02-30 25:00')"""
    )
    ada = of(empty, 1)
    assert (ada.email, ada.display_name, ada.email_verified, ada.is_active) == ("ada@example.org", "Ada", True, True)
    assert empty.value("select extract(year from created_at) from auth.users where email is not null") == 2023
    assert of(empty, 2).deleted_at.year == 2023
    assert failures(empty) == []
    assert codes(empty, full=True) == set()


def test_a_table_of_nothing_but_a_key_is_enough(empty):
    empty.script("create schema app; create table app.people (id text primary key)")
    empty.upgrade(identity="app.people")
    empty.run("insert into app.people values ('ada@example.org'), (''), (repeat('x', 2000))")
    assert empty.value("select count(*) from public.user_profiles") == 3
    assert of(empty, "ada@example.org").email is None


# A failure of ours never fails theirs

BREAK = {
    "a function of ours is gone": ("alter function profiles_internal.take_users(jsonb[], text, boolean) rename to away",
                                   "alter function profiles_internal.away(jsonb[], text, boolean) rename to take_users", "42883"),
    "the keys are away": ("alter table profiles_internal.identity_links rename to away",
                          "alter table profiles_internal.away rename to identity_links", "42P01"),
    "the users have a new column": ("alter table auth.users add tenant text not null default 'x'; alter table auth.users alter tenant drop default",
                                    "alter table auth.users drop tenant", "23502"),
    "the users have a CHECK": ("alter table auth.users add constraint own check (email is null) not valid",
                               "alter table auth.users drop constraint own", "23514"),
    "an assertion fails": ("create function public.own() returns trigger language plpgsql as $own$begin assert false; end$own$;"
                           "create trigger own before insert on auth.users for each row execute function public.own()",
                           "drop trigger own on auth.users; drop function public.own()", "P0004"),
    "the statement is cancelled": ("create function public.own() returns trigger language plpgsql as $own$begin"
                                   " perform pg_cancel_backend(pg_backend_pid()); perform pg_sleep(1); return new; end$own$;"
                                   "create trigger own before insert on auth.users for each row execute function public.own()",
                                   "drop trigger own on auth.users; drop function public.own()", "57014"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAK)
def test_an_insert_commits_and_is_repaired(numbered, name):
    break_it, mend_it, code = BREAK[name]
    numbered.script(break_it)
    add(numbered, email="ada@example.org")
    numbered.script(mend_it)
    assert failures(numbered) == [(code, "insert", 1)]
    assert "ada@" not in str(numbered.run("select * from public.user_profile_audit_logs"))
    assert (counts(numbered), codes(numbered)) == ((1, 0, 0, 0), {"identity"})
    assert repair(numbered).counts["followed"] == 1
    assert (counts(numbered), codes(numbered, full=True)) == ((1, 1, 1, 1), set())


def test_the_next_update_repairs_too(numbered):
    break_it, mend_it, _ = BREAK["the keys are away"]
    numbered.script(break_it)
    key = add(numbered, email="ada@example.org")
    numbered.script(mend_it)
    numbered.run("update public.users set password_hash = 'x'")
    assert of(numbered, key).username == "ada"


def test_without_an_audit_log_the_insert_commits_all_the_same(numbered):
    numbered.script(
        "alter table public.user_profile_audit_logs rename to away; alter table profiles_internal.identity_links rename to gone"
    )
    key = add(numbered, email="ada@example.org")
    numbered.run("update public.users set email = 'b@example.org' where id = :key", key=key)
    numbered.run("delete from public.users where id = :key", key=key)
    numbered.run("truncate public.users")
    assert numbered.value("select count(*) from public.users") == 0


def test_a_lost_update_and_a_lost_delete_are_found_and_repaired(numbered):
    ada, grace = add(numbered, email="ada@example.org"), add(numbered, email="grace@example.org")
    break_it, mend_it, _ = BREAK["the keys are away"]
    numbered.script(break_it)
    numbered.run("update public.users set email = 'new@example.org' where id = :key", key=ada)
    numbered.run("delete from public.users where id = :key", key=grace)
    numbered.script(mend_it)
    assert codes(numbered) == {"identity"}
    done = repair(numbered)
    assert (done.counts["followed"], done.counts["released"]) == (1, 1)
    assert (of(numbered, ada).email, of(numbered, grace)) == ("new@example.org", None)
    assert codes(numbered, full=True) == set()


def test_a_key_that_is_used_again_after_a_lost_delete_is_another_person(empty):
    application(empty, "text").upgrade(identity="public.users")
    add(empty, id="a", email="ada@example.org")
    empty.run("update public.user_profiles set bio = 'private'")
    empty.script("alter table public.users disable trigger profiles_identity_deleted")
    empty.run("delete from public.users")
    empty.script("alter table public.users enable trigger profiles_identity_deleted")
    add(empty, id="a", email="anna@example.org")
    assert (of(empty, "a").username, of(empty, "a").bio) == ("anna", None)


def test_one_bad_row_costs_one_user_and_not_the_batch(app):
    app.script("alter table auth.users add constraint own check (email <> 'bad@example.org') not valid")
    key = "gen_random_uuid()" if app.by_uuid else "n"
    app.run(
        f"insert into public.users (id, email) select {key}, case when n = 77 then 'bad' else 'user' || n end || '@example.org'"
        " from generate_series(1, 300) as n"
    )
    assert counts(app) == (300, 299, 299, 299)
    assert failures(app) == [("23514", "insert", 1)]
    assert (repair(app).failed, codes(app)) == ({"23514": 1}, {"identity"})


@pytest.mark.parametrize("table", ["auth.users", "public.user_profiles", "profiles_internal.identity_links"])
def test_a_lock_on_our_tables_costs_one_short_wait(numbered, table):
    with numbered.engine.connect() as other, other.begin() as held:
        other.exec_driver_sql(f"lock table {table} in access exclusive mode")
        started = time.monotonic()
        with numbered.engine.begin() as connection:
            for n in range(20):
                connection.execute(
                    text("insert into public.users (email) values (:email)"), {"email": f"user{n}@example.org"}
                )
        assert time.monotonic() - started < 2
        held.rollback()
    assert numbered.value("select count(*) from public.users") == 20
    assert codes(numbered)
    repair(numbered)
    assert (counts(numbered), codes(numbered, full=True)) == ((20, 20, 20, 20), set())


def test_a_statement_timeout_does_not_undo_the_insert(numbered):
    numbered.script(
        "create function public.own() returns trigger language plpgsql as $own$begin perform pg_sleep(5); return new; end$own$;"
        "create trigger own before insert on public.user_profiles for each row execute function public.own()"
    )
    with numbered.engine.begin() as connection:
        connection.exec_driver_sql("set local statement_timeout = '400ms'")
        connection.exec_driver_sql("insert into public.users (email) values ('ada@example.org')")
    numbered.script("drop trigger own on public.user_profiles")
    assert numbered.value("select count(*) from public.users") == 1
    repair(numbered)
    assert (counts(numbered), codes(numbered, full=True)) == ((1, 1, 1, 1), set())


def test_concurrent_writers_all_commit(app):
    wrong = []

    def write(number):
        try:
            for n in range(15):
                with app.engine.begin() as connection:
                    # The same local part from everybody: all want one username.
                    key = connection.scalar(
                        text("insert into public.users (email) values (:e) returning id"),
                        {"e": f"same@{number}.example.org"},
                    )
                    connection.execute(
                        text("update public.users set name = :n where id = :key"), {"n": f"N{n}", "key": key}
                    )
                    if n % 5 == 4:
                        connection.execute(text("delete from public.users where id = :key"), {"key": key})
        except DBAPIError as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    repair(app)
    assert (counts(app), codes(app, full=True)) == ((72, 72, 72, 72), set())


def test_a_rollback_of_theirs_takes_ours_along(app):
    with app.engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql("insert into public.users (email) values ('ada@example.org')")
        transaction.rollback()
    assert counts(app) == (0, 0, 0, 0)


# Rights, search path, the application's own migrations


def test_whoever_may_write_that_table_needs_no_right_of_ours(app):
    with app.engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql("create role web nologin")
        connection.exec_driver_sql("create schema traps")
        connection.exec_driver_sql(
            "create function traps.now() returns timestamptz language sql as $$select null::timestamptz$$"
        )
        connection.exec_driver_sql(
            "create function traps.to_jsonb(anyelement) returns jsonb language sql as $$select null::jsonb$$"
        )
        connection.exec_driver_sql("grant select, insert, update, delete on public.users to web")
        connection.exec_driver_sql("grant usage on all sequences in schema public to web")
        connection.exec_driver_sql("alter table public.users enable row level security, force row level security")
        connection.exec_driver_sql("create policy everybody on public.users to web using (true) with check (true)")
        connection.exec_driver_sql("set local role web")
        connection.exec_driver_sql("set local search_path = traps")
        connection.exec_driver_sql("insert into public.users (email) values ('ada@example.org'), ('grace@example.org')")
        connection.exec_driver_sql("update public.users set name = 'Ada' where email like 'ada%%'")
        connection.exec_driver_sql("delete from public.users where email like 'grace%%'")
        connection.exec_driver_sql("reset role")
        assert connection.exec_driver_sql("select username, display_name from public.user_profiles").all() == [
            ("ada", "Ada")
        ]
        transaction.rollback()


@pytest.mark.parametrize(
    "change",
    [
        "add column tenant text default 'x'", "drop column phone", "alter column email type varchar(300)", "rename column name to full_name",
        "alter column last_login_at type date using last_login_at::date", "drop column deleted_at, drop column created_at",
    ],
)  # fmt: skip
def test_their_own_migrations_are_not_blocked(app, change):
    with app.engine.connect() as connection:
        for number, statement in enumerate((f"alter table public.users {change}", "select 1")):
            connection.exec_driver_sql(
                "insert into public.users (email) values ('user' || %(n)s || '@example.org')", {"n": number}
            )
            connection.exec_driver_sql(statement)
            connection.exec_driver_sql(
                "insert into public.users (email) values ('next' || %(n)s || '@example.org')", {"n": number}
            )
            connection.exec_driver_sql("update public.users set email = 'x' || email")
            connection.commit()
    assert (counts(app)[1:], failures(app)) == ((4, 4, 4), [])


@pytest.mark.slow
def test_a_renamed_table_and_a_renamed_key_are_still_followed_after_repair(numbered):
    numbered.script("alter table public.users rename to people; alter table public.people rename id to number")
    assert "trigger" in codes(numbered)
    assert profiles_schema(numbered.url, "repair").returncode == 0
    assert profiles_schema(numbered.url, "repair").stdout.startswith("Nothing to repair")
    numbered.run("insert into public.people (email) values ('ada@example.org')")
    assert numbered.value("select count(*) from public.user_profiles") == 1
    assert codes(numbered, full=True) == set()
    numbered.upgrade(identity="public.people")


# Upgrade, health, downgrade


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_existing_rows_are_taken_over(empty, key):
    application(empty, key)
    empty.run(
        "insert into public.users (email, deleted_at) select 'user' || n % 300 || '@example.org', case when n % 100 = 0 then now() end"
        " from generate_series(1, 1200) as n"
    )
    empty.upgrade(identity="public.users")
    assert counts(empty) == (1200, 1188, 1188, 1188)
    assert (codes(empty, full=True), drift(empty)) == (set(), [])
    before = empty.run("select id, user_id, username, external_id from public.user_profiles order by 1")
    empty.downgrade(BEFORE)
    empty.run("insert into public.users (email) values ('later@example.org')")
    empty.upgrade()
    assert counts(empty) == (1201, 1189, 1189, 1189)
    assert set(before) <= set(empty.run("select id, user_id, username, external_id from public.user_profiles"))


def test_a_deferred_take_over_is_done_by_backfill(empty):
    application(empty)
    empty.run("insert into public.users (email) select 'user' || n || '@example.org' from generate_series(1, 250) as n")
    empty.upgrade(identity="public.users", backfill="defer")
    assert counts(empty) == (250, 0, 0, 0)
    assert empty.run("select kind, state, rows_total from profiles_internal.jobs") == [("identity", "pending", 250)]
    done = profiles_schema(empty.url, "backfill")
    assert (done.returncode, "followed 250" in done.stdout) == (0, True), done.stdout + done.stderr
    assert counts(empty) == (250, 250, 250, 250)
    assert profiles_schema(empty.url, "health", "--full").returncode == 0


def test_users_known_by_external_id_or_by_uuid_are_taken_over_as_they_are(empty, server):
    empty.upgrade()
    known = empty.value("select public.create_user(email => 'ada@example.org', external_id => '1')")
    application(empty)
    empty.run("insert into public.users (email) values ('ada@example.org')")
    empty.upgrade(identity="public.users")
    repair(empty)
    assert of(empty, 1).user_id == known
    assert counts(empty) == (1, 1, 1, 1)


def test_a_database_at_head_takes_the_option_up_later(empty):
    empty.upgrade()
    other = empty.sign_up("other@example.org")
    application(empty)
    empty.run("insert into public.users (email) values ('ada@example.org')")
    empty.upgrade(identity="public.users")
    repair(empty)
    assert of(empty, 1).username == "ada"
    assert empty.profile(other).username == "other", "users of another origin are nobody's to remove"
    empty.upgrade(identity="public.users")


@pytest.mark.slow
def test_a_trigger_that_is_lost_is_found_and_put_back(numbered):
    numbered.script(
        "drop trigger profiles_identity_inserted on public.users; alter table public.users disable trigger profiles_identity_deleted;"
        "drop trigger fill_external_id on public.user_profiles"
    )
    states = health(numbered).triggers
    assert states["public.users.profiles_identity_inserted"] == "MISSING"
    assert states["public.users.profiles_identity_deleted"] == "DISABLED"
    assert states["public.user_profiles.fill_external_id"] == "MISSING"
    add(numbered, email="ada@example.org")
    assert codes(numbered) == {"trigger", "identity"}
    done = profiles_schema(numbered.url, "repair")
    assert (done.returncode, "public.users.profiles_identity_inserted" in done.stdout) == (0, True), (
        done.stdout + done.stderr
    )
    assert codes(numbered) == {"identity"}
    assert profiles_schema(numbered.url, "backfill").returncode == 0
    assert codes(numbered, full=True) == set()
    assert of(numbered, 1).external_id == "1"


def test_a_table_that_was_emptied_behind_our_back_costs_nobody_the_profile(numbered):
    numbered.run(
        "insert into public.users (email) select 'user' || n || '@example.org' from generate_series(1, 150) as n"
    )
    with numbered.engine.begin() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        connection.exec_driver_sql("delete from public.users")
    done = profiles_schema(numbered.url, "backfill")
    assert (done.returncode, "--remove-gone" in done.stderr + done.stdout) == (1, True), done.stdout + done.stderr
    assert counts(numbered) == (0, 150, 150, 150)
    assert profiles_schema(numbered.url, "backfill", "--remove-gone").returncode == 0
    assert counts(numbered) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("setup", "option", "said"),
    [
        ("select 1", "public.nobody", "there is no table public.nobody"),
        ("create table public.t (a int)", "public.t", "no primary key of one column"),
        ("create table public.t (a int, b int, primary key (a, b))", "public.t", "no primary key of one column"),
        ("create table public.t (a date primary key)", "public.t", "is of type date"),
        ("create view public.t as select 1 as id", "public.t", "no ordinary table"),
        ("create table public.t (id int primary key) partition by range (id)", "public.t", "no ordinary table"),
        (
            "create table public.user_progress (id int primary key)",
            "public.user_progress",
            "is a table of this package",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_before_the_first_change(empty, setup, option, said):
    empty.script(setup)
    with pytest.raises(MigrationFailed, match=said):
        empty.upgrade(identity=option)
    assert empty.value("select to_regclass('profiles_internal.settings') is null and to_regnamespace('auth') is null")


def test_an_option_that_names_no_table_is_wrong_usage(empty):
    with pytest.raises(UsageError, match=r"SCHEMA\.TABLE"):
        empty.upgrade(identity="users")


def test_another_table_later_is_refused(numbered):
    numbered.script("create table public.people (id int primary key)")
    with pytest.raises(MigrationFailed, match=r"come from public\.users already, not from public\.people"):
        numbered.upgrade(identity="public.people")


def test_on_supabase_the_auth_server_is_the_identity(hosted):
    hosted.administrator.script("create table public.users (id uuid primary key)")
    with pytest.raises(MigrationFailed, match="belongs to an auth server"):
        hosted.upgrade(identity="public.users")
    hosted.upgrade()
    with pytest.raises(MigrationFailed, match="belongs to an auth server"):
        hosted.upgrade(identity="public.users")


def test_a_role_without_rights_is_told_what_it_needs(empty):
    application(empty)
    empty.script(
        "do $role$ begin if to_regrole('plain_deployer') is null then create role plain_deployer login; end if; end $role$;"
        f"grant create on database {empty.name} to plain_deployer"
    )
    deployer = Database(empty.server, empty.name, "plain_deployer")
    with pytest.raises(InsufficientPrivilege, match=r"grant select, trigger on public\.users to plain_deployer"):
        deployer.upgrade(identity="public.users")
    empty.script(
        "grant select, trigger on public.users to plain_deployer; alter table public.users enable row level security"
    )
    with pytest.raises(InsufficientPrivilege, match="alter role plain_deployer bypassrls"):
        deployer.upgrade(identity="public.users")


def test_the_trial_run_passes_beside_it(numbered):
    done = profiles_schema(numbered.url, "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(numbered) == (0, 0, 0, 0)


def test_after_downgrade_nothing_is_left_on_their_table(app):
    add(app, email="ada@example.org")
    app.downgrade("base", allow_data_loss="yes")
    assert (
        app.value("select count(*) from pg_trigger where tgrelid = 'public.users'::regclass and not tgisinternal") == 0
    )
    assert app.value("select to_regnamespace('profiles_internal') is null and to_regnamespace('auth') is null")
    app.run("insert into public.users (email) values ('grace@example.org')")
    assert app.value("select count(*) from public.users") == 2
    app.upgrade(identity="public.users")
    assert counts(app) == (2, 2, 2, 2)


def script(**options):
    config = paths.config(x=[f"{key}={value}" for key, value in options.items()])
    config.output_buffer = StringIO()
    command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue()


def test_the_script_does_the_same(empty):
    application(empty)
    empty.run("insert into public.users (email) values ('ada@example.org')")
    done = psql(empty, script(identity="public.users"))
    assert done.returncode == 0, done.stderr
    add(empty, email="grace@example.org")
    assert counts(empty) == (2, 2, 2, 2)
    assert (codes(empty, full=True), drift(empty)) == (set(), [])


def test_the_script_refuses_before_its_first_change(empty):
    done = psql(empty, script(identity="public.nobody"))
    assert "there is no table public.nobody" in done.stderr
    assert empty.value("select to_regnamespace('profiles_internal') is null and to_regnamespace('auth') is null")


def test_a_role_that_may_not_run_our_functions_is_told_what_was_not_looked_at(app):
    app.script("insert into public.users (email) values ('ada@example.org')")
    with monitored(app) as monitor:
        (found,) = health(monitor, full=True).findings
    assert (found.code, found.severity) == ("identity", "notice")
    assert "public.users" in found.message
