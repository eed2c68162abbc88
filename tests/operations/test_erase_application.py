"""Erasing rows of the application: what keeps them is told, and not passed over."""

import json
import uuid

import pytest

from profiles_schema import data_rights
from profiles_schema.operations import users
from support import profiles_schema


def erase(database, user):
    with database.engine.connect() as connection:
        return users.erase(connection, user)


def register(database, *arguments, **options):
    with database.engine.begin() as connection:
        data_rights.register(*arguments, **options, bind=connection)


def test_rows_that_a_trigger_keeps_are_told(database):
    database.script(
        "create table public.orders (id int primary key, user_id uuid, address text, deleted_at timestamptz);"
        "create function public.keep_order() returns trigger language plpgsql as $$ begin"
        " update public.orders set deleted_at = now() where id = old.id; return null; end $$;"
        "create trigger keep_order before delete on public.orders for each row execute function public.keep_order()"
    )
    user = database.sign_up("ada@example.org")
    database.run("insert into public.orders values (1, :id, '5 High St')", id=user)
    register(database, "orders", "user_id", ["address"], "delete")
    erased = erase(database, user)
    assert erased.left == ["public.orders: 1 rows are still there; look for a trigger or rule that keeps them"]


def test_values_that_a_trigger_keeps_are_told(database):
    database.script(
        "create table public.orders (id int primary key, user_id uuid not null, address text);"
        "create function public.keep_address() returns trigger language plpgsql as $$ begin"
        " new.address := coalesce(new.address, old.address); return new; end $$;"
        "create trigger keep_address before update on public.orders for each row execute function public.keep_address()"
    )
    user = database.sign_up("ada@example.org")
    database.run("insert into public.orders values (1, :id, '5 High St')", id=user)
    register(database, "orders", "user_id", ["address"], {"address": "null"})
    erased = erase(database, user)
    assert erased.left == ["public.orders: 1 rows are still there; look for a trigger or rule that keeps them"]


def test_a_second_column_that_refers_to_the_user_is_told(database):
    database.script(
        "create table public.messages (id int primary key, sender_id uuid references auth.users,"
        " recipient_id uuid references auth.users, body text)"
    )
    user, other = database.sign_up("ada@example.org"), database.sign_up("bob@example.org")
    database.run("insert into public.messages values (1, :a, :b, 'x'), (2, :b, :a, 'Dear Ada')", a=user, b=other)
    register(database, "messages", "sender_id", ["body"], "delete")
    erased = erase(database, user)
    assert database.value("select array_agg(id) from public.messages") == [2]
    assert erased.left == ["public.messages: 1 rows by recipient_id, which is not registered"]


MESSAGES = (
    "create table public.messages (id int primary key, sender_id uuid references auth.users,"
    " recipient_id uuid references auth.users, body text, draft text)"
)


def test_a_table_is_registered_by_each_of_its_persons(database, tmp_path):
    database.script(MESSAGES)
    ada, bob = database.sign_up("ada@example.org"), database.sign_up("bob@example.org")
    database.run(
        "insert into public.messages values (1, :a, :b, 'from Ada', 'draft'), (2, :b, :a, 'to Ada', 'secret of Bob'),"
        " (3, :a, :a, 'to myself', null), (4, :b, :b, 'of Bob alone', null)",
        a=ada, b=bob,
    )  # fmt: skip
    register(database, "messages", "sender_id", ["body", "draft"], "delete")
    check = profiles_schema(database.url, "users", "erase", "--check")
    assert (check.returncode, "--user-column recipient_id" in check.stdout) == (1, True)
    with database.engine.connect() as connection:
        assert list(map(str, users.unregistered(connection))) == ["public.messages.recipient_id"]
    done = profiles_schema(
        database.url, "users", "register", "messages", "--user-column", "recipient_id", "--export", "body", "--on-erase", "null"
    )  # fmt: skip
    assert done.returncode == 0
    register(database, "messages", "recipient_id", ["body"], {"recipient_id": "null"})  # replaces the one before
    assert profiles_schema(database.url, "users", "erase", "--check").returncode == 0

    exported = tmp_path / "ada.json"
    profiles_schema(database.url, "users", "export", str(ada), "--out", str(exported))
    tables = json.loads(exported.read_text())["tables"]
    assert {row["body"] for row in tables["public.messages by sender_id"]} == {"from Ada", "to myself"}
    assert tables["public.messages by recipient_id"] == [{"body": "to Ada"}, {"body": "to myself"}]

    assert erase(database, ada).left == []
    assert [tuple(row) for row in database.run("select id, recipient_id, body from public.messages order by id")] == [
        (2, None, "to Ada"), (4, bob, "of Bob alone"),
    ]  # fmt: skip
    with database.engine.begin() as connection:
        assert [each.user_column for each in data_rights.registered(connection)] == ["recipient_id", "sender_id"]
        data_rights.unregister("messages", "sender_id", bind=connection)
        assert [each.user_column for each in data_rights.registered(connection)] == ["recipient_id"]
        data_rights.unregister("messages", bind=connection)
        assert data_rights.registered(connection) == []


def test_names_with_colons_and_quotes(database):
    database.script(
        'create schema "s:x"; create table "s:x"."t:able" (id int, "o:wner" uuid references auth.users, "te:xt ""%s" text)'
    )
    ada, bob = database.sign_up("ada@example.org"), database.sign_up("bob@example.org")
    database.run("insert into \"s\\:x\".\"t\\:able\" values (1, :a, 'x'), (2, :b, 'y')", a=ada, b=bob)
    register(database, "s:x.t:able", "o:wner", ['te:xt "%s'], {'te:xt "%s': "null"})
    with database.engine.connect() as connection:
        assert users.unregistered(connection) == []
    assert erase(database, ada).left == []
    assert database.value('select array_agg("te\\:xt ""%s" order by id) from "s\\:x"."t\\:able"') == [None, "y"]


@pytest.mark.parametrize("kind", ["smallint", "integer", "bigint"])
def test_keys_that_a_column_cannot_hold_match_nothing(database, kind):
    database.script(f"create table public.carts (owner {kind}); insert into public.carts values (-5), (7)")
    database.script("create table public.pets (owner uuid)")
    register(database, "carts", "owner", on_erase="delete")
    register(database, "pets", "owner", on_erase="delete")
    for key in ("9" * 5000, "99999999999999999999", "40000", "\u0661\u0662", "1.5", f"urn:uuid:{uuid.uuid4()}", "-5"):
        user = database.sign_up(f"{uuid.uuid4()}@example.org")
        database.run(
            "insert into profiles_internal.identity_links (user_id, external_id) values (:id, :k)", id=user, k=key
        )
        assert database.value("select array_agg(owner order by owner) from public.carts") == [-5, 7]
        assert erase(database, user).left == []
    assert database.value("select array_agg(owner) from public.carts") == [7]


def test_a_foreign_key_of_several_columns_is_named_by_the_one_of_the_user(database):
    database.script(
        "alter table public.user_profiles add tenant int not null default 1;"
        "alter table public.user_profiles add unique (tenant, user_id);"
        "create table public.seats (tenant int, holder uuid, foreign key (tenant, holder)"
        " references public.user_profiles (tenant, user_id) on delete cascade)"
    )
    with database.engine.connect() as connection:
        assert "public.seats.holder" in map(str, users.unregistered(connection))
        assert "public.seats.tenant" not in map(str, users.unregistered(connection))


def test_partitions_are_named_by_their_table(database):
    database.script(
        "create table public.events (at date, who uuid) partition by range (at);"
        "create table public.events_new partition of public.events for values from ('2020-01-01') to (maxvalue);"
        "create table public.events_old partition of public.events for values from (minvalue) to ('2020-01-01');"
        "alter table public.events_new add foreign key (who) references auth.users"
    )
    user = database.sign_up("ada@example.org")
    database.run("insert into public.events values ('2021-01-01', :id), ('2019-01-01', :id)", id=user)
    with database.engine.connect() as connection:
        assert list(map(str, users.unregistered(connection))) == ["public.events.who"]
    register(database, "events", "who", on_erase="delete")
    with database.engine.connect() as connection:
        assert users.unregistered(connection) == []
    database.script("create materialized view public.recent as select who from public.events_new")
    erased = erase(database, user)
    assert (erased.left, erased.materialized_views) == ([], ["public.recent"])
    assert database.run("select from public.events") == []


def test_materialized_views_that_may_hold_a_copy_are_named_with_the_statement_that_refreshes_them(database):
    database.script(
        "create table public.notes (owner uuid, body text);"
        "create view public.named as select p.username, n.body from public.notes n join public.user_profiles p on p.user_id = n.owner;"
        'create materialized view public."Digest" as select body from public.named;'
        "create materialized view public.empty as select body from public.named with no data;"
        "create materialized view public.unrelated as select 1"
    )
    database.administrator.script("create materialized view public.addresses as select id, email from auth.users")
    user = database.sign_up("ada@example.org")
    register(database, "notes", "owner", on_erase="delete")
    database.run("insert into public.notes values (:id, 'my secret')", id=user)
    database.script('refresh materialized view public."Digest"')
    said = profiles_schema(database.url, "users", "erase", str(user), "--yes")
    assert said.returncode == 0
    assert database.value('select body from public."Digest"') == "my secret"
    line, addresses = [line for line in said.stdout.splitlines() if "materialized" in line]
    assert addresses.startswith("next: refresh materialized view public.addresses;")
    database.script(line.removeprefix("next: ").partition("  (")[0])
    assert database.run('select from public."Digest"') == []


def test_ids_in_capitals_are_the_users_too(database):
    database.script("create table public.devices (owner text, token text)")
    user = uuid.UUID(str(database.sign_up("ada@example.org")))
    database.run("insert into public.devices values (upper(:id), 'a'), (:id, 'b')", id=str(user))
    register(database, "devices", "owner", ["token"], "delete")
    assert erase(database, user).left == []
    assert database.value("select count(*) from public.devices") == 0


def test_restrict_is_waited_for_as_postgresql_18_reports_it(database):
    # PostgreSQL 18 reports ON DELETE RESTRICT as 23001, older ones as 23503.
    database.script(
        "create table public.a_orders (id int primary key, user_id uuid);"
        "create table public.b_lines (order_id int, user_id uuid);"
        "create function public.restrict() returns trigger language plpgsql as $$ begin"
        " if exists (select from public.b_lines where order_id = old.id) then"
        "  raise 'restricted' using errcode = '23001'; end if; return old; end $$;"
        "create trigger restrict before delete on public.a_orders for each row execute function public.restrict()"
    )
    user = database.sign_up("ada@example.org")
    database.run("insert into public.a_orders values (1, :id)", id=user)
    database.run("insert into public.b_lines values (1, :id)", id=user)
    register(database, "a_orders", "user_id", [], "delete")
    register(database, "b_lines", "user_id", [], "delete")
    assert erase(database, user).left == []
    assert database.value("select count(*) from public.a_orders") == 0
