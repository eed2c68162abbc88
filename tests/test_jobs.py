"""jobs: what is under way, and how it is held, let go and given up from another process."""

import json
import threading
import time

import pytest
from support import profiles_schema

from profiles_schema.errors import JobCancelled, UsageError
from profiles_schema.operations.backfill import backfill, count_missing
from profiles_schema.operations.batches import list_jobs, move


def run(database):
    with database.engine.connect() as connection:
        return list(backfill(connection))


def the_job(database):
    with database.engine.connect() as connection:
        return list_jobs(connection)[0]


def missing(database):
    with database.engine.connect() as connection:
        return count_missing(connection)


def test_without_any_it_says_so(database):
    assert profiles_schema(database.url, "jobs", "list").stdout == "no jobs\n"


def test_a_list_says_where_each_stands(crowd):
    database = crowd(30)
    run(database)
    assert profiles_schema(database.url, "jobs", "list").stdout == "1  backfill  completed  30 of 30 rows\n"


def test_pause_resume_and_cancel_from_elsewhere(crowd):
    database = crowd(3000)
    steps, failures = [], []

    def work():
        try:
            with database.engine.connect() as connection:
                steps.extend(backfill(connection, batch_users=10, target_ms=5, max_rate=1000))
        except JobCancelled as cancelled:
            failures.append(cancelled)

    worker = threading.Thread(target=work)
    worker.start()
    while not database.value("select count(*) from public.user_profiles"):
        time.sleep(0.02)
    number = str(the_job(database).id)
    assert profiles_schema(database.url, "jobs", "pause", number).returncode == 0
    time.sleep(1)
    standing = database.value("select count(*) from public.user_profiles")
    time.sleep(0.7)
    assert database.value("select count(*) from public.user_profiles") == standing < 3000
    assert the_job(database).state == "paused"
    resumed = profiles_schema(database.url, "jobs", "resume", number)
    assert resumed.stdout.strip() == f"job {number} is running"
    while database.value("select count(*) from public.user_profiles") == standing:
        time.sleep(0.02)
    listed = json.loads(profiles_schema(database.url, "jobs", "list", "--json").stdout)
    assert (listed[0]["state"], listed[0]["kind"]) == ("running", "backfill")
    assert profiles_schema(database.url, "jobs", "cancel", number).returncode == 0
    worker.join(timeout=20)
    assert len(failures) == 1
    assert the_job(database).state == "cancelled"
    run(database)
    assert missing(database) == 0


def test_what_cannot_be_moved_is_refused(database):
    with database.engine.connect() as connection:
        with pytest.raises(UsageError, match="no job 7"):
            move(connection, "pause", 7)
        connection.rollback()
        list(backfill(connection))
        connection.rollback()
        with pytest.raises(UsageError, match="completed"):
            move(connection, "pause", the_job(database).id)
    assert profiles_schema(database.url, "jobs", "resume", "99").returncode == 2


def test_a_paused_job_whose_runner_stops_stays_paused(crowd):
    database = crowd(200)
    asked = []
    with database.engine.connect() as connection:
        steps = backfill(connection, batch_users=10, target_ms=5, stopped=lambda: bool(asked))
        next(steps)
        with database.engine.connect() as other:
            move(other, "pause", 1)
        assert [next(steps).state for _ in range(1)] == ["paused"]
        asked.append(True)
        assert list(steps)[-1].state == "stopped"
    assert the_job(database).state == "paused"
    with database.engine.connect() as other:
        assert move(other, "resume", 1) == "pending"
    run(database)
    assert missing(database) == 0
