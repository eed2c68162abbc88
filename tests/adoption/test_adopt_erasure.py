"""What adoption keeps of old values goes with the person they are of."""

import pytest

from profiles_schema.operations.health import examine
from support import profiles_schema, shapes

KEPT = "select count(*) from profiles_internal.adopted where object_type in ('value', 'found value', 'kept value')"


@pytest.fixture
def adopted(hosted):
    shapes.create(hosted, "a")
    shapes.fill(hosted, "a", 60)
    hosted.answering = ("replace", "accept")
    hosted.upgrade()
    return hosted


@pytest.mark.slow
@pytest.mark.parametrize(
    "erasure",
    ["update auth.users set deleted_at = now() where id = :id", "delete from auth.users where id = :id"],
    ids=["soft", "hard"],
)
def test_old_values_of_an_erased_user_are_forgotten_and_nobody_elses(adopted, erasure):
    key, own = adopted.run(
        f"select data ->> 'key', count(*) from ({KEPT.replace('count(*)', '*')}) as k group by 1 order by 1 limit 1"
    )[0]
    before = adopted.value(KEPT)
    adopted.administrator.run(erasure, id=key)
    assert own > 0
    assert adopted.value(KEPT) == before - own
    assert adopted.value(f"{KEPT} and data ->> 'key' = :key", key=key) == 0
    adopted.downgrade("base", allow_data_loss="yes")


DELETED = """
create table public.user_profiles (id uuid primary key references auth.users, username text, bio text, dob date, motto text);
insert into public.user_profiles (id, username, bio, dob) select u.id, 'name' || left(u.id::text, 8), 'born 1815', '1815-12-10' from auth.users as u;
"""


@pytest.fixture
def with_deleted(hosted):
    """A table that was taken over when one of its two users was deleted already; returns the id of that one."""
    users = [hosted.administrator.sign_up(f"{name}@example.org") for name in ("ada", "bob")]
    hosted.script(DELETED)
    hosted.administrator.run("update auth.users set deleted_at = now() where id = :id", id=users[0])
    hosted.upgrade()
    return users[0]


def bio(database, user):
    return database.value("select bio from public.user_profiles where user_id = :id", id=user)


@pytest.mark.slow
def test_who_was_deleted_before_is_counted_and_erased_only_when_somebody_says_so(hosted, with_deleted):
    hosted.run(
        "insert into public.user_profile_audit_logs (user_id, action, origin) values (:id, 'failed', 'trigger')",
        id=with_deleted,
    )
    for full in (False, True):
        with hosted.engine.connect() as connection:
            (finding,) = [
                f
                for f in examine(connection, full=full).findings
                if f.severity != "notice" or f.code == "found_deleted"
            ]
        assert (finding.code, finding.count, finding.remedy) == (
            "found_deleted",
            1,
            "profiles-schema backfill --erase-deleted",
        )
    dry = profiles_schema(hosted.url, "backfill", "--dry-run").stdout
    assert "users who were deleted before the tables were taken over: 1; their personal data stays" in dry
    assert "repaired 0 profiles" in profiles_schema(hosted.url, "backfill").stdout
    assert bio(hosted, with_deleted) == "born 1815"
    dry = profiles_schema(hosted.url, "backfill", "--dry-run", "--erase-deleted").stdout
    assert "deleted users whose personal data would be erased, irrevocably: 1" in dry
    assert "left as they are: user_profiles.dob, user_profiles.motto" in dry
    assert bio(hosted, with_deleted) == "born 1815"
    done = profiles_schema(hosted.url, "backfill", "--erase-deleted").stdout
    assert "repaired 0 profiles that had not followed their user; erased 1 deleted user\n" in done
    assert "left as they are: user_profiles.dob, user_profiles.motto" in done
    assert bio(hosted, with_deleted) is None
    with hosted.engine.connect() as connection:
        assert [f.code for f in examine(connection, full=True).problems] == []
    assert profiles_schema(hosted.url, "backfill", "--erase-deleted").stdout.endswith("their user\n")


@pytest.mark.slow
def test_an_erasure_names_the_columns_of_the_application_that_it_left(hosted, with_deleted):
    user = hosted.value("select id from auth.users where deleted_at is null")
    hosted.administrator.run("update auth.users set deleted_at = now() where id = :id", id=user)
    assert bio(hosted, user) is None
    assert hosted.run(
        "select action, origin, error_message, metadata from public.user_profile_audit_logs where user_id = :id and metadata ? 'left'",
        id=user,
    ) == [
        (
            "deleted",
            "trigger",
            "erased, except columns of the application: user_profiles.dob",
            {"left": ["user_profiles.dob"]},
        )
    ]
