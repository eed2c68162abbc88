"""The rules of a migration on a live database, tried on small throw-away histories."""

import argparse
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import psycopg
import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, make_url

from profiles_schema import database, errors
from profiles_schema.migrations import indexes, locking, paths, summary
from profiles_schema.migrations.masking import mask_literals
from profiles_schema.migrations.options import parse
from support import REPOSITORY, alembic, profiles_schema, wait_until

LOG_TABLE = """
create schema if not exists profiles_internal;
create table profiles_internal.migration_log (revision text, direction text, started timestamptz, seconds float8,
  role text, package_version text, outcome text, users int8, missing int8)
"""


class History:
    """A script directory that grows one revision per call of ``add``."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "versions").mkdir(parents=True)
        (directory / "env.py").write_text((REPOSITORY / "alembic" / "env.py").read_text())
        self.newest = None

    def add(self, revision, up="pass", down="pass"):
        """A revision whose bodies are SQL, or Python where they begin with ``op.`` or ``with``."""
        (self.directory / "versions" / f"{revision}.py").write_text(
            f'"""Do {revision}."""\nfrom alembic import op\n'
            f"revision = {revision!r}\ndown_revision = {self.newest!r}\n"
            f"def upgrade():\n{textwrap.indent(_body(up), '    ')}\n"
            f"def downgrade():\n{textwrap.indent(_body(down), '    ')}\n"
        )
        self.newest = revision
        return self

    def config(self, *x, **attributes):
        config = Config(cmd_opts=argparse.Namespace(x=list(x)), attributes=attributes)
        config.set_main_option("script_location", str(self.directory))
        return config

    def upgrade(self, revision="head", *x, **attributes):
        command.upgrade(self.config(*x, **attributes), revision)

    def downgrade(self, revision, *x):
        command.downgrade(self.config(*x), revision)

    def start(self, url, *arguments):
        """The plain ``alembic`` command as a process of its own."""
        ini = self.directory / "alembic.ini"
        ini.write_text((REPOSITORY / "alembic.ini").read_text().replace("%(here)s/alembic", str(self.directory)))
        return subprocess.Popen(
            [sys.executable, "-m", "alembic", "-c", str(ini), *arguments], cwd=REPOSITORY,
            env=os.environ | {"DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def _body(text):
    return text if text.startswith(("pass", "op.", "with ")) else f"op.execute({text!r})"


def concurrently(sql):
    return f"with op.get_context().autocommit_block():\n    op.execute({sql!r})"


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "history")


@pytest.fixture
def url(empty_database, monkeypatch):
    """An empty database that DATABASE_URL names."""
    monkeypatch.setenv("DATABASE_URL", empty_database)
    return empty_database


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="profiles_schema.migrations")
    return caplog


@contextmanager
def session(url, *statements, autocommit=False):
    """Another session, after these statements; its transaction stays open until the block ends."""
    connection = psycopg2.connect(url, application_name="the other one")
    connection.autocommit = autocommit
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            yield cursor
    finally:
        connection.close()


def rows(url, sql):
    with session(url, autocommit=True) as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def released_after(seconds, cursor):
    """End the session's transaction after some seconds, from a thread."""
    timer = threading.Timer(seconds, cursor.connection.rollback)
    timer.start()
    return timer


def versions(url):
    return [row[0] for row in rows(url, "select version_num from profiles_internal.alembic_version")]


def finished(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


# One migrator at a time


@pytest.mark.slow
def test_eight_migrators_at_once_all_exit_0_and_apply_each_revision_once(history, url):
    rows(url, LOG_TABLE)
    history.add("0001_table", "create table t (n int)")
    history.add("0002_row", "insert into t values (1)").add("0003_sleep", "select pg_sleep(0.5)")
    processes = [history.start(url, "upgrade", "head") for _ in range(8)]
    results = [finished(process) for process in processes]
    assert [code for code, _, _ in results] == [0] * 8, [err for _, _, err in results]
    assert rows(url, "select count(*) from t") == [(1,)]
    assert sorted(rows(url, "select revision, count(*) from profiles_internal.migration_log group by 1")) == [
        ("0001_table", 1), ("0002_row", 1), ("0003_sleep", 1),
    ]  # fmt: skip
    assert ["At head (0003_sleep)" in err for _, _, err in results] == [True] * 8, [err for _, _, err in results]


def test_a_waiting_migrator_says_who_holds_the_lock_and_goes_on_when_it_is_free(history, url, log):
    history.add("0001_table", "create table t (n int)")
    with session(
        url, f"select pg_advisory_lock({locking.LOCK_CLASS}, {locking.LOCK_OBJECT})", autocommit=True
    ) as cursor:
        pid = cursor.connection.info.backend_pid
        timer = threading.Timer(0.7, cursor.connection.close)
        timer.start()
        history.upgrade()
        timer.join()
    waiting = [line for line in log.messages if line.startswith("Waiting for another migration")]
    assert len(waiting) == 1
    assert f"pid {pid} (the other one" in waiting[0]
    assert versions(url) == ["0001_table"]


def test_waiting_for_the_lock_ends(history, url):
    history.add("0001_table", "create table t (n int)")
    with (
        session(url, f"select pg_advisory_lock({locking.LOCK_CLASS}, {locking.LOCK_OBJECT})"),
        pytest.raises(errors.MigrationLockTimeout, match="the other one"),
    ):
        history.upgrade("head", "lock-wait=0.3")
    assert rows(url, "select to_regclass('t')") == [(None,)]


def test_the_lock_is_free_again_after_success_and_after_failure(history, url):
    free = f"select pg_try_advisory_lock({locking.LOCK_CLASS}, {locking.LOCK_OBJECT})"
    history.add("0001_table", "create table t (n int)")
    history.upgrade()
    assert rows(url, free) == [(True,)]
    history.add("0002_fails", "select 1/0")
    with pytest.raises(errors.MigrationFailed):
        history.upgrade()
    assert rows(url, free) == [(True,)]


def test_a_lost_lock_stops_before_the_next_revision(history, url):
    history.add("0001_table", "create table t (n int)")
    # What a transaction-mode pooler does by chance: from here on the session does not hold the lock.
    history.add("0002_unlocks", "select pg_advisory_unlock_all()").add("0003_more", "create table more (n int)")
    with pytest.raises(errors.MigrationLockLost, match="direct port"):
        history.upgrade()
    assert versions(url) == ["0002_unlocks"]
    assert rows(url, "select to_regclass('more')") == [(None,)]
    history.upgrade()
    assert versions(url) == ["0003_more"]


# Lock waits inside a revision


def test_a_revision_waits_in_short_turns_names_the_blocker_and_succeeds(history, url, log):
    rows(url, "create table t (n int, name text)")
    history.add("0001_alter", "alter table t add column m int")
    with session(
        url, "select name /* ada@example.org */ from t where name = 'ada@example.org' and n <> 4711"
    ) as cursor:
        pid = cursor.connection.info.backend_pid
        timer = released_after(1.0, cursor)
        started = time.monotonic()
        history.upgrade()
        timer.join()
    assert time.monotonic() - started < 5
    assert versions(url) == ["0001_alter"]
    named = [line for line in log.messages if "lock held by" in line]
    assert len(named) == 1, log.messages
    assert f"pid {pid} (the other one, role postgres, idle in transaction" in named[0]
    assert "select name from t where name = ? and n <> ?" in named[0]
    assert "ada@example.org" not in log.text
    assert "4711" not in log.text
    assert len([line for line in log.messages if "trying again" in line]) == 1


@pytest.mark.slow
def test_traffic_behind_a_waiting_revision_is_stalled_no_longer_than_the_lock_timeout(history, url):
    rows(url, "create table t (n int)")
    history.add("0001_alter", "alter table t add column m int")
    stalls = []
    with session(url, "select * from t") as cursor:
        timer = released_after(2.0, cursor)
        thread = threading.Thread(target=history.upgrade)
        thread.start()
        with session(url, autocommit=True) as reader:
            while thread.is_alive():
                started = time.monotonic()
                reader.execute("select count(*) from t")
                stalls.append(time.monotonic() - started)
                time.sleep(0.005)
        thread.join()
        timer.join()
    assert len(stalls) > 20
    assert max(stalls) < 1
    assert versions(url) == ["0001_alter"]


def test_the_deadline_ends_the_retries_names_the_blocker_and_leaves_nothing(history, url):
    rows(url, "create table t (n int)")
    history.add("0001_other", "create table other (n int)").add("0002_alter", "alter table t add column m int")
    with session(url, "select * from t"), pytest.raises(errors.LockDeadlineExceeded) as caught:
        history.upgrade("head", "deadline=1")
    assert "upgrade 0002_alter" in str(caught.value)
    assert "the other one" in str(caught.value)
    assert versions(url) == ["0001_other"]
    assert rows(url, "select attname from pg_attribute where attrelid = 't'::regclass and attname = 'm'") == []
    history.upgrade()
    assert versions(url) == ["0002_alter"]


@pytest.mark.slow
def test_relative_targets_do_not_overshoot_when_a_revision_is_retried(history, url):
    rows(url, "create table t (n int)")
    for number in range(1, 6):
        history.add(
            f"000{number}_step", f"alter table t add column c{number} int", f"alter table t drop column c{number}"
        )
    history.upgrade("+1")
    with session(url, "select * from t") as cursor:
        timer = released_after(0.8, cursor)
        history.upgrade("+2")
        timer.join()
    assert versions(url) == ["0003_step"]
    with session(url, "select * from t") as cursor:
        timer = released_after(0.8, cursor)
        history.downgrade("-2")
        timer.join()
    assert versions(url) == ["0001_step"]


@pytest.mark.slow
def test_a_deadlock_is_retried(history, url):
    rows(url, "create table a (n int); create table b (n int)")
    history.add(
        "0001_both", "op.execute('lock table a')\nop.execute('select pg_sleep(0.3)')\nop.execute('lock table b')"
    )
    with session(url, "set deadlock_timeout = '10s'", "lock table b") as cursor:

        def close_the_circle():
            cursor.execute("lock table a")
            cursor.connection.rollback()

        thread = threading.Timer(0.2, close_the_circle)
        thread.start()
        history.upgrade("head", "lock-timeout=60000")
        thread.join()
    assert versions(url) == ["0001_both"]


def test_a_failure_inside_an_autocommit_block_is_retried(history, url):
    rows(url, "create table t (n int)")
    history.add("0001_begin", "create table first (n int)")
    history.add(
        "0002_block",
        "op.execute('create table before_block (n int)')\n"
        "op.execute('drop table before_block')\n"
        f"{concurrently('alter table t add column if not exists m int')}\n"
        "op.execute('create table after_block (n int)')",
    )
    with session(url, "select * from t") as cursor:
        timer = released_after(0.8, cursor)
        history.upgrade()
        timer.join()
    assert versions(url) == ["0002_block"]
    assert rows(url, "select to_regclass('after_block') is not null") == [(True,)]


# Indexes, concurrently


def test_create_index_concurrently_outlasts_an_open_snapshot(history, url):
    rows(url, "create table t (n int)")
    history.add("0001_index", concurrently("create index concurrently t_n on t (n)"))
    old = "begin isolation level repeatable read"
    with session(url, old, "select * from t", autocommit=True) as cursor:
        timer = threading.Timer(1.2, cursor.connection.close)
        timer.start()
        started = time.monotonic()
        history.upgrade()
        timer.join()
    assert time.monotonic() - started > 1
    assert rows(url, "select indisvalid from pg_index where indexrelid = 't_n'::regclass") == [(True,)]


def test_create_index_concurrently_gives_up_at_the_deadline_and_the_leftover_is_replaced(history, url):
    rows(url, "create table t (n int)")
    history.add("0001_index", concurrently('create index concurrently if not exists "T N" on public.t (n)'))
    old = "begin isolation level repeatable read"
    with (
        session(url, old, "select * from t", autocommit=True),
        pytest.raises(errors.LockDeadlineExceeded, match="the other one"),
    ):
        history.upgrade("head", "deadline=1")
    state = "select indisvalid from pg_index where indexrelid = '\"T N\"'::regclass"
    assert rows(url, state) == [(False,)]
    history.upgrade()
    assert rows(url, state) == [(True,)]
    assert versions(url) == ["0001_index"]


def test_an_invalid_leftover_is_dropped_before_the_index_is_built(history, url):
    rows(url, "create table t (n int)")
    rows(url, "insert into t values (1), (1)")
    with pytest.raises(psycopg2.Error):
        rows(url, "create unique index concurrently t_n on t (n)")
    assert rows(url, "select indisvalid from pg_index where indexrelid = 't_n'::regclass") == [(False,)]
    rows(url, "delete from t where ctid = '(0,1)'")
    history.add("0001_index", concurrently("create unique index concurrently if not exists t_n on t (n)"))
    history.upgrade()
    assert rows(url, "select indisvalid from pg_index where indexrelid = 't_n'::regclass") == [(True,)]


def test_a_valid_index_of_the_same_name_is_left_alone(history, url):
    rows(url, "create table t (n int)")
    rows(url, "create index t_n on t (n)")
    before = rows(url, "select 't_n'::regclass::oid")
    history.add("0001_index", concurrently("create index concurrently if not exists t_n on t (n)"))
    history.upgrade()
    assert rows(url, "select 't_n'::regclass::oid") == before


def test_the_lock_timeout_is_back_after_a_concurrent_index(history, url):
    rows(url, "create table t (n int); create table seen (setting text)")
    history.add(
        "0001_index",
        concurrently("create index concurrently t_n on t (n)")
        + "\nop.execute(\"insert into seen values (current_setting('lock_timeout'))\")",
    )
    history.upgrade("head", "lock-timeout=77")
    assert rows(url, "select * from seen") == [("77ms",)]


@pytest.mark.parametrize(
    ("statement", "created"),
    [
        ("create index concurrently a on t (n)", ("a", "t")),
        ("-- why\n CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS A ON ONLY s.t (n)", ("a", "s.t")),
        ('/* x */ create index concurrently "A ""b" on "S"."T" using gin (n)', ('A "b', '"S"."T"')),
        ("create index concurrently on t (n)", None),
        ("drop index concurrently a", None),
    ],
)
def test_concurrent_statements_are_recognised(statement, created):
    assert indexes.is_concurrent(statement)
    assert indexes.created_index(statement) == created


@pytest.mark.parametrize(
    "statement",
    [
        "create index a on t (n) where note = 'concurrently'",
        "select 'create index concurrently a on t (n)'",
        "drop index a",
    ],
)
def test_other_statements_are_not_taken_for_concurrent_ones(statement):
    assert not indexes.is_concurrent(statement)


# Masking


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (
            "select * from t where a = 'x' and b = 12.5e-3 and c = $1",
            "select * from t where a = ? and b = ? and c = $1",
        ),
        ("select 'it''s', E'it\\'s', U&'x', B'01', $$body$$, $tag$ a $$ b $tag$", "select ?, ?, ?, ?, ?, ?"),
        ("select 1 -- secret\n, 2 /* secret */ + 0x1F", "select ? , ? + ?"),
        ('update "ada\'s table" set t1 = 1', 'update "ada\'s table" set t1 = ?'),
        ("select 'cut off in the middle of a sec", "select ?"),
        ("select $$cut off sec", "select ?"),
        ("select E'cut off \\", "select ?"),
        ("select 1 /* /* secret */ secret */ 'x'", "select ?"),
        (r"select 'it\'s secret' from t", "select ?"),
        ("", ""),
    ],
)
def test_literals_and_comments_are_masked(query, shown):
    assert mask_literals(query) == shown


def test_a_masked_query_is_cut():
    assert len(mask_literals("select " + "a, " * 200)) == 200


@given(st.text(alphabet=st.characters(exclude_characters="'\\\0", categories=["L", "N", "P", "S", "Z"]), min_size=8))
def test_no_quoted_value_survives_masking(value):
    secret = f"zq{value}zq"
    assert secret not in mask_literals(f"select '{secret}', E'{secret}', 1 from t where x = '{secret}", length=10_000)


# Settings and options


def test_options_reach_the_sql_of_revisions_and_absent_ones_are_empty(history, url):
    rows(url, "create table seen (n text, v text)")
    history.add(
        "0001_read",
        "insert into seen select n, current_setting('profiles_schema.' || n, true) "
        "from unnest(array['app_role', 'allow_data_loss', 'backfill', 'sessions']) n",
    )
    history.upgrade("head", "app-role=web 'app'", "allow-data-loss=yes", "backfill=defer")
    assert dict(rows(url, "select * from seen")) == {
        "app_role": "web 'app'",
        "allow_data_loss": "yes",
        "backfill": "defer",
        "sessions": "",
    }


@pytest.mark.parametrize(
    "pair",
    ["nosuch=1", "nosuch", "lock-timeout=0", "lock-timeout=fast", "lock-timeout", "deadline=-1", "backfill=maybe",
     "allow-data-loss=true", "app-role=", "sessions=maybe", "=", ""],
)  # fmt: skip
def test_unknown_and_malformed_options_are_usage_errors(pair):
    with pytest.raises(errors.UsageError) as caught:
        parse([pair])
    assert caught.value.exit_code == 2


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(errors.UsageError, match=r"allow-data-loss, .*lock-timeout.*, mine"):
        parse(["nosuch=1"], known_x=["mine"])


def test_a_downstream_env_may_know_further_options(history, url):
    (history.directory / "env.py").write_text(
        "from alembic import context\nfrom profiles_schema.migrations.runner import run\n"
        "run(context, known_x=['tenant'], version_table='app_version', version_table_schema='app')\n"
    )
    rows(url, "create table seen (v text)")
    history.add("0001_read", "insert into seen values (current_setting('profiles_schema.tenant'))")
    history.upgrade("head", "tenant=acme")
    assert rows(url, "select * from seen") == [("acme",)]
    assert rows(url, "select version_num from app.app_version") == [("0001_read",)]
    with pytest.raises(errors.UsageError):
        history.upgrade("head", "nosuch=1")


def test_a_lent_connection_gets_its_settings_back(history, url):
    history.add("0001_table", "create table t (n int)")
    engine = create_engine(database.normalize_url(url))
    with engine.connect() as connection:
        connection.exec_driver_sql("set lock_timeout = '7s'")
        connection.commit()
        history.upgrade("head", "app-role=web", connection=connection)
        shown = connection.exec_driver_sql(
            "select current_setting('lock_timeout'), current_setting('profiles_schema.app_role'), "
            "(select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
        ).one()
    engine.dispose()
    assert tuple(shown) == ("7s", "", 0)
    assert versions(url) == ["0001_table"]


def test_a_lent_connection_inside_a_transaction_is_refused(history, url):
    history.add("0001_table", "create table t (n int)")
    engine = create_engine(database.normalize_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql("select 1")
        with pytest.raises(errors.UsageError, match=r"engine\.connect"):
            history.upgrade(connection=connection)
    engine.dispose()


# Failures


def test_a_refusal_by_a_revision_is_its_own_message_with_its_hint(history, url):
    history.add("0001_table", "create table t (n int)")
    history.add(
        "0002_refuses",
        "do $$ begin raise exception 'rows would be lost' using hint = 'say -x allow-data-loss=yes'; end $$",
    )
    with pytest.raises(errors.MigrationFailed) as caught:
        history.upgrade()
    assert str(caught.value) == "rows would be lost\nsay -x allow-data-loss=yes"
    assert versions(url) == ["0001_table"]


def test_another_database_error_names_revision_and_sqlstate_without_values(history, url):
    history.add("0001_table", "create table t (n text unique)")
    history.add("0002_twice", "insert into t values ('ada@example.org'), ('ada@example.org')")
    with pytest.raises(errors.MigrationFailed) as caught:
        history.upgrade()
    assert "upgrade 0002_twice failed" in str(caught.value)
    assert "23505" in str(caught.value)
    assert "ada@example.org" not in str(caught.value)


def test_a_missing_privilege_inside_a_revision_names_object_and_role(history, url):
    rows(url, "create table t (n int)")
    role = f"weak_{make_url(url).database}"
    rows(url, f'create role {role} login; grant create on database "{make_url(url).database}" to {role}')
    history.add("0001_alter", "alter table t add column m int")
    os.environ["DATABASE_URL"] = make_url(url).set(username=role).render_as_string()
    try:
        with pytest.raises(errors.InsufficientPrivilege, match=f"{role}.*must be owner of table t"):
            history.upgrade()
    finally:
        rows(url, f"drop owned by {role} cascade; drop role {role}")


def test_a_read_only_database_is_named(history, url):
    rows(url, f'alter database "{make_url(url).database}" set default_transaction_read_only = on')
    history.add("0001_table", "create table t (n int)")
    with pytest.raises(errors.ReadOnlyServer, match="read-only"):
        history.upgrade()


def test_a_lost_connection_says_that_finished_revisions_stand(history, url):
    history.add("0001_table", "create table t (n int)").add(
        "0002_dies", "select pg_terminate_backend(pg_backend_pid())"
    )
    with pytest.raises(errors.DatabaseUnreachable, match="lost during upgrade 0002_dies") as caught:
        history.upgrade()
    assert caught.value.exit_code == 3
    assert versions(url) == ["0001_table"]


def test_notices_of_revisions_are_passed_on_without_the_servers_chatter(history, url, log):
    history.add(
        "0001_says",
        "op.execute('create table if not exists t (n int)')\nop.execute('create table if not exists t (n int)')\n"
        "op.execute(\"do $$ begin raise notice 'the job is registered'; raise warning 'look here'; end $$\")",
    )
    history.upgrade()
    assert "the job is registered" in log.messages
    assert "look here" in [record.message for record in log.records if record.levelno == logging.WARNING]
    assert "skipping" not in log.text


def test_every_revision_leaves_a_row_in_the_log(history, url):
    history.add("0001_log", LOG_TABLE, "drop table profiles_internal.migration_log")
    history.add("0002_table", "create table t (n int)", "drop table t").add("0003_fails", "select 1/0")
    with pytest.raises(errors.MigrationFailed):
        history.upgrade()
    history.downgrade("-1")
    log = rows(
        url,
        "select revision, direction, outcome, role, seconds >= 0 from profiles_internal.migration_log order by started",
    )
    assert log == [
        ("0001_log", "upgrade", "done", "postgres", True),
        ("0002_table", "upgrade", "done", "postgres", True),
        ("0003_fails", "upgrade", "failed", "postgres", True),
        ("0002_table", "downgrade", "done", "postgres", True),
    ]


def test_counts_are_told_before_and_after(history, url, log):
    rows(url, "create schema auth; create table auth.users (id uuid, deleted_at timestamptz)")
    rows(url, "create table public.user_profiles (user_id uuid)")
    rows(url, "insert into auth.users select gen_random_uuid() from generate_series(1, 3)")
    rows(url, "insert into auth.users values (gen_random_uuid(), now())")
    history.add("0001_fill", "insert into public.user_profiles select id from auth.users where deleted_at is null")
    history.upgrade()
    assert "Before: 4 users, 0 profiles, 3 missing." in log.messages
    assert "At head (0001_fill): 4 users, 3 profiles, 0 missing." in log.messages


def test_nothing_to_do_says_one_line(history, url, log):
    history.add("0001_table", "create table t (n int)")
    history.upgrade()
    log.clear()
    history.upgrade()
    assert log.messages == ["At head (0001_table): no tables of users yet."]


def test_what_remains_in_the_schema_at_base_is_named(history, url, log):
    history.add("0001_table", "create table profiles_internal.kept (n int)")
    history.upgrade()
    history.downgrade("base")
    assert "Schema profiles_internal stays, for it holds: table profiles_internal.kept." in log.messages
    assert rows(url, "select to_regclass('profiles_internal.alembic_version')") == [(None,)]
    rows(url, "drop table profiles_internal.kept")
    history.upgrade()
    rows(url, "drop table profiles_internal.kept")
    history.downgrade("base")
    assert rows(url, "select to_regnamespace('profiles_internal')") == [(None,)]


def test_ensure_version_makes_the_table_and_stamp_moves_it(history, url):
    history.add("0001_table", "create table t (n int)").add("0002_more", "create table more (n int)")
    command.ensure_version(history.config())
    assert versions(url) == []
    command.stamp(history.config(), "0001_table")
    assert versions(url) == ["0001_table"]
    with pytest.raises(errors.NotAtHead, match="0002_more"):
        command.current(history.config(), check_heads=True)
    command.stamp(history.config(), "head", purge=True)
    assert versions(url) == ["0002_more"]
    assert rows(url, "select to_regclass('t')") == [(None,)]


def test_looking_changes_nothing(history, url):
    history.add("0001_table", "create table t (n int)")
    command.current(history.config())
    command.history(history.config(), indicate_current=True)
    command.show(history.config(), "current")
    assert rows(url, "select to_regnamespace('profiles_internal')") == [(None,)]


# Interruptions


@pytest.mark.slow
def test_an_interrupted_migration_leaves_no_half_revision_and_can_be_run_again(history, url):
    history.add("0001_table", "create table t (n int)")
    history.add("0002_long", "op.execute('create table long (n int)')\nop.execute('select pg_sleep(30)')")
    sleeping = "select 1 from pg_stat_activity where query = 'select pg_sleep(30)' and datname = current_database()"
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        process = history.start(url, "upgrade", "head")
        wait_until(lambda: rows(url, sleeping))
        started = time.monotonic()
        process.send_signal(number)
        code, _, err = finished(process)
        assert code == expected, err
        assert "Traceback" not in err
        wait_until(lambda: not rows(url, sleeping), seconds=8)
        assert time.monotonic() - started < 8
        assert versions(url) == ["0001_table"]
        assert rows(url, "select to_regclass('long')") == [(None,)]
    script = history.directory / "versions" / "0002_long.py"
    script.write_text(script.read_text().replace("pg_sleep(30)", "pg_sleep(0)"))
    assert finished(history.start(url, "upgrade", "head"))[0] == 0
    assert versions(url) == ["0002_long"]


@pytest.fixture
def long_backfill(database):
    """A database before 0015, whose 0015 works for long; what `alembic` and `profiles-schema` are interrupted in."""
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        "insert into auth.users (email) select g || '@example.org' from generate_series(1, 3000) as g;"
        "alter table auth.users enable trigger profiles_on_auth_user_created;"
        "update profiles_internal.alembic_version set version_num = '0014_create_sign_up_triggers';"
        "create function public.slow() returns trigger language plpgsql as"
        " $$begin perform pg_catalog.pg_sleep(0.01); return new; end$$;"
        "create trigger slow before insert on public.user_profiles for each row execute function public.slow()"
    )
    return database


MIGRATOR = "from pg_stat_activity where application_name like '% migrate' and datname = current_database()"


def interrupted_inside_0012(database, program, interrupt):
    """Start `upgrade head`, interrupt it inside the autocommit block; exit code and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", program, "upgrade", "head"], cwd=REPOSITORY,
        env=os.environ | {"DATABASE_URL": database.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: rows(database.url, f"select 1 {MIGRATOR} and query ~ '^\\s*do .backfill'"))
    if interrupt == "terminate":
        database.run(f"select pg_terminate_backend(pid) {MIGRATOR}")
    else:
        process.send_signal(interrupt)
    code, _, err = finished(process)
    return code, err


@pytest.mark.parametrize(
    ("program", "interrupt", "exit_code", "error"),
    [
        ("profiles_schema", signal.SIGINT, 130, "error: interrupted"),
        ("alembic", signal.SIGTERM, 143, "error: terminated"),
        (
            "profiles_schema", "terminate", 3,
            "error: The connection to the database was lost during upgrade 0015_backfill_profiles. "
            "What is finished stays; run this again to continue.",
        ),
        pytest.param("alembic", signal.SIGINT, 130, "error: interrupted", marks=pytest.mark.slow),
        pytest.param("profiles_schema", signal.SIGTERM, 143, "error: terminated", marks=pytest.mark.slow),
        pytest.param(
            "alembic", "terminate", 3,
            "error: The connection to the database was lost during upgrade 0015_backfill_profiles. "
            "What is finished stays; run this again to continue.",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_an_interruption_inside_an_autocommit_block_is_one_line(long_backfill, program, interrupt, exit_code, error):
    code, said = interrupted_inside_0012(long_backfill, program, interrupt)
    assert code == exit_code, said
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("error:")] == [error]
    assert versions(long_backfill.url) == ["0014_create_sign_up_triggers"]
    logged = "select revision, outcome from profiles_internal.migration_log order by id desc limit 1"
    assert long_backfill.run(logged) == [("0015_backfill_profiles", "failed")]
    # The server may still be ending the session of a process that has gone.
    try_lock = f"select pg_try_advisory_lock({locking.LOCK_CLASS}, {locking.LOCK_OBJECT})"
    wait_until(lambda: rows(long_backfill.url, try_lock) == [(True,)])


def test_a_connection_lost_while_rows_are_counted_is_one_sentence(history, url, monkeypatch):
    history.add("0001_table", "create table t (n int)")

    def lose(connection):
        connection.exec_driver_sql("select pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())")

    monkeypatch.setattr(summary, "_count_rows", lose)
    with pytest.raises(errors.DatabaseUnreachable, match="was lost during the migration"):
        history.upgrade()


def test_a_downgrade_interrupted_inside_an_autocommit_block_is_one_line(history, url):
    history.add("0001_table", "create table t (n int)")
    history.add("0002_block", "pass", concurrently("select pg_sleep(30)"))
    history.upgrade()
    process = history.start(url, "downgrade", "-1")
    wait_until(lambda: rows(url, f"select 1 {MIGRATOR} and query = 'select pg_sleep(30)'"))
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert versions(url) == ["0002_block"]


def test_a_backend_that_died_before_a_concurrent_index_is_one_line(history, url):
    rows(url, "create table t (n int)")
    history.add(
        "0001_index",
        "with op.get_context().autocommit_block():\n"
        "    import os, psycopg2\n"
        "    pid = op.get_bind().exec_driver_sql('select pg_backend_pid()').scalar()\n"
        "    other = psycopg2.connect(os.environ['DATABASE_URL'])\n"
        "    other.cursor().execute('select pg_terminate_backend(%s, 5000)', (pid,))\n"
        "    other.close()\n"
        "    op.execute('create index concurrently t_n on t (n)')",
    )
    with pytest.raises(errors.DatabaseUnreachable, match="lost during upgrade 0001_index"):
        history.upgrade()


# The script of --sql


def sql_of(verb, history, revision, *x):
    from io import StringIO

    config = history.config(*x)
    config.output_buffer = StringIO()
    verb(config, revision, sql=True)
    return config.output_buffer.getvalue()


def run_script(url, script, tmp_path):
    """As psql -f does, where there is a psql; otherwise each statement by itself."""
    from profiles_schema import local

    path = tmp_path / "script.sql"
    path.write_text(script)
    psql = local.binaries() / "psql"
    return subprocess.run(
        [str(psql), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(path), url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_sql_script_does_the_same_work(history, url, tmp_path, monkeypatch):
    monkeypatch.delenv("DATABASE_URL")
    history.add("0001_log", LOG_TABLE, "drop table profiles_internal.migration_log")
    history.add("0002_table", "create table t (n int, note text default '100%')", "drop table t")
    history.add("0003_index", concurrently("create index concurrently t_n on t (n)"), "drop index t_n")
    up = sql_of(command.upgrade, history, "head", "app-role=web")
    result = run_script(url, up, tmp_path)
    assert result.returncode == 0, result.stderr
    assert versions(url) == ["0003_index"]
    assert [row[0] for row in rows(url, "select revision from profiles_internal.migration_log order by started")] == [
        "0001_log", "0002_table", "0003_index",
    ]  # fmt: skip
    again = run_script(url, up, tmp_path)
    assert again.returncode == 3
    assert "the database is at 0003_index, this script starts at base" in again.stderr
    down = run_script(url, sql_of(command.downgrade, history, "0003_index:base"), tmp_path)
    assert down.returncode == 0, down.stderr
    assert rows(url, "select to_regnamespace('profiles_internal'), to_regclass('t')") == [(None, None)]


def test_the_sql_script_waits_for_a_running_migration(history, url, tmp_path):
    history.add("0001_table", "create table t (n int)")
    script = sql_of(command.upgrade, history, "head", "lock-wait=1")
    with session(url, f"select pg_advisory_lock({locking.LOCK_CLASS}, {locking.LOCK_OBJECT})"):
        result = run_script(url, script, tmp_path)
    assert result.returncode == 3
    assert "another migration is still running" in result.stderr
    assert run_script(url, script, tmp_path).returncode == 0


def test_an_unknown_revision_is_refused_offline_too(history):
    history.add("0001_table", "create table t (n int)")
    with pytest.raises(errors.UnknownRevision):
        sql_of(command.upgrade, history, "nosuch")
    with pytest.raises(errors.UsageError):
        sql_of(command.upgrade, history, "head", "nosuch=1")


# Our own history, on both roads


def test_our_history_goes_up_and_down_and_leaves_nothing_but_roles(url):
    objects = (
        "select pg_describe_object(classid, objid, objsubid) from pg_depend where refclassid = 'pg_namespace'::regclass "
        "and refobjid in (select oid from pg_namespace where nspname in ('public', 'auth', 'profiles_internal'))"
    )
    before = rows(url, objects)
    config = paths.config()
    command.upgrade(config, "head")
    head = ScriptDirectory.from_config(config).get_current_head()
    assert versions(url) == [head]
    command.downgrade(paths.config(), "base")
    assert rows(url, objects) == before
    assert rows(url, "select to_regnamespace('profiles_internal')") == [(None,)]


def test_our_history_as_a_script_builds_what_the_upgrade_builds(url, tmp_path):
    from io import StringIO

    config = paths.config()
    config.output_buffer = StringIO()
    command.upgrade(config, "head", sql=True)
    result = run_script(url, config.output_buffer.getvalue(), tmp_path)
    assert result.returncode == 0, result.stderr
    assert versions(url) == [ScriptDirectory.from_config(config).get_current_head()]


@pytest.mark.slow
def test_the_command_line_goes_up_and_down_and_reports(url):
    head = ScriptDirectory.from_config(paths.config()).get_current_head()
    up = profiles_schema(url, "upgrade")
    assert up.returncode == 0, up.stderr
    assert up.stdout == f"Done: the database is at the newest revision, {head}; 0 users, 0 profiles, 0 missing.\n"
    assert json.loads(profiles_schema(url, "current", "--json").stdout) == {
        "current": [head],
        "head": [head],
        "at_head": True,
    }
    down = profiles_schema(url, "downgrade", "-1")
    assert down.returncode == 0, down.stderr
    assert re.match(r"Done: the database is at revision \d{4}_", down.stdout)
    assert not json.loads(profiles_schema(url, "current", "--json").stdout)["at_head"]
    base = profiles_schema(url, "downgrade", "base")
    assert base.returncode == 0, base.stderr
    assert profiles_schema(url, "current").stdout == "base\n"


def test_check_is_clean_at_head_and_lists_a_difference(url):
    assert profiles_schema(url, "upgrade").returncode == 0
    clean = profiles_schema(url, "check", "--json")
    assert (clean.returncode, json.loads(clean.stdout)) == (0, {"clean": True, "differences": []})
    rows(url, "alter table public.user_profiles alter column bio set not null")
    dirty = profiles_schema(url, "check")
    assert dirty.returncode == 1
    said = "\nThe column bio of public.user_profiles is not as declared, but text not null.\n"
    assert said in dirty.stderr
    assert "Traceback" not in dirty.stderr
    plain = alembic(url, "check")
    assert plain.returncode == 1
    assert said in plain.stderr


def test_users_and_profiles_are_counted_at_one_moment(database):
    database.sign_up("ada@example.org")
    signed_up = []

    def between(conn, cursor, statement, *_):
        if "from public.user_profiles" in statement and not signed_up:
            signed_up.append(database.sign_up("grace@example.org"))

    with database.engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", between)
        counts = summary.count(connection)
    assert signed_up
    assert (counts.users, counts.profiles, counts.missing) == (1, 1, 0)


@pytest.mark.slow
def test_the_api_is_told_once_to_look_at_the_catalog_again(empty):
    """PostgREST listens on the channel pgrst."""
    with psycopg.connect(empty.url, autocommit=True) as listener:
        listener.execute("listen pgrst")

        def told():
            return [notify.payload for notify in listener.notifies(timeout=0.2)]

        empty.upgrade("0011_create_functions")
        assert told() == ["reload schema"]
        empty.upgrade()
        assert told() == ["reload schema"]
        empty.upgrade()
        assert told() == []
        empty.script("drop function public.get_my_referral_code()")
        assert profiles_schema(empty.url, "repair").returncode == 0
        assert told() == ["reload schema"]
        assert profiles_schema(empty.url, "repair").returncode == 0
        assert told() == []
        empty.downgrade("base")
        assert told() == ["reload schema"]
        # Also of what was committed before something failed.
        empty.upgrade("0006_create_user_profiles")
        told()
        empty.script("create view public.user_progress as select 1 as user_id")
        with pytest.raises(errors.MigrationFailed):
            empty.upgrade()
        assert told() == []
        empty.script(
            "drop view public.user_progress; create function public.broken() returns event_trigger language plpgsql as"
            " $$ begin if exists (select from pg_class where relname = 'export_history') then raise 'no'; end if; end $$;"
            "create event trigger broken on ddl_command_end execute function public.broken()"
        )
        with pytest.raises(errors.MigrationFailed):
            empty.upgrade()
        assert told() == ["reload schema"]
