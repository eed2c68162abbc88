"""What an independent review found, each as it was reproduced."""

import time

import psycopg2
import pytest

from profiles_schema.errors import MigrationFailed
from profiles_schema.operations.backfill import backfill
from profiles_schema.operations.health import examine
from support import drift


def repaired(database):
    with database.engine.connect() as connection:
        progress = list(backfill(connection))[-1]
        return progress.repaired + progress.erased


def codes(database, **options):
    with database.engine.connect() as connection:
        return {finding.code for finding in examine(connection, **options).findings}


def soft_delete(database, *users):
    database.run(
        "update auth.users set deleted_at = now(), email = 'hash' where id = any (cast(:ids as uuid[]))",
        ids=[str(u) for u in users],
    )


def test_a_bulk_erasure_behind_a_lock_is_on_record_and_repaired(database):
    users = [database.sign_up(f"user{n}@example.org", raw_user_meta_data={"name": "secret"}) for n in range(3)]
    holder = psycopg2.connect(database.url)
    holder.cursor().execute("select 1 from public.user_profiles for update")
    soft_delete(database, *users)
    holder.close()
    recorded = database.run("select action from public.user_profile_audit_logs where action in ('failed', 'skipped')")
    assert sorted(recorded) == [("failed",), ("skipped",), ("skipped",)]
    assert "failures" in codes(database)
    assert repaired(database) == 3
    assert database.value("select count(*) from public.user_profiles where display_name is not null") == 0
    assert codes(database, full=True) == set()


def test_an_erasure_that_no_trigger_saw_is_found_and_repaired(database):
    user = database.sign_up("ada@example.org")
    database.run("alter table auth.users disable trigger profiles_on_auth_user_updated")
    soft_delete(database, user)
    database.run("alter table auth.users enable trigger profiles_on_auth_user_updated")
    assert codes(database, full=True) == {"not_erased"}
    assert repaired(database) == 1
    assert codes(database, full=True) == set()


def test_erasure_leaves_a_sessions_table_of_another_kind_alone(empty):
    empty.script("create table public.sessions (sid text primary key, user_id uuid, payload text)")
    empty.upgrade()
    user = empty.sign_up("ada@example.org")
    empty.run("insert into public.sessions values ('s', :id, 'invoice')", id=user)
    soft_delete(empty, user)
    assert empty.profile(user).email is None
    assert empty.value("select count(*) from public.sessions") == 1


def test_what_hangs_on_sessions_does_not_keep_the_rest_from_being_erased(database):
    user = database.sign_up("ada@example.org")
    database.run("insert into public.sessions (user_id) values (:id)", id=user)
    database.script(
        "create table public.orders (session uuid references public.sessions); insert into public.orders select id from public.sessions"
    )
    soft_delete(database, user)
    assert (database.profile(user).email, database.profile(user).is_active) == (None, False)
    assert database.value("select error_code from public.user_profile_audit_logs where action = 'failed'") == "23503"


def test_an_erasure_ends_exports_that_are_under_way(database):
    user = database.sign_up("ada@example.org")
    for target in ("pending", "processing"):
        database.run(
            "insert into public.export_history (user_id, export_type, export_format) values (:id, 'all', 'json')",
            id=user,
        )
        if target == "processing":
            database.run(
                "update public.export_history set status = 'processing' where id = (select max(id::text)::uuid from public.export_history)"
            )
    soft_delete(database, user)
    assert {s for (s,) in database.run("select status from public.export_history")} == {"expired", "failed"}


def test_progress_made_after_the_sessions_counts_them(database):
    user = database.sign_up("ada@example.org")
    database.run(
        "insert into public.sessions (user_id, ended_at, qa_attempts) select :id, now(), 4 from generate_series(1, 5)",
        id=user,
    )
    database.run("delete from public.user_progress")
    with database.engine.connect() as connection:
        list(backfill(connection))
    assert database.run("select total_sessions, total_questions_answered from public.user_progress") == [(5, 20)]


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ("create function public.get_user_profile_stats() returns jsonb language sql as 'select null::jsonb'", "get_user_profile_stats()"),
        ("create function public.gen_available_username(text) returns text language sql as 'select 1::text'", "gen_available_username(text)"),
    ],
)  # fmt: skip
def test_functions_of_our_names_are_set_aside_and_come_back(empty, found, name):
    body = f"select prosrc from pg_proc where oid = to_regprocedure('public.{name}')"
    empty.script(found)
    before = empty.value(body)
    empty.answering = ("replace",)
    empty.upgrade()
    assert drift(empty) == []
    assert empty.value(body) != before
    empty.downgrade("base")
    assert empty.value(body) == before


def test_a_table_with_our_columns_and_nothing_else_is_closed_like_any_other(database, empty):
    columns = database.value(
        "select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)"
        " from pg_attribute as a where a.attrelid = 'public.user_profiles'::regclass and a.attnum > 0"
    )
    empty.script(
        f"create table public.user_profiles ({columns}); create policy open on public.user_profiles using (true);"
        "grant all on public.user_profiles to public"
    )
    empty.answering = ("replace",)
    empty.upgrade()
    assert drift(empty) == []
    assert empty.value("select count(*) from pg_policy where polname = 'open'") == 0


def test_sessions_with_other_types_get_no_roll_up(empty):
    empty.script(
        "create table public.sessions (id bigserial, user_id bigint, started_at timestamptz, ended_at timestamptz,"
        " duration_minutes int, descriptions_generated int, images_processed int, qa_attempts int, vocabulary_learned int)"
    )
    empty.upgrade()
    empty.run("insert into public.sessions (user_id) values (7)")
    empty.run("update public.sessions set ended_at = now()")
    assert "sessions" in codes(empty)


def test_one_bad_row_costs_an_import_no_more_than_its_own_thousand(database):
    database.run("alter table public.user_profiles add constraint none check (email <> 'bad@example.org')")

    def import_users(first, last):
        started = time.monotonic()
        database.run(
            "insert into auth.users (email) select case when g = :last then 'bad' else 'user' || g end || '@example.org'"
            " from generate_series(cast(:first as int), cast(:last as int)) as g",
            first=first, last=last,
        )  # fmt: skip
        return time.monotonic() - started

    small, large = import_users(1, 1000), import_users(10_001, 16_000)
    assert database.value("select count(*) from public.user_profiles") == 6998
    # Linear would be 6 at most, quadratic 36.
    assert large / small < 15


def test_users_inserted_as_deleted_ones_get_no_profile(database):
    user = database.sign_up("b1946ac92492d2347c6235b4d2611184", deleted_at="2026-01-01")
    assert database.profile(user) is None
    assert codes(database, full=True) == set()


def test_health_finds_the_newest_users_of_ids_that_grow_with_time(database):
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        "insert into auth.users (id, email)"
        " select ('01900000-0000-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, g || '@example.org' from generate_series(1, 3500) as g;"
        "alter table auth.users enable trigger profiles_on_auth_user_created;"
        "select profiles_internal.create_profiles(array(select to_jsonb(u) from auth.users as u order by id limit 3000))"
    )
    assert all("missing" in codes(database) for _ in range(3))


def test_a_foreign_policy_and_a_foreign_owner_are_said(database):
    database.script(
        "create policy leak on public.user_profiles for select to authenticated using (true);"
        "create role stranger_of_definers; grant all on schema profiles_internal to stranger_of_definers;"
        "alter function profiles_internal.on_auth_user_created() owner to stranger_of_definers"
    )
    try:
        assert {"policy", "owner"} <= codes(database)
    finally:
        database.script(
            "reassign owned by stranger_of_definers to postgres; drop owned by stranger_of_definers; drop role stranger_of_definers"
        )


def test_quoted_identifiers_are_no_drift(database):
    database.script(f'alter database "{database.name}" set quote_all_identifiers = on')
    assert codes(database) == set()


def test_a_service_whose_subject_is_no_user_is_audited(database):
    user = database.sign_up("ada@example.org")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("select set_config('request.jwt.claims', '{\"sub\": \"worker-7\"}', true)")
        connection.exec_driver_sql("set local role service_role")
        connection.exec_driver_sql("update public.user_profiles set role = 'admin'")
    assert database.run("select user_id, action, changed from public.user_profile_audit_logs") == [
        (user, "updated", ["role"])
    ]


def test_nobody_can_take_a_reserved_username(database):
    user = database.sign_up("ada@example.org")
    with database.acting_as("authenticated", user) as connection, pytest.raises(Exception, match="reserved"):
        connection.exec_driver_sql("update public.user_profiles set username = 'support'")
    database.run("update public.user_profiles set username = 'support'")


def test_a_role_of_the_applications_own_may_act_for_its_user(database):
    user = database.sign_up("ada@example.org")
    database.script("create role member_of_ours; grant authenticated to member_of_ours")
    try:
        with database.acting_as("member_of_ours", user) as connection:
            assert connection.exec_driver_sql("select (public.get_my_profile_v2()).username").scalar() == "ada"
    finally:
        database.script("drop role member_of_ours")


def test_a_downgrade_does_not_drop_what_was_committed_while_it_waited(empty):
    empty.upgrade("0007")
    user = empty.value("insert into auth.users (email) values ('ada@example.org') returning id")
    writer = psycopg2.connect(empty.url)
    writer.cursor().execute("insert into public.user_progress (user_id, total_points) values (%s, 4711)", (str(user),))
    import threading

    threading.Timer(1.0, writer.commit).start()
    with pytest.raises(MigrationFailed, match="user_progress"):
        empty.downgrade("0006", lock_timeout="5000")
    assert empty.value("select total_points from public.user_progress") == 4711
    writer.close()


def test_a_sign_up_with_one_snapshot_gets_its_profile_though_the_name_was_taken_since(database):
    first = psycopg2.connect(database.url)
    with first.cursor() as cursor:
        cursor.execute("begin isolation level repeatable read; select 1")
        database.sign_up("same@example.org")
        cursor.execute(
            "insert into auth.users (id, email, is_sso_user) values ('00000000-0000-4000-8000-0000456789ab', 'same@example.org', true)"
        )
        cursor.execute("commit")
    first.close()
    assert (
        database.value("select username from public.user_profiles where username like 'same%456789ab'")
        == "same_456789ab"
    )
