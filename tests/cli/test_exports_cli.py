"""exports work, list, purge: workers as processes, killed and asked to stop; what purge removes and what it leaves."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

from profiles_schema.operations import batches
from profiles_schema.storage import DirectoryStorage, export_key
from support import profiles_schema, wait_until


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


@pytest.fixture
def storage(tmp_path):
    return DirectoryStorage(tmp_path / "files")


def ask(database, user, export_type="sessions", export_format="ndjson", count=1):
    return [
        row[0]
        for row in database.run(
            "insert into public.export_history (user_id, export_type, export_format)"
            " select :user, :type, :format from generate_series(1, :count) returning id",
            user=user,
            type=export_type,
            format=export_format,
            count=count,
        )
    ]


def exports(database, storage, *arguments):
    return profiles_schema(
        database.url, "exports", *arguments, environment={"PROFILES_EXPORT_STORAGE": str(storage.path)}
    )


def start_worker(database, storage, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "exports", "work", "--storage", str(storage.path), *arguments],
        env=os.environ | {"DATABASE_URL": database.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def statuses(database):
    return dict(database.run("select status, count(*) from public.export_history group by 1"))


def test_a_worker_with_nothing_to_do_says_so(database, storage):
    done = exports(database, storage, "work", "--once")
    assert (done.returncode, done.stdout) == (0, "no exports\n")


def test_once_does_all_that_is_due_and_ends(database, storage, ada):
    ids = ask(database, ada, count=5)
    done = exports(database, storage, "work", "--once", "--json", "--concurrency", "2")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"completed": 5})
    assert sorted(storage.keys()) == sorted(export_key(ada, each) for each in ids)
    listed = json.loads(exports(database, storage, "list", "--json").stdout)
    assert {row["status"] for row in listed} == {"completed"}
    assert str(ids[0]) in exports(database, storage, "list", "--user", str(ada)).stdout
    assert exports(database, storage, "list", "--status", "failed").stdout == "no exports\n"


def test_a_failure_is_an_exit_code_and_a_reason_in_the_list(database, storage, ada):
    database.run(
        "insert into public.export_history (user_id, export_type, export_format, filters)"
        " values (:user, 'sessions', 'csv', '{\"since\": \"soon\"}')",
        user=ada,
    )
    assert exports(database, storage, "work", "--once").returncode == 1
    assert "since: is no time as of ISO 8601." in exports(database, storage, "list").stdout


def test_sigterm_drains(database, storage, ada):
    worker = start_worker(database, storage, "--poll-seconds", "0.1")
    ask(database, ada)
    wait_until(lambda: statuses(database) == {"completed": 1})
    worker.send_signal(signal.SIGTERM)
    assert worker.communicate(timeout=20)[0] == "1 completed\n"
    assert worker.returncode == 0


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_do_nothing_twice(database, storage, ada):
    points = random.Random(15)
    database.run(
        "insert into public.sessions (user_id, ended_at) select :user, now() from generate_series(1, 3000)", user=ada
    )
    asked = [*ask(database, ada, count=60)]
    arguments = ("--lease-seconds", "1", "--poll-seconds", "0.1", "--concurrency", "2")
    workers = [start_worker(database, storage, *arguments) for _ in range(2)]
    try:
        for kill in range(20):
            victim = workers[kill % 2]
            while not database.run("select from public.export_history where status = 'processing'"):
                asked += ask(database, ada, count=1)  # or the kill would hit a worker that waits
                time.sleep(0.05)
            time.sleep(points.uniform(0, 0.2))
            victim.kill()
            victim.communicate()
            workers[kill % 2] = start_worker(database, storage, *arguments)
        # Backoff lasts half a minute; the last retries need not wait for it here.
        wait_until(lambda: not statuses(database).get("processing"), seconds=30)
        while statuses(database).get("pending"):
            database.script(
                "alter table public.export_history disable trigger keep_updated_at;"
                " update public.export_history set updated_at = now() - interval '1 day' where status = 'pending';"
                " alter table public.export_history enable trigger keep_updated_at"
            )
            time.sleep(0.5)
        wait_until(lambda: set(statuses(database)) <= {"completed", "failed"}, seconds=30)
    finally:
        for worker in workers:
            worker.terminate()
            worker.communicate(timeout=30)
    rows = database.run("select id, status, records_count, file_size_bytes, retry_count from public.export_history")
    assert len(rows) == len(asked)
    assert any(row.retry_count for row in rows)  # a kill did hit a worker at work
    completed = {export_key(ada, row.id): row for row in rows if row.status == "completed"}
    assert set(storage.keys()) == set(completed)
    for key, row in completed.items():
        with storage.open(key) as file:
            whole = file.read()
        assert (len(whole), whole.count(b"\n"), row.records_count) == (row.file_size_bytes, 3000, 3000)


def test_purge_removes_what_has_expired_and_nothing_else(database, storage, tmp_path, ada):
    bob = database.sign_up("bob@example.org")
    mine, theirs = ask(database, ada, count=3), ask(database, bob, count=2)
    exports(database, storage, "work", "--once")
    everything = set(storage.keys())
    database.run(
        "update public.export_history set expires_at = now() - interval '1 day', file_url = :other where id = any(:ids)",
        other=export_key(bob, theirs[0]),
        ids=mine[:2],
    )
    archive = DirectoryStorage(tmp_path / "archive")
    done = exports(database, storage, "purge", "--archive-to", str(archive.path), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"purged": 2, "orphans": 0, "unreachable": 0})
    gone = {export_key(ada, each) for each in mine[:2]}
    assert set(storage.keys()) == everything - gone
    assert set(archive.keys()) == gone
    rows = database.run(
        "select status, file_url, file_size_bytes from public.export_history where id = any(:ids)", ids=mine[:2]
    )
    assert set(map(tuple, rows)) == {("expired", None, None)}
    assert database.run(
        "select action, count(*) from public.user_profile_audit_logs where metadata ->> 'status' = 'expired'"
        " and user_id = :user and metadata ->> 'export' = any(:ids) group by 1",
        user=ada, ids=[str(each) for each in mine[:2]],
    ) == [("deleted", 2)]  # fmt: skip
    assert json.loads(exports(database, storage, "purge", "--json").stdout)["purged"] == 0


def test_purge_deletes_rows_that_expired_long_ago(database, storage, ada):
    old, new = ask(database, ada, count=2)
    exports(database, storage, "work", "--once")
    for export, days in ((old, 91), (new, 89)):
        database.run(
            "update public.export_history set expires_at = now() - make_interval(days => :days) where id = :id",
            days=days,
            id=export,
        )
    exports(database, storage, "purge")
    exports(database, storage, "purge")
    assert database.run("select id, status from public.export_history") == [(new, "expired")]


def test_purge_removes_the_file_of_an_erased_user(database, storage, ada):
    ask(database, ada)
    exports(database, storage, "work", "--once")
    database.run("update auth.users set deleted_at = now() where id = :user", user=ada)
    assert list(storage.keys())
    assert exports(database, storage, "purge").stdout == "purged 1 export\n"
    assert list(storage.keys()) == []


def test_orphans_are_removed_when_asked_for(database, storage, ada):
    ask(database, ada, count=2)
    exports(database, storage, "work", "--once")
    database.run("delete from auth.users where id = :user", user=ada)
    (storage.path / "exports" / "notes").mkdir()
    (storage.path / "exports" / "notes" / "README").write_text("of the application")
    exports(database, storage, "purge")
    assert len(list(storage.keys())) == 3
    assert json.loads(exports(database, storage, "purge", "--orphans", "--json").stdout)["orphans"] == 2
    assert list(storage.keys()) == ["exports/notes/README"]


def test_a_storage_of_another_database_is_not_emptied(database, storage):
    for _ in range(11):
        upload = storage.upload(export_key(uuid.uuid4(), uuid.uuid4()))
        upload.publish()
    refused = exports(database, storage, "purge", "--orphans")
    assert refused.returncode == 2
    assert "11 of 11 objects" in refused.stderr
    assert len(list(storage.keys())) == 11
    assert json.loads(exports(database, storage, "purge", "--all-orphans", "--json").stdout)["orphans"] == 11


def test_a_file_that_cannot_be_removed_is_said_and_tried_again(database, storage, ada, monkeypatch):
    ask(database, ada, count=2)
    exports(database, storage, "work", "--once")
    database.run("update public.export_history set expires_at = now()")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStorage, "delete", refuse)
        done = exports(database, storage, "purge", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"purged": 0, "orphans": 0, "unreachable": 2})
    assert statuses(database) == {"completed": 2}
    assert json.loads(exports(database, storage, "purge", "--json").stdout)["purged"] == 2


@pytest.mark.slow
def test_a_file_that_takes_long_to_remove_does_not_cost_the_connection(database, storage, ada, monkeypatch):
    monkeypatch.setattr(batches, "_IN_TRANSACTION_SECONDS", 1)
    ask(database, ada)
    exports(database, storage, "work", "--once")
    database.run("update public.export_history set expires_at = now()")
    delete, removed = DirectoryStorage.delete, []

    def slowly(self, key):
        time.sleep(1.5)
        removed.append(key)
        return delete(self, key)

    monkeypatch.setattr(DirectoryStorage, "delete", slowly)
    assert exports(database, storage, "purge").stdout == "purged 1 export\n"
    assert len(removed) == 1


def test_the_archive_is_another_place_than_the_storage(database, storage, tmp_path):
    (tmp_path / "again").symlink_to(storage.path)
    for place in (storage.path, f"{storage.path}/.", tmp_path / "again"):
        refused = exports(database, storage, "purge", "--archive-to", str(place))
        assert refused.returncode == 2
        assert "names the storage itself" in refused.stderr


def test_a_bucket_without_a_name_is_wrong_usage(database):
    for verb in (("work", "--once"), ("purge",)):
        done = profiles_schema(database.url, "exports", *verb, "--storage", "s3:///prefix")
        assert done.returncode == 2
        assert "s3:// needs a bucket. Write it as s3://BUCKET/PREFIX." in done.stderr
