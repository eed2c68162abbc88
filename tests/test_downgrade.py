"""Downgrades keep data, or say what they would drop and stop before anything has changed."""

import pytest
from support import ENVELOPE, snapshot

from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.schema.catalog import differences

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


def test_with_data_loss_allowed_nothing_but_roles_remains_and_the_way_up_is_open(filled):
    catalog = snapshot(filled)
    filled.downgrade("base", allow_data_loss="yes")
    assert filled.run(EVERYTHING) == filled.before
    assert filled.value("select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')") == 3
    filled.upgrade()
    assert differences(catalog, snapshot(filled)) == []


def test_a_downgrade_that_drops_no_table_needs_no_permission(filled):
    filled.downgrade("0008_create_functions")
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


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("create view public.names as select username from public.user_profiles", "names"),
        ("create table public.orders (user_id uuid references public.user_profiles (user_id))", "orders"),
        ("create view public.busy as select user_id from public.user_progress", "busy"),
    ],
    ids=["view", "foreign key", "view on progress"],
)
def test_what_the_application_hangs_on_a_table_stops_its_drop_with_one_clear_error(empty, own, name):
    empty.upgrade()
    empty.script(own)
    with pytest.raises(ProfilesSchemaError) as refused:
        empty.downgrade("base")
    assert name in str(refused.value)
    stopped_at = at(empty)
    assert stopped_at in {"0003_create_user_profiles", "0004_create_user_progress"}
    # Nothing of that revision is undone, and those above it can be done again.
    assert empty.value("select to_regclass('public.user_profiles')") is not None
    assert empty.value(f"select count(*) from public.{name}") == 0
    empty.upgrade()
    assert empty.profile(empty.sign_up("ada@example.org")).username == "ada"


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
