"""Existing tables that nobody foresaw: taken over whole, or refused before the first change."""

import uuid
from collections.abc import Iterable

import pytest
import shapes
from support import drift

from profiles_schema.errors import MigrationFailed
from profiles_schema.operations import contents

USERS = "insert into auth.users (id, email) select md5(g::text)::uuid, 'a' || g || '@example.org' from generate_series(1, 5) as g"
PERSON = uuid.UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b")  # md5 of 1
PROFILES = """
create table public.user_profiles (
  id uuid primary key, username text, bio text, updated_at timestamptz default now()
);
insert into public.user_profiles (id, username) select md5(g::text)::uuid, 'name' || g from generate_series(1, 5) as g;
"""


@pytest.fixture
def found(hosted_open):
    """Makes a table of an application in a hosted project with five users, and remembers how it was found."""

    def make(*scripts: str, administrator: str = ""):
        hosted_open.administrator.script(USERS)
        for script in scripts or (PROFILES,):
            hosted_open.script(script)
        if administrator:
            hosted_open.administrator.script(administrator)
        hosted_open.before = look(hosted_open)
        return hosted_open

    return make


def look(database):
    with database.administrator.engine.begin() as connection:
        return shapes.Found(contents.remember(connection, shapes.SCHEMAS, []), shapes.more(connection), set())


def came_back(database, ignored: Iterable[str] = ()):
    """Downgrade; what of catalog and rows is not as it was found."""
    database.downgrade("base", allow_data_loss="yes")
    changed = shapes.changes(database, database.before)
    rows = [str(change) for change in shapes.row_changes(database, database.before)]
    return [line for line in changed + rows if not any(part in line for part in ignored)]


def signs_up(database):
    """Whether somebody who signs up gets a profile."""
    return database.profile(database.administrator.sign_up(f"{uuid.uuid4().hex}@example.org")) is not None


def test_a_policy_named_like_ours_is_set_aside_like_any_other(found):
    database = found(
        PROFILES,
        "alter table public.user_profiles enable row level security;"
        'create policy "Owners can do all" on public.user_profiles using (true) with check (true);'
        'create policy "Owners can read their own profile" on public.user_profiles using (true);'
        'create policy "Service role can do what its grants allow" on public.user_profiles using (true);'
        "comment on policy \"Owners can do all\" on public.user_profiles is 'a hole'",
    )
    database.upgrade()
    assert drift(database) == []
    with database.acting_as("authenticated", uuid.uuid4()) as connection:
        assert connection.exec_driver_sql("select count(*) from public.user_profiles").scalar() == 0
    assert came_back(database) == []


# What is refused before the first change: how it is made, by whom, and what the refusal says.
REFUSED = {
    "rights that somebody else gave": (
        "grant select, update on public.user_profiles to supabase_auth_admin with grant option",
        "set role supabase_auth_admin; grant update on public.user_profiles to authenticated; reset role",
        "revoke all on public.user_profiles from authenticated",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_anything_is_changed(case, found):
    script, administrator, remedy = REFUSED[case]
    database = found(PROFILES, script, administrator=administrator)
    with pytest.raises(MigrationFailed, match="cannot be taken over") as refused:
        database.upgrade()
    assert remedy in str(refused.value)
    changed = shapes.changes(database, database.before)
    assert [line for line in changed if not line.startswith("schema profiles_internal:")] == []
