"""jobs: what is under way, and how it is held, let go and given up from another process."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from profiles_schema.cli import main, progress
from profiles_schema.errors import JobCancelled, UsageError
from profiles_schema.operations.backfill import backfill, count_missing
from profiles_schema.operations.batch_job import Limits
from profiles_schema.operations.health import examine
from profiles_schema.operations.jobs import list_jobs, move
from support import profiles_schema


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
    database.run(
        "update profiles_internal.jobs set finished_at = started_at + interval '0.1 s', heartbeat_at = now() - interval '3 min'"
    )
    header, job = profiles_schema(database.url, "jobs", "list").stdout.splitlines()
    assert re.split(" {2,}", header) == ["id", "job", "state", "rows", "rows/s", "started", "sign of life"]
    at = database.value("select started_at from profiles_internal.jobs").astimezone()
    assert re.split(" {2,}", job) == [
        "1", "backfill", "completed", "30/30", "300", f"{at:%Y-%m-%d %H:%M}", "3 min ago",
    ]  # fmt: skip


def test_a_list_fits_a_terminal_and_says_what_to_do(database):
    database.script(
        "insert into profiles_internal.jobs (kind, state, rows_done, rows_total, rows_failed, runner, started_at, heartbeat_at) values"
        " ('normalize', 'running', 9999999, 10000000, 12, 'worker-7:1302 99999 1.5', now() - interval '12 days', now() - interval '7 hours'),"
        " ('backfill', 'paused', 3, null, 0, null, now(), now() - interval '70 seconds');"
        "insert into profiles_internal.jobs (kind) values ('identity')"
    )
    lines = profiles_schema(database.url, "jobs", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["3", "identity", "pending", "0", "-", "-", "-"]
    assert re.search(r"  7\d s ago$", lines[2])
    assert lines[3].startswith("1   normalize  running  9999999/10000000")
    assert lines[3].endswith("7 h ago")
    assert lines[4:] == [
        "job 2: go on with: profiles-schema jobs resume 2",
        "job 1: 12 rows left out",
        "job 1: its runner is gone; go on with: profiles-schema normalize run",
    ]


@pytest.mark.slow
def test_pause_resume_and_cancel_from_elsewhere(crowd):
    database = crowd(3000)
    steps, failures = [], []

    def work():
        try:
            with database.engine.connect() as connection:
                steps.extend(backfill(connection, limits=Limits(10, 5, 1000)))
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
        steps = backfill(connection, limits=Limits(10, 5), stopped=lambda: bool(asked))
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


@pytest.mark.parametrize(("kind", "verb"), [("backfill", ["backfill"]), ("normalize", ["normalize", "run"])])
def test_work_on_a_paused_job_does_not_wait_for_ever_where_nobody_watches(request, monkeypatch, capsys, kind, verb):
    database = request.getfixturevalue("database" if kind == "backfill" else "wide")
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0.5)
    database.run("delete from profiles_internal.jobs")
    number = database.value(
        "insert into profiles_internal.jobs (kind, state) values (:kind, 'paused') returning id", kind=kind
    )
    started = time.monotonic()
    assert main(verb) == 1
    assert time.monotonic() - started < 30
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"error: Job {number} is paused, and was not resumed within 0.5 s. Finished work stays."
        f" Resume it, then run this again: profiles-schema jobs resume {number}"
    )
    assert database.run("select state, runner from profiles_internal.jobs where id = :id", id=number) == [
        ("paused", None)
    ]
    # The remedy, literally.
    assert main(["jobs", "resume", str(number)]) == 0
    assert main(verb) == 0
    assert database.value("select state from profiles_internal.jobs where id = :id", id=number) == "completed"


def test_a_pause_that_ends_in_time_is_waited_for(crowd, monkeypatch, capsys):
    database = crowd(20)
    monkeypatch.setenv("DATABASE_URL", database.url)
    database.run("insert into profiles_internal.jobs (kind, state) values ('backfill', 'paused')")

    def resume():
        while not database.value("select runner is not null from profiles_internal.jobs"):
            time.sleep(0.02)
        with database.engine.connect() as connection:
            move(connection, "resume", 1)

    resuming = threading.Thread(target=resume)
    resuming.start()
    assert main(["backfill"]) == 0
    resuming.join()
    assert "created 20 profiles" in capsys.readouterr().out


def test_health_says_how_a_paused_job_goes_on(database):
    database.run("insert into profiles_internal.jobs (kind, state) values ('backfill', 'paused')")
    with database.engine.connect() as connection:
        (found,) = examine(connection).findings
    assert (found.severity, found.message) == ("notice", "Job 1 (backfill) is paused.")
    assert found.remedy == "profiles-schema jobs resume 1"


@pytest.mark.slow
def test_a_killed_runner_is_a_problem_at_once(crowd):
    database = crowd(3000)
    runner = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "backfill", "--batch-size", "10", "--max-rate", "100"],
        env=os.environ | {"DATABASE_URL": database.url}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not database.value("select count(*) from public.user_profiles"):
            time.sleep(0.05)
        with database.engine.connect() as connection:
            assert "Job 1 (backfill) is running." in [finding.message for finding in examine(connection).findings]
    finally:
        runner.kill()
        runner.wait()
    give_up = time.monotonic() + 10
    found = []
    while not found and time.monotonic() < give_up:  # until the server has seen that the session is gone
        with database.engine.connect() as connection:
            found = [finding for finding in examine(connection).problems if finding.code == "job"]
    assert [(finding.message, finding.remedy) for finding in found] == [
        ("The runner of job 1 (backfill) is gone.", "profiles-schema backfill")
    ]
    listed = profiles_schema(database.url, "jobs", "list").stdout
    assert "its runner is gone; go on with: profiles-schema backfill" in listed
    run(database)
    with database.engine.connect() as connection:
        assert examine(connection).findings == []
