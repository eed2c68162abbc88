"""Updates of single traits: only the path is touched, and no writer undoes another."""

import asyncio
import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from profiles_schema import UserProfile
from profiles_schema.errors import NotAnObject, ProfileNotFound
from profiles_schema.traits import REMOVE, BigFive, set_traits, update_traits, update_traits_async

OPENNESS = "personality_traits.bigFive.openness"
EMPATHY = "personality_traits.emotionalIntelligence.empathy"
NEUROTICISM = "personality_traits.bigFive.neuroticism"


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


@pytest.fixture
def change(database, ada):
    """Change Ada's traits in a transaction of its own."""

    def change(changes):
        with Session(database.engine) as session, session.begin():
            update_traits(session, ada, changes)

    return change


@pytest.fixture
def stored(database, ada):
    """What a column of Ada's profile holds; given a value, it holds that from now on."""

    def stored(column, *value):
        if value:
            new = "cast(:value as jsonb)" if value[0] is not None else "cast(:value as text)::jsonb"
            database.run(
                f"update public.user_profiles set {column} = {new} where user_id = :id",
                value=None if value[0] is None else json.dumps(value[0]),
                id=ada,
            )
        return getattr(database.profile(ada), column)

    return stored


def test_several_paths_and_groups_change_in_one_statement(change, stored):
    stored("personality_traits", {"bigFive": {"openness": 1, "neuroticism": 2, "own": 3}, "own": [None]})
    change(
        {
            OPENNESS: 71,
            "personality_traits.facets": [1],
            "personality_traits.archetypes.dominant": None,
            "analysis_summary.sentiment.overall": "warm",
            "analysis_summary.sentiment.positiveRatio": -0.0,
        }
    )
    assert stored("personality_traits") == {
        "archetypes": {"dominant": None},
        "bigFive": {"openness": 71, "neuroticism": 2, "own": 3},
        "facets": [1],
        "own": [None],
    }
    assert stored("analysis_summary") == {"sentiment": {"overall": "warm", "positiveRatio": "-0"}}


def test_missing_parents_are_created_at_any_depth(change, stored):
    assert stored("metadata") is None
    change({("metadata", "own.key", "", "ключ", "'%s\":x"): {"deep": True}, "metadata.own.a": 1})
    assert stored("metadata") == {"own.key": {"": {"ключ": {"'%s\":x": {"deep": True}}}}, "own": {"a": 1}}


def test_a_key_that_is_removed_is_absent_and_creates_no_parent(change, stored):
    change({OPENNESS: REMOVE, "metadata.a.b": REMOVE})
    assert stored("personality_traits") is None
    assert stored("metadata") is None
    stored("personality_traits", {"bigFive": {"openness": 1, "neuroticism": 2}})
    change({OPENNESS: REMOVE, EMPATHY: REMOVE, "personality_traits.bigFive.extraversion": 3})
    assert stored("personality_traits") == {"bigFive": {"extraversion": 3, "neuroticism": 2}}
    change({"personality_traits.bigFive": REMOVE})
    assert stored("personality_traits") == {}


@pytest.mark.parametrize("parent", [None, "calm", 3, True, [], [{"openness": 1}]])
@pytest.mark.parametrize("value", [71, REMOVE])
def test_a_parent_that_is_no_object_is_an_error_and_nothing_is_written(database, ada, stored, parent, value):
    before = stored("personality_traits", {"bigFive": parent})
    with Session(database.engine) as session, session.begin():
        with pytest.raises(NotAnObject, match=r"^personality_traits\.bigFive is not a JSON object\."):
            update_traits(session, ada, {OPENNESS: value, "metadata.own": 1, EMPATHY: 2})
        assert session.scalar(select(1)) == 1
    # The statement of its own fails, and says which.
    with Session(database.engine) as session, pytest.raises(DataError, match=r"personality_traits\.bigFive is not a"):
        session.execute(update(UserProfile).where(UserProfile.user_id == ada).values(set_traits({OPENNESS: value})))
    assert stored("personality_traits") == before
    assert stored("metadata") is None


def test_an_element_of_an_array_is_no_parent(change, stored):
    before = stored("metadata", {"list": [{"a": 1}]})
    with pytest.raises(NotAnObject, match=r"^metadata\.list is"):
        change({"metadata.list.0.a": 2})
    assert stored("metadata") == before


def test_the_statement_can_be_executed_for_many_profiles(database, ada):
    ben = database.sign_up("ben@example.org")
    with database.engine.begin() as connection:
        connection.execute(update(UserProfile).values(set_traits({OPENNESS: 71})))
    assert [database.profile(user).personality_traits for user in (ada, ben)] == [{"bigFive": {"openness": 71}}] * 2


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (OPENNESS, "high", r"bigFive\.openness"),
        (OPENNESS, 2**31, r"bigFive\.openness"),
        ("personality_traits.bigFive", "calm", "bigFive"),
        ("personality_traits.bigFive", {"openness": "high"}, r"bigFive\.openness"),
        ("personality_traits.bigFive.openness.inner", 1, r"bigFive\.openness"),
        ("analysis_summary.sentiment.overall", "a\0b", r"sentiment\.overall"),
        ("metadata.own", float("nan"), "own"),
        ("metadata.own.deep", "\0", "own"),
    ],
)
def test_a_value_that_the_path_cannot_hold_is_refused(path, value, where):
    with pytest.raises(ValidationError, match=where):
        set_traits({path: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bio.x": 1}, "A path begins with one of personality_traits, "),
        ({"": 1}, "A path begins with"),
        ({(): 1}, "A path begins with"),
        ({"metadata": {}}, r"A path is metadata\.KEY"),
        ({"metadata.a..b": 1}, r"A path is metadata\.KEY"),
        ({("metadata", 0): 1}, r"A path is metadata\.KEY"),
        ({("metadata", "\0"): REMOVE}, "NUL"),
        ({"personality_traits.big_five.openness": 1}, "bigFive instead of big_five"),
        ({"metadata.a": {}, "metadata.a.b": 1}, "overlap"),
        ({"metadata.a": 1, ("metadata", "a"): REMOVE}, "overlap"),
    ],
)
def test_a_path_that_says_nothing_clear_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        set_traits(changes)


def test_a_number_that_python_would_round_is_kept_beside_a_change(database, ada, change):
    database.run("""update public.user_profiles set metadata = '{"own": 0.12345678901234567890123}'""")
    change({"metadata.feelings": ["calm"]})
    kept = database.value("select metadata::text from public.user_profiles where user_id = :id", id=ada)
    assert kept == '{"own": 0.12345678901234567890123, "feelings": ["calm"]}'


def test_a_model_can_be_the_value(change, stored):
    change({"personality_traits.bigFive": BigFive(openness=71)})
    assert stored("personality_traits") == {"bigFive": {"openness": 71}}


def test_a_user_without_profile_is_an_error(database, ada):
    database.run("delete from public.user_profiles where user_id = :id", id=ada)
    with Session(database.engine) as session, pytest.raises(ProfileNotFound):
        update_traits(session, ada, {OPENNESS: 71})


def test_no_changes_are_no_statement(ada):
    update_traits(Session(), ada, {})
    assert set_traits({}) == {}


def waits(database):
    """Whether a statement waits for a lock."""
    return database.value(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )


def beside(database, work):
    """Start the work in a thread, and return once it waits for a lock."""
    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 30
    while not waits(database):
        assert time.monotonic() < until
        time.sleep(0.01)
    return thread


def test_two_writers_of_one_group_keep_each_others_paths(database, ada, change, stored):
    with Session(database.engine) as session, session.begin():
        update_traits(session, ada, {OPENNESS: 71})
        other = beside(database, lambda: change({NEUROTICISM: 12, EMPATHY: 5}))
    other.join()
    assert stored("personality_traits") == {
        "bigFive": {"neuroticism": 12, "openness": 71},
        "emotionalIntelligence": {"empathy": 5},
    }


def test_a_whole_group_from_a_stale_object_undoes_the_other_writer(database, ada, change, stored):
    with Session(database.engine) as session, session.begin():
        profile = session.scalars(select(UserProfile)).one()
        personality = profile.personality
        change({OPENNESS: 71})
        personality.big_five = BigFive(neuroticism=12)
        profile.personality = personality
    assert stored("personality_traits") == {"bigFive": {"neuroticism": 12}}


def test_many_writers_of_one_row_lose_nothing(database, ada, stored):
    failures = []

    def write(writer):
        try:
            for turn in range(20):
                with Session(database.engine) as session, session.begin():
                    update_traits(session, ada, {f"metadata.own.w{writer}.t{turn}": turn})
        except Exception as failure:  # noqa: BLE001 - it is asserted on below
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    turns = {f"t{turn}": turn for turn in range(20)}
    assert stored("metadata") == {"own": {f"w{writer}": turns for writer in range(6)}}


def test_a_parent_that_stops_being_an_object_meanwhile_is_not_overwritten(database, ada, change, stored):
    stored("personality_traits", {"bigFive": {"openness": 1}})
    found = []

    def late():
        try:
            change({OPENNESS: 71})
        except NotAnObject as refused:
            found.append(refused)

    with Session(database.engine) as session, session.begin():
        session.execute(text("""update public.user_profiles set personality_traits = '{"bigFive": "calm"}'"""))
        other = beside(database, late)
    other.join()
    assert len(found) == 1
    assert stored("personality_traits") == {"bigFive": "calm"}


def test_a_profile_that_is_loaded_shows_the_new_value(database, ada):
    with Session(database.engine) as session, session.begin():
        profile = session.scalars(select(UserProfile)).one()
        profile.bio = "not flushed yet"
        update_traits(session, ada, {OPENNESS: 71})
        assert profile.personality.big_five.openness == 71
        assert profile.bio == "not flushed yet"


# Against a model of it in Python: any object, any changes.
KEYS = st.sampled_from(["a", "b", "a.b", ""])
OBJECTS = st.recursive(
    st.none() | st.integers(0, 3), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(lambda keys: ("metadata", *keys))
CHANGES = st.dictionaries(PATHS, OBJECTS | st.just(REMOVE), min_size=1, max_size=4).filter(
    lambda changes: not any(a != b and b[: len(a)] == a for a in changes for b in changes)
)


def expected(before, changes):
    """What is to be stored, or None where a parent is no object."""
    root = {"metadata": json.loads(json.dumps(before))}
    for keys, value in changes.items():
        place = root
        for key in keys[:-1]:
            if place[key] is None if place is root else key not in place:
                if value is REMOVE:
                    break
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                return None
        else:
            if value is REMOVE:
                place.pop(keys[-1], None)
            else:
                place[keys[-1]] = value
    return root


@pytest.mark.slow
def test_any_changes_do_what_the_same_changes_do_to_a_dict(database, ada, change, stored):
    @settings(max_examples=150, deadline=None)
    @given(st.none() | st.dictionaries(KEYS, OBJECTS, max_size=3), CHANGES)
    def agrees(before, changes):
        stored("metadata", before)
        after = expected(before, changes)
        if after is None:
            with pytest.raises(NotAnObject):
                change(changes)
            assert stored("metadata") == before
        else:
            change(changes)
            assert stored("metadata") == after["metadata"]

    agrees()


def test_it_works_on_psycopg_3(database, ada, stored):
    engine = create_engine(database.url.replace("postgresql://", "postgresql+psycopg://", 1))
    with Session(engine) as session, session.begin():
        update_traits(session, ada, {OPENNESS: 71, ("metadata", "a", "b"): REMOVE, "metadata.c.d": None})
    engine.dispose()
    assert (stored("personality_traits"), stored("metadata")) == ({"bigFive": {"openness": 71}}, {"c": {"d": None}})


def test_asynchronous_sessions_have_the_same(database, ada, stored):
    async def change_twice():
        engine = create_async_engine(database.url.replace("postgresql://", "postgresql+psycopg://", 1))
        async with AsyncSession(engine) as session, session.begin():
            profile = (await session.scalars(select(UserProfile))).one()
            await update_traits_async(session, ada, {OPENNESS: 71})
            await session.refresh(profile)
            assert profile.personality.big_five.openness == 71
            with pytest.raises(NotAnObject):
                await update_traits_async(
                    session, ada, {("personality_traits", "bigFive", "own", "x"): 1, "metadata.a": 1}
                )
        await engine.dispose()

    stored("personality_traits", {"bigFive": {"own": 1}})
    asyncio.run(change_twice())
    assert stored("personality_traits") == {"bigFive": {"openness": 71, "own": 1}}
    assert stored("metadata") is None
