"""What the tables themselves enforce, from every role: ids, limits, clocks, state machines, roll-ups."""

import json
import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from profiles_schema import ExportHistory, LearningSession, UserApiKeys, UserProfile
from support import ENVELOPE

CHECK, NOT_NULL = "23514", "23502"


def sqlstate_of(connection, statement, **values):
    """The SQLSTATE of a statement, 'ok' if it succeeds. Undone afterwards."""
    savepoint = connection.begin_nested()
    try:
        connection.execute(text(statement), values)
    except DBAPIError as error:
        return error.orig.pgcode
    else:
        return "ok"
    finally:
        savepoint.rollback()


@pytest.fixture
def bare(database):
    """A user without a profile."""
    user_id = database.sign_up("ada@example.org")
    database.run("delete from public.user_profiles")
    return user_id


# Ids ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.user_profiles (user_id, username) values (:user_id, 'ada')",
        "insert into public.user_profiles (id, user_id, username) values (default, :user_id, 'ada')",
        "insert into public.user_profiles (id, user_id, username) values (null, :user_id, 'ada')",
    ],
)
def test_a_profile_inserted_without_an_id_gets_one(database, bare, statement):
    database.run(statement, user_id=bare)
    # An explicit null becomes the user's id; the column's default is a random one.
    assert (uuid.UUID(database.profile(bare).id) == bare) is ("null" in statement)


def test_a_profile_inserted_with_an_id_keeps_it(database, bare):
    database.run(
        "insert into public.user_profiles (id, user_id, username) values ('80351110224678912', :u, 'ada')", u=bare
    )
    assert database.profile(bare).id == "80351110224678912"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("given", [{}, {"id": "80351110224678912"}, {"id": None}])
def test_the_model_inserts_a_profile_with_and_without_an_id(database, bare, driver, given):
    engine = create_engine(database.url.replace("postgresql://", f"postgresql+{driver}://", 1))
    with Session(engine) as session:
        profile = UserProfile(user_id=bare, username="ada", preferences={"a": [1, None]}, **given)
        session.add(profile)
        session.commit()
        session.expunge_all()
        stored = session.scalars(select(UserProfile)).one()
        assert (stored.user_id, stored.preferences, stored.avatar_emoji) == (bare, {"a": [1, None]}, "👶")
        assert stored.id == (given.get("id") or stored.id)
        assert len(stored.id) >= 17
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_other_models_insert_too(database, bare, driver):
    engine = create_engine(database.url.replace("postgresql://", f"postgresql+{driver}://", 1))
    with Session(engine) as session:
        export = ExportHistory(user_id=bare, export_type="all", export_format="json", filters={"since": 2026})
        session.add_all([export, UserApiKeys(user_id=bare, openai_api_key=ENVELOPE), LearningSession(user_id=bare)])
        session.commit()
        assert (export.status, export.retry_count, export.filters) == ("pending", 0, {"since": 2026})
        export.status = "processing"
        session.commit()
        assert export.started_at is not None
    engine.dispose()


# Limits ---------------------------------------------------------------------------------------------------------------


def json_of(size_bytes, kind):
    """JSON of a kind whose text has exactly so many bytes, as the server prints it."""
    frame = {"object": '{"k": ""}', "array": '[""]'}[kind]
    return frame.replace('""', '"' + "x" * (size_bytes - len(frame)) + '"')


def texts(limit):
    return {"good": ["", "x" * limit, "ß" * limit, None], "bad": ["x" * (limit + 1)]}


WEB_ADDRESS = {
    "good": ["0.998.png", "avatars/ada.png", "http://a", "https://a.example/" + "x" * 2030, None],
    "bad": [
        "https://a.example/" + "x" * 2031,
        "ftp://a",
        "javascript:alert(1)",
        "//a",
        "",
        " https://a",
        "HTTPS://a",
        "data:x",
        "a b",
        "../a.png",
        "a/../b.png",
        "a\\b.png",
    ],
}
OBJECT = {"good": ["{}", '{"a": null}', None], "bad": ["[]", "null", "5", '"x"', "true"]}
COUNT = {"good": [0, 2**31 - 1], "bad": [-1]}

RULES = {
    "user_profiles": {
        "username": {
            "good": ["abc", "a" * 32, "a_b.c-d", "...", "012"],
            "bad": ["ab", "a" * 33, "Ada", "a b", "jürgen", "a@b", "", "abc\n", "a/b"],
        },
        "display_name": texts(200), "first_name": texts(200), "last_name": texts(200), "company_name": texts(200),
        "phone": texts(40), "bio": texts(4_000), "target_audience": texts(20_000), "business_context": texts(20_000),
        "master_system_prompt": texts(20_000), "avatar_emoji": texts(16), "email": texts(320),
        "avatar_url": WEB_ADDRESS, "profile_picture_url": WEB_ADDRESS, "logo_url": WEB_ADDRESS,
        "profile_visibility": {"good": ["public", "private"], "bad": ["friends", "", "PUBLIC"]},
        "language": {
            "good": ["en", "pt-BR", "zh-Hant-TW", "x" * 8, "de-" + "a" * 8],
            "bad": ["e", "", "en_US", "english!", "en-", "a" * 9, "de-abcdefgh-abcdefgh-abcdefgh-abcdefgh"],
        },
        "timezone": {
            "good": ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"],
            "bad": ["FOO+5", "europe/berlin", "", "Europe/Nowhere", "+02:00", "x" * 1000, "UTC+1"],
        },
        "key_metrics": {
            "good": ["[]", "[1, null]", json_of(65_536, "array")],
            "bad": ["{}", "null", "5", json_of(65_537, "array")],
        },
        **{
            column: {
                "good": ["{}", '{"a": null}', json_of(65_536, "object")],
                "bad": ["[]", "null", "5", json_of(65_537, "object")],
            }
            for column in ("preferences", "notification_settings")
        },
        "login_count": COUNT, "message_count": COUNT,
        **dict.fromkeys(
            ("personality_traits", "appearance_traits", "behavioral_metrics", "cultural_attributes", "analysis_summary",
             "metadata"),
            OBJECT,
        ),
    },
    "user_progress": dict.fromkeys(
        ("total_sessions", "total_descriptions", "total_images", "total_questions_answered", "total_correct_answers",
         "total_vocabulary_learned", "total_answer_seconds", "total_time_spent_minutes",
         "average_completion_time_seconds", "current_streak_days", "longest_streak_days", "total_points",
         "mastered_words_count", "learning_words_count", "new_words_count"),
        COUNT,
    ),
    "user_api_keys": {
        **{
            column: {
                "good": [ENVELOPE, "psk1.k." + "A" * 38, "psk1." + "k" * 64 + "." + "a-_9" * 10,
                         "psk1.k." + "A" * 4089, None],
                "bad": ["sk-proj-" + "A" * 60, "", "psk1.." + "A" * 60, "psk1.k." + "A" * 37, "psk2.k." + "A" * 60,
                        "psk1." + "k" * 65 + "." + "A" * 60, "psk1.k." + "A" * 60 + "=", " " + ENVELOPE, ENVELOPE + "\n",
                        "psk1.k." + "A" * 4090, "psk1xk." + "A" * 60, "psk1.k." + "ä" * 60, ENVELOPE + "\nsk-1"],
            }
            for column in ("openai_api_key", "unsplash_api_key", "anthropic_api_key")
        },
        "validation": {"good": ["{}", '{"openai": {"valid": true}}'], "bad": ["[]", "null", "5"]},
        "hints": {
            "good": ["{}", '{"openai": "aB3-"}', '{"openai": "aB3-", "unsplash": "....", "anthropic": "!~!~"}'],
            "bad": ["[]", "null", "5", '{"openai": "aB3-x"}', '{"openai": "aB3"}', '{"openai": "aB3 "}', '{"openai": 1234}',
                    '{"openai": {"a": "sk-plain"}}', '{"openai": ["sk-plain"]}',
                    json.dumps({f"k{i}": "aB3-" for i in range(30)})],
        },
    },
    "user_provider_keys": {
        "provider": {"good": ["openai-eu", "a", "a" * 63, "x.ai", "9"], "bad": ["", "A", "a" * 64, "-a", "a b", "a/b", "a\n"]},
        "label": {"good": ["", "work", "ü" * 64, "a/b"], "bad": ["a" * 65, "a\nb", "\x7f"]},
        "envelope": {
            "good": [ENVELOPE, "psk1.k." + "A" * 38, "psk1.k." + "A" * 4089],
            "bad": ["sk-proj-" + "A" * 60, "", "psk1.k." + "A" * 37, "psk1.k." + "A" * 4090, ENVELOPE + "\n"],
        },
        "hint": {"good": ["aB3-", None], "bad": ["", "aB3", "aB3-x", "aB3 ", "aB3ü", "sk-" + "A" * 40]},
        "validation": {"good": ["{}"], "bad": ["[]", "null", "5"]},
    },
    "export_history": {
        "filters": {"good": ["{}", json_of(65_536, "object"), None], "bad": ["[]", "null", json_of(65_537, "object")]},
        "records_count": COUNT, "retry_count": COUNT,
        "file_size_bytes": {"good": [0, 2**62, None], "bad": [-1]},
    },
    "sessions": dict.fromkeys(
        ("descriptions_generated", "images_processed", "qa_attempts", "qa_correct", "qa_seconds", "vocabulary_learned"),
        COUNT,
    ),
    "user_profile_audit_logs": {
        "action": {"good": ["created", "updated", "failed", "skipped", "repaired", "deleted", "key_set", "key_deleted",
                            "key_disabled", "key_enabled", "key_read"], "bad": ["", "read", "FAILED"]},
        "origin": {"good": ["trigger", "manual", "backfill", "registration", "sync", "normalize"], "bad": ["", "other"]},
        "retry_count": COUNT,
    },
}  # fmt: skip


@pytest.mark.parametrize("table", RULES)
def test_every_limit_holds_on_both_sides_of_its_boundary(database, table):
    user_id = database.sign_up("ada@example.org")
    inserts = {
        "user_api_keys": "(user_id) values (:id)",
        "user_provider_keys": f"(user_id, provider, label, envelope) values (:id, 'deepl', 'one', '{ENVELOPE}')",
        "export_history": "(user_id, export_type, export_format) values (:id, 'all', 'json')",
        "sessions": "(user_id) values (:id)",
        "user_profile_audit_logs": "(user_id, action, origin) values (:id, 'created', 'manual')",
    }
    if table in inserts:
        database.run(f"insert into public.{table} {inserts[table]}", id=user_id)
    with database.engine.connect() as connection:
        for column, values in RULES[table].items():
            statement = f"update public.{table} set {column} = :value"
            for value in values["good"]:
                assert sqlstate_of(connection, statement, value=value) == "ok", (column, str(value)[:60])
            for value in values["bad"]:
                assert sqlstate_of(connection, statement, value=value) == CHECK, (column, str(value)[:60])


def test_the_limits_hold_for_inserts_too(database, bare):
    insert = "insert into public.user_profiles (user_id, username, {0}) values (:id, 'ada', :value)"
    with database.engine.connect() as connection:
        for column, value in (
            ("bio", "x" * 4001),
            ("timezone", "FOO+5"),
            ("preferences", "[]"),
            ("logo_url", "javascript:alert(1)"),
        ):
            assert sqlstate_of(connection, insert.format(column), id=bare, value=value) == CHECK
        assert sqlstate_of(connection, insert.format("timezone"), id=bare, value="Europe/Berlin") == "ok"


def test_the_limits_hold_for_the_owner_and_for_service_role(project):
    user_id = project.sign_up("ada@example.org")
    for role in ("authenticated", "service_role"):
        with project.acting_as(role, user_id) as connection:
            for assignment in ("bio = repeat('x', 4001)", "timezone = 'FOO+5'", "username = 'A'", "preferences = '[]'"):
                assert sqlstate_of(connection, f"update public.user_profiles set {assignment}") == CHECK, assignment
            assert sqlstate_of(connection, "update public.user_profiles set timezone = 'Asia/Tokyo'") == "ok"


def test_the_refusal_of_a_time_zone_names_the_column(database):
    database.sign_up("ada@example.org")
    with pytest.raises(DBAPIError) as caught:
        database.run("update public.user_profiles set timezone = 'FOO+5'")
    diagnosis = caught.value.orig.diag
    assert (diagnosis.table_name, diagnosis.column_name) == ("user_profiles", "timezone")
    assert diagnosis.message_primary == 'time zone "FOO+5" is not known'


def test_every_zone_the_server_knows_is_accepted_even_one_that_is_new(database):
    user_id = database.sign_up("ada@example.org")
    database.run("delete from profiles_internal.timezones where name = 'Asia/Tokyo'")
    database.run("update public.user_profiles set timezone = 'Asia/Tokyo'")
    assert database.profile(user_id).timezone == "Asia/Tokyo"
    assert database.value("select count(*) from profiles_internal.timezones") > 400


# updated_at -----------------------------------------------------------------------------------------------------------


def test_updated_at_moves_with_a_change_and_with_nothing_else(database):
    user_id = database.sign_up("ada@example.org")
    activity = "last_login = now(), login_count = login_count + 1, message_count = 9, last_interaction_at = 5"
    before = database.profile(user_id).updated_at
    for assignments in ("bio = null", "username = username, updated_at = '2001-01-01'", activity, "message_count = 10"):
        database.run(f"update public.user_profiles set {assignments}")
        assert database.profile(user_id).updated_at == before, assignments
    assert database.profile(user_id).message_count == 10
    for assignments in ("bio = 'x'", "bio = 'y', message_count = 1", "role = 'admin', updated_at = '2001-01-01'"):
        database.run(f"update public.user_profiles set {assignments}")
        after = database.profile(user_id).updated_at
        assert after > before, assignments
        before = after


@pytest.mark.parametrize("table", ["user_progress", "user_api_keys", "user_provider_keys", "export_history"])
def test_the_other_tables_keep_updated_at_too(database, table):
    user_id = database.sign_up("ada@example.org")
    database.run("insert into public.user_api_keys (user_id) values (:id)", id=user_id)
    database.run(
        "insert into public.user_provider_keys (user_id, provider, envelope) values (:id, 'deepl', :envelope)",
        id=user_id,
        envelope=ENVELOPE,
    )
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:id, 'a', 'b')", id=user_id
    )
    change = {
        "user_progress": "new_words_count = 1",
        "user_api_keys": "is_active = false",
        "user_provider_keys": "is_active = false",
        "export_history": "filters = '{}'",
    }
    query = f"select updated_at from public.{table}"
    before = database.value(query)
    database.run(f"update public.{table} set user_id = user_id, updated_at = '2001-01-01'")
    assert database.value(query) == before
    database.run(f"update public.{table} set {change[table]}")
    assert database.value(query) > before


def test_two_changes_of_one_transaction_are_two_times(database):
    user_id = database.sign_up("ada@example.org")
    with database.engine.begin() as connection:
        times = [
            connection.scalar(text(f"update public.user_profiles set bio = '{n}' returning updated_at"))
            for n in range(2)
        ]
    assert times[0] < times[1]
    assert database.value("select count(*) from public.user_profile_audit_logs where user_id = :id", id=user_id) == 2


def test_a_column_of_the_applications_own_without_equality_is_no_trouble(database):
    user_id = database.sign_up("ada@example.org")
    database.script("alter table public.user_profiles add column place point, add column document json")
    database.run("update public.user_profiles set place = '(1,2)', document = '{}'")
    before = database.profile(user_id)
    database.run("update public.user_profiles set place = '(1,2)'")
    assert database.profile(user_id).updated_at == before.updated_at


# Exports --------------------------------------------------------------------------------------------------------------

STATUSES = ["pending", "processing", "completed", "failed", "expired"]
ROADS = {"pending": [], "processing": ["processing"], "completed": ["processing", "completed"], "failed": ["failed"],
         "expired": ["expired"]}  # fmt: skip
STEPS = {
    ("pending", "processing"), ("pending", "failed"), ("pending", "expired"),
    ("processing", "completed"), ("processing", "failed"), ("processing", "pending"),
    ("completed", "expired"), ("failed", "pending"),
}  # fmt: skip


def export_in(connection, user_id, status):
    """Insert an export and walk it to a status; returns its id."""
    export_id = connection.scalar(
        text(
            "insert into public.export_history (user_id, export_type, export_format) values (:id, 'all', 'json') returning id"
        ),
        {"id": user_id},
    )
    for step in ROADS[status]:
        connection.execute(
            text("update public.export_history set status = :step where id = :id"), {"step": step, "id": export_id}
        )
    return export_id


def test_an_export_goes_its_way_and_no_other_from_every_role(project):
    user_id = project.sign_up("ada@example.org")
    walk = "update public.export_history set status = :after where id = :id"
    for role in ("owner of the table", "service_role"):
        with project.acting_as("service_role") as connection:
            if role != "service_role":
                connection.exec_driver_sql("reset role")
            for before in STATUSES:
                export_id = export_in(connection, user_id, before)
                for after in STATUSES:
                    expected = "ok" if (before, after) in STEPS or before == after else CHECK
                    assert sqlstate_of(connection, walk, after=after, id=export_id) == expected, (role, before, after)
                assert sqlstate_of(connection, walk, after="no such", id=export_id) == CHECK
                assert sqlstate_of(connection, walk, after=None, id=export_id) in {CHECK, NOT_NULL}
    with project.acting_as("service_role") as connection:
        export_id = export_in(connection, user_id, "pending")
        connection.execute(
            text("select set_config('request.jwt.claims', :c, true)"), {"c": json.dumps({"sub": str(user_id)})}
        )
        connection.exec_driver_sql("set local role authenticated")
        for after in STATUSES:
            assert sqlstate_of(connection, walk, after=after, id=export_id) == "42501", after


@pytest.mark.parametrize("status", STATUSES)
def test_an_export_starts_as_pending(database, status):
    user_id = database.sign_up("ada@example.org")
    insert = "insert into public.export_history (user_id, export_type, export_format, status) values (:id, 'all', 'json', :status)"
    for role in ("postgres", "service_role"):
        with database.acting_as(role) as connection:
            expected = "ok" if status == "pending" else CHECK
            assert sqlstate_of(connection, insert, id=user_id, status=status) == expected


def test_the_clock_of_an_export_is_kept(database):
    user_id = database.sign_up("ada@example.org")

    def step(assignments):
        return database.run(f"update public.export_history set {assignments} returning *")[0]

    with database.engine.begin() as connection:
        export_in(connection, user_id, "pending")
    started = step("status = 'processing'")
    assert (started.started_at is None, started.completed_at, started.retry_count) == (False, None, 0)
    failed = step("status = 'failed', started_at = started_at - interval '90 seconds', error_message = 'x'")
    assert (failed.completed_at is None, failed.processing_time_seconds) == (False, 90)
    retried = step("status = 'pending'")
    clock = (retried.started_at, retried.completed_at, retried.processing_time_seconds, retried.retry_count)
    assert clock == (None, None, None, 1)
    step("status = 'processing', started_at = '2026-01-01T00:00:00Z'")
    done = step("status = 'completed', completed_at = '2026-01-01T00:01:05Z'")
    assert done.processing_time_seconds == 65
    expired = step("status = 'expired'")
    assert (expired.processing_time_seconds, expired.retry_count) == (65, 1)


def test_an_export_that_never_started_takes_no_time(database):
    user_id = database.sign_up("ada@example.org")
    with database.engine.begin() as connection:
        export_in(connection, user_id, "failed")
    assert database.run(
        "select started_at, processing_time_seconds, completed_at is null from public.export_history"
    ) == [(None, None, False)]


def test_filters_change_only_while_the_export_is_pending(project):
    user_id = project.sign_up("ada@example.org")
    change = "update public.export_history set filters = '{\"a\": 1}' where id = :id"
    for status in STATUSES:
        for role in ("authenticated", "service_role"):
            with project.acting_as("service_role", user_id) as connection:
                export_id = export_in(connection, user_id, status)
                connection.exec_driver_sql(f"set local role {role}")
                expected = "ok" if status == "pending" else CHECK
                assert sqlstate_of(connection, change, id=export_id) == expected, (status, role)
                # Taking them away is erasure, and always possible.
                assert sqlstate_of(connection, change.replace("'{\"a\": 1}'", "null"), id=export_id) == "ok"


# Sessions and progress ------------------------------------------------------------------------------------------------

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland", "Pacific/Kiritimati", "Asia/Kolkata"]
SUMS = {
    "total_descriptions": "descriptions_generated", "total_images": "images_processed",
    "total_questions_answered": "qa_attempts", "total_correct_answers": "qa_correct",
    "total_vocabulary_learned": "vocabulary_learned", "total_answer_seconds": "qa_seconds",
}  # fmt: skip
LAST = {
    "last_description_at": "descriptions_generated", "last_qa_session_at": "qa_attempts",
    "last_vocabulary_practice_at": "vocabulary_learned",
}  # fmt: skip


def runs_of(days):
    """The lengths of the runs of consecutive days, in order."""
    runs = []
    for day in sorted(days):
        if runs and day - runs[-1][-1] == timedelta(days=1):
            runs[-1].append(day)
        else:
            runs.append([day])
    return [len(run) for run in runs]


def half_up(value, places):
    return value.quantize(Decimal(places), rounding=ROUND_HALF_UP)


def progress_of(sessions, zone):
    """The specification of the rolled-up columns, written a second time and in another language."""
    ended = [s for s in sessions if s["ended_at"] is not None]
    expected = {"total_sessions": len(ended)}
    expected |= {total: sum(s[counter] for s in ended) for total, counter in SUMS.items()}
    expected["total_time_spent_minutes"] = sum(
        max(
            0,
            (s["ended_at"] - s["started_at"]) // timedelta(minutes=1)
            if s["duration_minutes"] is None
            else s["duration_minutes"],
        )
        for s in ended
    )
    questions = expected["total_questions_answered"]
    correct, seconds = expected["total_correct_answers"], expected["total_answer_seconds"]
    expected["average_accuracy"] = half_up(Decimal(100 * correct) / questions, "0.01") if questions else 0
    expected["average_completion_time_seconds"] = half_up(Decimal(seconds) / questions, "1") if questions else 0
    days = {s["ended_at"].astimezone(ZoneInfo(zone)).date() for s in ended}
    runs = runs_of(days)
    expected["last_activity_at"] = max((s["ended_at"] for s in ended), default=None)
    for column, counter in LAST.items():
        expected[column] = max((s["ended_at"] for s in ended if s[counter] > 0), default=None)
    expected["last_active_on"] = max(days, default=None)
    expected["current_streak_days"] = runs[-1] if runs else 0
    expected["longest_streak_days"] = max(runs, default=0)
    return expected


SESSION_COLUMNS = ["id", "user_id", "started_at", "ended_at", "duration_minutes", *SUMS.values()]
INSERT_SESSION = (
    f"insert into public.sessions ({', '.join(SESSION_COLUMNS)}) values ({', '.join(f':{c}' for c in SESSION_COLUMNS)})"
)


def random_session(chance, user_id):
    # Around both changes of the clocks, near midnight, dense enough for streaks.
    day = chance.choice([datetime(2026, 3, 20, tzinfo=UTC), datetime(2026, 10, 18, tzinfo=UTC)])
    started = day + timedelta(
        days=chance.randrange(14), seconds=chance.choice([0, 3600, 82_800, 86_399, 43_200, 39_600])
    )
    ended = None if chance.random() < 0.2 else started + timedelta(seconds=chance.randrange(-60, 7200))
    session = {
        "id": uuid.UUID(int=chance.getrandbits(128)), "user_id": user_id, "started_at": started, "ended_at": ended,
        "duration_minutes": chance.choice([None, None, 0, 7, -3, 90]),
        **{counter: chance.choice([0, 0, chance.randrange(50)]) for counter in SUMS.values()},
    }  # fmt: skip
    session["qa_correct"] = min(session["qa_correct"], session["qa_attempts"])
    return session


def assert_progress(database, sessions, zones):
    rows = {row.user_id: row._mapping for row in database.run("select * from public.user_progress")}
    for user_id, zone in zones.items():
        expected = progress_of([s for s in sessions.values() if s["user_id"] == user_id], zone)
        assert {column: rows[user_id][column] for column in expected} == expected


@pytest.mark.parametrize("seed", range(3))
def test_progress_equals_an_independent_computation_after_every_kind_of_change(database, seed):
    chance = random.Random(seed)
    zones = {
        database.sign_up(f"u{n}@example.org", raw_user_meta_data={"timezone": zone}): zone
        for n, zone in enumerate(ZONES)
    }
    users = list(zones)
    sessions = {s["id"]: s for s in (random_session(chance, chance.choice(users)) for _ in range(120))}
    many = list(sessions.values())
    with database.engine.begin() as connection:
        connection.execute(text(INSERT_SESSION), many[:60])
        for session in many[60:]:
            connection.execute(text(INSERT_SESSION), session)
    assert_progress(database, sessions, zones)

    for _ in range(4):
        with database.engine.begin() as connection:
            for session_id in chance.sample(list(sessions), 12):
                session = sessions[session_id]
                change = chance.choice(["delete", "end", "un-end", "move", "edit", "nobody"])
                if change == "delete":
                    connection.execute(text("delete from public.sessions where id = :id"), {"id": session["id"]})
                    del sessions[session["id"]]
                    continue
                session |= {
                    "end": {"ended_at": session["started_at"] + timedelta(minutes=5)}, "un-end": {"ended_at": None},
                    "move": {"user_id": chance.choice(users)}, "nobody": {"user_id": None},
                    "edit": {"qa_attempts": 9, "qa_correct": 4, "qa_seconds": 100, "duration_minutes": None},
                }[change]  # fmt: skip
                assignments = ", ".join(f"{column} = :{column}" for column in SESSION_COLUMNS[1:])
                connection.execute(text(f"update public.sessions set {assignments} where id = :id"), session)
        assert_progress(database, sessions, zones)

    database.run("update public.sessions set qa_seconds = qa_seconds + 1, ended_at = coalesce(ended_at, started_at)")
    for session in sessions.values():
        session["qa_seconds"] += 1
        session["ended_at"] = session["ended_at"] or session["started_at"]
    assert_progress(database, sessions, zones)
    database.run("delete from public.sessions")
    assert_progress(database, {}, zones)


def test_a_streak_is_counted_in_the_days_of_the_user(database):
    """23:30 UTC on two days and 00:30 UTC on the third: three days in London, two in Berlin and in New York."""
    expected = {"Europe/London": 3, "Europe/Berlin": 2, "America/New_York": 2}
    for zone in expected:
        user_id = database.sign_up(raw_user_meta_data={"timezone": zone})
        for end in ("2026-01-01T23:30:00Z", "2026-01-02T23:30:00Z", "2026-01-03T00:30:00Z", "2026-01-06T12:00:00Z"):
            database.run(
                "insert into public.sessions (user_id, started_at, ended_at) values (:id, :end, :end)",
                id=user_id,
                end=end,
            )
    rows = database.run(
        "select timezone, longest_streak_days from public.user_progress join public.user_profiles using (user_id)"
    )
    assert dict(map(tuple, rows)) == expected
    assert database.run("select distinct current_streak_days, last_active_on::text from public.user_progress") == [
        (1, "2026-01-06")
    ]


def test_a_session_that_still_runs_does_not_count_and_costs_no_write(database):
    user_id = database.sign_up("ada@example.org")
    version = database.value("select xmin::text from public.user_progress")
    database.run("insert into public.sessions (user_id, qa_attempts) values (:id, 5)", id=user_id)
    database.run("update public.sessions set qa_attempts = 6")
    database.run("delete from public.sessions")
    assert database.value("select xmin::text from public.user_progress") == version


def test_ten_thousand_sessions_ended_at_once_are_counted_once_per_user(database):
    database.sign_up("ada@example.org")
    database.run("insert into public.sessions (user_id) select u.id from auth.users as u, generate_series(1, 10000)")
    database.run("update public.sessions set ended_at = started_at + interval '2 minutes', qa_attempts = 1")
    row = database.run(
        "select total_sessions, total_time_spent_minutes, total_questions_answered from public.user_progress"
    )
    assert row == [(10_000, 20_000, 10_000)]


def test_the_points_of_the_application_survive_a_recount(database):
    user_id = database.sign_up("ada@example.org")
    database.run("update public.user_progress set total_points = 7, mastered_words_count = 3")
    database.run("insert into public.sessions (user_id, ended_at) values (:id, now())", id=user_id)
    assert database.run("select total_points, mastered_words_count, total_sessions from public.user_progress") == [
        (7, 3, 1)
    ]


def test_absurd_counters_do_not_overflow(database):
    user_id = database.sign_up("ada@example.org")
    database.run(
        "insert into public.sessions (user_id, started_at, ended_at, qa_attempts, qa_correct, qa_seconds, duration_minutes)"
        " select :id, now(), now(), 1, 2147483647, 2147483647, 2147483647 from generate_series(1, 3)",
        id=user_id,
    )
    row = database.run("select * from public.user_progress")[0]
    assert (row.total_correct_answers, row.total_time_spent_minutes, row.average_accuracy) == (
        2_147_483_647, 2_147_483_647, Decimal("999.99"),
    )  # fmt: skip


def test_two_sessions_of_a_user_ended_at_once_both_count(database):
    user_id = database.sign_up("ada@example.org")
    ids = [uuid.uuid4(), uuid.uuid4()]
    for session_id in ids:
        database.run("insert into public.sessions (id, user_id) values (:id, :user_id)", id=session_id, user_id=user_id)
    end = text("update public.sessions set ended_at = now() where id = :id")
    with database.engine.connect() as first:
        with first.begin():
            first.execute(end, {"id": ids[0]})
            second = threading.Thread(target=lambda: database.run(str(end), id=ids[1]))
            second.start()
            waiting = (
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            while not database.value(waiting):
                second.join(0.02)
        second.join(30)
    assert database.value("select total_sessions from public.user_progress") == 2


def test_threads_that_end_sessions_of_the_same_users_lose_none_and_never_deadlock(database):
    users = [database.sign_up(f"u{n}@example.org") for n in range(3)]
    database.run(
        "insert into public.sessions (user_id, qa_attempts) select u.id, n from auth.users as u, generate_series(0, 39) as n"
    )
    barrier = threading.Barrier(4)

    def end_sessions(thread):
        with database.engine.connect() as connection:
            barrier.wait(30)
            for n in range(thread, 40, 4):
                with connection.begin():
                    connection.execute(
                        text("update public.sessions set ended_at = now() where qa_attempts = :n"), {"n": n}
                    )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end_sessions, range(4)))
    rows = database.run("select total_sessions, total_questions_answered from public.user_progress")
    assert [tuple(row) for row in rows] == [(40, sum(range(40)))] * len(users)


def test_a_user_with_sessions_can_be_deleted(project):
    user_id, other = project.sign_up("ada@example.org"), project.sign_up("eve@example.org")
    project.administrator.run(
        "insert into public.sessions (user_id, ended_at) select u, now() from unnest(array[:a, :b]::uuid[]) as u"
        " cross join generate_series(1, 5)",
        a=str(user_id), b=str(other),
    )  # fmt: skip
    with project.auth_server() as connection:
        connection.execute(text("delete from auth.users where id = :id"), {"id": user_id})
    rows = project.administrator.run("select user_id, total_sessions from public.user_progress")
    assert [tuple(row) for row in rows] == [(other, 5)]
    assert project.administrator.value("select count(*) from public.sessions") == 5


def test_sessions_of_a_user_without_a_progress_row_are_no_error(database):
    user_id = database.sign_up("ada@example.org")
    database.run("delete from public.user_progress")
    database.run("insert into public.sessions (user_id, ended_at) values (:id, now())", id=user_id)
    assert database.value("select count(*) from public.user_progress") == 0


def test_an_older_sessions_table_without_answers_is_rolled_up_too(empty):
    empty.script(
        "create table public.sessions (id uuid primary key default gen_random_uuid(), user_id uuid, started_at timestamptz,"
        " ended_at timestamptz, duration_minutes integer, descriptions_generated integer, images_processed integer,"
        " qa_attempts integer, vocabulary_learned integer)"
    )
    empty.upgrade()
    user_id = empty.sign_up("ada@example.org")
    empty.run(
        "insert into public.sessions (user_id, started_at, ended_at, qa_attempts)"
        " values (:id, now() - interval '3 minutes', now(), 4), (:id, null, now(), null)",
        id=user_id,
    )
    row = empty.run("select * from public.user_progress")[0]
    assert (row.total_sessions, row.total_questions_answered, row.average_accuracy, row.total_time_spent_minutes) == (
        2, 4, 0, 3,
    )  # fmt: skip
