"""profiles-schema progress recount, and what health says of progress."""

import json
import os
import signal
import subprocess
import sys

import pytest

from profiles_schema.operations.health import examine
from support import profiles_schema, wait_until
from support.progress import wrong


@pytest.fixture
def drifted(database):
    """Users with sessions; the progress of three of them was changed past the triggers."""
    users = [database.sign_up(f"u{n}@example.org") for n in range(6)]
    database.run(
        "insert into public.sessions (user_id, ended_at, qa_attempts) select u, now() - make_interval(days => d), d"
        " from unnest(cast(:users as uuid[])) as u, generate_series(1, 3) as d",
        users=users,
    )
    database.run("update public.user_progress set total_sessions = 99 where user_id = :user", user=users[0])
    database.run("update public.user_progress set longest_streak_days = 0 where user_id = :user", user=users[1])
    database.run("delete from profiles_internal.active_days where user_id = :user", user=users[2])
    database.users = users
    return database


def findings(database, **options):
    with database.engine.connect() as connection:
        return [
            (finding.code, finding.count, finding.remedy)
            for finding in examine(connection, **options).findings
            if finding.severity == "problem"
        ]


def test_a_dry_run_says_whose_progress_differs_and_in_what(drifted):
    done = profiles_schema(drifted.url, "progress", "recount", "--dry-run", "--json")
    assert done.returncode == 1
    plan = json.loads(done.stdout)
    assert plan["differing"] == 3
    assert dict(map(tuple, ((user, tuple(columns)) for user, columns in plan["sample"]))) == {
        str(drifted.users[0]): ("total_sessions",),
        str(drifted.users[1]): ("longest_streak_days",),
        str(drifted.users[2]): ("days",),
    }
    said = profiles_schema(drifted.url, "progress", "recount", "--dry-run").stdout
    assert "users whose progress is not what their sessions say: 3; nothing was changed" in said
    assert drifted.value("select total_sessions from public.user_progress where user_id = :u", u=drifted.users[0]) == 99


def test_a_recount_leaves_what_sessions_say_and_the_words_and_points(drifted):
    drifted.run("update public.user_progress set new_words_count = 4, total_points = 5")
    done = profiles_schema(drifted.url, "progress", "recount")
    assert (done.returncode, done.stdout) == (0, "counted the progress of 3 users anew\n")
    assert wrong(drifted) == []
    assert set(drifted.run("select new_words_count, total_points from public.user_progress")) == {(4, 5)}
    assert json.loads(profiles_schema(drifted.url, "progress", "recount", "--json").stdout) == {
        "recounted": 0,
        "failed": {},
    }
    assert profiles_schema(drifted.url, "progress", "recount", "--dry-run").returncode == 0


def test_health_finds_what_differs_and_is_content_after_the_remedy(drifted):
    found = findings(drifted, full=True)
    assert found == [("progress", 3, "profiles-schema progress recount")]
    assert profiles_schema(drifted.url, *found[0][2].split()[1:]).returncode == 0
    assert findings(drifted, full=True) == []


def test_health_finds_failed_roll_ups_and_a_recount_takes_their_marks_away(drifted):
    profiles_schema(drifted.url, "progress", "recount")
    ada, bob = drifted.users[:2]
    drifted.administrator.script(
        "alter table public.user_progress add constraint full_up check (total_sessions < 4) not valid"
    )
    drifted.run("insert into public.sessions (user_id, ended_at) values (:user, now())", user=ada)
    # The session of a mark may be gone again: its transaction was undone, say.
    drifted.run("insert into profiles_internal.stale_progress (user_id, error_code) values (:user, '40P01')", user=bob)
    assert findings(drifted) == [("stale_progress", 2, "profiles-schema progress recount")]
    failing = profiles_schema(drifted.url, "progress", "recount")
    assert (failing.returncode, "SQLSTATE 23514" in failing.stdout) == (1, True)
    assert [row.user_id for row in drifted.run("select distinct user_id from profiles_internal.stale_progress")] == [
        ada
    ]
    drifted.administrator.script("alter table public.user_progress drop constraint full_up")
    assert profiles_schema(drifted.url, "progress", "recount").returncode == 0
    assert (findings(drifted, full=True), wrong(drifted)) == ([], [])


def test_progress_that_no_session_speaks_for_stays_where_the_table_was_taken_over(hosted):
    user = hosted.sign_up("ada@example.org")
    hosted.script(
        "create table public.user_progress (id uuid primary key default gen_random_uuid(), user_id uuid unique not null"
        " references auth.users (id) on delete cascade, total_sessions integer not null default 0)"
    )
    hosted.run("insert into public.user_progress (user_id, total_sessions) values (:user, 17)", user=user)
    hosted.upgrade()
    done = profiles_schema(hosted.url, "progress", "recount")
    assert (done.returncode, done.stdout) == (0, "counted the progress of 0 users anew\n")
    assert hosted.value("select total_sessions from public.user_progress") == 17


def test_without_learning_sessions_there_is_nothing_to_count(hosted):
    hosted.script("create table public.sessions (id text primary key, token text)")
    hosted.upgrade()
    for arguments in ((), ("--dry-run",)):
        done = profiles_schema(hosted.url, "progress", "recount", *arguments)
        assert done.returncode == 1
        assert "error: There is no table of learning sessions to count progress from" in done.stderr
    assert findings(hosted) == []


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_recount_goes_on(database, interrupt):
    database.script(
        "insert into auth.users (email) select 'u' || g || '@example.org' from generate_series(1, 1500) as g;"
        "insert into public.sessions (user_id, ended_at) select id, now() from auth.users;"
        "update public.user_progress set total_sessions = 0"
    )
    command = [
        sys.executable,
        "-m",
        "profiles_schema",
        "progress",
        "recount",
        "--batch-size",
        "20",
        "--max-rate",
        "200",
    ]
    process = subprocess.Popen(
        command,
        env=os.environ | {"DATABASE_URL": database.url},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: database.value("select count(*) from public.user_progress where total_sessions = 1") > 100)
    process.send_signal(interrupt)
    _out, said = process.communicate(timeout=30)
    if interrupt == signal.SIGINT:
        assert process.returncode == 130, said
        assert "go on with: profiles-schema progress recount" in said
    assert 100 < database.value("select count(*) from public.user_progress where total_sessions = 1") < 1500
    assert profiles_schema(database.url, "progress", "recount").returncode == 0
    assert wrong(database) == []
