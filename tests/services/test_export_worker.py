"""The worker of exports: what it writes, how it keeps its lease, what it does with failures."""

import csv
import io
import json
import threading
import time
import tracemalloc
from collections import Counter

import openpyxl
import pytest
from sqlalchemy import text

from profiles_schema.services import export_contents, export_queries
from profiles_schema.services.export_worker import ExportWorker
from profiles_schema.services.exports import ExportService
from profiles_schema.storage import DirectoryStorage
from support import ENVELOPE, wait_until
from support.services import Services, lapse


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org", raw_user_meta_data={"full_name": "Ada Lovelace"})


@pytest.fixture
def storage(tmp_path):
    return DirectoryStorage(tmp_path / "files")


@pytest.fixture
def factory(database):
    services = Services(database, "psycopg2")
    yield services.factory(pool_size=10).sessions
    services.close()


@pytest.fixture
def service(factory, storage):
    return ExportService(factory, storage, backoff_seconds=0.01, most_retries=1)


@pytest.fixture
def worker(service, factory):
    return ExportWorker(service, factory)


def add_sessions(database, user, count):
    database.run(
        "insert into public.sessions (user_id, started_at, ended_at, qa_attempts)"
        " select :user, '2026-01-01'::timestamptz + make_interval(mins => n), '2026-01-01'::timestamptz"
        " + make_interval(mins => n + 1), n from generate_series(1, :count) as n",
        user=user,
        count=count,
    )


def content(storage, export):
    with storage.open(export.file_url) as file:
        return file.read().decode()


def workbook(storage, export):
    with storage.open(export.file_url) as file:
        return openpyxl.load_workbook(file)


def export(service, worker, user, *what):
    asked = service.request(user, *what)
    worker.work(once=True)
    return service.get(asked.id)


def test_csv_has_a_line_per_session_in_order(service, worker, storage, database, ada):
    add_sessions(database, ada, 2_500)
    add_sessions(database, database.sign_up("bob@example.org"), 3)
    done = export(service, worker, ada, "sessions", "csv")
    lines = list(csv.DictReader(io.StringIO(content(storage, done))))
    assert (done.status, done.records_count, len(lines)) == ("completed", 2_500, 2_500)
    assert [int(line["qa_attempts"]) for line in lines] == list(range(1, 2_501))
    assert {line["user_id"] for line in lines} == {str(ada)}
    assert done.file_size_bytes == len(content(storage, done).encode())


def test_json_of_everything_holds_every_table_that_a_service_may_read(service, worker, storage, database, ada):
    add_sessions(database, ada, 3)
    database.run(
        'update public.user_profiles set bio = :bio, preferences = \'{"theme": "dark"}\' where user_id = :user',
        bio='Quotes ", commas, and\nünïcode',
        user=ada,
    )
    done = export(service, worker, ada, "everything", "json")
    found = json.loads(content(storage, done))
    assert list(found) == ["profile", "progress", "sessions", "api_keys", "provider_keys", "exports", "audit_log"]
    assert found["profile"][0]["bio"] == 'Quotes ", commas, and\nünïcode'
    assert found["profile"][0]["preferences"] == {"theme": "dark"}
    assert found["progress"][0]["total_sessions"] == 3
    assert [row["qa_attempts"] for row in found["sessions"]] == [1, 2, 3]
    assert [row["id"] for row in found["exports"]] == [str(done.id)]
    # The request itself is on record.
    assert {row["action"] for row in found["audit_log"]} == {"updated", "created"}
    assert done.records_count == 8


def test_an_export_says_which_api_keys_there_are_and_holds_none(service, worker, storage, database, ada):
    database.run(
        "insert into public.user_api_keys (user_id, openai_api_key) values (:user, :key)", user=ada, key=ENVELOPE
    )
    written = content(storage, export(service, worker, ada, "everything", "json"))
    (row,) = json.loads(written)["api_keys"]
    assert (row["openai_api_key"], row["unsplash_api_key"]) == ("encrypted", None)
    assert "psk1" not in written


def test_json_without_rows_is_an_empty_array(service, worker, storage, ada):
    assert json.loads(content(storage, export(service, worker, ada, "sessions", "json"))) == []


def test_ndjson_has_an_object_per_line(service, worker, storage, database, ada):
    add_sessions(database, ada, 3)
    lines = content(storage, export(service, worker, ada, "everything", "ndjson")).splitlines()
    assert [json.loads(line)["section"] for line in lines] == [
        "profile",
        "progress",
        *["sessions"] * 3,
        "exports",
        "audit_log",
    ]
    lines = content(storage, export(service, worker, ada, "sessions", "ndjson")).splitlines()
    assert [json.loads(line)["qa_attempts"] for line in lines] == [1, 2, 3]


def test_xlsx_has_a_sheet_per_table_and_texts_stay_texts(service, worker, storage, database, ada):
    add_sessions(database, ada, 3)
    database.run("update public.user_profiles set bio = '=1+1' || chr(11) where user_id = :user", user=ada)
    done = export(service, worker, ada, "everything", "xlsx")
    book = workbook(storage, done)
    assert book.sheetnames == ["profile", "progress", "sessions", "api_keys", "provider_keys", "exports", "audit_log"]
    cells = dict(zip(*(list(row) for row in book["profile"].iter_rows()), strict=True))
    bio = next(cell for name, cell in cells.items() if name.value == "bio")
    assert (bio.value, bio.data_type) == ("=1+1\ufffd", "s")
    assert book["sessions"].max_row == 4
    assert done.records_count == 8


def test_a_full_sheet_goes_on_in_another(service, worker, storage, database, ada, monkeypatch):
    monkeypatch.setattr(export_contents, "_XLSX_ROWS", 3)
    add_sessions(database, ada, 5)
    done = export(service, worker, ada, "sessions", "xlsx")
    book = workbook(storage, done)
    assert [(sheet.title, sheet.max_row) for sheet in book] == [("sessions", 3), ("sessions 2", 3), ("sessions 3", 2)]


def test_without_the_extra_xlsx_waits_for_another_worker(service, worker, ada, monkeypatch):
    monkeypatch.setattr(export_queries, "find_spec", lambda _: None)
    assert export(service, worker, ada, "progress", "xlsx").status == "pending"


def test_columns_of_the_application_stay_out(service, worker, storage, database, ada):
    database.run("alter table public.user_profiles add column secret_note text default 'not for users'")
    assert "secret_note" not in content(storage, export(service, worker, ada, "profile", "json"))


def test_filters_choose_a_period(service, worker, storage, database, ada):
    add_sessions(database, ada, 10)
    period = {"since": "2026-01-01T00:03:00Z", "until": "2026-01-01T00:06:00+00:00"}
    done = export(service, worker, ada, "sessions", "ndjson", period)
    assert [json.loads(line)["qa_attempts"] for line in content(storage, done).splitlines()] == [3, 4, 5]


@pytest.mark.parametrize("filters", [{"since": "yesterday"}, {"since": 5}, {"until": {}}, {"x' or 1=1": "1"}])
def test_wrong_filters_fail_at_once_with_their_reason(service, worker, ada, filters):
    failed = export(service, worker, ada, "sessions", "csv", filters)
    assert (failed.status, failed.retry_count) == ("failed", 0)
    assert "since" in failed.error_message or "until" in failed.error_message
    assert "yesterday" not in failed.error_message


def test_sessions_of_a_web_framework_are_not_exported(service, worker, storage, database, ada):
    database.script("drop table public.sessions cascade; create table public.sessions (user_id uuid, token text)")
    failed = export(service, worker, ada, "sessions", "csv")
    assert (failed.status, failed.error_message) == (
        "failed",
        "The table sessions of this database does not hold learning sessions.",
    )
    assert list(json.loads(content(storage, export(service, worker, ada, "everything", "json")))) == [
        "profile",
        "progress",
        "api_keys",
        "provider_keys",
        "exports",
        "audit_log",
    ]


def test_a_full_disk_is_retried_then_failed_and_leaves_nothing(service, worker, storage, ada, monkeypatch):
    def full(*_args, **_values):
        raise OSError(28, "No space left on device: /srv/secret/path")

    monkeypatch.setattr(export_contents, "write", full)
    asked = service.request(ada, "progress", "json")
    outcomes = Counter()
    wait_until(lambda: outcomes.update(worker.work(once=True)) or outcomes["failed"])
    assert outcomes == {"pending": 1, "failed": 1}
    failed = service.get(asked.id)
    assert (failed.status, failed.error_message) == ("failed", "The storage failed.")
    assert not [path for path in storage.path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_slow_export_keeps_its_lease(factory, storage, ada, monkeypatch):
    service = ExportService(factory, storage, lease_seconds=1)
    write = export_contents.write

    def slow(*arguments):
        time.sleep(2.5)
        return write(*arguments)

    monkeypatch.setattr(export_contents, "write", slow)
    asked = service.request(ada, "progress", "json")
    rival = ExportService(factory, storage, lease_seconds=1)
    thread = threading.Thread(target=ExportWorker(service, factory).work, kwargs={"once": True})
    thread.start()
    time.sleep(0.3)
    while thread.is_alive():
        assert rival.start() is None
        time.sleep(0.1)
    assert (service.get(asked.id).status, service.get(asked.id).retry_count) == ("completed", 0)


def test_a_worker_whose_export_was_erased_stops_and_publishes_nothing(
    service, worker, storage, database, ada, monkeypatch
):
    write = export_contents.write

    def erased_meanwhile(*arguments):
        written = write(*arguments)
        database.run("update auth.users set deleted_at = now() where id = :user", user=ada)
        return written

    monkeypatch.setattr(export_contents, "write", erased_meanwhile)
    asked = service.request(ada, "profile", "json")
    assert worker.work(once=True) == {"lost": 1}
    assert service.get(asked.id).status == "failed"
    assert list(storage.keys()) == []


def test_draining_finishes_what_is_at_work(service, worker, ada, monkeypatch):
    write = export_contents.write

    def asked_to_stop(*arguments):
        worker.stopped.set()
        return write(*arguments)

    monkeypatch.setattr(export_contents, "write", asked_to_stop)
    asked = [service.request(ada, "progress", "json") for _ in range(3)]
    assert worker.work(poll_seconds=0.1) == {"completed": 1}
    assert sorted(service.get(each.id).status for each in asked) == ["completed", "pending", "pending"]


def test_several_at_a_time_do_each_export_once(service, worker, storage, ada):
    for _ in range(20):
        service.request(ada, "profile", "json")
    assert worker.work(once=True, concurrency=4) == {"completed": 20}
    assert len(list(storage.keys())) == 20


@pytest.mark.slow
@pytest.mark.parametrize("export_format", ["csv", "json", "ndjson", "xlsx"])
def test_memory_does_not_grow_with_the_number_of_sessions(service, factory, storage, database, ada, export_format):
    def peak():
        service.request(ada, "sessions", export_format)
        claim = service.start()
        upload = storage.upload(claim.key)
        tracemalloc.start()
        with factory() as session, session.begin():
            export_contents.write(session, claim, upload.file, lambda: None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        upload.discard()
        return found

    add_sessions(database, ada, 2_000)
    peak()  # what is imported and compiled once
    small = peak()
    with database.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(
            text("insert into public.sessions (user_id, ended_at) select :user, now() from generate_series(1, 12000)"),
            {"user": ada},
        )
    assert peak() < 1.5 * small


# Storages and texts that are not kind


def test_a_storage_that_cannot_remove_does_not_stop_the_worker(service, worker, storage, database, ada, monkeypatch):
    given_up = service.request(ada, "profile", "json")
    for _ in range(2):
        service.start(given_up.id)
        lapse(database, given_up.id)

    def refuse(_key):
        raise PermissionError("read-only")

    monkeypatch.setattr(storage, "delete", refuse)
    asked = service.request(ada, "profile", "json")
    assert worker.work(once=True) == Counter(completed=1)
    assert [service.get(each.id).status for each in (given_up, asked)] == ["failed", "completed"]


def test_a_storage_that_cannot_publish_is_named(service, worker, storage, ada, monkeypatch):
    upload = storage.upload

    def full(key):
        made = upload(key)
        monkeypatch.setattr(made, "publish", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        return made

    monkeypatch.setattr(storage, "upload", full)
    assert "storage" in export(service, worker, ada, "profile", "json").error_message


def test_a_removal_that_is_late_spares_the_file_of_a_retry(service, worker, storage, ada, monkeypatch):
    asked = service.request(ada, "profile", "json")
    claim = service.start()
    delete = storage.delete
    retries = []

    def retry():
        service.retry(asked.id)
        # Not at once: before a retry there is a pause.
        wait_until(lambda: (worker.work(once=True), service.get(asked.id).status == "completed")[1])

    def slow(key):
        monkeypatch.setattr(storage, "delete", delete)
        retries.append(threading.Thread(target=retry))
        retries[0].start()
        retries[0].join(0.5)  # it has to wait: the export is locked
        return delete(key)

    monkeypatch.setattr(storage, "delete", slow)
    assert service.fail(claim, "broken", final=True) == "failed"
    retries[0].join(20)
    done = service.get(asked.id)
    assert done.status == "completed"
    assert json.loads(content(storage, done))[0]["user_id"] == str(ada)


@pytest.mark.parametrize("slow", ["write", "publish"])
def test_a_server_that_ends_idle_transactions_ends_no_export(
    service, worker, storage, database, ada, monkeypatch, slow
):
    database.run(f"alter database {database.name} set idle_in_transaction_session_timeout = '200ms'")
    add_sessions(database, ada, 2)
    upload = storage.upload

    def slow_upload(key):
        made = upload(key)
        owner, name, seconds = (made, "publish", 0.5) if slow == "publish" else (export_contents, "_json", 0.3)
        quick = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *values: (time.sleep(seconds), quick(*values))[1])
        return made

    monkeypatch.setattr(storage, "upload", slow_upload)
    done = export(service, worker, ada, "sessions", "ndjson")
    assert (done.status, done.records_count, done.error_message) == ("completed", 2, None)


@pytest.mark.parametrize("export_format", ["csv", "xlsx"])
@pytest.mark.parametrize("at", ["infinity", "20000-01-01", "0044-03-15 BC"])
def test_times_that_python_does_not_have_are_exported(service, worker, storage, database, ada, export_format, at):
    database.run(
        "insert into public.sessions (user_id, ended_at) values (:user, cast(:at as timestamptz))", user=ada, at=at
    )
    done = export(service, worker, ada, "sessions", export_format)
    assert (done.status, done.error_message) == ("completed", None)
    if export_format == "csv":
        assert next(csv.DictReader(io.StringIO(content(storage, done))))["ended_at"].startswith(at[:10])


def test_a_text_that_xml_cannot_hold_leaves_a_workbook_that_opens(service, worker, storage, database, ada):
    database.run("update public.user_profiles set bio = :bio", bio="a\ufffe\uffff\x0b=b \U0001f600")
    book = workbook(storage, export(service, worker, ada, "profile", "xlsx"))
    assert "a\ufffd\ufffd\ufffd=b \U0001f600" in [cell.value for cell in book["profile"][2]]
