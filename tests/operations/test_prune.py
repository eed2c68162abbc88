"""users prune and audit purge: what is old goes in batches, what is not stays."""

import json
from datetime import timedelta

import pytest

from profiles_schema.operations.prune import Unseen, plan
from profiles_schema.storage import DirectoryStorage, export_key
from support import ENVELOPE, profiles_schema

OLD = "2020-01-01"


def age(database, user, moment=OLD):
    """Make a user who was made then, and not seen since."""
    database.run(
        "update auth.users set created_at = :then, last_sign_in_at = null where id = :id", then=moment, id=user
    )
    database.script(
        "alter table public.user_profiles disable trigger user; alter table public.user_progress disable trigger user"
    )
    database.run(
        "update public.user_profiles set updated_at = :then, last_login = null,"
        " last_interaction_at = extract(epoch from cast(:then as timestamptz)) where user_id = :id",
        then=moment,
        id=user,
    )
    database.run("update public.user_progress set updated_at = :then where user_id = :id", then=moment, id=user)
    database.script(
        "alter table public.user_profiles enable trigger user; alter table public.user_progress enable trigger user"
    )


def prune(database, *arguments, storage=None):
    return profiles_schema(
        database.url, "users", "prune", *arguments,
        environment={"PROFILES_EXPORT_STORAGE": str(storage.path)} if storage else None,
    )  # fmt: skip


def erased(database):
    return {
        row[0] for row in database.run("select user_id from profiles_internal.erasures where finished_at is not null")
    }


@pytest.fixture
def old(database):
    """Users who were made long ago, by what has been seen of them since."""
    users = {
        name: database.sign_up(f"{name}@example.org")
        for name in ("unseen", "signed_in", "edited", "learning", "chatting", "staff")
    }
    users |= {name: database.sign_up(is_anonymous=True) for name in ("anonymous", "anonymous_seen")}
    users["new"] = database.sign_up("new@example.org")
    users["new_anonymous"] = database.sign_up(is_anonymous=True)
    for name, user in users.items():
        if not name.startswith("new"):
            age(database, user)
    database.run("update auth.users set last_sign_in_at = now() where id = :id", id=users["signed_in"])
    database.run("update auth.users set last_sign_in_at = now() where id = :id", id=users["anonymous_seen"])
    database.run("update public.user_profiles set bio = 'new' where user_id = :id", id=users["edited"])
    database.run(
        "insert into public.sessions (user_id, started_at, ended_at) values (:id, now(), now())", id=users["learning"]
    )
    database.run(
        "update public.user_profiles set last_interaction_at = extract(epoch from now()) where user_id = :id",
        id=users["chatting"],
    )
    database.script("alter table public.user_profiles disable trigger user")
    database.run("update public.user_profiles set role = 'admin' where user_id = :id", id=users["staff"])
    database.script("alter table public.user_profiles enable trigger user")
    return users


def test_the_anonymous_ones_who_are_old_and_unseen_are_erased(database, old):
    dry = prune(database, "--anonymous", "--older-than", "30d", "--dry-run", "--json")
    assert (dry.returncode, json.loads(dry.stdout)["users"]) == (0, 1)
    assert json.loads(dry.stdout)["sample"] == [str(old["anonymous"])]
    assert database.value("select count(*) from profiles_internal.erasures") == 0
    done = prune(database, "--anonymous", "--older-than", "30d", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["erased"] == 1
    assert erased(database) == {old["anonymous"]}
    assert json.loads(prune(database, "--anonymous", "--older-than", "30d", "--yes", "--json").stdout)["erased"] == 0


def test_users_of_whom_nothing_was_seen_are_erased_and_every_sign_of_life_keeps_one(database, old):
    done = prune(database, "--inactive-since", "3y", "--yes")
    assert done.returncode == 0, done.stderr
    assert erased(database) == {old["unseen"], old["anonymous"]}
    assert database.profile(old["unseen"]).email is None
    assert database.profile(old["signed_in"]).email == "signed_in@example.org"


def test_files_of_exports_go_along(database, old, tmp_path):
    storage = DirectoryStorage(tmp_path)
    export = database.value(
        "insert into public.export_history (user_id, export_type, export_format) values (:id, 'sessions', 'csv') returning id",
        id=old["unseen"],
    )
    upload = storage.upload(export_key(old["unseen"], export))
    upload.publish()
    database.run("update public.export_history set status = 'processing'")
    database.run("update public.export_history set status = 'completed', file_size_bytes = 1")
    assert prune(database, "--inactive-since", "3y", "--yes").returncode == 2  # without the storage
    assert erased(database) == set()
    done = prune(database, "--inactive-since", "3y", "--yes", storage=storage)
    assert done.stdout == "erased 2 users, removed 1 file\n", done.stderr
    assert list(storage.keys()) == []


def test_a_table_that_nobody_registered_keeps_a_prune_from_beginning(database, old):
    database.script("create table public.notes (owner uuid references auth.users (id))")
    assert prune(database, "--inactive-since", "3y", "--dry-run").returncode == 1
    done = prune(database, "--inactive-since", "3y", "--yes")
    assert (done.returncode, erased(database)) == (1, set())
    assert "public.notes.owner" in done.stderr


def test_one_who_cannot_be_erased_does_not_keep_the_others(database, old):
    database.script(
        "create table public.notes (owner uuid references auth.users (id));"
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise 'no' using errcode = 'P0001'; end $$;"
        "create trigger refuse before delete on public.notes for each row execute function public.refuse()"
    )
    database.run("insert into public.notes values (:id)", id=old["unseen"])
    assert (
        profiles_schema(
            database.url, "users", "register", "notes", "--user-column", "owner", "--on-erase", "delete"
        ).returncode
        == 0
    )
    done = prune(database, "--inactive-since", "3y", "--yes")
    assert done.returncode == 1
    assert "failed for 1 user: SQLSTATE P0001" in done.stdout
    assert erased(database) == {old["anonymous"]}
    assert database.value(
        "select finished_at is null from profiles_internal.erasures where user_id = :id", id=old["unseen"]
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["--anonymous"], ["--older-than", "30d"], ["--anonymous", "--inactive-since", "3y"], ["--inactive-since", "soon"],
     ["--inactive-since", "0d"], ["--inactive-since", "3y"]],
)  # fmt: skip
def test_what_says_too_little_or_cannot_ask_is_wrong_usage(database, arguments):
    assert prune(database, *arguments).returncode == 2


def test_audit_purge_removes_what_is_older_than_the_setting(database):
    ada = database.sign_up("ada@example.org")
    database.run(
        "insert into public.user_profile_audit_logs (user_id, action, origin, created_at)"
        " select :id, 'updated', 'manual', now() - n * interval '1 day' from generate_series(1, 500) as n",
        id=ada,
    )
    dry = profiles_schema(database.url, "audit", "purge", "--dry-run")
    assert dry.stdout == "136 rows older than 365 days; nothing was changed\n"
    done = profiles_schema(database.url, "audit", "purge", "--json")
    assert json.loads(done.stdout) == {"keep_days": 365, "purged": 136}
    assert profiles_schema(database.url, "settings", "set", "audit_keep_days", "100").returncode == 0
    assert profiles_schema(database.url, "audit", "purge").stdout == "purged 265 rows older than 100 days\n"
    assert (
        profiles_schema(database.url, "audit", "purge", "--keep-days", "50").stdout
        == "purged 50 rows older than 50 days\n"
    )
    assert database.value("select count(*) from public.user_profile_audit_logs") == 49
    assert database.value("select min(created_at) > now() - interval '51 days' from public.user_profile_audit_logs")


def test_a_user_whose_key_was_used_lately_is_not_pruned(database):
    user = database.sign_up("key@example.org")
    database.run(
        "insert into public.user_provider_keys (user_id, provider, label, envelope) values (:id, 'mistral', 'x', :key)",
        id=user,
        key=ENVELOPE,
    )
    database.run("update public.user_provider_keys set last_used_at = now()")
    age(database, user)
    unseen = Unseen(timedelta(days=365), anonymous=False)
    with database.engine.connect() as connection:
        assert plan(connection, unseen).users == 0


@pytest.mark.parametrize("moment", ["updated_at", "refreshed_at"])
def test_a_user_who_refreshes_a_token_is_not_pruned(database, moment):
    """On Supabase an app that stays signed in moves its session, and not last_sign_in_at."""
    database.script(
        "create table auth.sessions (id uuid primary key default gen_random_uuid(), user_id uuid references auth.users"
        " on delete cascade, created_at timestamptz default '2020-01-01', updated_at timestamptz, refreshed_at timestamp)"
    )
    quiet, present = (database.sign_up(is_anonymous=True) for _ in range(2))
    for user in (quiet, present):
        age(database, user)
        database.run("insert into auth.sessions (user_id) values (:id)", id=user)
    database.run(f"update auth.sessions set {moment} = now() where user_id = :id", id=present)
    with database.engine.connect() as connection:
        assert plan(connection, Unseen(timedelta(days=30), anonymous=True)).sample == [quiet]
