"""Many callers of get_or_create for one new user, in threads of several processes."""

import json
import os
import subprocess
import sys

import pytest

from support import REPOSITORY

CALLERS = 250
PROCESSES = 4
PROGRAM = f"""
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from sqlalchemy import create_engine, event
from sqlalchemy.orm import sessionmaker
from profiles_schema import ProfileService

engine = create_engine(sys.argv[1], pool_size=5, max_overflow=5, pool_timeout=60)
made = []
event.listen(engine, "before_cursor_execute",
  lambda c, cursor, statement, *rest: made.append(statement) if "ensure_user_profile" in statement or "INSERT" in statement.upper() else None)
service = ProfileService(sessionmaker(engine))
together = threading.Barrier({CALLERS})
def call(_):
    together.wait()
    return str(service.get_or_create(sys.argv[2]).id)
with ThreadPoolExecutor({CALLERS}) as pool:
    sys.stdin.readline()
    print(json.dumps({{"ids": sorted(set(pool.map(call, range({CALLERS})))), "made": len(made)}}))
"""


@pytest.mark.slow
def test_a_thousand_callers_at_once_make_one_profile_with_one_attempt_a_process(database):
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    user = database.sign_up("ada@example.org")
    database.run("alter table auth.users enable trigger profiles_on_auth_user_created")
    assert database.value("select count(*) from public.user_profiles") == 0
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, database.url, str(user)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        results.append(json.loads(out))
    assert {profile for result in results for profile in result["ids"]} == {
        database.value("select id from public.user_profiles")
    }
    assert database.value("select count(*) from public.user_profiles") == 1
    assert all(result["made"] <= 1 for result in results), results
    assert database.run("select from public.user_profile_audit_logs where action = 'failed'") == []
