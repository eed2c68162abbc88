"""backfill: what is missing is made, once, whatever interrupts it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from profiles_schema.operations.backfill import backfill, count_missing
from support import profiles_schema


def without_trigger(database, users):
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        f"insert into auth.users (email) select 'usr' || g % 700 || '@example.org' from generate_series(1, {users}) as g;"
        "alter table auth.users enable trigger profiles_on_auth_user_created"
    )


def run(database, **options):
    with database.engine.connect() as connection:
        return list(backfill(connection, **options))[-1]


def missing(database):
    with database.engine.connect() as connection:
        return count_missing(connection)


def test_profiles_and_progress_are_made_with_the_rule_of_the_trigger(database):
    without_trigger(database, 2500)
    assert missing(database) == 2500
    progress = run(database)
    assert (progress.counts["created"], progress.failed) == (2500, {})
    assert missing(database) == 0
    assert database.value("select count(distinct lower(username)) from public.user_profiles") == 2500
    assert database.value("select count(*) from public.user_profiles where username ~ '^usr[0-9]+$'") == 700


def test_a_second_run_has_nothing_to_do(database):
    without_trigger(database, 10)
    run(database)
    assert run(database).counts == {}


def test_progress_alone_is_made_too(database):
    user = database.sign_up("ada@example.org")
    database.run("delete from public.user_progress where user_id = :id", id=user)
    assert run(database).counts == {"created": 0, "completed": 1}
    assert missing(database) == 0


def test_soft_deleted_users_stay_without(database):
    without_trigger(database, 3)
    database.run("update auth.users set deleted_at = now()")
    database.run("delete from public.user_profiles")
    assert run(database).counts == {}


def test_without_a_column_for_deletion_nobody_is_deleted(database):
    without_trigger(database, 3)
    database.script("alter table auth.users drop column deleted_at")
    assert missing(database) == 3
    assert run(database).counts["created"] == 3


def test_a_lost_erasure_is_made_up_for(database):
    user = database.sign_up("ada@example.org")
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_updated;"
        f"update auth.users set deleted_at = now() where id = '{user}';"
        "alter table auth.users enable trigger profiles_on_auth_user_updated"
    )
    assert run(database).counts["erased"] == 1
    assert database.value("select is_active from public.user_profiles") is False
    assert run(database).counts == {}


def test_one_poison_row_costs_one_profile(database):
    without_trigger(database, 50)
    database.script(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$begin if new.email = 'usr7@example.org' then perform 1 / 0; end if; return new; end$$;"
        "create trigger refuse before insert on public.user_profiles for each row execute function public.refuse()"
    )
    progress = run(database)
    assert (progress.counts["created"], progress.failed) == (49, {"22012": 1})
    assert database.run("select action, origin, error_code from public.user_profile_audit_logs") == [
        ("failed", "backfill", "22012")
    ]


def test_a_failure_on_record_names_the_column_whoever_met_it(database):
    database.script("alter table public.user_profiles add column created_by uuid not null default auth.uid()")
    user = database.sign_up("ada@example.org")
    assert run(database).failed == {"23502": 1}
    assert database.run(
        "select origin, error_code, split_part(error_message, ' in ', 1) from public.user_profile_audit_logs where user_id = :id order by created_at",
        id=user,
    ) == [(origin, "23502", "user_profiles created_by") for origin in ("trigger", "backfill")]


@pytest.mark.slow
def test_it_waits_for_a_short_lock(database):
    without_trigger(database, 10)
    holder = subprocess.Popen(
        [sys.executable, "-c", (
            "import sys, time, psycopg2; c = psycopg2.connect(sys.argv[1]); c.cursor().execute('lock table public.user_profiles');"
            "print('held', flush=True); time.sleep(1.5)"
        ), database.url],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    assert run(database).counts["created"] == 10
    holder.stdout.close()
    holder.wait()


def test_what_did_not_follow_its_user_is_brought_up_to_date(database):
    user = database.sign_up("ada@example.org")
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_updated;"
        f"update auth.users set email = 'ada@new.example' where id = '{user}';"
        "alter table auth.users enable trigger profiles_on_auth_user_updated;"
        f"insert into public.user_profile_audit_logs (user_id, action, origin, error_code) values ('{user}', 'failed', 'trigger', '55P03')"
    )
    assert run(database).counts["repaired"] == 1
    assert database.profile(user).email == "ada@new.example"


def test_a_deferred_job_is_completed(empty):
    empty.upgrade("0013")
    empty.run("insert into auth.users (email) values ('ada@example.org')")
    empty.upgrade(backfill="defer")
    assert empty.value("select state from profiles_internal.jobs") == "pending"
    assert run(empty).counts["created"] == 1
    assert empty.value("select state from profiles_internal.jobs") == "completed"


def test_the_command_reports_and_a_dry_run_changes_nothing(database):
    without_trigger(database, 5)
    dry = profiles_schema(database.url, "backfill", "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.startswith("users without profile or progress: 5; nothing was changed\nit should take ")
    assert "locks: ROW EXCLUSIVE" in dry.stdout
    assert missing(database) == 5
    done = profiles_schema(database.url, "backfill", "--json", "--batch-size", "2")
    assert done.returncode == 0
    assert json.loads(done.stdout)["created"] == 5
    assert profiles_schema(database.url, "backfill", "--batch-size", "0").returncode == 2


def test_the_command_counts_profiles_and_progress_apart(database):
    without_trigger(database, 1)
    users = [database.sign_up(f"{name}@example.org") for name in ("ada", "grace")]
    database.run("delete from public.user_progress where user_id = any (:users)", users=users)
    done = profiles_schema(database.url, "backfill")
    assert done.stdout == (
        "created 1 profile; added the progress of 2 users; repaired 0 profiles that had not followed their user\n"
    )
    assert missing(database) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_it_can_be_interrupted_and_run_again(database, how):
    without_trigger(database, 3000)
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "backfill", "--batch-size", "20"],
        env={"DATABASE_URL": database.url, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stderr.readline()  # one batch is done
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in {130, -signal.SIGKILL}
    assert "Traceback" not in errors
    for _ in range(50):  # the server notices a killed client when the statement ends
        if not database.value("select count(*) from pg_stat_activity where application_name like 'profiles-schema%'"):
            break
        time.sleep(0.1)
    left = missing(database)
    assert 0 < left < 3000
    assert run(database).counts["created"] == left
    assert missing(database) == 0


def test_progress_made_after_the_sessions_counts_them(database):
    user = database.sign_up("ada@example.org")
    database.run(
        "insert into public.sessions (user_id, ended_at, qa_attempts) select :id, now(), 4 from generate_series(1, 5)",
        id=user,
    )
    database.run("delete from public.user_progress")
    with database.engine.connect() as connection:
        list(backfill(connection))
    assert database.run("select total_sessions, total_questions_answered from public.user_progress") == [(5, 20)]
