"""The progress that statements on sessions leave behind, against a count of everything from the beginning."""

import random
import threading
import time
import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import sqlstate
from profiles_schema.operations.recount import differences
from support import wait_until
from support.progress import TOTALS, wrong

# DST in both directions, also at midnight; the whole width of the clock; a day that a zone left out.
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Havana", "Pacific/Kiritimati", "Etc/GMT+12",
    "Pacific/Apia", "Asia/Kathmandu",
)  # fmt: skip
MOMENTS = (
    "2024-12-31 22:00Z", "2025-01-01 00:30Z", "2025-03-30 00:59Z", "2025-03-30 01:01Z", "2025-10-26 00:30Z",
    "2011-11-06 02:31Z", "2011-11-06 03:00Z", "2011-12-29 11:00Z", "2011-12-31 09:00Z", "2025-11-02 04:30Z",
)  # fmt: skip


def statement(dice, users):
    """One statement on sessions, or a change of a time zone, with its parameters."""
    values = {
        "user": dice.choice(users), "other": dice.choice(users), "zone": dice.choice(ZONES), "moment": dice.choice(MOMENTS),
        "days": dice.randrange(-9, 9), "hours": dice.randrange(24), "count": dice.choice((0, 0, 1, 3)), "limit": dice.choice((1, 1, 2, 40)),
        "ends": dice.random() < 0.7, "minutes": dice.choice((None, None, -4, 12)),
    }  # fmt: skip
    at = "(cast(:moment as timestamptz) + make_interval(days => :days, hours => :hours))"
    some = "id in (select id from public.sessions where user_id = cast(:user as uuid) order by md5(id::text || :days) limit :limit)"
    kinds = {
        "insert": (
            "insert into public.sessions (user_id, started_at, ended_at, duration_minutes, descriptions_generated, qa_attempts,"
            f" qa_correct, qa_seconds, vocabulary_learned, images_processed) select :user, {at} - interval '7 minutes',"
            f" case when :ends then {at} + make_interval(mins => g) end, cast(:minutes as integer), :count, :count, least(:count, 1), :count * 9,"
            " case when :count = 3 then 1 else 0 end, 1 from generate_series(1, cast(:limit as integer)) as g"
        ),
        "end": f"update public.sessions set ended_at = {at} where {some}",
        "reopen": f"update public.sessions set ended_at = null where {some}",
        "correct": f"update public.sessions set qa_attempts = :count, descriptions_generated = 3 - :count, vocabulary_learned = :count where {some}",
        "touch": f"update public.sessions set images_processed = images_processed where {some}",
        "move": f"update public.sessions set user_id = :other where {some}",
        "disown": f"update public.sessions set user_id = null where {some}",
        "rename": f"update public.sessions set id = gen_random_uuid() where {some}",
        "delete": f"delete from public.sessions where {some}",
        "delete latest": "delete from public.sessions where id = (select id from public.sessions"
        " where user_id = :user and ended_at is not null order by ended_at desc limit 1)",
        "zone": "update public.user_profiles set timezone = :zone where user_id = :user",
        "everybody": f"update public.sessions set ended_at = coalesce(ended_at, {at}) + interval '20 hours' where user_id = any (cast(:all as uuid[]))",
    }
    kind = dice.choices(list(kinds), weights=[30, 12, 4, 10, 3, 8, 1, 2, 8, 6, 5, 2])[0]
    return kinds[kind], values | {"all": users}


@pytest.fixture
def users(database):
    return [database.sign_up(f"u{n}@example.org") for n in range(4)]


def execute(connection, sql, values):
    names = set(text(sql).compile().params)
    connection.execute(text(sql), {name: value for name, value in values.items() if name in names})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_differences_lead_where_a_count_of_everything_leads(database, users, seed):
    dice = random.Random(seed)
    for _ in range(60):
        sql, values = statement(dice, users)
        with database.engine.begin() as connection:
            execute(connection, sql, values)
        assert wrong(database) == [], (sql, values)
    assert database.value("select count(*) from profiles_internal.stale_progress") == 0
    assert database.value("select sum(total_sessions) from public.user_progress") > 20


def work(database, users, seed, statements, failures):
    """Transactions of one connection; those that cannot be serialized, or deadlock, are run again, as an application does."""
    dice = random.Random(seed)
    for _ in range(statements):
        isolation = dice.choice(("READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))
        several = [statement(dice, users) for _ in range(dice.choice((1, 1, 2)))]
        for attempt in range(400):
            try:
                with (
                    database.engine.connect().execution_options(isolation_level=isolation) as connection,
                    connection.begin(),
                ):
                    for sql, values in several:
                        execute(connection, sql, values)
                break
            except DBAPIError as error:
                if sqlstate(error) not in {"40001", "40P01"}:
                    failures.append(error)
                    return
                time.sleep(random.uniform(0, 0.01) * min(attempt, 20))
        else:
            failures.append(several)


def concurrently(database, users, seed, workers, statements):
    failures = []
    threads = [
        threading.Thread(target=work, args=(database, users, f"{seed} {n}", statements, failures))
        for n in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("seed", "statements"), [(0, 12), *(pytest.param(seed, 40, marks=pytest.mark.slow) for seed in range(1, 3))]
)
def test_eight_connections_at_once_lose_nothing_and_count_nothing_twice(database, users, seed, statements):
    concurrently(database, users, seed, 8, statements)
    stale = {row.user_id for row in database.run("select user_id from profiles_internal.stale_progress")}
    # Whoever has no mark is right already.
    unmarked = [row.user_id for row in database.run(TOTALS) if row.user_id not in stale]
    with database.engine.connect() as connection:
        assert differences(connection, unmarked) == []
    database.run(
        "select profiles_internal.recount_progress(array(select distinct user_id from profiles_internal.stale_progress))"
    )
    assert wrong(database) == []
    assert database.value("select count(*) from profiles_internal.stale_progress") == 0


def test_a_transaction_with_an_older_snapshot_notices_that_the_days_were_counted_anew(database, users):
    """Another time zone that leaves every total as it is, behind the back of REPEATABLE READ."""
    ada = users[0]
    session = "insert into public.sessions (user_id, ended_at) values (:user, cast(:at as timestamptz))"
    database.run(session, user=ada, at="2025-06-10 12:00Z")
    repeatable = database.engine.connect().execution_options(isolation_level="REPEATABLE READ")
    with repeatable as connection, connection.begin():
        connection.exec_driver_sql("select count(*) from public.sessions")
        database.run("update public.user_profiles set timezone = 'Europe/Berlin' where user_id = :user", user=ada)
        connection.execute(text(session), {"user": ada, "at": "2025-06-20 23:00Z"})  # the 21st in Berlin
    assert [row.error_code for row in database.run("select error_code from profiles_internal.stale_progress")] == [
        "40001"
    ]
    database.run(session, user=ada, at="2025-06-10 13:00Z")
    assert wrong(database) == []


NAIVE = """
drop trigger roll_up_inserted_sessions on public.sessions;
drop trigger roll_up_changed_sessions on public.sessions;
drop trigger roll_up_deleted_sessions on public.sessions;
create function public.count_session() returns trigger language plpgsql security definer as $$
begin
  if new.ended_at is not null then
    update public.user_progress as p set total_sessions = p.total_sessions + 1, total_questions_answered = p.total_questions_answered + new.qa_attempts
    where p.user_id = new.user_id;
  end if;
  return new;
end $$;
create trigger count_session after insert or update on public.sessions for each row execute function public.count_session();
"""


def test_the_test_sees_what_a_naive_counter_does(database, users):
    database.administrator.script(NAIVE)
    concurrently(database, users, 0, 4, 10)
    assert wrong(database) != []


# What it costs: the plans do not read the history


def test_no_statement_reads_the_history_of_a_user(database):
    # At noon: a session that is the only one of its day would make the days be walked through when it goes.
    user = database.sign_up("ada@example.org")
    database.run(
        "insert into public.sessions (user_id, started_at, ended_at, qa_attempts) select :user, timestamptz '2025-06-15 12:00Z' - make_interval(hours => g + 1),"
        " timestamptz '2025-06-15 12:00Z' - make_interval(hours => g), 1 from generate_series(1, 5000) as g",
        user=user,
    )
    database.administrator.script("analyze public.sessions; analyze profiles_internal.active_days")
    reads = (
        "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0) from pg_stat_xact_user_tables"
        " where relname in ('sessions', 'active_days')"
    )
    for sql in (
        "insert into public.sessions (user_id, ended_at) values (:user, '2025-06-15 13:00Z')",
        "update public.sessions set qa_attempts = 2 where id = (select id from public.sessions where user_id = :user order by ended_at desc limit 1)",
        "delete from public.sessions where id = (select id from public.sessions where user_id = :user order by ended_at desc limit 1)",
        # The only one with descriptions and words: nothing is found behind it.
        "insert into public.sessions (user_id, ended_at, descriptions_generated, vocabulary_learned) values (:user, '2025-06-15 13:30Z', 1, 1)",
        "delete from public.sessions where id = (select id from public.sessions where user_id = :user order by ended_at desc limit 1)",
    ):
        with database.engine.begin() as connection:
            connection.execute(text(sql), {"user": user})
            assert connection.execute(text(reads)).scalar_one() < 40, sql


# Failures are not the application's


FAILING = "alter table public.user_progress add constraint at_most_one check (total_sessions < 2) not valid"


def test_a_roll_up_that_fails_lets_the_statement_through_and_leaves_a_mark(database, users):
    ada = users[0]
    end = "insert into public.sessions (user_id, ended_at, qa_attempts) values (:user, now(), 3)"
    database.run(end, user=ada)
    database.administrator.script(FAILING)
    database.run(end, user=ada)
    database.run(end, user=ada)  # the mark is there: it is counted anew, and fails, too
    assert database.value("select count(*) from public.sessions") == 3
    assert database.value("select total_sessions from public.user_progress where user_id = :user", user=ada) == 1
    marks = database.run("select user_id, error_code, error_message from profiles_internal.stale_progress order by id")
    assert {(mark.user_id, mark.error_code) for mark in marks} == {(ada, "23514")}
    assert marks[0].error_message == "user_progress at_most_one in profiles_internal.roll_up_sessions"
    database.administrator.script("alter table public.user_progress drop constraint at_most_one")
    database.run(end, user=users[1])
    assert len(wrong(database)) > 0
    database.run(end, user=ada)
    assert wrong(database) == []
    assert database.run("select from profiles_internal.stale_progress") == []


def test_a_locked_progress_row_costs_a_statement_its_wait_and_nothing_else(database, users):
    ada = users[0]
    with database.engine.connect() as holder:
        holder.execute(text("select from public.user_progress where user_id = :user for update"), {"user": ada})
        with database.engine.begin() as connection:
            connection.exec_driver_sql("set local lock_timeout = '50ms'")
            connection.execute(
                text("insert into public.sessions (user_id, ended_at) values (:user, now())"), {"user": ada}
            )
    assert [row.error_code for row in database.run("select error_code from profiles_internal.stale_progress")] == [
        "55P03"
    ]
    database.run("select profiles_internal.recount_progress(array[cast(:user as uuid)])", user=ada)
    assert wrong(database) == []


def test_a_statement_that_is_cancelled_in_the_roll_up_ends_well(database, users):
    ada = users[0]
    with database.engine.connect() as holder:
        holder.execute(text("select from public.user_progress where user_id = :user for update"), {"user": ada})
        insert = "insert into public.sessions (user_id, ended_at) values (:user, now())"
        writer = threading.Thread(target=lambda: database.run(insert, user=ada))
        writer.start()
        waiting = "from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        wait_until(lambda: database.value(f"select count(*) {waiting}"))
        database.administrator.run(f"select pg_cancel_backend(pid) {waiting}")
        writer.join(20)
    assert database.value("select count(*) from public.sessions") == 1
    assert [row.error_code for row in database.run("select error_code from profiles_internal.stale_progress")] == [
        "57014"
    ]


def test_the_deletion_of_a_user_takes_days_and_marks_along(database, users):
    ada, bob = users[:2]
    database.run(
        "insert into public.sessions (user_id, ended_at) select u, now() from unnest(cast(:users as uuid[])) as u",
        users=users,
    )
    database.run("insert into profiles_internal.stale_progress (user_id, error_code) values (:user, '40P01')", user=ada)
    database.run("delete from auth.users where id = :user", user=ada)
    assert database.value("select count(*) from profiles_internal.active_days") == 3
    assert database.run("select from profiles_internal.stale_progress") == []
    # A restored dump may have the foreign keys in another order: the days go first.
    database.administrator.script(
        "alter table public.user_progress drop constraint fk_user_progress_user_id_users;"
        "alter table public.user_progress add constraint fk_user_progress_user_id_users foreign key (user_id)"
        " references auth.users (id) on delete cascade"
    )
    database.run("delete from auth.users where id = :user", user=bob)
    assert database.run("select from profiles_internal.stale_progress") == []
    assert database.value("select count(*) from public.user_progress") == 2
    assert wrong(database) == []


def test_sums_beyond_their_type_come_back_when_sessions_go(database, users):
    ada = users[0]
    big = uuid.uuid4()
    insert = "insert into public.sessions (id, user_id, ended_at, qa_attempts, qa_correct) values (:id, :user, now(), 2000000000, 1)"
    database.run(insert, id=big, user=ada)
    database.run(insert, id=uuid.uuid4(), user=ada)
    database.run(insert, id=uuid.uuid4(), user=ada)
    questions = "select total_questions_answered from public.user_progress where user_id = :user"
    assert database.value(questions, user=ada) == 2_147_483_647
    database.run("delete from public.sessions where id = :id", id=big)
    assert database.value(questions, user=ada) == 2_147_483_647
    database.run("delete from public.sessions where id in (select id from public.sessions limit 1)")
    assert database.value(questions, user=ada) == 2_000_000_000
    assert wrong(database) == []


def test_a_table_of_sessions_with_a_history_of_its_own_is_rolled_up(hosted):
    """Dropped, generated and numeric columns, a type without equality, and counters that are null."""
    user, other = hosted.sign_up("ada@example.org"), hosted.sign_up("bob@example.org")
    hosted.script(
        "create table public.sessions (gone text, id uuid primary key default gen_random_uuid(), user_id uuid, started_at timestamptz,"
        " ended_at timestamptz, duration_minutes numeric, descriptions_generated numeric, images_processed bigint,"
        " qa_attempts smallint, vocabulary_learned integer, device json,"
        " twice integer generated always as (vocabulary_learned * 2) stored);"
        "alter table public.sessions drop column gone; alter table public.sessions add column late point"
    )
    hosted.upgrade()
    insert = (
        "insert into public.sessions (user_id, started_at, ended_at, duration_minutes, descriptions_generated, qa_attempts, device)"
        " values (:user, now(), now(), 1.5, 0.5, null, '{}')"
    )
    for each in (user, user, user, other):
        hosted.run(insert, user=each)
    hosted.run("update public.sessions set device = '{\"a\": 1}', vocabulary_learned = 2")
    hosted.run(
        "update public.sessions set user_id = :other where user_id = :user and id in (select id from public.sessions limit 2)",
        user=user,
        other=other,
    )
    hosted.script("alter table public.sessions add column later text default 'x'")
    hosted.run(insert, user=user)
    hosted.run(
        "delete from public.sessions where id = (select id from public.sessions where user_id = :user limit 1)",
        user=user,
    )
    assert hosted.run("select * from profiles_internal.stale_progress") == []
    assert wrong(hosted) == []
    assert hosted.value("select sum(total_sessions) from public.user_progress") == 4
