"""alembic/run_batches.sql: batches that commit, locks that are waited for, rows that fail and keep no other back."""

import threading

import pytest
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import execute_literally, sqlstate
from profiles_schema.migrations import paths

# Without its revoke: an empty database may have no roles of the API.
SQL = (paths.script_location() / "run_batches.sql").read_text(encoding="utf-8").partition("\nrevoke ")[0]
# Keys are compared as numbers, not as texts; one in ten rows is done already.
FIND = """
with looked_at as materialized (
  select w.id, w.done_in from public.work as w where $1 is null or w.id > $1::integer order by w.id limit $3
)
select
  array(select w.id::text from looked_at as w where w.done_in is null order by w.id limit $2),
  (select w.id::text from looked_at as w order by w.id offset $3 - 1)
"""
SKIP = "insert into public.skipped select w.id, $2 from public.work as w where w.id = $1::integer"


@pytest.fixture
def work(empty):
    """The procedure, and 2,500 rows that `do_rows` marks with the transaction that did them."""
    empty.script(f"create schema profiles_internal; {SQL}")
    empty.script(
        """
        create table public.work (id integer primary key, done_in xid8, state text);
        create table public.skipped (id integer, code text);
        create sequence public.attempts;
        insert into public.work (id, done_in)
        select n, case when n % 10 = 0 then pg_current_xact_id() end from generate_series(1, 2500) as n;
        create function public.do_rows(p_keys text[]) returns bigint language plpgsql as $do_rows$
        declare
          changed bigint;
        begin
          if exists (select from public.work as w where w.id = any (p_keys::integer[]) and w.state = 'poison') then
            raise exception 'never';
          end if;
          if nextval('public.attempts') <= (select count(*) from public.work as w where w.state = 'conflict') then
            raise exception 'later' using errcode = 'serialization_failure';
          end if;
          update public.work as w set done_in = pg_current_xact_id() where w.id = any (p_keys::integer[]) and w.done_in is null;
          get diagnostics changed = row_count;
          return changed;
        end
        $do_rows$;
        """
    )
    return empty


def run(database, skip=SKIP, lock_timeout="5s"):
    """What the procedure counts as done and as failed."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        execute_literally(connection, f"set lock_timeout = '{lock_timeout}'")
        given = f"$skip${skip}$skip$" if skip else "null"
        call = (
            f"call profiles_internal.run_batches($find${FIND}$find$, 'select public.do_rows($1)', {given}, null, null)"
        )
        return tuple(execute_literally(connection, call).one())


def left(database):
    return [row.id for row in database.run("select id from public.work where done_in is null order by id")]


def test_all_rows_are_done_in_batches_that_commit_and_grow(work):
    before = work.value("select done_in::text from public.work where id = 10")
    assert run(work) == (2250, 0)
    assert left(work) == []
    sizes = [
        row.size
        for row in work.run(
            "select count(*) as size from public.work where done_in <> cast(:before as xid8) group by done_in order by min(id)",
            before=before,
        )
    ]
    # The first looks at a hundred rows, of which ten are done already.
    assert sizes[0] == 90
    assert 100 < max(sizes) <= 1000
    assert run(work) == (0, 0)


def test_a_row_that_fails_is_found_and_keeps_no_other_back(work):
    poisoned = [1, 2, 3, 777, 1234, 2499]
    work.run("update public.work set state = 'poison' where id = any (:ids)", ids=poisoned)
    assert run(work) == (2250 - len(poisoned), len(poisoned))
    assert left(work) == poisoned
    assert [tuple(row) for row in work.run("select id, code from public.skipped order by id")] == [
        (key, "P0001") for key in poisoned
    ]


def test_a_failure_that_skip_takes_for_none_is_not_counted(work):
    work.run("update public.work set state = 'poison' where id = 777")
    assert run(work, skip="select $2 where $1 is null") == (2249, 0)


def test_without_skip_the_first_failure_ends_the_work_and_what_was_done_stays(work):
    work.run("update public.work set state = 'poison' where id = 777")
    with pytest.raises(DBAPIError) as failed:
        run(work, skip=None)
    assert sqlstate(failed.value) == "P0001"
    assert 1 not in left(work)
    assert 777 in left(work)
    work.run("update public.work set state = null")
    run(work, skip=None)
    assert left(work) == []


def test_a_query_that_cannot_find_the_rows_is_an_error_of_the_whole(work):
    work.script("alter table public.work rename column done_in to other")
    with pytest.raises(DBAPIError) as failed:
        run(work)
    assert sqlstate(failed.value) == "42703"


def test_a_serialization_failure_is_tried_again(work):
    work.run("update public.work set state = 'conflict' where id <= 3")
    assert run(work) == (2250, 0)
    assert work.run("select from public.skipped") == []


def test_a_lock_that_is_missing_is_waited_for(work):
    holds, release = threading.Event(), threading.Event()

    def hold():
        with work.engine.begin() as other:
            other.exec_driver_sql("select from public.work where id = 1501 for update")
            holds.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
    timer = threading.Timer(0.5, release.set)
    timer.start()
    assert run(work, lock_timeout="50ms") == (2250, 0)
    assert release.is_set()
    thread.join()
    timer.join()
    assert work.run("select from public.skipped") == []
