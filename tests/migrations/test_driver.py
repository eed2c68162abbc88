"""SQL as it is written, names, errors, and another try while a lock is held; all on a real server."""

import threading
import time

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from profiles_schema import driver

LOCKED = "set local lock_timeout = '10ms'; lock table things"


@pytest.fixture
def engine(empty_database):
    made = create_engine(empty_database.replace("postgresql://", "postgresql+psycopg2://", 1), poolclass=NullPool)
    with made.begin() as connection:
        connection.exec_driver_sql("create table things (id integer primary key, number integer not null)")
        connection.exec_driver_sql("insert into things values (1, 0), (2, 0)")
    return made


@pytest.fixture
def connection(engine):
    with engine.connect() as made:
        yield made


@pytest.fixture
def held(engine):
    """A session that holds the table until the fixture's event is set."""
    release = threading.Event()
    holds = threading.Event()

    def hold():
        with engine.begin() as other:
            other.exec_driver_sql("lock table things")
            holds.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
    yield release
    release.set()
    thread.join()


def lock(connection):
    with connection.begin():
        driver.execute_literally(connection, LOCKED)
        return connection.scalar(text("select count(*) from things"))


def test_work_is_tried_until_the_lock_is_free(connection, held):
    failures = []

    def on_failure(error, remaining):
        failures.append((driver.sqlstate(error), remaining > 0))
        if len(failures) == 3:
            held.set()

    assert driver.retry_on_lock(connection, lambda: lock(connection), 10, on_failure=on_failure) == 2
    assert failures[:3] == [("55P03", True)] * 3


def test_work_fails_when_its_time_is_over(connection, held):
    left = []
    started = time.monotonic()
    with pytest.raises(DBAPIError) as failed:
        driver.retry_on_lock(connection, lambda: lock(connection), 0.2, on_failure=lambda _, r: left.append(r))
    assert driver.sqlstate(failed.value) == "55P03"
    assert 0.2 <= time.monotonic() - started < 5
    assert len(left) > 2
    assert left[-1] <= 0 < left[-2]
    assert not connection.in_transaction()


def test_the_time_counts_from_the_first_failure(connection, held):
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) == 1:
            connection.exec_driver_sql("select pg_sleep(0.3)")
            connection.commit()
        else:
            held.set()
        return lock(connection)

    assert driver.retry_on_lock(connection, work, 0.2) == 2


def test_a_restarted_clock_gives_the_next_part_of_the_work_its_whole_time(connection, held):
    clock = driver.Deadline(5)
    left = []

    def on_failure(_, remaining):
        left.append(remaining)
        if len(left) == 3:
            clock.restart()
        elif len(left) == 4:
            held.set()

    assert driver.retry_on_lock(connection, lambda: lock(connection), clock, on_failure=on_failure) == 2
    assert left[2] < 4.98
    assert left[3] == pytest.approx(5)


def test_another_error_is_raised_at_once_and_rolled_back(connection):
    attempts = []

    def work():
        attempts.append(1)
        connection.exec_driver_sql("select 1/0")

    with pytest.raises(DBAPIError) as failed:
        driver.retry_on_lock(connection, work, 10, on_failure=lambda *_: pytest.fail("it is no lock"))
    assert driver.sqlstate(failed.value) == "22012"
    assert len(attempts) == 1
    assert connection.scalar(text("select 1")) == 1


def test_a_serialization_failure_is_tried_again_with_a_new_snapshot(engine, connection):
    attempts = []

    def work():
        connection.exec_driver_sql("set transaction isolation level repeatable read")
        connection.exec_driver_sql("select from things")
        if not attempts:
            with engine.begin() as other:
                other.exec_driver_sql("update things set number = 10 where id = 1")
        attempts.append(1)
        connection.exec_driver_sql("update things set number = number + 1 where id = 1")
        connection.commit()

    seen = []
    driver.retry_on_lock(connection, work, 10, on_failure=lambda error, _: seen.append(driver.sqlstate(error)))
    assert seen == ["40001"]
    assert connection.scalar(text("select number from things where id = 1")) == 11


def test_a_deadlock_is_tried_again(engine, connection):
    barrier = threading.Barrier(2)
    seen = []

    def work(own, first, second, waits):
        own.exec_driver_sql(f"set local deadlock_timeout = '{'20ms' if own is connection else '10s'}'")
        own.exec_driver_sql(f"update things set number = number + 1 where id = {first}")
        if waits:
            waits.pop()
            barrier.wait(10)
        own.exec_driver_sql(f"update things set number = number + 1 where id = {second}")
        own.commit()

    def other():
        with engine.connect() as own:
            work(own, 2, 1, [True])

    thread = threading.Thread(target=other)
    thread.start()
    waits = [True]
    driver.retry_on_lock(
        connection,
        lambda: work(connection, 1, 2, waits),
        10,
        on_failure=lambda error, _: seen.append(driver.sqlstate(error)),
    )
    thread.join()
    assert seen == ["40P01"]
    assert connection.exec_driver_sql("select number from things").scalars().all() == [2, 2]


def test_sql_runs_as_it_is_written(connection):
    row = driver.execute_literally(connection, "select '100%', '%s %(x)s %%', ':x', '{y}'").one()
    assert tuple(row) == ("100%", "%s %(x)s %%", ":x", "{y}")


def test_every_keyword_can_be_a_name(connection):
    words = connection.exec_driver_sql("select word from pg_get_keywords() order by 1").scalars().all()
    names = [*words, "Upper", 'quo"te', "a b", "100%", "é", ":x", "1st", "$1"]
    for name in names:
        quoted = driver.quote_name(name)
        driver.execute_literally(connection, f"create temporary table {quoted} ({quoted} integer)")
    found = connection.exec_driver_sql(
        "select c.relname, a.attname from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0"
        " where c.relnamespace = pg_my_temp_schema()"
    )
    assert sorted(map(tuple, found)) == sorted((name, name) for name in names)
    # Quotes where none are needed would be noise in what people read.
    assert driver.quote_name("user_profiles") == "user_profiles"


def test_a_name_means_the_same_in_text_and_taken_literally(connection):
    name = driver.quote_name('50%_"of')
    driver.execute_literally(connection, f"create temporary table t ({name} integer)")
    assert connection.execute(text(f"select {name} from t")).keys() == ['50%_"of']


def test_an_error_is_read_without_the_values_in_its_detail(connection):
    with pytest.raises(DBAPIError) as failed:
        connection.exec_driver_sql("insert into things values (1, 7)")
    assert driver.sqlstate(failed.value) == "23505"
    assert driver.server_message(failed.value) == 'duplicate key value violates unique constraint "things_pkey"'
    assert "(id)=(1)" in driver.diagnosis(failed.value, "message_detail")
    assert driver.failed_objects(failed.value) == "things things_pkey"


def test_a_lost_connection_is_told_from_a_failed_statement(connection):
    with pytest.raises(DBAPIError) as failed:
        connection.exec_driver_sql("select 1/0")
    assert not driver.is_disconnect(failed.value)
    connection.rollback()
    with pytest.raises(DBAPIError) as lost:
        connection.exec_driver_sql("select pg_terminate_backend(pg_backend_pid())")
    assert driver.is_disconnect(lost.value)
