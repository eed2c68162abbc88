"""Traits: the mapping of old columns to JSONB paths, the models of the groups, and both in the database."""

import json
import math
import re
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from profiles_schema import UserProfile
from profiles_schema.schema import trait_models
from profiles_schema.schema.trait_models import STORED_FLOATS as STORED
from profiles_schema.schema.trait_models import BigFive, PersonalityTraits, Predictions, Sentiment, keys_of
from profiles_schema.schema.traits import TraitColumn, trait_columns

GROUPS = (
    "personality_traits",
    "appearance_traits",
    "behavioral_metrics",
    "cultural_attributes",
    "analysis_summary",
    "metadata",
)


def test_the_mapping_holds_106_columns_in_six_groups():
    columns = trait_columns()
    assert len({column.name for column in columns}) == len(columns) == 106
    assert {column.group for column in columns} == set(GROUPS) <= set(UserProfile.__table__.columns.keys())
    assert {column.data_type for column in columns} == {"text", "integer", "bigint", "real", "jsonb"}
    assert [column for column in columns if column.default is not None] == [
        TraitColumn("appearance_confidence", "real", "appearance_traits", ("confidence",), "0.0")
    ]
    assert not {column.name for column in columns} & set(UserProfile.__table__.columns.keys())
    assert trait_columns() is columns


@pytest.mark.parametrize("group", GROUPS)
def test_no_path_of_a_group_leads_through_another(group):
    paths = {column.path for column in trait_columns() if column.group == group}
    assert len(paths) == len([column for column in trait_columns() if column.group == group])
    assert not {path for path in paths for length in range(1, len(path)) if path[:length] in paths}


def test_the_database_knows_the_same_mapping(request, database):
    path = files("profiles_schema.schema") / "sql" / "functions" / "profiles_internal.known_traits.sql"
    lines = [f"    ('{c.name}', '{c.data_type}', '{c.group}', '{'.'.join(c.path)}')" for c in trait_columns()]
    found = path.read_text(encoding="utf-8")
    wanted = re.sub(r"(?s)(?<=  values\n).*?(?=\n\$known_traits)", lambda _: ",\n".join(lines), found)
    if request.config.getoption("--update-catalog"):
        path.write_text(wanted, encoding="utf-8")
    assert found == wanted, "run: make snapshot, then: make freeze"
    # The rules for documents reach one object deep.
    assert {len(column.path) for column in trait_columns()} == {1, 2}
    rows = database.run("select column_name, data_type, jsonb_column, path from profiles_internal.known_traits()")
    assert [tuple(row) for row in rows] == [(c.name, c.data_type, c.group, ".".join(c.path)) for c in trait_columns()]


def kind_of(field):
    return {"String": "text", "Integer": "integer", "BigInteger": "bigint", "Real": "real", "Json": "jsonb"}[field]


def paths_of(model, above=()):
    for key, (name, nested, _) in keys_of(model).items():
        if nested:
            yield from paths_of(nested, (*above, key))
        else:
            yield (*above, key), kind_of(model.__annotations__[name])


@pytest.mark.parametrize("group", GROUPS)
def test_the_models_know_the_paths_of_the_mapping_and_no_others(group):
    mapped = {column.path: column.data_type for column in trait_columns() if column.group == group}
    assert dict(paths_of(trait_models.GROUPS[group])) == mapped


# What JSONB holds: no NUL, no half of a surrogate pair, no NaN, and no sign on a zero.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
INTEGERS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 2**31 - 1, 0])
BIG_INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1])
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
REALS = st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0)
OF_TYPE = {
    "text": TEXTS,
    "integer": INTEGERS,
    "bigint": BIG_INTEGERS,
    "real": REALS | INTEGERS | st.sampled_from(sorted(STORED)),
    "jsonb": VALUES,
}
ODD_KEYS = st.sampled_from(
    ["", "big_five", "model_config", "__dict__", "_fields_set", "cls", "copy", "to_json", "a.b", "ключ", "bigFive "]
)


def known_objects(model, wrong):
    """Objects with any of the known keys: of the right type, JSON null, or (where wrong) of any type."""
    keys = {
        key: (known_objects(nested, wrong) if nested else OF_TYPE[kind_of(model.__annotations__[name])])
        | st.none()
        | (VALUES if wrong else st.nothing())
        for key, (name, nested, _) in keys_of(model).items()
    }
    names = {name for name, _, _ in keys_of(model).values()}
    unknown = ((ODD_KEYS | TEXTS) if wrong else TEXTS.filter(lambda key: key not in names)).filter(
        lambda key: key not in keys
    )
    return st.tuples(st.fixed_dictionaries({}, optional=keys), st.dictionaries(unknown, VALUES, max_size=2)).map(
        lambda both: both[0] | both[1]
    )


def groups(wrong):
    return st.sampled_from(GROUPS).flatmap(
        lambda group: st.tuples(st.just(group), known_objects(trait_models.GROUPS[group], wrong))
    )


def exactly(value):
    """Text, because Python takes 1, 1.0 and True for equal."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.slow
@given(groups(wrong=True))
def test_what_is_read_and_not_changed_is_written_as_it_was(found):
    group, source = found
    before = exactly(source)
    read = trait_models.GROUPS[group].from_json(source)
    assert exactly(read.to_json()) == before
    assert exactly(json.loads(read.model_dump_json())) == exactly(read.model_dump()) == before
    assert exactly(source) == before


@pytest.mark.slow
@given(groups(wrong=False))
def test_what_the_paths_can_hold_is_accepted_in_writing(found):
    group, source = found
    assert exactly(trait_models.GROUPS[group].model_validate(source).to_json()) == exactly(source)


def test_an_absent_key_is_not_a_json_null():
    read = PersonalityTraits.from_json({"attachmentStyle": None, "bigFive": {"openness": None}})
    assert read.attachment_style is read.facets is None
    assert read.to_json() == {"attachmentStyle": None, "bigFive": {"openness": None}}
    assert PersonalityTraits.from_json(None).to_json() == PersonalityTraits().to_json() == {}
    del read.attachment_style
    assert read.attachment_style is None
    read.facets = None
    assert read.to_json() == {"bigFive": {"openness": None}, "facets": None}


@pytest.mark.parametrize(("stored", "number"), STORED.items())
def test_numbers_that_json_cannot_say_are_stored_as_text(stored, number):
    read = Sentiment.from_json({"positiveRatio": stored, "overall": stored})
    assert repr(read.positive_ratio) == repr(number)
    assert read.overall == stored
    assert read.to_json() == {"positiveRatio": stored, "overall": stored}
    for given_as in (stored, number):
        assert Sentiment(positive_ratio=given_as).to_json() == {"positiveRatio": stored}


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        (BigFive, "openness", "71"),
        (BigFive, "openness", True),
        (BigFive, "openness", 7.0),
        (BigFive, "openness", 2**31),
        (BigFive, "openness", -(2**31) - 1),
        (Predictions, "lastPredictionAt", 2**63),
        (Predictions, "lastPredictionAt", "NaN"),
        (Sentiment, "overall", 3),
        (Sentiment, "overall", "a\0b"),
        (Sentiment, "overall", "\ud800"),
        (Sentiment, "positiveRatio", "nan"),
        (Sentiment, "positiveRatio", True),
        (Sentiment, "positiveRatio", 1e39),
        (Sentiment, "positiveRatio", 10**400),
        (Sentiment, "positiveRatio", 1e-50),
        (Sentiment, "dominantEmotions", math.nan),
        (Sentiment, "dominantEmotions", [{"a": "\0"}]),
        (Sentiment, "dominantEmotions", {1: 2}),
        (Sentiment, "dominantEmotions", object()),
        (PersonalityTraits, "bigFive", "calm"),
        (PersonalityTraits, "bigFive", []),
        (PersonalityTraits, "unknown", math.inf),
        (PersonalityTraits, "unknown", b"bytes"),
    ],
)
def test_writing_is_strict_and_names_the_path(model, key, value):
    name = keys_of(model)[key].name if key in keys_of(model) else key
    for write in (
        lambda: model(**{key: value}),
        lambda: model(**{name: value}),
        lambda: model.model_validate({key: value}),
        lambda: setattr(model.from_json({"kept": 1}), name, value),
    ):
        with pytest.raises(ValidationError) as refused:
            write()
        assert {error["loc"][0] for error in refused.value.errors()} <= {key, name}
        assert "input_value" not in str(refused.value)


def test_an_error_names_the_whole_path_of_a_nested_value():
    with pytest.raises(ValidationError, match=r"bigFive\.openness"):
        PersonalityTraits.model_validate({"bigFive": {"openness": "high"}})


def test_a_value_of_another_type_is_kept_and_can_be_replaced():
    read = PersonalityTraits.from_json({"bigFive": "calm", "facets": [1], "archetypes": {"confidence": "high"}})
    assert (read.big_five, read.archetypes.confidence) == ("calm", "high")
    read.attachment_style = "secure"
    assert read.to_json()["bigFive"] == "calm"
    read.big_five = BigFive(openness=71)
    read.archetypes.confidence = 0.5
    assert read.to_json() == {
        "archetypes": {"confidence": 0.5},
        "attachmentStyle": "secure",
        "bigFive": {"openness": 71},
        "facets": [1],
    }


def test_a_json_key_is_no_attribute_to_assign():
    with pytest.raises(AttributeError, match="assign to big_five"):
        PersonalityTraits().bigFive = {}


def test_a_model_shows_no_values():
    read = PersonalityTraits.from_json({"attachmentStyle": "secure", "secret": "x", "bigFive": {"openness": 71}})
    assert repr(read) == str(read) == f"{read}" == "PersonalityTraits(big_five=..., attachment_style=...)"


def test_nothing_is_shared_with_what_was_read_or_written():
    source = {"facets": {"list": [1]}}
    read = PersonalityTraits.from_json(source)
    read.facets["list"].append(2)
    assert source == {"facets": {"list": [1]}}
    read.facets = source
    written = read.to_json()
    source["facets"] = written["facets"]["more"] = 3
    assert read.to_json() == {"facets": {"facets": {"list": [1]}}}


ATTRIBUTES = {
    "personality_traits": "personality",
    "appearance_traits": "appearance",
    "behavioral_metrics": "behavior",
    "cultural_attributes": "culture",
    "analysis_summary": "analysis",
    "metadata": "extras",
}


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


def profile_of(session, user_id):
    return session.scalars(select(UserProfile).where(UserProfile.user_id == user_id)).one()


def test_each_group_has_an_attribute_of_its_model():
    for group, attribute in ATTRIBUTES.items():
        assert type(getattr(UserProfile(), attribute)) is trait_models.GROUPS[group]
        assert getattr(UserProfile, attribute).group == group


@pytest.mark.slow
def test_what_the_database_holds_survives_reading_and_writing(database, ada):
    @settings(max_examples=60, deadline=None)
    @given(groups(wrong=True))
    def survives(found):
        group, source = found
        stored = f"select {group}::text from public.user_profiles where user_id = :id"
        database.run(
            f"update public.user_profiles set {group} = cast(:source as jsonb) where user_id = :id",
            source=json.dumps(source),
            id=ada,
        )
        before = database.value(stored, id=ada)
        with Session(database.engine) as session, session.begin():
            profile = profile_of(session, ada)
            setattr(profile, ATTRIBUTES[group], getattr(profile, ATTRIBUTES[group]))
            assert not session.is_modified(profile)
            flag_modified(profile, "metadata_" if group == "metadata" else group)
        assert database.value(stored, id=ada) == before

    survives()


def test_assigning_a_model_or_a_dict_writes_the_whole_group(database, ada):
    with Session(database.engine) as session, session.begin():
        profile = profile_of(session, ada)
        profile.personality = PersonalityTraits(big_five=BigFive(openness=71))
        profile.extras = {"feelings": None, "own": [1]}
        profile.analysis = {"sentiment": {"positive_ratio": -0.0}}
    row = database.profile(ada)
    assert row.personality_traits == {"bigFive": {"openness": 71}}
    assert row.metadata == {"feelings": None, "own": [1]}
    assert row.analysis_summary == {"sentiment": {"positiveRatio": "-0"}}
    with Session(database.engine) as session, session.begin():
        profile_of(session, ada).personality = None
    assert database.profile(ada).personality_traits is None


def test_a_model_that_is_changed_and_not_assigned_changes_nothing(database, ada):
    with Session(database.engine) as session, session.begin():
        profile = profile_of(session, ada)
        profile.personality = {"bigFive": {"openness": 71}}
        personality = profile.personality
        personality.big_five.openness = 72
        assert profile.personality.big_five.openness == 71
    assert database.profile(ada).personality_traits == {"bigFive": {"openness": 71}}


def test_a_group_without_keys_leaves_null_as_it_is(database, ada):
    with Session(database.engine) as session, session.begin():
        profile = profile_of(session, ada)
        assert profile.culture.to_json() == {}
        profile.culture = profile.culture
        assert not session.is_modified(profile)
        profile.culture = {"background": "x"}
    with Session(database.engine) as session, session.begin():
        profile_of(session, ada).culture = {}
    assert database.profile(ada).cultural_attributes == {}


def test_a_one_that_becomes_true_is_written(database, ada):
    for value in (1, True):
        with Session(database.engine) as session, session.begin():
            profile_of(session, ada).extras = {"own": value}
    assert database.profile(ada).metadata["own"] is True


def test_what_a_group_cannot_hold_is_refused_before_it_is_assigned():
    profile = UserProfile()
    with pytest.raises(ValidationError, match=r"bigFive\.openness"):
        profile.personality = {"bigFive": {"openness": "high"}}
    for wrong in (Sentiment(), "text", [1]):
        with pytest.raises(TypeError, match="Assign PersonalityTraits, a dict or None"):
            profile.personality = wrong
    assert profile.personality_traits is None
