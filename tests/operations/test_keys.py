"""keys: API keys in plain text become envelopes, in place; nothing is lost, nothing is shown."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from profiles_schema import UserApiKeys
from profiles_schema.encryption import LONGEST_TEXT_BYTES, KeyRing, is_envelope, key_id_of, new_entry
from profiles_schema.errors import CiphertextMismatch, EncryptionNotKept, MigrationFailed, NoDatabase, TableLocked
from profiles_schema.operations import batches, keys
from profiles_schema.operations.batch_job import Limits
from profiles_schema.settings import ENCRYPTION_KEYS
from support import ENVELOPE, drift, profiles_schema

OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
RING = KeyRing({"k2": NEW, "k1": OLD})
RING_TEXT = ",".join(f"{i}:{base64.b64encode(key).decode()}" for i, key in (("k2", NEW), ("k1", OLD)))
ADA = uuid.UUID(int=1)
BOB = uuid.UUID(int=2)
COLUMN = "openai_api_key"
# In every value of the tests, so that one look finds it wherever it should not be.
SECRET = "sk-geheim-"

# Shape C as found: no schema auth, plain columns, policies and triggers of the application's own.
FOUND = """
create table public.users (id uuid primary key default gen_random_uuid(), email text);
create table public.user_api_keys (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references public.users (id) on delete cascade,
  openai_api_key text, unsplash_api_key text, anthropic_api_key text,
  created_at timestamptz default now(), updated_at timestamptz default now(),
  constraint unique_user_api_keys unique (user_id)
);
create index idx_user_api_keys_user_id on public.user_api_keys (user_id);
create function public.update_user_api_keys_updated_at() returns trigger language plpgsql as
  'begin new.updated_at = now(); return new; end';
create trigger trigger_user_api_keys_updated_at before update on public.user_api_keys
  for each row execute function public.update_user_api_keys_updated_at();
alter table public.user_api_keys enable row level security;
create policy "Users can view their own API keys" on public.user_api_keys for select using (user_id is not null);
"""


@pytest.fixture
def found(empty, monkeypatch):
    """Shape C, never migrated, and the ring in the environment."""
    empty.script(FOUND)
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    return empty


def fill(database, rows):
    """Users with a key of each kind: two columns, one of them, none."""
    database.script(
        f"with made as (insert into public.users select gen_random_uuid() from generate_series(1, {rows}) returning id)"
        " insert into public.user_api_keys (user_id, openai_api_key, unsplash_api_key)"
        f" select id, case when n % 5 > 0 then '{SECRET}' || id end, case when n % 3 = 0 then '{SECRET}unsplash ' || id end"
        " from (select id, row_number() over () as n from made) as m"
    )


def add(database, table="public.user_api_keys", **values):
    user = uuid.uuid4()
    database.run("insert into public.users (id) values (:id)", id=str(user))
    names = "".join(f", {name}" for name in values)
    slots = "".join(f", :{name}" for name in values)
    database.run(f"insert into {table} (user_id{names}) values (:user{slots})", user=str(user), **values)
    return user


def row_of(database, user):
    return database.run("select * from public.user_api_keys where user_id = :user", user=str(user))[0]


def opened(database, ring=RING):
    """Every value, decrypted, by user and column."""
    rows = database.run("select user_id, openai_api_key, unsplash_api_key, anthropic_api_key from public.user_api_keys")
    return {
        (row.user_id, name): value and ring.decrypt(value, user_id=row.user_id, column=name)
        for row in rows
        for name, value in row._mapping.items()
        if name != "user_id"
    }


def plain(database):
    rows = database.run("select user_id, openai_api_key, unsplash_api_key, anthropic_api_key from public.user_api_keys")
    return {(r.user_id, name): v for r in rows for name, v in r._mapping.items() if name != "user_id"}


def run(database, *arguments):
    done = profiles_schema(database.url, "keys", *arguments)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


# keys generate


def test_generate_prints_an_entry_and_nothing_else_on_stdout():
    done = profiles_schema(None, "keys", "generate")
    entry = done.stdout.strip()
    assert done.stdout == f"{entry}\n"
    assert re.fullmatch(r"k\d{8}-[0-9a-f]{4}:[A-Za-z0-9_-]{43}", entry)
    assert entry.partition(":")[2] not in done.stderr
    assert ENCRYPTION_KEYS in done.stderr
    assert KeyRing.parse(entry).ids == (entry.partition(":")[0],)
    assert profiles_schema(None, "keys", "generate").stdout != done.stdout
    assert profiles_schema(None, "keys", "generate", "--id", "mine").stdout.startswith("mine:")


def test_generate_refuses_an_id_that_is_taken_or_none(monkeypatch):
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    taken = profiles_schema(None, "keys", "generate", "--id", "k1")
    assert (taken.returncode, taken.stdout) == (2, "")
    assert "in the ring already" in taken.stderr
    assert profiles_schema(None, "keys", "generate", "--id", "a b").returncode == 2
    monkeypatch.setenv(ENCRYPTION_KEYS, "broken")
    assert profiles_schema(None, "keys", "generate").returncode == 0


def test_the_hint_of_generate_puts_a_new_key_first(tmp_path):
    hint = profiles_schema(None, "keys", "generate").stderr
    command = next(line.strip() for line in hint.splitlines() if "export" in line)
    command = command.replace("profiles-schema", f"{sys.executable} -m profiles_schema")
    for before, ids in ((None, 1), (RING_TEXT, 3)):
        environment = {k: v for k, v in os.environ.items() if k != ENCRYPTION_KEYS}
        environment |= {ENCRYPTION_KEYS: before} if before else {}
        script = f'{command} 2>/dev/null; printf %s "${ENCRYPTION_KEYS}"'
        done = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, check=True)
        ring = KeyRing.parse(done.stdout)
        assert len(ring.ids) == ids
        assert ring.ids[0].startswith("k20")


# keys encrypt


def test_encrypt_turns_plain_text_into_envelopes_in_place(found):
    fill(found, 500)
    before = plain(found)
    others = found.run("select id, user_id, created_at from public.user_api_keys order by id")
    done = run(found, "encrypt", "--json", "--batch-size", "7")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["encrypted"] == sum(value is not None for value in before.values())
    assert result["unencrypted"] == 0
    assert opened(found) == before
    assert found.run("select id, user_id, created_at from public.user_api_keys order by id") == others
    after = plain(found)
    assert {key_id_of(value) for value in after.values() if value} == {"k2"}
    again = run(found, "encrypt")
    assert again.returncode == 0
    assert again.stdout == f"nothing to do: {result['encrypted']} values of public.user_api_keys are encrypted\n"
    assert plain(found) == after


def test_encrypt_says_what_it_did_and_what_remains_elsewhere(found):
    add(found, openai_api_key=SECRET + "1")
    done = run(found, "encrypt")
    assert done.stdout.splitlines()[0] == "encrypted 1 value in 1 row of public.user_api_keys"
    assert "VACUUM FULL" in done.stdout
    assert "backups" in done.stdout


def test_a_dry_run_counts_and_changes_nothing(found):
    fill(found, 50)
    before = plain(found)
    marks = found.run("select id, xmin::text, updated_at from public.user_api_keys order by id")
    done = run(found, "encrypt", "--dry-run")
    assert done.returncode == 0, done.stderr
    values = sum(value is not None for value in before.values())
    assert re.match(
        rf"{values} values in plain text, in \d+ rows of public.user_api_keys; nothing was changed\n", done.stdout
    )
    assert "locks: ROW EXCLUSIVE" in done.stdout
    plan = json.loads(run(found, "encrypt", "--dry-run", "--json").stdout)
    assert plan["columns"][COLUMN]["plain"] == 40
    assert found.run("select id, xmin::text, updated_at from public.user_api_keys order by id") == marks


def test_odd_values_go_by_rule_and_none_is_lost(found):
    foreign = RING.encrypt(SECRET, user_id=BOB, column=COLUMN).replace(".k2.", ".gone.")
    kept = {
        "blanks round it": f" {SECRET}x\n",
        "unicode": f"{SECRET}ключ🔑\u00a0",
        "no-break space": "\u00a0",
        "quotes": f"{SECRET}'\"\\%:name",
        "as long as can be": SECRET + "x" * (LONGEST_TEXT_BYTES - len(SECRET)),
        "like an envelope": f"{SECRET}psk1.k.AAAA",
    }
    users = {name: add(found, openai_api_key=value) for name, value in kept.items()}
    blank = [add(found, openai_api_key=value, anthropic_api_key=SECRET) for value in ("", "  ", "\t\n\r\f\v ")]
    left = {
        add(found, unsplash_api_key=value): value
        for value in (SECRET + "x" * LONGEST_TEXT_BYTES, "psk1.k1.short", foreign[:40], foreign + "=")
    }
    envelopes = {add(found, openai_api_key=value): value for value in (foreign, "psk1.x." + "A" * 41)}
    null = add(found)
    dry = run(found, "encrypt", "--dry-run").stdout
    assert "3 blank values would become NULL" in dry
    done = run(found, "encrypt")
    assert done.returncode == 1
    assert "3 blank values became NULL" in done.stdout
    assert "1 values are too long for an envelope and stay as they are" in done.stdout
    assert "3 values look like damaged envelopes and stay as they are" in done.stdout
    for name, user in users.items():
        assert RING.decrypt(row_of(found, user).openai_api_key, user_id=user, column=COLUMN) == kept[name], name
    for user in blank:
        assert row_of(found, user).openai_api_key is None
        assert RING.decrypt(row_of(found, user).anthropic_api_key, user_id=user, column="anthropic_api_key") == SECRET
    assert {user: row_of(found, user).unsplash_api_key for user in left} == left
    assert {user: row_of(found, user).openai_api_key for user in envelopes} == envelopes
    assert row_of(found, null).openai_api_key is None


def test_blank_text_in_a_column_that_is_not_null_is_encrypted(found):
    found.script("alter table public.user_api_keys alter openai_api_key set not null")
    user = add(found, openai_api_key=" ")
    assert run(found, "encrypt").returncode == 0
    assert RING.decrypt(row_of(found, user).openai_api_key, user_id=user, column=COLUMN) == " "


@pytest.mark.parametrize(
    "shape",
    [
        "user_id uuid unique not null, openai_api_key text",
        "user_id uuid unique, openai_api_key text",
        "user_id uuid, openai_api_key varchar, region text, number integer, primary key (region, number)",
        'user_id uuid not null, openai_api_key text, "Odd "" id:x %" bigint generated always as identity primary key',
        "user_id uuid primary key, openai_api_key varchar(4096), anthropic_api_key text",
        "user_id uuid, openai_api_key text, at timestamptz default clock_timestamp() primary key",
    ],
)
def test_any_subset_of_columns_under_any_key_is_encrypted(empty, monkeypatch, shape):
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    empty.script(f'create schema app; create table app."Keys: %" ({shape})')
    names = "user_id, openai_api_key" + (", region, number" if "region" in shape else "")
    for n in range(30):
        more = f", '{'äZa'[n % 3]}', {n}" if "region" in shape else ""
        empty.run(
            f'insert into app."Keys\\: %" ({names}) values (:id, :key{more})', id=str(uuid.uuid4()), key=f"{SECRET}{n}"
        )
    done = run(empty, "encrypt", "--table", "app.Keys: %", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    rows = empty.run('select user_id, openai_api_key from app."Keys\\: %"')
    texts = {RING.decrypt(row.openai_api_key, user_id=row.user_id, column=COLUMN) for row in rows}
    assert texts == {f"{SECRET}{n}" for n in range(30)}


def test_rows_without_a_user_are_told_and_left(empty, monkeypatch):
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    empty.script("create table public.user_api_keys (user_id uuid unique, openai_api_key text)")
    empty.run("insert into public.user_api_keys values (null, :key), (:id, :key)", id=str(ADA), key=SECRET)
    done = run(empty, "encrypt")
    assert done.returncode == 1
    assert "1 values are of rows without user_id and stay as they are" in done.stdout
    assert empty.value("select openai_api_key from public.user_api_keys where user_id is null") == SECRET
    assert is_envelope(empty.value("select openai_api_key from public.user_api_keys where user_id is not null"))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (
            "user_id uuid primary key, openai_api_key text, unsplash_api_key varchar(100)",
            "unsplash_api_key is character varying(100) and too narrow for an envelope; this does not rewrite the table:"
            " alter table public.user_api_keys alter column unsplash_api_key type text",
        ),
        ("user_id uuid primary key, openai_api_key character(60)", "openai_api_key is character(60) and must be text"),
        ("user_id uuid primary key, openai_api_key bytea", "openai_api_key is bytea and must be text"),
        ("user_id bigint primary key, openai_api_key text", "user_id is bigint and must be uuid"),
        ("user_id uuid, openai_api_key text", "neither a primary key nor a unique index"),
        ("user_id uuid primary key, gemini_key text", "has none of the columns"),
        ("id uuid primary key, openai_api_key text", "has no column user_id"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_the_first_change(empty, monkeypatch, shape, says):
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    empty.script(f"create table public.user_api_keys ({shape})")
    if "user_id uuid" in shape and "openai_api_key text" in shape:
        empty.run(
            "insert into public.user_api_keys (user_id, openai_api_key) values (:id, :key)", id=str(ADA), key=SECRET
        )
    before = empty.run("select t::text from public.user_api_keys as t")
    for arguments in (("encrypt",), ("encrypt", "--dry-run")):
        done = run(empty, *arguments)
        assert done.returncode == 1
        assert says in done.stderr
    assert empty.run("select t::text from public.user_api_keys as t") == before


def test_a_missing_table_or_ring_is_refused_with_the_remedy(empty, monkeypatch):
    monkeypatch.delenv(ENCRYPTION_KEYS, raising=False)
    done = run(empty, "encrypt")
    assert done.returncode == 2
    assert "profiles-schema keys generate" in done.stderr
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    for verb in ("encrypt", "status"):
        done = run(empty, verb)
        assert done.returncode == 1
        assert "There is no table public.user_api_keys" in done.stderr
    assert profiles_schema("postgresql://nobody@localhost:1/x", "keys", "status").returncode == 3


def test_a_migrated_table_has_nothing_to_encrypt_and_says_so(database, monkeypatch):
    monkeypatch.setenv(ENCRYPTION_KEYS, RING_TEXT)
    user = database.sign_up("ada@example.org")
    with Session(database.engine) as session, session.begin():
        session.add(UserApiKeys(user_id=user, openai_api_key=RING.encrypt(SECRET, user_id=user, column=COLUMN)))
    done = run(database, "encrypt")
    assert done.returncode == 0
    assert done.stdout == (
        "nothing to do: 1 values of public.user_api_keys are encrypted; its CHECKs admit nothing but envelopes\n"
    )
    assert run(database, "status").returncode == 0


# Beside the application


def steps(found, **limits):
    with found.engine.connect() as connection:
        yield from keys.encrypt(connection, RING, limits=Limits(**limits))


def test_a_row_in_use_is_passed_over_and_its_newer_value_is_what_is_encrypted(found):
    fill(found, 40)
    user = add(found, openai_api_key=SECRET + "old")
    with found.engine.connect() as application:
        held = application.begin()
        application.exec_driver_sql(
            f"update public.user_api_keys set openai_api_key = '{SECRET}new' where user_id = '{user}'"
        )
        work = steps(found, batch_rows=10)
        while next(work).done < 30:
            pass
        done = threading.Thread(target=lambda: list(work))
        done.start()
        time.sleep(1)
        assert found.value("select count(*) from public.user_api_keys where openai_api_key like 'sk-%'") == 1
        held.commit()
        done.join(30)
    assert opened(found)[user, COLUMN] == SECRET + "new"


def test_what_the_application_writes_meanwhile_is_never_overwritten(found):
    fill(found, 400)
    users = [row.user_id for row in found.run("select user_id from public.user_api_keys")]
    written, running = {}, threading.Event()

    def write():
        n = 0
        while not running.is_set():
            user = users[n * 7 % len(users)]
            value = f"{SECRET}written {n}"
            found.run(
                "update public.user_api_keys set anthropic_api_key = :value where user_id = :user",
                value=value, user=str(user),
            )  # fmt: skip
            written[user] = value
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        list(zip(range(60), steps(found, batch_rows=5, target_ms=5), strict=False))
    finally:
        running.set()
        writer.join()
    assert len(written) > 10
    list(steps(found))
    after = opened(found)
    assert {user: after[user, "anthropic_api_key"] for user in written} == written
    assert all(after[user, COLUMN] in {None, f"{SECRET}{user}"} for user in users)


def test_two_at_once_share_the_work(found):
    fill(found, 600)
    before = plain(found)
    first, second = ([], [])
    threads = [
        threading.Thread(
            target=lambda into=into: into.extend(
                p.counts.get("encrypted", 0) for p in steps(found, batch_rows=5, target_ms=5)
            )
        )
        for into in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert opened(found) == before
    values = sum(value is not None for value in before.values())
    assert (first or [0])[-1] + (second or [0])[-1] == values


def start(found, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "keys", *arguments],
        env=os.environ | {"DATABASE_URL": found.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("lines", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_killed_anywhere_every_value_is_whole_and_run_again_finishes(found, lines):
    fill(found, 2_000)
    before = plain(found)
    process = start(found, "encrypt", "--json", "--batch-size", "20", "--target-ms", "5")
    for _ in range(lines):
        process.stderr.readline()
    process.kill()
    process.communicate()
    half = plain(found)
    assert any(is_envelope(value) for value in half.values() if value)
    assert {
        at: RING.decrypt(value, user_id=at[0], column=at[1]) if value and is_envelope(value) else value
        for at, value in half.items()
    } == before
    assert run(found, "encrypt").returncode == 0
    assert opened(found) == before


def test_ctrl_c_ends_after_the_batch_and_run_again_goes_on(found):
    fill(found, 2_000)
    before = plain(found)
    process = start(found, "encrypt", "--max-rate", "50")
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"stopped after \d+ of \d+ rows; go on with: profiles-schema keys encrypt", stderr)
    assert SECRET not in stdout + stderr
    assert run(found, "encrypt").returncode == 0
    assert opened(found) == before


def test_a_locked_table_holds_nobody_up_and_is_told(found, monkeypatch):
    add(found, openai_api_key=SECRET)
    with monkeypatch.context() as patched, found.engine.connect() as other, other.begin():
        patched.setattr(batches, "LOCK_SECONDS", 0.5)
        other.exec_driver_sql("lock table public.user_api_keys in access exclusive mode")
        with pytest.raises(TableLocked):
            list(steps(found))
    assert list(steps(found))[-1].counts["encrypted"] == 1


# What could betray a value


TRIGGERS = {
    "quotes the old value": "raise exception 'no: %', old.openai_api_key",
    "quotes it as a missing right": "raise insufficient_privilege using message = old.openai_api_key",
}


@pytest.mark.parametrize("body", TRIGGERS.values(), ids=TRIGGERS)
@pytest.mark.parametrize("debug", ["", "1"])
def test_a_trigger_that_quotes_the_row_betrays_nothing(found, monkeypatch, body, debug):
    monkeypatch.setenv("PROFILES_DEBUG", debug)
    found.script(
        f"create function public.refuse() returns trigger language plpgsql as $$begin {body}; end$$;"
        "create trigger refuse before update on public.user_api_keys for each row execute function public.refuse()"
    )
    fill(found, 100)
    before = plain(found)
    done = profiles_schema(found.url, "keys", "encrypt")
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    assert "P0001" in done.stderr or "may not" in done.stderr
    assert plain(found) == before


def test_a_check_of_the_application_that_refuses_envelopes_is_named(found):
    found.script("alter table public.user_api_keys add constraint looks_right check (openai_api_key like 'sk-%')")
    fill(found, 100)
    done = run(found, "encrypt")
    assert done.returncode == 1
    assert "SQLSTATE 23514 (user_api_keys looks_right)" in done.stderr
    assert profiles_schema(found.url, "keys", "encrypt", "--dry-run").returncode == 1


def test_one_row_that_cannot_be_written_is_left_out_and_all_others_are_done(found):
    fill(found, 100)
    user = add(found, openai_api_key=SECRET + "poison")
    found.script(f"alter table public.user_api_keys add check (user_id <> '{user}' or openai_api_key like 'sk-%')")
    done = run(found, "encrypt")
    assert done.returncode == 1
    assert "failed for 1 row: SQLSTATE 23514" in done.stdout
    rows = found.run(
        "select user_id from public.user_api_keys where openai_api_key like 'sk-%' or unsplash_api_key like 'sk-%'"
    )
    assert [row.user_id for row in rows] == [user]


@pytest.mark.parametrize(
    "body",
    [
        "return null",
        "new.openai_api_key = old.openai_api_key; return new",
        "new.openai_api_key = upper(new.openai_api_key); return new",
    ],
)
def test_a_trigger_that_undoes_the_encryption_is_noticed_and_the_batch_rolled_back(found, body):
    found.script(
        f"create function public.meddle() returns trigger language plpgsql as $$begin {body}; end$$;"
        "create trigger meddle before update on public.user_api_keys for each row execute function public.meddle()"
    )
    fill(found, 20)
    before = plain(found)
    with pytest.raises(EncryptionNotKept):
        list(steps(found))
    assert plain(found) == before
    assert run(found, "encrypt").returncode == 1


def test_a_table_whose_plain_text_comes_back_after_the_commit_ends_the_run(found):
    found.script(
        "create function public.restore() returns trigger language plpgsql as $$begin"
        " update public.user_api_keys set openai_api_key = old.openai_api_key where id = old.id; return null; end$$;"
        "create constraint trigger restore after update on public.user_api_keys deferrable initially deferred"
        " for each row when (old.openai_api_key not like 'psk1%') execute function public.restore()"
    )
    user = add(found, openai_api_key=SECRET)
    assert list(steps(found))[-1].state == "completed"
    assert row_of(found, user).openai_api_key == SECRET


def test_plain_text_is_never_sent_to_the_server(found):
    fill(found, 50)
    statements = []
    event.listen(found.engine, "before_cursor_execute", lambda *sent: statements.append(f"{sent[2]} {sent[3]}"))
    list(steps(found))
    assert any("update" in statement for statement in statements)
    assert SECRET not in "".join(statements)


def test_a_role_that_sees_not_all_rows_is_refused_instead_of_finding_nothing(found):
    fill(found, 10)
    found.script("create role keys_reader login; grant select, update on public.user_api_keys to keys_reader")
    url = found.server.url(found.name, "keys_reader")
    for verb in ("encrypt", "status"):
        done = profiles_schema(url, "keys", verb)
        assert done.returncode == 1
        assert "row level security hides" in done.stderr


def cut_off(found):
    found.run(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )


def test_a_connection_lost_in_a_batch_loses_the_batch_alone(found, monkeypatch):
    fill(found, 20)
    before = plain(found)
    rewrite, cuts = keys._Encryption.rewrite, []

    def once(*arguments):
        if not cuts:
            cuts.append(plain(found))
            cut_off(found)
        return rewrite(*arguments)

    monkeypatch.setattr(keys._Encryption, "rewrite", once)
    assert list(steps(found))[-1].state == "completed"
    assert cuts == [before]
    assert opened(found) == before


def test_a_batch_that_always_loses_its_connection_ends_the_run(found, monkeypatch):
    fill(found, 20)
    before = plain(found)
    rewrite = keys._Encryption.rewrite
    monkeypatch.setattr(batches, "_MOST_LOSSES", 2)
    monkeypatch.setattr(keys._Encryption, "rewrite", lambda *arguments: cut_off(found) or rewrite(*arguments))
    with pytest.raises(NoDatabase) as lost:
        list(steps(found))
    assert SECRET not in "".join(traceback.format_exception(lost.value))
    assert plain(found) == before


@pytest.mark.slow
def test_a_process_frozen_in_a_batch_holds_its_rows_for_some_seconds_only(found, monkeypatch):
    user = add(found, openai_api_key=SECRET)
    encryption = keys._Encryption.rewrite

    def frozen(*arguments):
        time.sleep(1.5)
        return encryption(*arguments)

    monkeypatch.setattr(batches, "_IN_TRANSACTION_SECONDS", 1)
    monkeypatch.setattr(batches, "_MOST_LOSSES", 0)
    monkeypatch.setattr(keys._Encryption, "rewrite", frozen)
    with pytest.raises(NoDatabase):
        list(steps(found))
    assert row_of(found, user).openai_api_key == SECRET


# keys status


def test_status_counts_by_column_and_key_and_shows_no_value(found, monkeypatch):
    user = add(found, openai_api_key=SECRET, unsplash_api_key="")
    other = KeyRing({"k1": OLD})
    for key, value in (("openai_api_key", other), ("anthropic_api_key", KeyRing({"gone": OTHER}))):
        add(found, **{key: value.encrypt(SECRET, user_id=user, column=key)})
    add(found, anthropic_api_key="psk1.damaged")
    add(found, anthropic_api_key=SECRET + "x" * 5000)
    done = run(found, "status")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "table      public.user_api_keys",
        "ring       k2, k1",
        "openai_api_key     3 NULL, 1 plain text, 1 by key k1",
        "unsplash_api_key   4 NULL, 0 plain text, 1 blank",
        "anthropic_api_key  2 NULL, 0 plain text, 1 by key gone, NOT IN THE RING, 1 too long, 1 damaged",
        "next: profiles-schema keys encrypt",
    ]
    found_json = json.loads(run(found, "status", "--json").stdout)
    assert found_json["columns"]["anthropic_api_key"] == {
        "null": 2, "plain": 0, "blank": 0, "too_long": 1, "damaged": 1, "envelopes": {}, "unknown": {"gone": 1},
    }  # fmt: skip
    assert found_json["unencrypted"] == 4
    assert found_json["ring"] == ["k2", "k1"]


def test_status_exits_with_0_only_when_all_is_encrypted_by_known_keys(found, monkeypatch):
    assert run(found, "status").returncode == 0
    user = add(found, openai_api_key=SECRET)
    assert run(found, "status").returncode == 1
    assert run(found, "encrypt").returncode == 0
    assert run(found, "status").returncode == 0
    monkeypatch.setenv(ENCRYPTION_KEYS, new_entry("k9"))
    unknown = run(found, "status")
    assert unknown.returncode == 1
    assert "1 by key k2, NOT IN THE RING" in unknown.stdout
    assert "next: put the missing keys back" in unknown.stdout
    monkeypatch.delenv(ENCRYPTION_KEYS)
    unset = run(found, "status")
    assert unset.returncode == 1
    assert "PROFILES_ENCRYPTION_KEYS is not set" in unset.stdout
    monkeypatch.setenv(ENCRYPTION_KEYS, "k1:c2hvcnQ=")
    assert run(found, "status").returncode == 2
    assert is_envelope(row_of(found, user).openai_api_key)


def test_swapped_rows_do_not_open(found):
    users = [add(found, openai_api_key=f"{SECRET}{n}") for n in range(2)]
    assert run(found, "encrypt").returncode == 0
    values = [row_of(found, user).openai_api_key for user in users]
    for user, value in zip(users, reversed(values), strict=True):
        with pytest.raises(CiphertextMismatch):
            RING.decrypt(value, user_id=user, column=COLUMN)
    with pytest.raises(CiphertextMismatch):
        RING.decrypt(values[0], user_id=users[0], column="unsplash_api_key")


@pytest.mark.slow
@pytest.mark.parametrize("blank", ["", " ", " \t\n"])
def test_blank_keys_are_no_plain_text_for_adoption_which_makes_them_null(found, blank):
    found.answering = ("replace",)
    user = add(found, openai_api_key=blank, unsplash_api_key=ENVELOPE)
    found.upgrade()
    row = row_of(found, user)
    assert (row.openai_api_key, row.unsplash_api_key) == (None, ENVELOPE)
    assert drift(found) == []
    found.downgrade("base", allow_data_loss="yes")
    assert row_of(found, user).openai_api_key == blank


@pytest.mark.slow
def test_a_blank_key_that_cannot_be_null_is_plain_text(found):
    found.answering = ("replace",)
    found.script("alter table public.user_api_keys alter openai_api_key set not null")
    add(found, openai_api_key="")
    with pytest.raises(MigrationFailed, match="API keys in plain text"):
        found.upgrade()
    assert run(found, "encrypt").returncode == 0
    found.upgrade()
