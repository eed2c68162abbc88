"""keys rotate: every API key under the first key of the ring, beside the application; and keys status, which says what may go."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from profiles_schema.encryption import KeyRing, bound_to, key_id_of
from profiles_schema.errors import EncryptionKeyChanged
from profiles_schema.operations import key_rotation
from profiles_schema.operations.batch_job import Limits
from profiles_schema.settings import ENCRYPTION_KEYS
from support import REPOSITORY, profiles_schema

# An id with what LIKE gives a meaning, and one that it must not mean by that.
KEYS = {"k_1": b"\x01" * 32, "kx1": b"\x02" * 32, "new": b"\x03" * 32, "gone": b"\x04" * 32}
SECRET = "sk-geheim-"
COLUMNS = ("openai_api_key", "unsplash_api_key", "anthropic_api_key")


def ring(*ids):
    return KeyRing({key_id: KEYS[key_id] for key_id in ids})


def text_of(*ids):
    return ",".join(f"{key_id}:{base64.b64encode(KEYS[key_id]).decode()}" for key_id in ids)


def fill(database, users, old):
    """Users with keys in both tables under one key of the ring; returns what they are, by user and binding."""
    stored = {}
    rows = database.run(
        "insert into auth.users (email) select 'usr' || gen_random_uuid() || '@example.org' from generate_series(1, :users) as g returning id",
        users=users,
    )
    with database.engine.begin() as connection:
        for number, (user,) in enumerate(rows):
            columns = COLUMNS[: number % 3 + 1]
            values = {}
            for column in columns:
                stored[user, column] = f"{SECRET}{user}{column}"
                values[column] = old.encrypt(stored[user, column], user_id=user, column=column)
            connection.exec_driver_sql(
                f"insert into public.user_api_keys (user_id, {', '.join(columns)}, hints)"
                f" values ('{user}', {', '.join(f'{value!r}' for value in values.values())},"
                """ '{"openai": "abcd"}')"""
            )
            for provider, label in (("deepl", ""), ("openai", "work/it"))[: number % 2 + 1]:
                binding = bound_to(provider, label)
                stored[user, binding] = f"{SECRET}{user}{binding}"
                envelope = old.encrypt(stored[user, binding], user_id=user, column=binding)
                connection.exec_driver_sql(
                    "insert into public.user_provider_keys (user_id, provider, label, envelope, hint)"
                    f" values ('{user}', '{provider}', '{label}', '{envelope}', 'wxyz')"
                )
    return stored


def envelopes(database):
    """Every envelope by user and binding."""
    found = {}
    for row in database.run("select * from public.user_api_keys"):
        found |= {(row.user_id, name): getattr(row, name) for name in COLUMNS if getattr(row, name)}
    for row in database.run("select * from public.user_provider_keys"):
        found[row.user_id, bound_to(row.provider, row.label)] = row.envelope
    return found


def opened(database, keys):
    return {
        place: keys.decrypt(value, user_id=place[0], column=place[1]) for place, value in envelopes(database).items()
    }


def others(database):
    """All that is not an envelope."""
    return [
        {name: value for name, value in row._mapping.items() if name not in {*COLUMNS, "envelope"}}
        for table in ("user_api_keys", "user_provider_keys", "user_profile_audit_logs")
        for row in database.run(f"select * from public.{table} order by id")
    ]


def run(database, *arguments):
    done = profiles_schema(database.url, "keys", *arguments)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rotate(database, keys, **options):
    with database.engine.connect() as connection:
        return list(key_rotation.rotate(connection, keys, **options))[-1]


def test_a_rotation_replaces_every_envelope_and_nothing_else(database, monkeypatch):
    stored = fill(database, 40, ring("k_1"))
    stored |= fill(database, 10, ring("kx1"))
    before, recorded = envelopes(database), others(database)
    monkeypatch.setenv(ENCRYPTION_KEYS, text_of("new", "k_1", "kx1"))
    status = run(database, "status")
    assert status.returncode == 0
    assert "next: profiles-schema keys rotate" in status.stdout
    assert "may go" not in status.stdout
    assert run(database, "status", "--unused", "k_1").returncode == 1
    forecast = run(database, "rotate", "--dry-run")
    assert forecast.returncode == 0
    assert "125 rows under old keys; nothing was changed" in forecast.stdout
    assert (envelopes(database), others(database)) == (before, recorded)

    done = run(database, "rotate")
    assert done.returncode == 0
    assert (
        f"{len(stored)} values of public.user_api_keys and public.user_provider_keys are under key new now"
        in done.stdout
    )
    assert done.stdout.count("may go") == 2
    after = envelopes(database)
    assert {key_id_of(value) for value in after.values()} == {"new"}
    assert opened(database, ring("new")) == stored
    assert others(database) == recorded
    assert run(database, "status", "--unused", "k_1").returncode == 0
    assert "key k_1: 0 values encrypted by it; it may go" in run(database, "status", "--unused", "k_1").stdout

    assert json.loads(run(database, "rotate", "--json").stdout)["rotated"] == 0
    assert envelopes(database) == after


def test_only_the_keys_of_the_ring_are_touched_and_an_underscore_is_one(database):
    stored = fill(database, 6, ring("kx1"))
    before = envelopes(database)
    progress = rotate(database, ring("new", "k_1"))
    assert (progress.state, progress.counts) == ("completed", {"damaged": 0})
    assert envelopes(database) == before
    assert rotate(database, ring("new", "kx1")).counts["rotated"] == len(stored)


def test_values_that_do_not_open_are_counted_and_stay(database, monkeypatch):
    stored = fill(database, 9, ring("k_1"))
    damaged = sorted(place for place in stored if place[1] == "openai_api_key")[:2]
    for (user, column), value in zip(damaged, [envelopes(database)[place] for place in reversed(damaged)], strict=True):
        database.run(f"update public.user_api_keys set {column} = :value where user_id = :user", value=value, user=user)
    monkeypatch.setenv(ENCRYPTION_KEYS, text_of("new", "k_1"))
    done = run(database, "rotate", "--batch-size", "2")
    assert done.returncode == 1
    assert f"{len(stored) - 2} values" in done.stdout
    assert "2 values did not open and stay as they are" in done.stdout
    assert "may go" not in done.stdout
    found = envelopes(database)
    assert {key_id_of(found[place]) for place in damaged} == {"k_1"}
    assert {key_id_of(value) for place, value in found.items() if place not in damaged} == {"new"}


def test_a_ring_whose_key_changed_under_its_id_writes_nothing(database, monkeypatch):
    fill(database, 3, ring("k_1"))
    rotate(database, ring("k_1"))  # records it
    before = envelopes(database)
    with pytest.raises(EncryptionKeyChanged, match="k_1"):
        rotate(database, KeyRing({"new": KEYS["new"], "k_1": KEYS["gone"]}))
    monkeypatch.setenv(ENCRYPTION_KEYS, text_of("new") + f",k_1:{base64.b64encode(KEYS['gone']).decode()}")
    done = run(database, "rotate")
    assert done.returncode == 2
    assert "Nothing was changed" in done.stderr
    status = run(database, "status")
    assert status.returncode == 1
    assert "key k_1 in the ring is ANOTHER ONE than was first used under this id" in status.stdout
    assert "next: put the former key back" in status.stdout
    assert json.loads(run(database, "status", "--json").stdout)["changed"] == ["k_1"]
    assert envelopes(database) == before


def test_a_key_that_was_recorded_by_mistake_can_be_forgotten_as_the_document_says(database, monkeypatch):
    wrong = KeyRing({"k1": KEYS["gone"]})
    fill(database, 1, wrong)
    rotate(database, wrong)
    database.run("delete from auth.users")
    monkeypatch.setenv(ENCRYPTION_KEYS, f"k1:{base64.b64encode(KEYS['new']).decode()}")
    assert run(database, "rotate").returncode == 2
    assert run(database, "status", "--unused", "k1").returncode == 0
    page = (REPOSITORY / "docs/how-to/rotate-encryption-keys.md").read_text()
    database.script(page.partition("```sql\n")[2].partition("```")[0])
    fill(database, 3, KeyRing({"k1": KEYS["new"]}))
    assert run(database, "rotate").returncode == 0
    assert run(database, "status").returncode == 0


def test_a_wrong_key_recorded_over_values_of_the_right_one_is_forgotten_likewise(database, monkeypatch):
    right = KeyRing({"k1": KEYS["new"]})
    stored = fill(database, 3, right)
    rotate(database, KeyRing({"k1": KEYS["gone"]}))
    monkeypatch.setenv(ENCRYPTION_KEYS, f"k1:{base64.b64encode(KEYS['new']).decode()}")
    refused = run(database, "rotate")
    page = "docs/how-to/rotate-encryption-keys.md"
    assert (refused.returncode, f"If the recorded one is the mistake: {page}" in refused.stderr) == (2, True)
    assert page in run(database, "status").stdout
    database.script((REPOSITORY / page).read_text().partition("```sql\n")[2].partition("```")[0])
    assert run(database, "rotate").returncode == 0
    assert run(database, "status").returncode == 0
    assert opened(database, right) == stored


def test_the_application_goes_on_writing_and_no_write_is_lost(database):
    stored = fill(database, 200, ring("k_1"))
    both, users = ring("new", "k_1"), sorted({user for user, _ in stored})
    ended = threading.Event()
    written = {}

    def write():
        """Replace keys, under the key that encrypts now, as fast as it goes; every fourth transaction takes its time."""
        number = 0
        while not ended.is_set() or number < 20:
            user = users[number * 37 % len(users)]
            value = f"{SECRET}newer {number}"
            with database.engine.begin() as connection:
                envelope = both.encrypt(value, user_id=user, column="openai_api_key")
                connection.exec_driver_sql(
                    f"update public.user_api_keys set openai_api_key = '{envelope}' where user_id = '{user}'"
                )
                if number % 4 == 0:
                    time.sleep(0.05)
            written[user, "openai_api_key"] = value
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        progress = rotate(database, both, limits=Limits(10, 100, None))
    finally:
        ended.set()
        thread.join()
    assert progress.state == "completed"
    assert len(written) > 10
    assert opened(database, ring("new")) == stored | written


def test_a_rotation_that_is_interrupted_leaves_every_key_readable_and_goes_on(database, monkeypatch):
    stored = fill(database, 60, ring("k_1"))
    monkeypatch.setenv(ENCRYPTION_KEYS, text_of("new", "k_1"))
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "keys", "rotate", "--batch-size", "1", "--max-rate", "40"],
        env={**os.environ, "DATABASE_URL": database.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(".new." in each for each in envelopes(database).values()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"go on with: profiles-schema keys rotate" in errors
    assert SECRET.encode() not in errors
    under = {key_id_of(value) for value in envelopes(database).values()}
    assert under == {"new", "k_1"}
    assert opened(database, ring("new", "k_1")) == stored
    assert run(database, "rotate").returncode == 0
    assert opened(database, ring("new")) == stored


def test_a_table_that_was_never_migrated_is_rotated_by_its_name(empty, monkeypatch):
    empty.script(
        "create schema legacy; create table legacy.api_keys (user_id uuid primary key, openai_api_key text);"
        f"insert into legacy.api_keys select gen_random_uuid(), '{SECRET}' || g from generate_series(1, 5) as g"
    )
    monkeypatch.setenv(ENCRYPTION_KEYS, text_of("k_1"))
    assert run(empty, "encrypt", "--table", "legacy.api_keys").returncode == 0
    monkeypatch.setenv(ENCRYPTION_KEYS, text_of("new", "k_1"))
    assert run(empty, "rotate", "--table", "legacy.api_keys").returncode == 0
    rows = empty.run("select * from legacy.api_keys")
    assert sorted(ring("new").decrypt(r.openai_api_key, user_id=r.user_id, column="openai_api_key") for r in rows) == [
        f"{SECRET}{number}" for number in range(1, 6)
    ]
    missing = run(empty, "rotate")
    assert missing.returncode == 1
    assert "There is no table public.user_api_keys" in missing.stderr
