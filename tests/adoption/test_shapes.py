"""The fixtures of existing deployments: the same rows every time, and a comparison that sees a single change."""

import pytest

from profiles_schema.schema.traits import trait_columns
from support import shapes

ALL = ["a", "b", "c", "d", "e"]


CHANGES = [
    "alter table public.posts alter column editor set not null",
    "alter table public.user_profiles alter column bio set default ''",
    "alter table public.user_profiles alter column favourite_colour type varchar(20)",
    "alter table public.user_profiles rename column bio to about",
    "alter table public.posts rename constraint posts_author_fkey to posts_author",
    "alter table public.posts alter constraint posts_author_fkey deferrable",
    "alter table public.posts drop constraint posts_author_fkey, add constraint posts_author_fkey foreign key (author)"
    " references public.user_profiles (id) on delete cascade not valid",
    "alter index public.user_profiles_colour rename to colour",
    "drop index public.idx_user_profiles_updated_at; create index idx_user_profiles_updated_at on public.user_profiles (updated_at desc)",
    "create or replace view public.profile_cards as select id, username, avatar_emoji, 1::bigint as posts from public.user_profiles",
    "alter view public.profile_cards reset (security_invoker)",
    "grant select on public.profile_cards to anon",
    "revoke update on public.user_profiles from authenticated",
    "grant update (bio) on public.user_profiles to anon",
    'alter policy "Service role manages profiles" on public.user_profiles using (is_active)',
    'alter policy "Users can update own profile." on public.user_profiles to authenticated',
    'comment on policy "Users can update own profile." on public.user_profiles is null',
    "comment on trigger set_updated_at on public.user_profiles is 'another'",
    "comment on column public.user_profiles.id is null",
    "comment on function public.gen_available_username(text) is null",
    "alter table public.user_profiles disable trigger set_updated_at",
    "alter table public.user_profiles disable row level security",
    "alter function public.handle_new_user() security invoker",
    "alter function public.handle_new_user() set search_path = ''",
    "revoke execute on function public.handle_new_user() from anon",
    "alter function public.touch_updated_at() owner to postgres",
    "alter table public.user_profiles owner to postgres",
    "alter table auth.users disable trigger on_auth_user_created",
    "create or replace function public.touch_updated_at() returns trigger language plpgsql as 'begin return new; end'",
    "alter table public.posts replica identity full",
    "create table public.left_over ()",
    "create sequence public.left_over",
]


@pytest.fixture
def place(request, empty):
    """The database of a shape, empty of it."""

    def choose(shape):
        return empty if shape == "e" else request.getfixturevalue("hosted_open")

    return choose


@pytest.fixture
def unfilled(hosted_open):
    """Shape A without rows, and as it was found."""
    shapes.create(hosted_open, "a")
    return hosted_open, shapes.look(hosted_open, "a")


@pytest.mark.parametrize("shape", ALL)
def test_a_shape_is_the_same_every_time(place, shape):
    database = place(shape)
    shapes.create(database, shape)
    shapes.fill(database, shape, 200)
    found = shapes.look(database, shape)
    assert all(len(rows) >= 60 for rows in found.rows.values())
    database.administrator.script(f"drop schema {shapes.contents.KEPT} cascade")
    again = shapes.look(database, shape)
    assert again.rows == found.rows
    assert shapes.changes(database, found) == []
    assert shapes.row_changes(database, found) == []


def test_two_fills_are_the_same(hosted_open, server):
    shapes.create(hosted_open, "a+c")
    shapes.fill(hosted_open, "a+c", 100)
    found = shapes.look(hosted_open, "a+c")
    hosted_open.administrator.script(
        f"drop schema {shapes.contents.KEPT} cascade; truncate public.posts, public.users, public.user_profiles restart identity cascade;"
        "delete from auth.users"
    )
    shapes.fill(hosted_open, "a+c", 100)
    again = shapes.look(hosted_open, "a+c")
    assert again.contents.tables == found.contents.tables


def test_a_single_change_of_the_catalog_is_seen(unfilled):
    database, found = unfilled
    for change in CHANGES:
        with database.administrator.engine.connect() as connection:
            connection.exec_driver_sql(change)
            assert shapes.changes_seen(connection, found) != [], change


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("update public.user_profiles set bio = 'x' where id = (select min(id::text)::uuid from public.user_profiles)", "1 rows changed"),
        ("update public.posts set updated_at = now() where id = 3", "1 rows changed"),
        ("delete from public.posts where id = 3", "1 rows missing"),
        ("insert into public.user_profiles (id) values (gen_random_uuid())", "1 rows more"),
    ],
)  # fmt: skip
def test_a_single_change_of_a_row_is_seen(hosted_open, change, seen):
    shapes.create(hosted_open, "a")
    shapes.fill(hosted_open, "a", 50)
    found = shapes.look(hosted_open, "a")
    hosted_open.administrator.script(f"set session_replication_role = replica; {change}")
    [changed] = shapes.row_changes(hosted_open, found)
    assert seen in str(changed)


def test_shape_e_has_the_trait_columns_of_the_mapping(empty):
    shapes.create(empty, "e")
    columns = dict(
        empty.run(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'public.user_profiles'::regclass and attnum > 0"
        )
    )
    assert {trait.name: trait.data_type for trait in trait_columns()}.items() <= columns.items()
