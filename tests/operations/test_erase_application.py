"""Erasing rows of the application: what keeps them is told, and not passed over."""

import uuid

from profiles_schema import data_rights
from profiles_schema.operations import users


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
    assert erased.left == ["public.messages: 1 rows by recipient_id; the table is registered by sender_id alone"]


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
