"""Our own history on a database that others are using: several deploys at once, old snapshots, held locks."""

import os
import subprocess
import sys
import threading
import time

import psycopg2
import pytest

from profiles_schema.schema.catalog import differences
from support import REPOSITORY, snapshot

VERSIONS = REPOSITORY / "alembic" / "versions"
INVALID = "select indexrelid::regclass::text from pg_index where not indisvalid"
HOLD_SECONDS = 4


def start_upgrade(url):
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=REPOSITORY,
        env=os.environ | {"DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("old_snapshot", [False, True])
def test_eight_deploys_at_once_give_the_catalog_of_one_alone(database, empty, old_snapshot):
    with empty.engine.connect() as bystander:
        if old_snapshot:
            bystander.exec_driver_sql("begin isolation level repeatable read")
            bystander.exec_driver_sql("select count(*) from pg_class")
        deploys = [start_upgrade(empty.url) for _ in range(8)]
        outcomes = [(deploy.communicate(timeout=300)[1], deploy.returncode) for deploy in deploys]
    assert [code for _, code in outcomes] == [0] * 8, [errors for errors, _ in outcomes]
    assert differences(snapshot(database), snapshot(empty)) == []
    assert empty.run(INVALID) == []
    # Every revision was applied once.
    applied = empty.run("select revision, count(*) from profiles_internal.migration_log group by 1 order by 1")
    assert [count for _, count in applied] == [1] * len(list(VERSIONS.glob("0*.py")))


@pytest.mark.slow
def test_sign_ups_go_on_while_the_upgrade_waits_for_somebody_elses_lock(hosted):
    administrator = hosted.administrator
    waits, stop = [], threading.Event()

    def sign_up_all_the_time():
        connection = psycopg2.connect(administrator.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            n = 0
            while not stop.is_set():
                n += 1
                started = time.monotonic()
                cursor.execute(
                    "insert into auth.users (id, email) values (gen_random_uuid(), %s)", (f"live{n}@example.org",)
                )
                waits.append(time.monotonic() - started)
                time.sleep(0.01)
        connection.close()

    # Somebody's long transaction has written to auth.users: no trigger can be made while it is open.
    holder = psycopg2.connect(administrator.url, application_name="nightly report")
    holder.cursor().execute("update auth.users set email = 'secret@example.org' where false")
    traffic = threading.Thread(target=sign_up_all_the_time)
    traffic.start()
    upgrade = start_upgrade(hosted.url)
    time.sleep(HOLD_SECONDS)
    assert upgrade.poll() is None, upgrade.communicate()[1]
    holder.rollback()
    holder.close()
    errors = upgrade.communicate(timeout=120)[1]
    time.sleep(0.5)
    stop.set()
    traffic.join()

    assert upgrade.returncode == 0, errors
    assert "nightly report" in errors
    assert "secret" not in errors
    # lock_timeout is 100 ms; the margin is for a slow machine, the hold would be four seconds.
    assert max(waits) < HOLD_SECONDS / 2, max(waits)
    missing = "select count(*) from auth.users as u where not exists (select from public.user_profiles as p where p.user_id = u.id)"
    assert administrator.value(missing) == 0
