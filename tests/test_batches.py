"""The batch engine, seen through the backfill: nothing lost, nothing twice, and it heeds what others say."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
import pytest
from support import profiles_schema

from profiles_schema.errors import AnotherRunner, JobCancelled, RunnerReplaced, UsageError
from profiles_schema.operations.backfill import backfill, count_missing
from profiles_schema.operations.batches import list_jobs, move

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def crowd(database):
    """Users without profiles."""

    def make(users):
        database.script(
            "alter table auth.users disable trigger profiles_on_auth_user_created;"
            f"insert into auth.users (email) select 'usr' || g % 997 || '@example.org' from generate_series(1, {users}) as g;"
            "alter table auth.users enable trigger profiles_on_auth_user_created; analyze auth.users"
        )
        return database

    return make


def missing(database):
    with database.engine.connect() as connection:
        return count_missing(connection)


def run(database, **options):
    with database.engine.connect() as connection:
        return list(backfill(connection, **options))


def start(database, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "backfill", *arguments], cwd=REPOSITORY,
        env=os.environ | {"DATABASE_URL": database.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def the_job(database):
    with database.engine.connect() as connection:
        return list_jobs(connection)[0]


def complete(database, users):
    assert missing(database) == 0
    assert database.value("select count(*) from public.user_profiles") == users
    assert database.value("select count(*) from public.user_progress") == users


def test_a_run_leaves_a_completed_job(crowd):
    database = crowd(2500)
    last = run(database)[-1]
    assert (last.users, last.created, last.state) == (2500, 2500, "completed")
    job = the_job(database)
    assert (job.kind, job.state, job.rows_done, job.rows_failed) == ("backfill", "completed", 2500, 0)
    complete(database, 2500)


def test_the_batch_follows_the_target(crowd):
    sizes = [step.batch_users for step in run(crowd(6000), batch_users=20, target_ms=50)]
    assert sizes[0] == 20
    assert max(sizes) > 100


def test_a_rate_is_kept(crowd):
    database = crowd(400)
    started = time.monotonic()
    run(database, batch_users=50, target_ms=5, max_rate=200)
    assert time.monotonic() - started > 1.2


@pytest.mark.parametrize("seed", range(6))
def test_killed_anywhere_it_goes_on_and_loses_nothing(crowd, seed):
    database = crowd(3000)
    moment = random.Random(seed)
    for _ in range(2):
        process = start(database, "--batch-size", "20", "--target-ms", "10")
        process.stderr.readline()
        time.sleep(moment.uniform(0, 0.15))
        process.kill()
        process.communicate()
    done = profiles_schema(database.url, "backfill")
    assert done.returncode == 0, done.stderr
    complete(database, 3000)
    assert database.value("select count(*) from profiles_internal.jobs") in {1, 2, 3}
    assert the_job(database).state == "completed"


def test_after_a_kill_the_same_job_goes_on_at_its_cursor(crowd):
    database = crowd(2000)
    process = start(database, "--batch-size", "10", "--target-ms", "5", "--max-rate", "2000")
    for _ in range(5):
        process.stderr.readline()
    process.kill()
    process.communicate()
    before = the_job(database)
    assert 0 < before.rows_done < 2000
    run(database)
    after = the_job(database)
    assert (after.id, after.rows_done) == (before.id, 2000)


def test_a_frozen_runner_that_was_replaced_writes_nothing_and_says_why(crowd):
    database = crowd(4000)
    process = start(database, "--batch-size", "10", "--target-ms", "5", "--max-rate", "500")
    process.stderr.readline()
    process.send_signal(signal.SIGSTOP)
    run(database)
    complete(database, 4000)
    database.run("delete from public.user_profiles where username like 'usr1%'")
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1, errors
    assert "another one took its job over" in errors
    assert "Traceback" not in errors
    assert missing(database) > 0


def test_a_second_runner_is_refused_with_the_name_of_the_first(crowd):
    database = crowd(3000)
    process = start(database, "--batch-size", "10", "--target-ms", "5", "--max-rate", "500")
    process.stderr.readline()
    with pytest.raises(AnotherRunner, match=f":{process.pid}"):
        run(database)
    refused = profiles_schema(database.url, "backfill")
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    process.kill()
    process.communicate()


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
    complete(database, 3000)


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


def test_poison_rows_are_left_out_by_name_and_all_others_done(crowd):
    database = crowd(3000)
    poison = [str(u) for (u,) in database.run("select id from auth.users order by md5(id::text) limit 4")]
    database.script(
        "create function public.poison() returns trigger language plpgsql as $$begin"
        f" if new.user_id = '{poison[0]}' then perform 1 / 0; end if;"
        f" if new.user_id = '{poison[1]}' then raise exception 'no' using errcode = '23514'; end if;"
        f" if new.user_id = '{poison[2]}' then perform 'x'::int; end if;"
        f" if new.user_id = '{poison[3]}' then raise exception 'no'; end if;"
        " return new; end$$;"
        "create trigger poison before insert on public.user_profiles for each row execute function public.poison()"
    )
    last = run(database)[-1]
    assert last.failed == {"22012": 1, "23514": 1, "22P02": 1, "P0001": 1}
    assert missing(database) == 4
    recorded = database.run(
        "select user_id::text, error_code from public.user_profile_audit_logs where action = 'failed'"
    )
    assert dict(recorded) == dict(zip(poison, ["22012", "23514", "22P02", "P0001"], strict=True))
    assert the_job(database).rows_failed == 4


def test_locks_of_others_are_waited_for(crowd):
    database = crowd(500)
    holder = psycopg2.connect(database.url)
    holder.cursor().execute("lock table public.user_progress in access exclusive mode")
    threading.Timer(1.0, holder.rollback).start()
    assert run(database)[-1].created == 500
    holder.close()


def test_a_lost_connection_is_made_again(crowd):
    database = crowd(2000)
    process = start(database, "--batch-size", "10", "--target-ms", "5", "--max-rate", "1000")
    for _ in range(3):
        for _ in range(4):
            process.stderr.readline()
        killed = database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and pid::text in (select split_part(runner, ' ', 2) from profiles_internal.jobs)"
        )
        assert killed
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-2000:]
    complete(database, 2000)


def test_a_dry_run_says_what_would_be_done(crowd):
    database = crowd(300)
    plan = json.loads(profiles_schema(database.url, "backfill", "--dry-run", "--json").stdout)
    assert plan["missing"] == 300
    assert 0 < plan["seconds"][0] < plan["seconds"][1]
    assert len(plan["sample"]) == 5
    assert missing(database) == 300
    assert database.value("select count(*) from profiles_internal.jobs") == 0


def test_a_replaced_runner_cannot_write(crowd):
    database = crowd(200)
    with database.engine.connect() as connection:
        steps = backfill(connection, batch_users=10, target_ms=5, max_rate=2000)
        next(steps)
        database.run("update profiles_internal.jobs set fence = fence + 1")
        left = missing(database)
        with pytest.raises(RunnerReplaced):
            list(steps)
    assert missing(database) == left
