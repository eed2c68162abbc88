"""Downgrades keep data, or say what they would drop and stop before anything has changed."""

import threading

import psycopg2
import pytest
from alembic.script import ScriptDirectory

from profiles_schema.errors import DependentsRefused, MigrationFailed, ProfilesSchemaError
from profiles_schema.migrations import paths
from profiles_schema.migrations.dependents import refuse_dependents
from profiles_schema.schema.catalog import differences
from support import ENVELOPE, profiles_schema, snapshot

EVERYTHING = (
    "select 'schema', nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp'"
    " union all select 'relation', oid::regclass::text from pg_class where oid >= 16384 and relpersistence <> 't'"
    " union all select 'function', oid::regprocedure::text from pg_proc where oid >= 16384"
    " union all select 'type', oid::regtype::text from pg_type where oid >= 16384 order by 1, 2"
)
FILL = """
insert into public.user_api_keys (user_id, openai_api_key) select user_id, '{key}' from public.user_profiles;
insert into public.export_history (user_id, export_type, export_format) select user_id, 'all', 'csv' from public.user_profiles;
insert into public.sessions (user_id, ended_at) select user_id, now() from public.user_profiles;
""".replace("{key}", ENVELOPE)
HOLDING = {
    "auth.users": 2, "public.user_profiles": 2, "public.user_progress": 2, "public.sessions": 2,
    "public.user_api_keys": 2, "public.export_history": 2,
}  # fmt: skip


def at(database):
    return database.value("select version_num from profiles_internal.alembic_version")


@pytest.fixture
def filled(empty):
    """A plain database at head with two users and all they can have; ``before`` is what was there first."""
    empty.before = empty.run(EVERYTHING)
    empty.upgrade()
    for name in ("ada", "grace"):
        empty.sign_up(f"{name}@example.org")
    empty.script(FILL)
    return empty


@pytest.mark.parametrize("option", [{}, {"allow_data_loss": "no"}])
def test_a_downgrade_that_would_drop_rows_is_refused_before_anything_changes(filled, option):
    head, catalog = at(filled), snapshot(filled)
    with pytest.raises(ProfilesSchemaError) as refused:
        filled.downgrade("base", **option)
    assert at(filled) == head
    assert snapshot(filled) == catalog
    message = str(refused.value)
    for table, rows in HOLDING.items():
        assert f"{table} ({rows} rows)" in message, message
    assert "-x allow-data-loss=yes" in message


def test_after_a_refusal_sign_ups_still_get_their_profile(filled):
    with pytest.raises(ProfilesSchemaError):
        filled.downgrade("base")
    assert filled.profile(filled.sign_up("hopper@example.org")).username == "hopper"


@pytest.mark.slow
def test_with_data_loss_allowed_nothing_but_roles_remains_and_the_way_up_is_open(filled):
    catalog = snapshot(filled)
    filled.downgrade("base", allow_data_loss="yes")
    assert filled.run(EVERYTHING) == filled.before
    assert filled.value("select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')") == 3
    filled.upgrade()
    assert differences(catalog, snapshot(filled)) == []


def test_a_downgrade_that_drops_no_table_needs_no_permission(filled):
    filled.downgrade("0011_create_functions")
    assert filled.value("select count(*) from public.user_profiles") == 2
    filled.upgrade()
    assert filled.value("select count(*) from public.user_profiles") == 2


def test_the_users_of_a_hosted_project_do_not_count(hosted):
    hosted.sign_up("ada@example.org")
    hosted.upgrade()
    with pytest.raises(ProfilesSchemaError) as refused:
        hosted.downgrade("base")
    assert "auth.users" not in str(refused.value)
    hosted.downgrade("base", allow_data_loss="yes")
    assert hosted.value("select count(*) from auth.users") == 1


OF_THE_APPLICATION = {
    "view": ("create view public.names as select username from public.user_profiles", "view names"),
    "materialized view": (
        "create materialized view public.names as select username from public.user_profiles", "materialized view names",
    ),
    "foreign key": (
        "create table public.orders (user_id uuid references public.user_profiles (user_id))",
        "constraint orders_user_id_fkey on table orders",
    ),
    "foreign key to users": (
        "create table public.orders (user_id uuid references auth.users)", "constraint orders_user_id_fkey on table orders",
    ),
    "view on progress": ("create view public.busy as select user_id from public.user_progress", "view busy"),
    "view on a view": (
        "create view public.names as select username from public.user_profiles; create view public.short as select from names",
        "view short",
    ),
    "function": (
        "create function public.one() returns setof public.user_profiles language sql as"
        " 'select * from public.user_profiles limit 1'",
        "function one()",
    ),
    "policy": (
        "create table public.notes (owner uuid); create policy own on public.notes using (owner = auth.uid())",
        "policy own on table notes",
    ),
    "default": ("create table public.notes (owner uuid default auth.uid())", "default value for column owner of table notes"),
    "column": ("create table public.notes (old public.user_profiles)", "column old of table notes"),
    "check": (
        "create table public.notes (name text check (public.gen_available_username(name) is not null))",
        "constraint notes_name_check on table notes",
    ),
    "function of a row": (
        "create function public.f(public.user_progress) returns int language sql immutable as 'select 1'", "function f(user_progress)",
    ),
    "trigger that runs our function": (
        "create table public.orders (id int, updated_at timestamptz); create trigger touch before update on public.orders"
        " for each row execute function profiles_internal.keep_updated_at()",
        "trigger touch on table orders",
    ),
    "trigger on a table of ours that runs our function": (
        "create trigger touch before update on public.user_api_keys for each row execute function profiles_internal.keep_updated_at()",
        "trigger touch on table user_api_keys",
    ),
    "trigger on users that runs our function": (
        "create trigger touch before update on auth.users for each row execute function profiles_internal.keep_updated_at()",
        "trigger touch on table auth.users",
    ),
    "default of a column added to a table of ours": (
        "alter table public.user_progress add column doc jsonb default profiles_internal.merge_patch('{}', '{}')",
        "default value for column doc of table user_progress",
    ),
    "default by a function of ours": (
        "create table public.notes (doc jsonb default profiles_internal.merge_patch('{}', '{}'))",
        "default value for column doc of table notes",
    ),
    "generated column": (
        "create table public.notes (a jsonb, b jsonb generated always as (profiles_internal.merge_patch(a, a)) stored)",
        "default value for column b of table notes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_THE_APPLICATION)
def test_what_the_application_hangs_on_ours_refuses_a_downgrade_before_its_first_step(database, kind):
    own, named = OF_THE_APPLICATION[kind]
    database.script(own)
    database.sign_up("ada@example.org")
    head, catalog = at(database), snapshot(database)
    with pytest.raises(DependentsRefused) as refused:
        database.downgrade("base", allow_data_loss="yes")
    assert named in str(refused.value).replace("public.", ""), str(refused.value)
    assert at(database) == head
    assert snapshot(database) == catalog
    assert database.value("select count(*) from public.user_progress") == 1


@pytest.mark.parametrize(
    "kind", ["view on a view", "foreign key", "policy", "trigger that runs our function", "generated column"]
)
def test_the_printed_statements_clear_the_way_down(database, kind):
    database.script(OF_THE_APPLICATION[kind][0])
    with pytest.raises(DependentsRefused) as refused:
        database.downgrade("base", allow_data_loss="yes")
    database.script(str(refused.value).partition("\n")[2])
    database.downgrade("base", allow_data_loss="yes")
    assert database.value("select to_regnamespace('profiles_internal')") is None


def test_what_is_attached_to_our_own_tables_goes_with_them(database):
    """Policies, triggers, indexes and columns that the application added to a table of ours hold nothing up."""
    database.script(
        "create policy mine on public.user_profiles using (user_id = auth.uid());"
        "create index mine on public.user_profiles (timezone);"
        "alter table public.user_profiles add column mine uuid default auth.uid(), add check (mine is null or mine = user_id);"
        "create table public.orders (user_id uuid); create view public.open_orders as select * from public.orders"
    )
    database.downgrade("base", allow_data_loss="yes")
    assert database.value("select to_regclass('public.user_profiles')") is None
    assert database.value("select count(*) from public.open_orders") == 0


def test_a_downgrade_that_stays_above_what_is_needed_is_not_refused(database):
    database.script(OF_THE_APPLICATION["view"][0])
    database.downgrade("0006_create_user_profiles", allow_data_loss="yes")
    assert database.value("select count(*) from public.names") == 0
    with pytest.raises(DependentsRefused):
        database.downgrade("-1", allow_data_loss="yes")


def test_of_an_adopted_table_only_what_was_added_counts(empty):
    empty.upgrade("0005_create_sign_up_functions")
    empty.script(
        "create table public.members (user_id uuid primary key references auth.users on delete cascade, bio text);"
        "create view public.bios as select user_id, bio from public.members"
    )
    empty.upgrade(adopt_table="members")
    empty.script("create view public.zones as select timezone from public.user_profiles")
    with pytest.raises(DependentsRefused) as refused:
        empty.downgrade("base", allow_data_loss="yes")
    assert "view public.zones" in str(refused.value)
    assert "bios" not in str(refused.value)
    empty.script(str(refused.value).partition("\n")[2])
    with empty.engine.connect() as connection:
        steps = ScriptDirectory.from_config(paths.config())._downgrade_revs("base", at(empty))
        refuse_dependents(connection, list(steps))


@pytest.mark.parametrize("kind", ["plain", "wide"])
def test_nothing_of_ours_counts_as_the_applications_whatever_the_target(request, kind):
    database = request.getfixturevalue({"plain": "database"}.get(kind, kind))
    script = ScriptDirectory.from_config(paths.config())
    head = at(database)
    with database.engine.connect() as connection:
        for target in [
            "base",
            *(revision.revision for revision in script.walk_revisions() if revision.revision != head),
        ]:
            refuse_dependents(connection, list(script._downgrade_revs(target, head)))


def test_a_downgrade_cut_off_behind_its_last_step_is_finished_by_the_next(empty):
    before = empty.run(EVERYTHING)
    empty.upgrade()
    with empty.engine.connect() as reader:
        # The last thing is to drop the version table.
        reader.exec_driver_sql("select from profiles_internal.alembic_version")
        with pytest.raises(ProfilesSchemaError, match="lock timeout"):
            empty.downgrade("base")
    assert empty.run(EVERYTHING) != before
    empty.downgrade("base")
    assert empty.run(EVERYTHING) == before


def test_a_downgrade_up_is_refused_in_a_plain_sentence(database):
    refused = profiles_schema(database.url, "downgrade", "+1")
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: +1 leads up, not down. Give -1 for one step, or a revision.\n",
    )


def test_a_downgrade_does_not_drop_what_was_committed_while_it_waited(empty):
    empty.upgrade("0007")
    user = empty.value("insert into auth.users (email) values ('ada@example.org') returning id")
    writer = psycopg2.connect(empty.url)
    writer.cursor().execute("insert into public.user_progress (user_id, total_points) values (%s, 4711)", (str(user),))
    threading.Timer(1.0, writer.commit).start()
    with pytest.raises(MigrationFailed, match="user_progress"):
        empty.downgrade("0006", lock_timeout="5000")
    assert empty.value("select total_points from public.user_progress") == 4711
    writer.close()
