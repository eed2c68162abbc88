"""A user who is soft-deleted in auth.users is erased at once, and a failure of that is recorded and repaired."""

import psycopg2

from profiles_schema.operations.backfill import backfill
from support.health import finding_codes


def repaired(database):
    with database.engine.connect() as connection:
        progress = list(backfill(connection))[-1]
        return progress.counts.get("repaired", 0) + progress.counts.get("erased", 0)


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
    assert "failures" in finding_codes(database)
    assert repaired(database) == 3
    assert database.value("select count(*) from public.user_profiles where display_name is not null") == 0
    assert finding_codes(database, full=True) == set()


def test_an_erasure_that_no_trigger_saw_is_found_and_repaired(database):
    user = database.sign_up("ada@example.org")
    database.run("alter table auth.users disable trigger profiles_on_auth_user_updated")
    soft_delete(database, user)
    database.run("alter table auth.users enable trigger profiles_on_auth_user_updated")
    assert finding_codes(database, full=True) == {"not_erased"}
    assert repaired(database) == 1
    assert finding_codes(database, full=True) == set()


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


def test_users_inserted_as_deleted_ones_get_no_profile(database):
    user = database.sign_up("b1946ac92492d2347c6235b4d2611184", deleted_at="2026-01-01")
    assert database.profile(user) is None
    assert finding_codes(database, full=True) == set()
