"""An application of each shape goes on while its tables are taken over: what fails was announced, and no sign-up does."""

import os
import re
import subprocess
import sys
import time

import pytest

from profiles_schema.operations.adopt import plan
from support import REPOSITORY, answers_file, shapes
from support.old_application import OldApplication

ROWS = int(os.environ.get("PROFILES_TEST_LOAD_ROWS", "300"))
RATE = float(os.environ.get("PROFILES_TEST_LOAD_RATE", "40"))
# A statement waits for the transaction that takes its table over; the rest is for a busy machine.
LONGER_THAN_THE_UPGRADE_SECONDS = 2.0

POLICIES = "users see and change their own rows only"
PREPARED = "until it is prepared anew"
MEANWHILE = "called while the upgrade runs"
COMPAT = "from the taking over of the table until then they fail"
# {shape: {statement: {how it may fail: what the plan says about it}}}
ANNOUNCED = {
    "a": {
        "prepared": {"0A000": PREPARED},
        "profiles, by anybody": {"42501": POLICIES},
        "upsert": {"42501": "users insert rows"},
        "insert, by a server": {"23514": "a username that breaks our rule"},
    },
    "b": {
        "prepared": {"0A000": PREPARED},
    },
    "c": {
        "prepared": {"0A000": PREPARED},
        "export ends": {"23514": "an export begins as pending, and is processing before it is completed"},
    },
    "d": {
        "prepared": {"0A000": PREPARED},
        "ensured": {"23502": MEANWHILE},
        "ensured, by anybody": {"23502": MEANWHILE, "42501": "may be called by authenticated and service_role"},
    },
    "e": {
        "profile": {"22P02": COMPAT},
        "seen": {"22P02": COMPAT},
        "analyzed": {"22P02": COMPAT, "42804": COMPAT},
        "joins": {"22P02": COMPAT, "42804": COMPAT},
        "view": {"22P02": COMPAT},
        "prepared": {"42883": PREPARED, "0A000": PREPARED},
    },
}  # fmt: skip


@pytest.fixture(params=["a", *(pytest.param(shape, marks=pytest.mark.slow) for shape in "bcde")])
def found(request):
    """A database of a shape, with its rows, nothing of ours in it."""
    database = request.getfixturevalue("empty" if request.param == "e" else "hosted_open")
    database.shape = request.param
    shapes.create(database, request.param)
    shapes.fill(database, request.param, ROWS)
    return database


def announced(database):
    """What the plan tells people, a line each."""
    options = [f"{key.replace('_', '-')}={value}" for key, value in shapes.options(database.shape).items()]
    with database.engine.connect() as connection:
        planned = plan(connection, x=options)
    assert planned.stoppers == []
    told = [*planned.notes, *(step for step in planned.steps if step.remedy)]
    asked = [
        f"{step.object}: {step.found}; {'; '.join(step.answers.values())}"
        for step in (*planned.questions, *planned.answered)
        if step.answers
    ]
    return [*asked, *(f"{step.object}: {step.found}; {step.wanted}; {step.remedy}" for step in told)]


@pytest.mark.slow
def test_the_old_application_goes_on_and_fails_only_as_announced(found, tmp_path):
    told = announced(found)
    options = [f"{key.replace('_', '-')}={value}" for key, value in shapes.options(found.shape).items()]
    path = answers_file(tmp_path / "adopt.toml", found.answers("replace", "accept", x=options))
    options = [part for option in (*options, f"answers={path}") for part in ("-x", option)]
    with OldApplication(found, found.shape, RATE) as application:
        time.sleep(1)
        began = time.monotonic()
        upgrade = subprocess.run(
            [sys.executable, "-m", "alembic", *options, "upgrade", "head"], cwd=REPOSITORY, check=False,
            env=os.environ | {"DATABASE_URL": found.url}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        seconds = time.monotonic() - began
        time.sleep(1)
    assert upgrade.returncode == 0, upgrade.stderr[-2000:]
    assert len([call for call in application.calls if call.began > began]) > RATE

    unannounced = sorted({
        (call.name, call.failure, call.message)
        for call in application.calls
        if call.failure and not (
            call.began + call.seconds > began
            and (words := ANNOUNCED[found.shape].get(call.name, {}).get(call.failure))
            and any(re.search(words, line) for line in told)
        )
    })  # fmt: skip
    assert unannounced == []
    assert application.longest().seconds < seconds + LONGER_THAN_THE_UPGRADE_SECONDS
    if found.shape != "e":
        assert application.longest("sign-up").seconds < seconds + LONGER_THAN_THE_UPGRADE_SECONDS
    assert application.lost() == []
    missing = "select count(*) from auth.users as u where not exists (select from public.user_profiles as p where p.user_id = u.id)"
    assert found.administrator.value(missing) == 0
