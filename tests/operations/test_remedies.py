"""Each remedy that health prints, followed to the letter, ends in `health: fine`."""

import re
import shlex
from pathlib import Path

import pytest

from profiles_schema import cli
from profiles_schema.driver import execute_literally
from profiles_schema.operations import health
from support import profiles_schema
from support.followed_users import application

DISABLED = "alter table auth.users disable trigger all; alter table public.user_profiles disable trigger all"
REFUSING = (
    "create function public.refuse() returns trigger language plpgsql as"
    " $$begin raise exception 'no' using errcode = '23514'; end$$;"
    "create trigger refuse before insert on public.user_profiles for each row execute function public.refuse();"
    "insert into auth.users (email) values ('refused@example.org');"
    "drop trigger refuse on public.user_profiles"
)

BROKEN = {
    "not_migrated: the internal schema was dropped": ["drop schema profiles_internal cascade"],
    "not_at_head": ["DOWN"],
    "version_lost": ["delete from profiles_internal.alembic_version"],
    "version_lost and its table": ["drop table profiles_internal.alembic_version"],
    "schema_renamed": ["alter schema profiles_internal rename to internal_old"],
    "table_missing because it was renamed": ["alter table public.user_progress rename to progress_old"],
    "table_missing because it was dropped": ["drop table public.user_progress cascade"],
    "table_missing: a table of the internal schema": ["drop table profiles_internal.jobs"],
    "table_missing: the settings": ["drop table profiles_internal.settings"],
    "column_renamed": ["alter table public.user_profiles rename column bio to biography"],
    "column_renamed that no CHECK is on": ['alter table public.export_history rename column filters to "Filters"'],
    "schema_renamed: that of the users": ["alter schema auth rename to identity"],
    "table_missing because the users were renamed": [
        'alter table auth.users set schema public; alter table public.users rename to "People"'
    ],
    "server_setting": ["alter database DATABASE set session_replication_role = replica"],
    "server_setting of row security": ["alter database DATABASE set row_security = off"],
    "unlogged": ["alter table public.user_api_keys set unlogged"],
    "trigger missing": ["drop trigger profiles_on_auth_user_created on auth.users"],
    "trigger disabled": ["alter table auth.users disable trigger profiles_on_auth_user_updated"],
    "trigger fires for replicas only": ["alter table auth.users enable replica trigger profiles_on_auth_user_created"],
    "trigger that is not ours runs our function": [
        "create trigger again before update on public.user_api_keys for each row"
        " execute function profiles_internal.keep_updated_at()"
    ],
    "foreign_key_off": [DISABLED],
    "orphans": [DISABLED, "delete from auth.users where email = 'ada@example.org'"],
    "drift: row level security off": ["alter table public.user_api_keys disable row level security"],
    "drift: row level security forced": ["alter table public.user_progress force row level security"],
    "drift: row level security on in the internal schema": [
        "alter table profiles_internal.quarantine enable row level security"
    ],
    "drift: policy missing": ['drop policy "Owners can read their own API keys" on public.user_api_keys'],
    "drift: rights missing": ["revoke all on public.user_profiles from authenticated, service_role"],
    "drift: rights too many": ["grant all on all tables in schema public to anon"],
    "drift: rights on schema auth": ["grant create on schema auth to authenticated"],
    "drift: rights on a function": ["grant execute on function profiles_internal.erase_profile(uuid) to anon"],
    "drift: a function that is not ours": [
        "create function profiles_internal.other() returns text language sql as $$ select 'x' $$"
    ],
    "drift: function dropped": ["drop function public.get_my_profile_v2()"],
    "drift: CHECK dropped": [
        "alter table public.user_profiles drop constraint ck_user_profiles_bio_up_to_4000_characters"
    ],
    "drift: unique index dropped": ["drop index public.idx_user_profiles_username_lower"],
    "drift: foreign key dropped": ["alter table public.user_profiles drop constraint fk_user_profiles_user_id_users"],
    "drift: foreign key not validated": [
        "alter table public.user_profiles drop constraint fk_user_profiles_user_id_users, add constraint"
        " fk_user_profiles_user_id_users foreign key (user_id) references auth.users (id) on delete cascade not valid"
    ],
    "drift: column default": ["alter table public.user_profiles alter column language set default 'de'"],
    "drift: column dropped from an empty table": ["alter table public.export_history drop column filters"],
    "drift: column without NOT NULL": ["alter table public.user_profiles alter column language drop not null"],
    "schema: authenticated and public": ["revoke usage on schema public from public, authenticated"],
    "schema: anon and public": ["revoke usage on schema public from public, anon"],
    "schema: everybody and auth": ["revoke usage on schema auth from public, anon, authenticated"],
    "invalid_index": [
        "update pg_index set indisvalid = false where indexrelid = 'public.idx_export_history_status'::regclass"
    ],
    "invalid_index of the application": [
        'create index "Own" on public.user_profiles (bio)',
        "update pg_index set indisvalid = false where indexrelid = 'public.\"Own\"'::regclass",
    ],
    "invalid_index that REINDEX left": [
        "create index idx_export_history_status_ccnew on public.export_history (status)",
        "update pg_index set indisvalid = false where indexrelid = 'public.idx_export_history_status_ccnew'::regclass",
    ],
    "job": [
        "insert into profiles_internal.jobs (kind, state, heartbeat_at)"
        " values ('backfill', 'running', now() - interval '1 hour')"
    ],
    "missing": ["delete from public.user_progress"],
    "failures": [REFUSING],
    "not_erased": [
        "alter table auth.users disable trigger profiles_on_auth_user_updated;"
        "update auth.users set deleted_at = now();"
        "alter table auth.users enable trigger profiles_on_auth_user_updated"
    ],
}


@pytest.fixture
def command(database, monkeypatch, capsys):
    """Runs our command in this process, on `database`."""
    monkeypatch.setenv("DATABASE_URL", database.url)

    def run(*words):
        capsys.readouterr()
        code = cli.main(words)
        return code, capsys.readouterr().out

    return run


def follow(database, command, remedy):
    """Do what a remedy says, and nothing else."""
    if remedy.startswith("profiles-schema "):
        return command(*shlex.split(remedy)[1:])[0]
    with database.administrator.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        execute_literally(connection, remedy)
    return 0


def remedies(said):
    return re.findall(r"^ +next: (.*)$", said, flags=re.MULTILINE)


def code_of(broken):
    return re.match("[a-z_]+", broken)[0]


def cases():
    """The first case of each code is quick enough for every run."""
    seen = set()
    for broken in BROKEN:
        yield pytest.param(broken, marks=[pytest.mark.slow] if code_of(broken) in seen else [])
        seen.add(code_of(broken))


@pytest.mark.parametrize("broken", list(cases()))
def test_a_remedy_followed_to_the_letter_ends_in_fine(database, command, broken):
    database.sign_up("ada@example.org")
    for statement in BROKEN[broken]:
        database.downgrade("-1") if statement == "DOWN" else database.script(
            statement.replace("DATABASE", f'"{database.name}"')
        )
    code, said = command("health", "--full", "--json")
    assert code == 1
    assert f'"code": "{code_of(broken)}"' in said

    # A second problem may come to light only behind the first: the profiles missing from a table that was made anew.
    for _ in range(2):
        code, said = command("health", "--full")
        if code == 0:
            break
        for remedy in dict.fromkeys(remedies(said)):
            assert follow(database, command, remedy) == 0, remedy
    code, said = command("health", "--full")
    assert (code, said.splitlines()[-1]) == (0, "health: fine"), said
    assert command("check")[0] == 0


def test_each_problem_has_its_case():
    """A finding that is no problem may leave it to a person what to do."""
    modules = Path(health.__file__).parent.glob("*.py")
    named = {code for path in modules for code in re.findall(r'problem\(\s*"(\w+)"', path.read_text(encoding="utf-8"))}
    elsewhere = {"not_migrated", "role", "blind", "identity", "dual_write", "owner", "application_role"}
    assert named - elsewhere <= {code_of(broken) for broken in BROKEN}


def test_a_database_that_was_never_migrated(empty):
    (remedy,) = remedies(profiles_schema(empty.url, "health").stdout)
    assert profiles_schema(empty.url, *remedy.split()[1:]).returncode == 0
    assert profiles_schema(empty.url, "health").stdout.endswith("health: fine\n")


def test_a_blind_role(hosted):
    hosted.upgrade()
    hosted.administrator.run("alter role project_owner nobypassrls")
    try:
        (remedy,) = [r for r in remedies(profiles_schema(hosted.url, "health").stdout) if "project_owner" in r]
        hosted.administrator.run(remedy)
        assert profiles_schema(hosted.url, "health").stdout.endswith("health: fine\n")
    finally:
        hosted.administrator.run("alter role project_owner bypassrls")


@pytest.mark.slow
def test_a_role_that_is_missing(database, command):
    database.script("alter role service_role rename to service_role_before")
    try:
        said = profiles_schema(database.url, "health").stdout
        assert "The role service_role does not exist." in said
        for remedy in dict.fromkeys(remedies(said)):
            assert follow(database, command, remedy) == 0
        assert profiles_schema(database.url, "health").stdout.endswith("health: fine\n")
    finally:
        database.script(
            "drop owned by service_role; drop role service_role; alter role service_role_before rename to service_role"
        )


@pytest.mark.slow
def test_users_of_an_own_table_that_do_not_follow(empty):
    application(empty)
    empty.upgrade(identity="public.users")
    empty.script(
        "drop trigger profiles_identity_inserted on public.users; insert into public.users (email) values ('ada@example.org')"
    )
    said = profiles_schema(empty.url, "health", "--full").stdout
    assert "Users do not follow public.users" in said
    for remedy in remedies(said):
        assert profiles_schema(empty.url, *remedy.split()[1:]).returncode == 0
    assert profiles_schema(empty.url, "health", "--full").stdout.endswith("health: fine\n")


@pytest.mark.slow
def test_a_broken_dual_write(wide):
    wide.sign_up("ada@example.org")
    wide.script("alter table public.user_profiles disable trigger zz_dual_write")
    said = profiles_schema(wide.url, "health").stdout
    assert "in step is missing, disabled or changed" in said
    for remedy in remedies(said):
        assert profiles_schema(wide.url, *remedy.split()[1:]).returncode == 0
    assert profiles_schema(wide.url, "health").stdout.endswith("health: fine\n")


def test_a_function_of_another_owner(database):
    database.script("create role owner_of_one; grant create on schema profiles_internal to owner_of_one")
    try:
        definer = database.value("select oid::regprocedure::text from pg_proc where prosecdef order by 1 limit 1")
        database.script(f"alter function {definer} owner to owner_of_one")
        (remedy,) = remedies(profiles_schema(database.url, "health").stdout)
        if remedy.startswith("profiles-schema "):
            assert profiles_schema(database.url, *remedy.split()[1:]).returncode == 0
        else:
            database.script(remedy)
        assert profiles_schema(database.url, "health").stdout.endswith("health: fine\n")
    finally:
        database.script("drop owned by owner_of_one; drop role owner_of_one")


def test_a_foreign_key_of_the_application_that_is_not_valid(database):
    database.script(
        "create table public.orders (id int primary key, user_id uuid);"
        "alter table public.orders add foreign key (user_id) references public.user_profiles (user_id) not valid"
    )
    (remedy,) = remedies(profiles_schema(database.url, "health").stdout)
    database.script(remedy)
    assert remedies(profiles_schema(database.url, "health").stdout) == []
