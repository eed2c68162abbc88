"""The roll-up under statements of every kind, with triggers of the application beside it, and when its table changes."""

import uuid

import pytest
from sqlalchemy import text

from support.progress import wrong

MARK = "insert into profiles_internal.stale_progress (user_id, error_code) values (:user, '55P03')"
MARKS = "select user_id, error_code from profiles_internal.stale_progress"


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


@pytest.fixture
def first(database, ada):
    """A session that has ended."""
    made = uuid.uuid4()
    database.run(
        "insert into public.sessions (id, user_id, ended_at, qa_attempts) values (:id, :user, now(), 1)",
        id=made,
        user=ada,
    )
    return made


# One query fires several triggers: a count anew in the first has seen what the others are told


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.sessions (id, user_id, ended_at, qa_attempts) values (:first, :user, now(), 5), (gen_random_uuid(), :user, now(), 2)"
        " on conflict (id) do update set qa_attempts = excluded.qa_attempts",
        "merge into public.sessions as s using (values (cast(:first as uuid)), (gen_random_uuid())) as n (id) on s.id = n.id"
        " when matched then update set qa_attempts = 3 when not matched then insert (id, user_id, ended_at) values (n.id, :user, now())",
        "with gone as (delete from public.sessions where id = :first returning user_id)"
        " insert into public.sessions (user_id, ended_at) select coalesce((select user_id from gone), :user), now() - interval '3 days'",
    ],
    ids=["upsert", "merge", "with"],
)
def test_a_statement_with_several_parts_counts_each_once_where_a_mark_is_left(database, ada, first, statement):
    database.run(MARK, user=ada)
    database.run(statement, first=first, user=ada)
    assert wrong(database) == []
    assert database.run(MARKS) == []
    # The next one goes by differences again.
    database.run("update public.sessions set qa_attempts = qa_attempts + 1")
    assert wrong(database) == []


def test_another_time_zone_and_a_session_in_one_statement(database, ada, first):
    database.run(
        "with zone as (update public.user_profiles set timezone = 'Asia/Tokyo' where user_id = :user returning user_id)"
        " insert into public.sessions (user_id, ended_at) select user_id, now() from zone",
        user=ada,
    )
    assert wrong(database) == []


@pytest.mark.parametrize("earlier", ["1 hour", "1 day"])
def test_a_trigger_of_the_application_that_corrects_the_session_just_written(database, ada, earlier):
    database.script(
        "create function public.clamp() returns trigger language plpgsql as $$ begin"
        " if new.ended_at > timestamptz '2026-01-10 12:00Z' then"
        f"  update public.sessions set ended_at = ended_at - interval '{earlier}', qa_attempts = 0 where id = new.id;"
        " end if; return null; end $$;"
        "create trigger clamp after insert or update on public.sessions for each row execute function public.clamp()"
    )
    for at in ("2026-01-08 12:00Z", "2026-01-10 12:30Z", "2026-01-10 11:45Z", "2026-01-11 12:30Z"):
        database.run(
            "insert into public.sessions (user_id, ended_at, qa_attempts) values (:user, cast(:at as timestamptz), 1)",
            user=ada,
            at=at,
        )
        assert wrong(database) == []
    database.run("update public.sessions set ended_at = ended_at + interval '2 days'")
    assert wrong(database) == []
    assert database.run(MARKS) == []


# What the application does to the table


def test_wide_rows_of_the_application_are_not_read(database, ada):
    """All of them together may be more than a value of PostgreSQL can hold, and the statement would fail."""
    database.script("alter table public.sessions add column transcript text")
    database.script("alter table public.sessions alter column transcript set storage external")
    reads = (
        "select t.idx_tup_fetch from pg_stat_xact_all_tables as t join pg_class as c on c.reltoastrelid = t.relid"
        " where c.oid = 'public.sessions'::regclass"
    )
    for statement in (
        "insert into public.sessions (user_id, ended_at, transcript)"
        " select :user, now(), repeat('x', 100000) from generate_series(1, 5)",
        "update public.sessions set qa_attempts = 1 where user_id = :user",
    ):
        with database.engine.begin() as connection:
            connection.execute(text(statement), {"user": ada})
            assert connection.execute(text(reads)).scalar_one() == 0, statement
    assert wrong(database) == []


def test_a_change_of_what_does_not_count_writes_nothing(database, ada, first):
    database.script("alter table public.sessions add column note text")
    before = database.value("select xmin::text from public.user_progress")
    database.run("update public.sessions set note = 'x', qa_attempts = 1")
    assert database.value("select xmin::text from public.user_progress") == before


def test_emptying_the_table_empties_the_progress(database, ada, first):
    database.run("truncate public.sessions")
    assert wrong(database) == []
    assert database.value("select total_sessions from public.user_progress") == 0


def test_a_renamed_table_takes_sessions_and_leaves_marks(database, ada, first):
    database.script("alter table public.sessions rename to learning_sessions")
    database.run("insert into public.learning_sessions (user_id, ended_at) values (:user, now())", user=ada)
    database.run("delete from public.learning_sessions where id = :first", first=first)
    database.run("update public.user_profiles set timezone = 'Asia/Tokyo'")
    assert {row.error_code for row in database.run(MARKS)} == {"42P01"}
    database.script("alter table public.learning_sessions rename to sessions")
    database.run("update public.sessions set qa_attempts = 7")
    assert wrong(database) == []


def test_a_table_that_is_dropped_stops_no_change_of_a_profile(database, ada, first):
    database.script("drop table public.sessions")
    database.run("update public.user_profiles set timezone = 'Asia/Tokyo'")
    database.run("delete from public.user_progress")
    database.run("insert into public.user_progress (user_id) values (:user)", user=ada)
    assert database.profile(database.sign_up("bob@example.org"))
    assert database.run(MARKS) == []


# What is never seen together


def test_a_session_that_ends_while_the_progress_row_is_made_leaves_a_mark(database, ada):
    database.run("delete from public.user_progress")
    with database.engine.connect() as one:
        one.execute(text("insert into public.sessions (user_id, ended_at) values (:user, now())"), {"user": ada})
        database.run("insert into public.user_progress (user_id) values (:user)", user=ada)
        one.commit()
    assert [row.user_id for row in database.run(MARKS)] == [ada]
    database.run("insert into public.sessions (user_id, ended_at) values (:user, now())", user=ada)
    assert wrong(database) == []
    assert database.run(MARKS) == []


@pytest.mark.parametrize("at", ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"])
def test_a_session_that_ends_at_an_odd_time(database, ada, first, at):
    """Infinity is no time: such a session has not ended."""
    odd = uuid.uuid4()
    values = {"id": odd, "user": ada, "at": at}
    insert = "insert into public.sessions (id, user_id, started_at, ended_at, qa_attempts) values (:id, :user, cast(:start as timestamptz), cast(:at as timestamptz), 1)"
    database.run(insert, **values, start="2026-01-01")
    assert database.value("select total_sessions from public.user_progress") == 1 + ("inf" not in at)
    database.run(insert, **values | {"id": uuid.uuid4(), "at": "2026-01-05"}, start="-infinity")
    database.run("update public.sessions set ended_at = now() where id = :odd", odd=odd)
    database.run("update public.sessions set ended_at = cast(:at as timestamptz) where id = :first", at=at, first=first)
    database.run("delete from public.sessions where id = :odd", odd=odd)
    assert database.run(MARKS) == []
    assert wrong(database) == []
