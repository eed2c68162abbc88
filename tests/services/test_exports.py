"""ExportService and AsyncExportService: an export from its request to its expiry, on every driver."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.errors import (
    ExportLost,
    ExportNotFound,
    ExportStepRefused,
    InvalidExport,
    NotAllowed,
    StorageFailed,
)
from profiles_schema.services.exports import AsyncExportService, ExportService
from profiles_schema.storage import DirectoryStorage, export_key
from support import wait_until
from support.services import DRIVERS, Blocking, Services, lapse


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


@pytest.fixture
def storage(tmp_path):
    return DirectoryStorage(tmp_path / "files", base_url="https://example.org/files/", secret=b"secret")


@pytest.fixture(params=DRIVERS)
def exports(request, database, storage):
    made = Services(database, request.param)
    factory = made.factory()
    kind = AsyncExportService if factory.is_async else ExportService
    yield Blocking(kind(factory.sessions, storage, backoff_seconds=0.5, most_retries=2), made.runner)
    made.close()


def publish(storage, claim, content=b"content"):
    upload = storage.upload(claim.key)
    upload.file.write(content)
    return upload.publish


def read(storage, key):
    with storage.open(key) as file:
        return file.read()


def next_start(exports):
    """The next claim, after the pause before a retry."""
    found = []
    wait_until(lambda: found or found.extend(filter(None, [exports.start()])) or found)
    return found[0]


def audited(database, export_id):
    return [
        row[0]
        for row in database.run(
            "select metadata ->> 'status' from public.user_profile_audit_logs where metadata ->> 'export' = :id"
            " order by created_at",
            id=str(export_id),
        )
    ]


def test_an_export_goes_from_request_to_expiry(exports, storage, database, ada):
    asked = exports.request(ada, "sessions", "csv", {"since": "2026-01-01"})
    assert (asked.status, asked.user_id) == ("pending", ada)
    claim = exports.start()
    assert (claim.id, claim.export_type, claim.filters) == (asked.id, "sessions", {"since": "2026-01-01"})
    assert exports.start() is None
    exports.heartbeat(claim)
    exports.complete(claim, 3, publish(storage, claim))
    done = exports.get(asked.id)
    assert (done.status, done.records_count, done.file_size_bytes) == ("completed", 3, 7)
    assert done.file_url == export_key(ada, asked.id)
    assert read(storage, done.file_url) == b"content"
    expired = exports.expire(asked.id)
    assert (expired.status, expired.file_url, expired.file_size_bytes) == ("expired", None, None)
    assert list(storage.keys()) == []
    assert audited(database, asked.id) == ["pending", "expired"]


def test_a_heartbeat_is_a_sign_of_life(exports, database, ada):
    asked = exports.request(ada, "progress", "json")
    claim = exports.start()
    seen = exports.get(asked.id).updated_at
    for _ in range(3):
        exports.heartbeat(claim)
        assert exports.get(asked.id).updated_at > seen
        seen = exports.get(asked.id).updated_at


def test_a_dead_worker_loses_its_export_and_nothing_else(exports, storage, database, ada):
    asked = exports.request(ada, "progress", "json")
    dead = exports.start()
    lapse(database, asked.id)
    assert exports.start() is None  # taken back just now: the pause before the retry
    successor = next_start(exports)
    assert (successor.id, successor.attempt) == (asked.id, 1)
    late = storage.upload(dead.key)
    late.file.write(b"late")
    for step in (
        lambda: exports.heartbeat(dead),
        lambda: exports.complete(dead, 1, late.publish),
        lambda: exports.fail(dead, "late"),
    ):
        with pytest.raises(ExportLost):
            step()
    late.discard()
    assert list(storage.keys()) == []
    exports.complete(successor, 1, publish(storage, successor))
    assert read(storage, successor.key) == b"content"


@pytest.mark.slow
def test_failures_are_retried_up_to_the_limit_with_their_reason(exports, database, ada):
    asked = exports.request(ada, "progress", "json")
    statuses = []
    for _ in range(3):
        statuses.append(exports.fail(next_start(exports), "The storage failed."))
        assert exports.start() is None
    assert statuses == ["pending", "pending", "failed"]
    failed = exports.get(asked.id)
    assert (failed.status, failed.error_message, failed.retry_count) == ("failed", "The storage failed.", 2)
    assert audited(database, asked.id) == ["pending", "failed"]
    assert exports.retry(asked.id).status == "pending"


def test_workers_that_die_every_time_end_in_failed(exports, database, ada):
    asked = exports.request(ada, "progress", "json")
    for _ in range(3):
        assert exports.start(asked.id) is not None
        lapse(database, asked.id)
        exports.start(uuid.uuid4())
    assert exports.get(asked.id).status == "failed"
    assert audited(database, asked.id) == ["pending", "failed"]


def test_steps_that_the_state_machine_does_not_know_are_refused(exports, ada):
    asked = exports.request(ada, "progress", "json")
    with pytest.raises(ExportStepRefused):
        exports.retry(asked.id)
    with pytest.raises(ExportStepRefused):
        exports.link(asked.id)
    exports.start()
    with pytest.raises(ExportStepRefused):
        exports.expire(asked.id)
    with pytest.raises(ExportNotFound):
        exports.get(uuid.uuid4())


def test_types_and_formats_are_checked(exports, ada):
    with pytest.raises(InvalidExport) as refused:
        exports.request(ada, "secrets", "exe")
    assert set(refused.value.fields) == {"export_type", "export_format"}
    with pytest.raises(InvalidExport):
        exports.request(ada, "everything", "csv")


def test_exports_of_the_application_are_left_to_it(exports, database, ada):
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:user, 'invoices', 'pdf')",
        user=ada,
    )
    assert exports.start() is None


def test_links_are_signed_and_end(exports, storage, ada):
    asked = exports.request(ada, "progress", "json")
    claim = exports.start()
    exports.complete(claim, 1, publish(storage, claim))
    address, _, query = exports.link(asked.id, 60).partition("?")
    values = dict(part.split("=") for part in query.split("&"))
    assert address == f"https://example.org/files/{claim.key}"
    assert storage.verify(claim.key, int(values["expires"]), values["signature"])
    assert not storage.verify(claim.key, int(values["expires"]) + 1, values["signature"])
    assert not storage.verify(export_key(ada, ada), int(values["expires"]), values["signature"])
    over = dict(part.split("=") for part in exports.link(asked.id, -1).partition("?")[2].split("&"))
    assert not storage.verify(claim.key, int(over["expires"]), over["signature"])


def test_a_file_url_that_names_another_object_does_not_lead_there(exports, storage, database, ada):
    bob = database.sign_up("bob@example.org")
    claims = []
    for user in (ada, bob):
        exports.request(user, "progress", "json")
        claim = exports.start()
        exports.complete(claim, 1, publish(storage, claim))
        claims.append(claim)
    database.run("update public.export_history set file_url = :key where id = :id", key=claims[1].key, id=claims[0].id)
    exports.expire(claims[0].id)
    assert list(storage.keys()) == [claims[1].key]


def test_no_two_workers_start_the_same_export(database, storage, ada):
    services = Services(database, "psycopg2")
    made = ExportService(services.factory(pool_size=8).sessions, storage)
    ids = {made.request(ada, "progress", "json").id for _ in range(40)}

    def drain(_):
        found = []
        misses = 0
        while misses < 5:  # a row that another one is just taking is skipped
            if claim := made.start():
                found.append(claim.id)
            else:
                misses += 1
        return found

    with ThreadPoolExecutor(8) as pool:
        started = [each for found in pool.map(drain, range(8)) for each in found]
    services.close()
    assert len(started) == 40
    assert set(started) == ids


@pytest.mark.parametrize("role", ["authenticated", "anon"])
def test_users_start_nothing(database, storage, ada, role):
    services = Services(database, "psycopg2")
    ExportService(services.factory().sessions, storage).request(ada, "progress", "json")
    with pytest.raises(NotAllowed):
        ExportService(services.factory(role).sessions, storage).start()
    services.close()


STATUSES = ("pending", "processing", "completed", "failed", "expired")
ALLOWED = {
    ("pending", "processing"), ("pending", "failed"), ("pending", "expired"), ("processing", "completed"),
    ("processing", "failed"), ("processing", "pending"), ("completed", "expired"), ("failed", "pending"),
}  # fmt: skip
WAYS = {
    "pending": (), "processing": ("processing",), "completed": ("processing", "completed"), "failed": ("failed",),
    "expired": ("expired",),
}  # fmt: skip


@pytest.mark.parametrize("role", ["postgres", "service_role", "authenticated", "anon"])
def test_every_other_step_and_first_status_is_refused_from_every_role(database, ada, role):
    become = (
        "" if role == "postgres" else f'set local role {role}; set local "request.jwt.claims" = \'{{"sub":"{ada}"}}\'; '
    )

    def attempt(statement):
        try:
            database.script(f"begin; {become}{statement}; commit")
        except DBAPIError as error:
            return error.orig.pgcode
        return None

    may_write = role in {"postgres", "service_role"}
    for first in STATUSES:
        code = attempt(
            "insert into public.export_history (user_id, export_type, export_format, status)"
            f" values ('{ada}', 'progress', 'json', '{first}')"
        )
        assert code == ((None if first == "pending" else "23514") if may_write else "42501"), first
    for old in STATUSES:
        for new in STATUSES:
            if old == new:
                continue
            export = database.run(
                "insert into public.export_history (user_id, export_type, export_format)"
                " values (:user, 'progress', 'json') returning id",
                user=ada,
            )[0][0]
            for step in WAYS[old]:
                database.run("update public.export_history set status = :s where id = :id", s=step, id=export)
            code = attempt(f"update public.export_history set status = '{new}' where id = '{export}'")
            expected = (None if (old, new) in ALLOWED else "23514") if may_write else "42501"
            assert code == expected, (old, new)


def test_objects_are_whole_or_absent(storage, ada):
    key = export_key(ada, uuid.uuid4())
    upload = storage.upload(key)
    upload.file.write(b"half")
    upload.file.flush()
    assert list(storage.keys()) == []
    assert storage.remove_unfinished(3600) == 0
    upload.discard()
    assert list(storage.path.rglob("*.*")) == []
    killed = storage.upload(key)
    killed.file.write(b"half")
    assert storage.remove_unfinished(-1) == 1
    killed.discard()
    with pytest.raises(FileNotFoundError):
        storage.open(key)
    assert storage.delete(key) is False


@pytest.mark.parametrize("key", ["exports/../../etc/passwd", "/etc/passwd", "exports//x", "exports/.", ""])
def test_keys_stay_inside_the_directory(storage, key):
    with pytest.raises(ValueError, match="key"):
        storage.open(key)


def test_a_signature_of_any_characters_is_only_wrong(storage):
    assert not storage.verify("exports/a/b", 99_999_999_999, "\u00fc\ud800")


def test_links_need_a_secret(tmp_path):
    with pytest.raises(StorageFailed):
        DirectoryStorage(tmp_path).link("exports/a/b", 60)


@pytest.mark.parametrize("driver", ["psycopg-async", "asyncpg"])
def test_a_slow_storage_does_not_hold_up_the_event_loop(database, storage, ada, driver):
    made = Services(database, driver)
    blocked = []

    def slow(work):
        def function(*arguments):
            blocked.append(threading.current_thread() is threading.main_thread())
            return work(*arguments)

        return function

    service = AsyncExportService(made.factory().sessions, storage)
    asked = made.runner.run(service.request(ada, "progress", "json"))
    claim = made.runner.run(service.start())
    made.runner.run(service.complete(claim, 1, slow(publish(storage, claim))))
    for method in ("link", "delete"):
        setattr(storage, method, slow(getattr(storage, method)))
    made.runner.run(service.link(asked.id))
    made.runner.run(service.expire(asked.id))
    made.close()
    assert blocked == [False, False, False]


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_a_request_is_on_record_by_whatever_road_it_came(database, ada, role):
    with database.engine.begin() as connection:
        claims = json.dumps({"role": role, "sub": str(ada)})
        connection.execute(text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
        connection.exec_driver_sql(f"set local role {role}")
        connection.execute(
            text(
                "insert into public.export_history (user_id, export_type, export_format)"
                " values (:id, 'progress', 'json')"
            ),
            {"id": ada},
        )
    assert database.run(
        "select user_id, actor, action, metadata ->> 'status' from public.user_profile_audit_logs"
        " where metadata ? 'export'"
    ) == [(ada, ada, "created", "pending")]


def test_a_request_that_cannot_be_recorded_is_made_all_the_same(database, ada):
    database.script(
        "alter table public.user_profile_audit_logs add constraint none check (action <> 'created') not valid"
    )
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:id, 'progress', 'json')",
        id=ada,
    )
    assert database.value("select count(*) from public.export_history") == 1
