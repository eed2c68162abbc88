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
