"""users export and erase: what is a person's comes out, then goes; nothing of anybody else's does either."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid

import jsonschema
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text

from profiles_schema import data_rights, metadata
from profiles_schema.errors import InvalidRegistration, StorageFailed
from profiles_schema.operations import users
from profiles_schema.operations.health import examine
from profiles_schema.storage import DirectoryStorage, export_key
from support import REPOSITORY, profiles_schema
from support.followed_users import application as application_with_users

APPLICATION = """
create table public.posts (id bigserial primary key, author_id uuid not null references auth.users (id), title text, body text);
create table public.uploads (id bigserial primary key, post_id bigint not null references public.posts (id), owner uuid, name text);
create table public.comments (
  id bigserial primary key, writer text references public.user_profiles (id),
  body text, ip inet
);
create table public.invoices (id bigserial primary key, buyer uuid references auth.users (id), amount numeric(20, 10), paid_on date);
"""
REGISTER = (
    ("posts", "author_id", ("title", "body"), "delete"),
    ("uploads", "owner", ("name",), "delete"),
    ("comments", "writer", ("body", "ip"), {"body": "null", "ip": "null", "writer": "null"}),
    ("invoices", "buyer", ("amount", "paid_on"), "keep: tax law, ten years"),
)
FILL = """
insert into public.posts (author_id, title, body)
  select cast(:id as uuid), :mark || ' title ' || n, :mark || ' body ' || n from generate_series(1, 3) as n;
insert into public.uploads (post_id, owner, name)
  select p.id, p.author_id, :mark || '.png' from public.posts as p where p.author_id = cast(:id as uuid);
insert into public.comments (writer, body, ip) values (cast(:id as text), :mark || ' comment', '192.0.2.1');
insert into public.invoices (buyer, amount, paid_on) values (cast(:id as uuid), 12345678.0123456789, '2026-02-03');
update public.user_profiles set
  external_id = :mark || '-external', display_name = :mark || ' Name', first_name = :mark, last_name = :mark || 'son', phone = :phone,
  bio = :mark || ' bio', company_name = :mark || ' Ltd', target_audience = :mark || ' audience', business_context = :mark || ' context',
  master_system_prompt = :mark || ' prompt', avatar_emoji = '🦉', avatar_url = 'https://a.example/' || :mark,
  profile_picture_url = 'https://p.example/' || :mark, logo_url = 'https://l.example/' || :mark, profile_visibility = 'public',
  role = 'editor', referral_code = :mark || 'code', key_metrics = jsonb_build_array(:mark), preferences = jsonb_build_object('of', :mark),
  notification_settings = jsonb_build_object('to', :mark), timezone = 'Europe/Berlin', language = 'de', email_verified = true,
  is_anonymous = false, last_login = '2026-01-02', login_count = 7, last_analyzed_at = 5, last_photo_analyzed_at = 6, message_count = 8,
  personality_traits = jsonb_build_object('p', :mark), appearance_traits = jsonb_build_object('a', :mark),
  behavioral_metrics = jsonb_build_object('b', :mark), cultural_attributes = jsonb_build_object('c', :mark),
  analysis_summary = jsonb_build_object('s', :mark), metadata = jsonb_build_object('m', :mark)
  where user_id = cast(:id as uuid);
insert into public.sessions (user_id, started_at, ended_at, duration_minutes, descriptions_generated, images_processed, qa_attempts,
    qa_correct, qa_seconds, vocabulary_learned)
  select cast(:id as uuid), now() - n * interval '1 hour', now() - n * interval '1 hour', 4, 1, 1, 2, 1, 9, 1
  from generate_series(1, cast(:sessions as integer)) as n;
insert into public.user_api_keys (user_id, openai_api_key, unsplash_api_key, anthropic_api_key, last_validated_at, validation)
  values (cast(:id as uuid), :envelope, :envelope, :envelope, now(), jsonb_build_object('note', :mark));
update public.user_api_keys set hints = '{"openai": "wxyz"}' where user_id = cast(:id as uuid);
insert into public.user_provider_keys (user_id, provider, label, envelope, hint, validation, last_used_at)
  values (cast(:id as uuid), 'deepl', :mark || ' key', :envelope, 'wxyz', jsonb_build_object('note', :mark), now());
insert into public.export_history (user_id, export_type, export_format, filters)
  select cast(:id as uuid), 'sessions', 'json', jsonb_build_object('about', :mark) from generate_series(1, cast(:exports as integer));
update public.export_history set status = 'processing' where user_id = cast(:id as uuid);
update public.export_history set status = 'completed', file_url = 'exports/' || user_id || '/' || id, file_size_bytes = 7,
  data = jsonb_build_object('d', :mark), error_message = :mark, expires_at = now() + interval '7 days' where user_id = cast(:id as uuid);
insert into public.user_profile_audit_logs (user_id, actor, action, origin, changed, error_code, error_message, metadata)
  values (cast(:id as uuid), cast(:id as uuid), 'updated', 'manual', '{bio}', '23505', 'user_profiles',
    jsonb_build_object('context', jsonb_build_object('request', :mark)));
insert into profiles_internal.kept_json (user_id, jsonb_column, path, value, superseded_at)
  values (cast(:id as uuid), 'metadata', 'x', to_jsonb(cast(:mark as text)), now());
insert into profiles_internal.held_usernames (username, user_id, held_until) values (:mark || '-old', cast(:id as uuid), now() + interval '9 days');
insert into profiles_internal.stale_progress (user_id, error_code, error_message) values (cast(:id as uuid), '57014', 'sessions');
insert into profiles_internal.identity_links (user_id, external_id) values (cast(:id as uuid), :mark || '-row');
insert into profiles_internal.adopted (revision, object_type, object_name, definition, data)
  values ('0006', 'value', 'public.user_profiles.bio', 'd', jsonb_build_object('key', cast(:id as text), 'value', :mark));
insert into profiles_internal.quarantine (table_name, row_data, reason)
  values ('public.user_progress', jsonb_build_object('user_id', cast(:id as text), 'note', :mark), 'twice');
select profiles_internal.award_points(cast(:id as uuid), 40, :mark || ' prize', :mark || '-key');
update public.user_progress set mastered_words_count = 3, learning_words_count = 2, new_words_count = 1, last_description_at = now(),
  last_qa_session_at = now(), last_vocabulary_practice_at = now(), total_answer_seconds = 5 where user_id = cast(:id as uuid);
"""
SECRET = "psk1.test." + "B" * 60


def prepare(database):
    """The application's tables, registered."""
    database.script(APPLICATION)
    with database.engine.begin() as connection:
        for table, column, exported, on_erase in REGISTER:
            data_rights.register(table, column, exported, on_erase, bind=connection)


def person(database, mark, storage=None, sessions=3, exports=2):
    """A user with rows everywhere; every text holds the mark."""
    user_id = database.sign_up(
        f"{mark}@example.org",
        phone=f"+49{uuid.uuid4().int % 10**9}",
        email_confirmed_at="2026-01-01",
        phone_confirmed_at="2026-01-01",
        last_sign_in_at="2026-01-02",
        banned_until="2026-01-03",
        is_sso_user=True,
        is_anonymous=True,
        raw_user_meta_data={"full_name": f"{mark} Name"},
        raw_app_meta_data={"provider": mark},
    )
    phone = database.value("select phone from auth.users where id = :id", id=user_id)
    values = {
        "id": str(user_id),
        "mark": mark,
        "phone": phone,
        "sessions": sessions,
        "exports": exports,
        "envelope": SECRET,
    }
    for statement in FILL.split(";\n"):
        if statement.strip():
            with database.engine.begin() as connection:
                connection.execute(text(statement), {k: v for k, v in values.items() if f":{k}" in statement})
    if storage:
        for (key,) in database.run("select id from public.export_history where user_id = :id", id=user_id):
            upload = storage.upload(export_key(user_id, key))
            upload.file.write(mark.encode())
            upload.publish()
    return user_id


def traces(database, *needles):
    """Every column of every table whose text holds one of the needles: {table.column: rows}."""
    tables = database.administrator.run(
        "select format('%I.%I', n.nspname, c.relname) as name, array_agg(a.attname::text) as columns from pg_class as c"
        " join pg_namespace as n on n.oid = c.relnamespace join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0"
        " and not a.attisdropped where c.relkind in ('r', 'p', 'm') and n.nspname !~ '^(pg_|information_schema)' group by 1"
    )
    assert sum(len(table.columns) for table in tables) > 150
    found = {}
    for table in tables:
        hits = ", ".join(
            f'count(*) filter (where lower("{column}"::text) like any (cast(:needles as text[])))'
            for column in table.columns
        )
        (counts,) = database.administrator.run(
            f"select {hits} from {table.name}", needles=[f"%{needle.lower()}%" for needle in needles]
        )
        found |= {f"{table.name}.{column}": n for column, n in zip(table.columns, counts, strict=True) if n}
    return found


def erase(database, *arguments, storage=None):
    return profiles_schema(
        database.url, "users", "erase", *map(str, arguments),
        environment={"PROFILES_EXPORT_STORAGE": str(storage.path)} if storage else None,
    )  # fmt: skip


@pytest.fixture
def storage(tmp_path):
    return DirectoryStorage(tmp_path / "files")


@pytest.fixture
def application(database):
    prepare(database)
    return database


# The labels ---------------------------------------------------------------------------------------------------------------

USER_COLUMN = {"auth.users": "id"}
BY_CONTENT = {"profiles_internal.adopted", "profiles_internal.quarantine"}


def rows_of(database, table, user_id):
    """The rows of a user by the column that the model names; of what adoption set aside, all."""
    name = f"{table.schema or 'public'}.{table.name}"
    column = USER_COLUMN.get(name, "user_id" if "user_id" in table.columns else None)
    if column is None and name not in BY_CONTENT:
        return None
    where = f" where {column} = :id" if column else ""
    return [row._mapping for row in database.run(f"select * from {name}{where}", **({"id": user_id} if column else {}))]


def test_every_column_says_what_it_is_of_a_person():
    for table in metadata.tables.values():
        for column in table.columns:
            assert set(column.info) >= {"personal", "on_erase"}, f"{table.fullname}.{column.name}"


def assert_as_labelled(column, before, after, where):
    label = column.info["on_erase"]
    if label == "delete":
        assert after == [], where
        return
    values = [(old[column.name], new[column.name]) for old, new in zip(before, after, strict=True)]
    if label == "null":
        assert any(old not in (None, {}, []) for old, _ in values), where  # or this would prove nothing
        assert all(not new or new != old for old, new in values), where
        if column.nullable and column.server_default is None:
            assert all(new is None for _, new in values), where
    elif column.name in {"is_active", "deleted_at", "updated_at"}:
        assert all(new is not None for _, new in values), where
    else:
        assert all(new == old for old, new in values), where


def test_an_erasure_leaves_what_the_labels_say(application, storage):
    ada = person(application, "quillfeather", storage)
    log = application.run("select id from public.user_profile_audit_logs where user_id = :id", id=ada)
    before = {name: rows_of(application, table, ada) for name, table in metadata.tables.items()}
    assert erase(application, ada, "--yes", storage=storage).returncode == 0
    looked_at = 0
    for name, table in metadata.tables.items():
        if name == "profiles_internal.erasures" or before[name] is None:
            continue
        if name == "user_profile_audit_logs":
            after = application.run(
                "select * from public.user_profile_audit_logs where id = any (:ids)", ids=[row.id for row in log]
            )
            after = [row._mapping for row in after]
        else:
            after = rows_of(application, table, ada)
        assert before[name], name
        for column in table.columns:
            assert_as_labelled(column, before[name], after, f"{name}.{column.name}")
            looked_at += 1
    assert looked_at > 120


# Show 3 -------------------------------------------------------------------------------------------------------------------

# Where the id of an erased user may still stand, as docs/how-to/export-and-erase-a-person.md says.
TOMBSTONE = {
    "auth.users.id", "public.user_profiles.id", "public.user_profiles.user_id", "public.user_progress.user_id",
    "profiles_internal.erasures.user_id", "profiles_internal.identity_links.user_id", "public.invoices.buyer",
}  # fmt: skip


def assert_erased(database, user_id, mark, phone, username):
    assert set(traces(database, mark, phone, username)) == {"profiles_internal.identity_links.external_id"}
    assert set(traces(database, str(user_id), user_id.hex)) == TOMBSTONE


@pytest.mark.slow
def test_after_an_erasure_only_what_is_documented_is_left_of_a_person(application, storage):
    ada, bob = person(application, "quillfeather", storage, 10_000, 1_000), person(application, "bramblewick", storage)
    phone, username = application.run(
        "select u.phone, p.username from auth.users as u join public.user_profiles as p on p.user_id = u.id where u.id = :id", id=ada
    )[0]  # fmt: skip
    application.run(
        "insert into public.user_profile_audit_logs (user_id, actor, action, origin, metadata)"
        " values (:bob, :ada, 'updated', 'manual', jsonb_build_object('context', jsonb_build_object('by', 'quillfeather')))",
        ada=ada,
        bob=bob,
    )
    others = traces(application, "bramblewick", str(bob))
    assert len(traces(application, "quillfeather", phone, username, str(ada))) > 60
    started = time.monotonic()
    done = erase(application, ada, "--yes", storage=storage)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,000 files removed" in done.stdout
    assert seconds < 20
    assert_erased(application, ada, "quillfeather", phone, username)
    assert traces(application, "bramblewick", str(bob)) == others
    assert {key.split("/")[1] for key in list(storage.keys())} == {str(bob)}
    assert [f.code for f in examine_full(application)] == ["stale_progress"]  # the other one's
    again = erase(application, ada, "--yes", storage=storage)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_erased(application, ada, "quillfeather", phone, username)


def examine_full(database):
    with database.engine.connect() as connection:
        return examine(connection, full=True).problems


@pytest.mark.parametrize("moment", ["the account is shut", "the rows are erased", "the files are removed"])
def test_an_erasure_that_was_killed_is_ended_by_the_next(application, storage, monkeypatch, moment):
    ada = person(application, "quillfeather", storage)
    phone, username = application.run(
        "select u.phone, p.username from auth.users as u join public.user_profiles as p on p.user_id = u.id where u.id = :id", id=ada
    )[0]  # fmt: skip

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    target = {"the account is shut": "erase_rows", "the rows are erased": None, "the files are removed": "finish"}[
        moment
    ]
    with monkeypatch.context() as patched:
        if target:
            patched.setattr(users, target, die)
        else:
            patched.setattr(DirectoryStorage, "delete_all", die)
        with pytest.raises(Killed), application.engine.connect() as connection:
            users.erase(connection, ada, storage)
    with application.acting_as("authenticated", ada) as connection:
        assert connection.scalar(text("select count(*) from public.user_profiles")) == 0
    done = erase(application, "--pending", storage=storage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_erased(application, ada, "quillfeather", phone, username)
    assert list(storage.keys()) == []
    assert erase(application, "--pending", storage=storage).stdout == "no user waits for an erasure\n"


@pytest.mark.slow
def test_an_erasure_that_is_killed_as_a_process_leaves_all_or_nothing_of_the_rows(application, storage):
    ada = person(application, "quillfeather", storage, sessions=20_000, exports=3)
    for pause in (0.9, 1.1, 1.3):
        process = subprocess.Popen(
            [sys.executable, "-m", "profiles_schema", "users", "erase", str(ada), "--yes", "--storage", str(storage.path),
             "--database-url", application.url],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = application.value("select count(*) from public.sessions where user_id = :id", id=ada)
        keys = application.value("select count(*) from public.user_api_keys where user_id = :id", id=ada)
        assert (left, keys) in {(20_000, 1), (0, 0)}
    assert erase(application, ada, "--yes", storage=storage).returncode == 0
    assert set(traces(application, str(ada))) == TOMBSTONE


@pytest.mark.slow
def test_it_asks_on_a_terminal_and_refuses_without_one(application, storage):
    ada = person(application, "quillfeather", storage)
    before = traces(application, str(ada), "quillfeather")
    done = erase(application, ada, storage=storage)
    assert done.returncode == 2
    assert "Without a terminal, say --yes." in done.stderr
    shown = in_terminal_answering(application.url, "n\n", "users", "erase", str(ada), "--storage", str(storage.path))
    assert 'Erase "quillfeather"' in shown
    assert "This cannot be undone" in shown
    shown = in_terminal_answering(
        application.url, signal.SIGINT, "users", "erase", str(ada), "--storage", str(storage.path)
    )
    assert "interrupted" in shown
    assert traces(application, str(ada), "quillfeather") == before
    shown = in_terminal_answering(application.url, "y\n", "users", "erase", str(ada), "--storage", str(storage.path))
    assert f"erased {ada}" in shown


def in_terminal_answering(url, answer, *arguments):
    """What a terminal shows of a command that is answered, or interrupted, when it asks."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", *arguments], stdin=child, stdout=child, stderr=child, close_fds=True,
        env={**os.environ, "DATABASE_URL": url, "TERM": "dumb"},
    )  # fmt: skip
    os.close(child)
    shown = ""
    answered = False
    while True:
        if answered and answer is signal.SIGINT and not select.select([parent], [], [], 0.2)[0]:
            process.send_signal(answer)  # the first one may have come just before it waited for the answer
            continue
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part.decode()
        if "[y/N]" in shown and not answered:
            answered = True
            if answer is signal.SIGINT:
                process.send_signal(answer)
            else:
                os.write(parent, answer.encode())
    os.close(parent)
    process.wait(60)
    return shown


def test_without_the_storage_an_erasure_of_a_user_with_files_does_not_begin(application, storage):
    ada = person(application, "quillfeather", storage)
    before = traces(application, str(ada), "quillfeather")
    done = erase(application, ada, "--yes")
    assert done.returncode == 2
    assert "--storage, or PROFILES_EXPORT_STORAGE" in done.stderr
    assert traces(application, str(ada), "quillfeather") == before


def test_files_that_cannot_be_removed_keep_the_erasure_pending(application, storage, monkeypatch):
    ada = person(application, "quillfeather", storage)

    def refuse(*_):
        raise StorageFailed

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStorage, "delete_all", refuse)
        assert erase(application, ada, "--yes", storage=storage).returncode == 1
    assert application.value("select finished_at is null from profiles_internal.erasures where user_id = :id", id=ada)
    assert erase(application, "--pending", storage=storage).returncode == 0
    assert list(storage.keys()) == []


# Tables of the application ------------------------------------------------------------------------------------------------


def test_check_names_tables_and_columns_that_nobody_registered(database):
    assert erase(database, "--check").stdout == "every table that refers to users is registered\n"
    database.script(APPLICATION + "alter table public.user_profiles add column birthday date")
    ada = database.sign_up("ada@example.org")
    database.run("update public.user_profiles set birthday = '1815-12-10' where user_id = :id", id=ada)
    database.run("insert into public.posts (author_id, title) values (:id, 'mine')", id=ada)
    for arguments in (["--check"], [ada, "--check"]):
        done = erase(database, *arguments)
        assert done.returncode == 1
        for table, column in (("posts", "author_id"), ("comments", "writer"), ("invoices", "buyer")):
            assert f"public.{table} would be left: it refers to users by {column}." in done.stdout
        assert "public.user_profiles.birthday would be left: it is a column of the application." in done.stdout
    done = erase(database, ada, "--yes")
    assert done.returncode == 1
    assert "left: public.posts: 1 rows by author_id, which is not registered" in done.stdout
    assert "left: public.user_profiles.birthday" in done.stdout
    for table, column in (("posts", "author_id"), ("comments", "writer"), ("invoices", "buyer")):
        assert run(database, "register", table, "--user-column", column, "--on-erase", "delete").returncode == 0
    assert run(
        database, "register", "user_profiles", "--user-column", "user_id", "--export", "birthday", "--on-erase", "birthday=null"
    ).returncode == 0  # fmt: skip
    assert erase(database, "--check").returncode == 0
    assert erase(database, ada, "--yes").returncode == 0
    assert database.value("select count(*) from public.posts") == 0
    assert database.profile(ada).birthday is None
    assert run(database, "unregister", "posts").returncode == 0
    assert erase(database, "--check").returncode == 1


def run(database, *arguments):
    return profiles_schema(database.url, "users", *map(str, arguments))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nowhere", "user_id", (), "delete"), "There is no table public.nowhere."),
        (("posts", "user_id", (), "delete"), "public.posts has no column user_id."),
        (("posts", "author_id", ("text",), "delete"), "public.posts has no column text."),
        (("posts", "author_id", (), "null"), "public.posts.author_id cannot be NULL"),
        (("posts", "author_id", (), "forget"), '"forget" says nothing about an erasure.'),
        (("posts", "author_id", (), "keep: "), '"keep: " says nothing'),
        (("posts", "author_id", (), {"title": "delete"}), '"delete" says nothing'),
        (("user_profiles", "user_id", (), "delete"), "is a table of this package"),
        (("user_profiles", "user_id", (), {"bio": "keep: art"}), "is a table of this package"),
    ],
)
def test_a_registration_that_cannot_work_is_refused(database, arguments, problem):
    database.script(APPLICATION)
    with database.engine.begin() as connection, pytest.raises(InvalidRegistration) as refused:
        data_rights.register(*arguments, bind=connection)
    assert problem in str(refused.value)


def test_outside_a_revision_a_registration_needs_a_connection():
    with pytest.raises(InvalidRegistration, match="give a connection or session as bind"):
        data_rights.register("posts", "author_id")


def test_a_registration_whose_table_has_changed_is_named(application):
    application.script("alter table public.invoices rename column buyer to bought_by")
    done = erase(application, "--check")
    assert done.returncode == 1
    assert "public.invoices has no column buyer." in done.stdout


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_revision_of_the_application_registers_its_table(database, offline):
    database.script(APPLICATION)
    printed = io.StringIO()
    with database.engine.begin() as connection:
        options = {"as_sql": True, "output_buffer": printed} if offline else {}
        context = MigrationContext.configure(connection, dialect_name="postgresql", opts=options)
        with Operations.context(context):
            data_rights.register("posts", "author_id", ["title"], "delete")
            data_rights.register("public.invoices", "buyer", on_erase="keep: O'Hara's \\ tax:law")
            data_rights.unregister("posts")
    if offline:
        database.script(printed.getvalue())
    with database.engine.connect() as connection:
        assert [(each.table, each.kept) for each in data_rights.registered(connection)] == [
            ("public.invoices", "keep: O'Hara's \\ tax:law")
        ]


@pytest.mark.slow
def test_the_applications_own_table_of_users_is_to_be_registered_and_takes_the_user_along(empty):
    application_with_users(empty, "bigint")
    empty.upgrade(identity="public.users")
    empty.script(
        "create table public.orders (id bigserial primary key, user_id bigint references public.users (id) on delete set null, note text)"
    )
    key = empty.value("insert into public.users (email, username) values ('ada@example.org', 'ada') returning id")
    other = empty.value("insert into public.users (email, username) values ('bob@example.org', 'bob') returning id")
    ada = empty.value("select user_id from profiles_internal.identity_links where external_id = :key", key=str(key))
    for user in (key, other):
        empty.run("insert into public.orders (user_id, note) values (:id, 'n')", id=user)
    # A row of somebody else with a number that is, by chance, this user's key.
    empty.run(
        "insert into profiles_internal.quarantine (table_name, row_data, reason)"
        " values ('public.user_progress', jsonb_build_object('points', cast(:key as text)), 'twice')",
        key=str(key),
    )
    done = erase(empty, ada, "--check")
    assert done.returncode == 1
    assert "public.users would be left: it refers to users by id." in done.stdout
    for table, column in (("users", "id"), ("orders", "user_id")):
        assert (
            run(
                empty, "register", table, "--user-column", column, "--export", column, "--on-erase", "delete"
            ).returncode
            == 0
        )
    exported = json.loads(run(empty, "export", ada).stdout)
    assert exported["tables"]["public.orders"] == [{"user_id": key}]
    done = erase(empty, ada, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert empty.run("select id from public.users") == [(other,)]
    assert empty.run("select user_id from public.orders") == [(other,)]
    assert traces(empty, str(ada), "ada@example.org") == {}
    assert empty.value("select count(*) from profiles_internal.quarantine") == 1
    assert profiles_schema(empty.url, "health", "--full").returncode == 0


# Show 4 -------------------------------------------------------------------------------------------------------------------


def export(database, user_id, path):
    done = run(database, "export", user_id, "--out", path)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8")), done


def test_an_export_holds_every_value_and_none_of_another_user(application, tmp_path):
    ada, bob = person(application, "quillfeather", sessions=50, exports=20), person(application, "bramblewick")
    application.script(
        "create table public.letters (id bigserial, sender uuid references auth.users (id), content text)"
    )
    found, done = export(application, ada, tmp_path / "ada.json")
    jsonschema.validate(
        found, json.loads((REPOSITORY / "docs" / "reference" / "user-export.schema.json").read_text(encoding="utf-8"))
    )
    assert (found["format"], found["user_id"]) == ("profiles-schema/user-export/1", str(ada))
    whole = json.dumps(found, ensure_ascii=False)
    assert "bramblewick" not in whole
    assert str(bob) not in whole
    assert SECRET not in whole
    assert "public.letters is not in the export" in done.stderr
    noted = application.value("select id from public.export_history where export_type = 'users export'")
    for table in metadata.tables.values():
        name = f"{table.schema or 'public'}.{table.name}"
        rows = rows_of(application, table, ada)
        if rows is None or name == "profiles_internal.erasures":
            continue
        if name == "public.user_profile_audit_logs":  # the export noted itself afterwards
            rows = [row for row in rows if row["metadata"].get("export") != str(noted)]
        if name == "public.export_history":
            rows = [row for row in rows if row["export_type"] != "users export"]
        if name in BY_CONTENT:
            rows = [row for row in rows if str(ada) in json.dumps(row.get("data") or row.get("row_data"))]
        exported = found["tables"][name]
        assert len(exported) == len(rows), name
        for column in table.columns:
            values = sorted(canonical(plain_of(column, row[column.name])) for row in rows)
            assert sorted(canonical(row[column.name]) for row in exported) == values, f"{name}.{column.name}"
    assert [row["title"] for row in found["tables"]["public.posts"]] == [f"quillfeather title {n}" for n in (1, 2, 3)]
    assert {row["ip"] for row in found["tables"]["public.comments"]} == {"192.0.2.1"}
    assert found["tables"]["public.invoices"] == [{"amount": "12345678.0123456789", "paid_on": "2026-02-03"}]
    (row,) = application.run("select * from public.export_history where id = :id", id=noted)
    assert (row.user_id, row.status, row.file_size_bytes) == (ada, "completed", None)
    assert row.records_count == sum(map(len, found["tables"].values()))
    assert (tmp_path / "ada.json").stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "ada.json"]


def canonical(value):
    """As JSON. PostgreSQL writes no zeros at the end of a fraction of a second, Python does."""
    return re.sub(r"(:\d\d)(\.\d*?)0*(?=[+-]\d\d:)", r"\1\2", json.dumps(value, sort_keys=True))


def plain_of(column, value):
    if column.info["personal"] == "secret" and value is not None:
        return "encrypted"
    if value is None or isinstance(value, (str, int, float, bool, dict, list)):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if type(value).__name__ == "Decimal" else str(value)


def test_an_export_goes_to_stdout_and_leaves_the_tables_as_they_are(application):
    ada = person(application, "quillfeather")
    before = traces(application, "quillfeather")
    done = run(application, "export", ada)
    assert done.returncode == 0
    assert json.loads(done.stdout)["tables"]["public.user_profiles"][0]["bio"] == "quillfeather bio"
    assert traces(application, "quillfeather") == before


def test_nobody_is_exported_or_erased_under_an_id_that_is_nobodys(application):
    for arguments in (["export", uuid.uuid4()], ["erase", uuid.uuid4(), "--yes"], ["erase", uuid.uuid4(), "--check"]):
        done = run(application, *arguments)
        assert done.returncode == 1
        assert "There is no such user" in done.stderr


def test_rows_of_a_user_who_is_gone_are_erased_all_the_same(application):
    ada = person(application, "quillfeather", exports=0)
    application.script(
        "alter table public.posts drop constraint posts_author_id_fkey; alter table public.comments drop constraint comments_writer_fkey; alter table public.invoices drop constraint invoices_buyer_fkey"
    )
    application.run("delete from auth.users where id = :id", id=ada)
    assert run(application, "erase", ada, "--yes").returncode == 0
    assert application.value("select count(*) from public.posts") == 0


def test_wide_columns_that_are_not_converted_are_exported_and_erased(wide):
    ada = wide.sign_up("ada@example.org")
    wide.run(
        "update public.user_profiles set zodiac_sign = 'quillfeather', height_estimate = 'quillfeather' where user_id = :id",
        id=ada,
    )
    exported = json.loads(run(wide, "export", ada).stdout)["tables"]["public.user_profiles"][0]
    assert (exported["zodiac_sign"], exported["height_estimate"]) == ("quillfeather", "quillfeather")
    done = run(wide, "erase", ada, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert traces(wide, "quillfeather", "ada@example.org") == {}
