"""normalize: where it stands, on and back, from the command line; and what else says so in every phase."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from profiles_schema.errors import NormalizationRefused, ValuesDiffer
from profiles_schema.operations.batch_job import Limits
from profiles_schema.operations.health import examine
from profiles_schema.operations.normalize import contract, restore, status
from profiles_schema.operations.smoke import smoke
from profiles_schema.schema.traits import trait_columns
from support import drift, profiles_schema
from support.trait_oracle import NAMES, cells, documents, present, set_cells, some, widen

TYPES = {column.name: column.data_type for column in trait_columns()}
PROFILES = 5


def fill(database, profiles=PROFILES):
    database.users = widen(database, profiles)
    for number, user in enumerate(database.users):
        set_cells(database, user, {column.name: some(1, column, number) for column in trait_columns()}, TYPES)
    database.before = cells(database)
    return database


@pytest.fixture
def wide(database):
    """Wide columns that nobody recorded yet, in five profiles; ``before`` is what they hold."""
    return fill(database)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="profiles_schema.migrations")
    return caplog


def normalize(database, *arguments):
    return profiles_schema(database.url, "normalize", *arguments)


def reported(database, *arguments, code=0):
    done = normalize(database, *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def phase(database):
    with database.engine.connect() as connection:
        return status(connection).phase


def work(database, steps, **options):
    with database.engine.connect() as connection:
        return list(steps(connection, **options))


def after_the_period(database, days=8):
    database.run(
        "update profiles_internal.legacy_columns set converted_at = converted_at - make_interval(days => :days)",
        days=days,
    )


def stopped_halfway(database, steps):
    asked = iter(range(100))
    work(database, steps, limits=Limits(1), stopped=lambda: next(asked) > 2)


def to_none(database):
    pass


def to_found(database):
    to_contracted(database)
    database.run("delete from profiles_internal.legacy_columns")
    database.script("alter table public.user_profiles add column openness_score integer")


def to_expanded(database):
    fill(database)
    database.upgrade(backfill="defer")


def to_converted(database):
    fill(database)
    database.upgrade()


def to_contracted(database):
    fill(database)
    database.upgrade(contract="now")


def to_restoring(database):
    to_contracted(database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("select profiles_internal.begin_trait_restore()")


def to_restored(database):
    to_contracted(database)
    work(database, restore)


PHASES = {
    "none": (to_none, 0, "nothing: there are no wide columns"),
    "found": (to_found, 0, "profiles-schema normalize run"),
    "expanded": (to_expanded, 106, "profiles-schema normalize run"),
    "converted": (to_converted, 106, "profiles-schema normalize verify, then profiles-schema normalize contract"),
    "contracted": (to_contracted, 0, "nothing: the columns are dropped (profiles-schema normalize restore brings them back)"),
    "restoring": (to_restoring, 106, "profiles-schema normalize restore"),
    "restored": (to_restored, 106, "profiles-schema normalize verify, then profiles-schema normalize contract"),
}  # fmt: skip


@pytest.mark.parametrize("name", PHASES)
def test_in_every_phase_status_says_what_comes_next_check_is_clean_and_health_is_fine(database, name):
    reach, columns, following = PHASES[name]
    reach(database)
    expected = "converted" if name == "restored" else name
    with database.engine.connect() as connection:
        found = status(connection)
        health = examine(connection, full=True)
        connection.rollback()
        assert [step.name for step in smoke(connection) if not step.passed] == []
    assert (found.phase, found.columns, found.found) == (expected, columns, int(name == "found"))
    assert found.in_step
    assert (found.due is None) == (expected != "converted")
    assert health.problems == []
    assert [f.severity for f in health.findings if f.code == "normalize"] == (
        ["notice"] if name in {"found", "expanded", "restoring"} else []
    )
    told = normalize(database, "status")
    assert told.returncode == 0
    lines = {line[:10].strip(): line[10:].strip() for line in told.stdout.splitlines()}
    assert (lines["phase"], lines["next"]) == (expected, following)
    # What autogenerate would propose.
    assert drift(database) == []
    assert database.profile(database.sign_up("new@example.org")).username == "new"


def test_upgrade_leaves_the_columns_and_says_when_and_how_they_go(wide, log):
    wide.upgrade()
    due = wide.value(
        "select to_char(max(converted_at) + interval '7 days', 'YYYY-MM-DD HH24:MI TZ') from profiles_internal.legacy_columns"
    )
    assert (
        f"106 wide columns of user_profiles stay for the verification period, until {due};"
        " then they go with: profiles-schema normalize contract"
    ) in log.text
    assert cells(wide) == wide.before
    assert reported(wide, "status")["due"][:16].replace("T", " ") == due[:16]


@pytest.mark.slow
def test_the_api_is_told_to_look_at_the_catalog_again_when_columns_go_or_come(database):
    """PostgREST listens on the channel pgrst, and serves dropped columns until it is told."""
    to_converted(database)
    with psycopg.connect(database.url, autocommit=True) as listener:
        listener.execute("listen pgrst")
        for arguments in (("contract", "--now"), ("restore",)):
            assert normalize(database, *arguments).returncode == 0
            assert "reload schema" in [notify.payload for notify in listener.notifies(timeout=0.2)], arguments
        assert normalize(database, "status").returncode == 0
        assert list(listener.notifies(timeout=0.2)) == []


def test_contract_waits_for_the_end_of_the_period(wide):
    wide.upgrade()
    for days in (3, 5):
        refused = normalize(wide, "contract")
        assert refused.returncode == 1
        assert (
            f"Columns and JSON agree in all {PROFILES} profiles, but the verification period lasts until"
            in refused.stderr
        )
        assert "profiles-schema normalize contract --now" in refused.stderr
        assert present(wide) == list(NAMES)
        after_the_period(wide, days=days)
    with wide.engine.connect() as connection:
        assert "their verification period is over" in examine(connection).findings[0].message
    assert reported(wide, "contract") == {"dropped": 106, "profiles": PROFILES}
    assert present(wide) == []
    assert reported(wide, "contract") == {"dropped": 0, "profiles": 0}
    assert normalize(wide, "contract").stdout == "nothing to do: there are no wide columns\n"


def test_contract_now_does_not_wait(wide):
    wide.upgrade()
    done = normalize(wide, "contract", "--now")
    assert (done.returncode, done.stdout) == (0, f"{PROFILES} profiles compared, no difference; 106 columns dropped\n")
    assert present(wide) == []


def test_an_upgrade_with_contract_now_drops_them_at_once(wide):
    done = profiles_schema(wide.url, "upgrade", "-x", "contract=now")
    assert done.returncode == 0
    assert "106 wide columns of user_profiles are dropped; the JSON groups hold their values" in done.stderr
    assert present(wide) == []
    assert profiles_schema(wide.url, "upgrade", "-x", "contract=later").returncode == 2


def test_the_period_can_be_set_even_to_none(wide):
    wide.upgrade()
    set_to = profiles_schema(wide.url, "settings", "set", "normalize_verification_days", "14")
    assert set_to.returncode == 0, set_to.stderr
    after_the_period(wide)
    assert normalize(wide, "contract").returncode == 1
    assert profiles_schema(wide.url, "settings", "set", "normalize_verification_days", "-1").returncode == 2
    profiles_schema(wide.url, "settings", "set", "normalize_verification_days", "0")
    assert normalize(wide, "contract").returncode == 0
    assert present(wide) == []


def test_with_no_period_the_deploy_itself_drops_them(wide):
    wide.run("update profiles_internal.settings set value = '0' where key = 'normalize_verification_days'")
    wide.upgrade()
    assert present(wide) == []


@pytest.mark.slow
def test_a_deferred_conversion_is_a_job_and_the_upgrade_names_the_command(wide, log):
    wide.upgrade(backfill="defer")
    assert (
        f"the wide columns of {PROFILES} profiles wait to be converted; do it with: profiles-schema normalize run"
        in log.text
    )
    assert "106 wide columns of user_profiles stay: not all profiles are converted yet" in log.text
    assert wide.run("select kind, state, rows_total from profiles_internal.jobs") == [
        ("normalize", "pending", PROFILES)
    ]
    assert "normalize  pending" in profiles_schema(wide.url, "jobs", "list").stdout
    refused = normalize(wide, "contract", "--now")
    assert refused.returncode == 1
    assert (
        "Not all profiles are converted yet; 106 wide columns stay. Run: profiles-schema normalize run"
        in refused.stderr
    )
    early = normalize(wide, "verify")
    assert early.returncode == 1
    assert early.stdout.endswith("not all profiles are converted yet: profiles-schema normalize run\n")

    dry = reported(wide, "run", "--dry-run")
    assert (dry["columns"], dry["profiles"]) == (106, PROFILES)
    assert "ROW EXCLUSIVE" in dry["locks"]
    assert all(document is None for row in documents(wide).values() for document in row.values())

    done = normalize(wide, "run")
    assert done.returncode == 0
    assert done.stdout == (
        f"converted {PROFILES} profiles\n"
        "next: profiles-schema normalize verify, then profiles-schema normalize contract\n"
    )
    assert wide.value("select state from profiles_internal.jobs") == "completed"
    assert normalize(wide, "run").stdout.startswith("nothing to do\n")
    assert normalize(wide, "verify").stdout == f"{PROFILES} profiles compared, 0 values differ\n"
    assert phase(wide) == "converted"


def test_restore_brings_dropped_columns_back_and_the_period_begins_anew(wide):
    wide.upgrade(contract="now")
    done = normalize(wide, "restore")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"restored {PROFILES} profiles\nnext: profiles-schema normalize verify")
    assert cells(wide) == wide.before
    assert normalize(wide, "contract").returncode == 1
    assert normalize(wide, "restore").stdout.startswith("nothing to do\n")
    assert normalize(wide, "contract", "--now").returncode == 0


def test_restore_refuses_where_the_table_has_such_a_column_again(wide):
    wide.upgrade(contract="now")
    wide.script("alter table public.user_profiles add column openness_score text")
    refused = normalize(wide, "restore")
    assert refused.returncode == 1
    assert "user_profiles has columns of the same names again: openness_score" in refused.stderr
    assert phase(wide) in {"contracted", "found"}
    wide.script("alter table public.user_profiles drop column openness_score")
    assert normalize(wide, "restore").returncode == 0
    assert cells(wide) == wide.before


@pytest.mark.slow
def test_while_columns_come_back_run_and_contract_point_to_restore(wide):
    to_contract = "The wide columns are being restored. Finish that: profiles-schema normalize restore"
    wide.upgrade(contract="now")
    with wide.engine.begin() as connection:
        connection.exec_driver_sql("select profiles_internal.begin_trait_restore()")
    assert present(wide) == []
    for verb in ("run", "contract"):
        refused = normalize(wide, verb)
        assert refused.returncode == 1
        assert to_contract in refused.stderr
    stopped_halfway(wide, restore)
    assert phase(wide) == "restoring"
    assert normalize(wide, "restore").returncode == 0
    assert cells(wide) == wide.before


def test_a_row_that_cannot_be_converted_costs_that_row(wide):
    wide.script(
        "create function public.refuse() returns trigger language plpgsql as"
        f" $$begin if new.user_id::text = '{wide.users[2]}' then perform 1 / 0; end if; return new; end$$;"
        "create trigger refuse before update on public.user_profiles for each row execute function public.refuse()"
    )
    wide.upgrade(backfill="defer")
    report = reported(wide, "run", code=1)
    assert (report["changed"], report["failed"], report["phase"]) == (PROFILES - 1, {"22012": 1}, "expanded")
    assert wide.run(
        "select user_id::text, action, origin, error_code from public.user_profile_audit_logs where action = 'failed'"
    ) == [(wide.users[2], "failed", "normalize", "22012")]
    assert normalize(wide, "contract", "--now").returncode == 1
    wide.script("drop trigger refuse on public.user_profiles")
    assert reported(wide, "run")["phase"] == "converted"
    assert normalize(wide, "contract", "--now").returncode == 0


def test_a_switched_off_trigger_is_found_and_run_mends_it(wide):
    wide.upgrade()
    wide.script(
        "alter table public.user_profiles disable trigger zz_dual_write;"
        "update public.user_profiles set openness_score = 3"
    )
    assert reported(wide, "status")["in_step"] is False
    told = normalize(wide, "status").stdout
    assert "NO: the trigger is missing, disabled or changed" in told
    assert told.endswith("next       profiles-schema normalize run\n")
    with wide.engine.connect() as connection:
        assert "dual_write" in {finding.code for finding in examine(connection).problems}
    with pytest.raises(ValuesDiffer):
        work(wide, contract, now=True)
    wide.run("update public.user_profiles set openness_score = (personality_traits #>> '{bigFive,openness}')::integer")
    with pytest.raises(NormalizationRefused, match="trigger"):
        work(wide, contract, now=True)
    wide.run("update public.user_profiles set openness_score = 4")
    assert normalize(wide, "run").returncode == 0
    assert reported(wide, "status")["in_step"] is True
    assert {row["personality_traits"]["bigFive"]["openness"] for row in documents(wide).values()} == {4}
    assert normalize(wide, "contract", "--now").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--batch-size", "0"),
        ("run", "--target-ms", "soon"),
        ("restore", "--max-rate", "0"),
        ("contract", "--yesterday"),
        ("verify", "everything"),
        ("undo",),
    ],
)
def test_bad_input_is_a_usage_error(database, arguments):
    refused = normalize(database, *arguments)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("verb", ["status", "run", "verify", "contract", "restore"])
def test_without_a_migrated_database_each_verb_says_so(empty, verb):
    refused = normalize(empty, verb)
    assert refused.returncode == 1
    assert "profiles-schema upgrade" in refused.stderr
    assert profiles_schema(None, "normalize", verb).returncode == 3


@pytest.mark.parametrize("verb", ["run", "verify", "contract", "restore"])
def test_where_there_is_nothing_to_do_each_verb_says_so(database, verb):
    done = normalize(database, verb)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] in {
        "nothing to do",
        "there are no wide columns",
        "nothing to do: there are no wide columns",
    }


def interrupted(database, *arguments):
    """Ctrl-C after the first report."""
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "normalize", *arguments],
        env=os.environ | {"DATABASE_URL": database.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return process.returncode, output, errors


@pytest.fixture
def many(database):
    """Enough profiles for an interruption to hit."""
    database.users = widen(database, 1500)
    database.run(
        "update public.user_profiles set openness_score = 7, attachment_style = user_id, personality_facets = 'null'"
    )
    database.before = cells(database)
    return database


@pytest.mark.slow
def test_ctrl_c_stops_run_and_restore_after_a_batch_and_they_go_on(many):
    many.upgrade(backfill="defer")
    code, _, errors = interrupted(many, "run", "--batch-size", "10", "--max-rate", "300")
    assert code == 130
    assert "go on with: profiles-schema normalize run" in errors
    done = many.value("select count(*) from public.user_profiles where personality_traits is not null")
    assert 0 < done < 1500
    assert phase(many) == "expanded"
    assert normalize(many, "run").returncode == 0
    assert normalize(many, "contract", "--now").returncode == 0
    code, _, errors = interrupted(many, "restore", "--batch-size", "10", "--max-rate", "300")
    assert code == 130
    assert "go on with: profiles-schema normalize restore" in errors
    assert phase(many) == "restoring"
    assert normalize(many, "restore").returncode == 0
    assert cells(many) == many.before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("verify",), "stopped; nothing was changed"), (("contract", "--now"), "stopped; no column is dropped")],
    ids=["verify", "contract"],
)
def test_ctrl_c_while_comparing_changes_nothing(wide, arguments, said):
    wide.upgrade()
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "normalize", *arguments],
        env=os.environ | {"DATABASE_URL": wide.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # The comparison waits for this lock, so that the interruption hits it.
    with wide.engine.begin() as connection:
        connection.exec_driver_sql("lock table public.user_profiles")
        for _ in range(300):
            if wide.value(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            ):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said in errors
    assert "Traceback" not in errors
    assert present(wide) == list(NAMES)
    assert normalize(wide, "contract", "--now").returncode == 0
