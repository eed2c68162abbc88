"""The look for profiles that are left to convert finds those in which verify sees a difference, in order, and no others."""

import pytest

from profiles_schema.migrations import packs
from profiles_schema.schema import objects

ALL = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")
DIFFERING = "select u::text from profiles_internal.differing_profiles(cast(:a as uuid), cast(:b as uuid), :most) as u"


def differing(database, after=ALL[0], up_to=ALL[1], most=100):
    return [row[0] for row in database.run(DIFFERING, a=after, b=up_to, most=most)]


@pytest.fixture
def database(database):
    """With the functions that only wide columns need."""
    database.script(
        "insert into profiles_internal.legacy_columns (table_name, column_name, data_type, jsonb_column, path)"
        " values ('x', 'x', 'x', 'x', 'x')"
    )
    with database.engine.begin() as connection:
        assert packs.install(connection, objects.Where.WIDE_COLUMNS)
    database.script("delete from profiles_internal.legacy_columns")
    return database


@pytest.fixture
def users(database):
    """Eight users: two empty, two not converted, two converted, one with another value in JSON, one with a bare key there."""
    database.script(
        "alter table public.user_profiles add column hair_color text, add column openness_score integer,"
        " add column archetype_confidence real"
    )
    users = sorted(str(database.sign_up(f"person{n}@example.org")) for n in range(8))
    database.run("select profiles_internal.expand_traits()")
    write = "set local session_replication_role = replica; update public.user_profiles set {} where user_id = any ('{{{}}}')"
    for assignment, some in (
        ("hair_color = 'brown', openness_score = 71", users[2:7]),
        ("appearance_traits = '{\"hair\": {\"color\": \"brown\"}}', personality_traits = '{\"bigFive\": {\"openness\": 71}}'", users[4:7]),
        ("personality_traits = '{\"bigFive\": {\"openness\": 72}}'", users[6:7]),
        ("personality_traits = '{\"archetypes\": {\"confidence\": 1}}'", users[7:]),
    ):  # fmt: skip
        database.script(write.format(assignment, ",".join(some)))
    return users


def test_it_finds_those_that_verify_finds(database, users):
    found = database.run("select distinct user_id::text from profiles_internal.trait_differences() order by 1")
    assert differing(database) == [row[0] for row in found] == [users[n] for n in (2, 3, 6, 7)]


def test_it_looks_behind_one_user_up_to_another_and_stops_after_enough(database, users):
    assert differing(database, after=users[2], up_to=users[6]) == [users[3], users[6]]
    assert differing(database, most=3) == [users[2], users[3], users[6]]


def test_without_wide_columns_there_is_nothing(database):
    database.sign_up("ada@example.org")
    assert differing(database) == []
