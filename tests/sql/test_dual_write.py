"""Dual write: while wide columns and JSON groups stand side by side, each follows the other, path by path.

Longer: PROFILES_TEST_SECONDS=20 PROFILES_TEST_WRITERS=16 PROFILES_TEST_SEED=2.
"""

import json
import os
import threading
import time
import uuid
from contextlib import ExitStack
from functools import cache

import pytest
from pytest_postgresql.janitor import DatabaseJanitor
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from profiles_schema.operations.batch_job import Limits
from profiles_schema.operations.normalize import contract, convert, restore, status, verify
from profiles_schema.schema.traits import trait_columns
from support import Database, profiles_schema
from support.dual_writers import BY_BOTH, BY_COLUMN, BY_PATH, Writer, mistakes, prepare
from support.trait_columns import GROUPS, HELD, NOT_HELD, at

# Concurrent writers: seconds of a phase, how many, on how many profiles.
SECONDS = float(os.environ.get("PROFILES_TEST_SECONDS", "0.4"))
WRITERS = int(os.environ.get("PROFILES_TEST_WRITERS", "8"))
SEED = int(os.environ.get("PROFILES_TEST_SEED", "1"))
PROFILES = 120
LEAST = 10

TRAITS = {trait.name: trait for trait in trait_columns()}
ONE_OF_TYPE = {trait.data_type: trait for trait in reversed(trait_columns()) if len(trait.path) == 2} | {
    trait.data_type: trait for trait in trait_columns() if trait.name in {"uploaded_photo_url", "personality_facets"}
}


@pytest.fixture(scope="module", params=["expanded", "converted"])
def phase(request):
    """Before and after every row is converted, which is another body of the trigger."""
    return request.param


@pytest.fixture(scope="module")
def shared(server, wide_template):
    """Makes one database per phase, for tests that look at a profile of their own only."""
    with ExitStack() as open_ones:

        @cache
        def shared(phase):
            name = f"dual_write_{phase}"
            options = {"host": server.host, "port": server.port, "user": server.user, "dbname": name}
            open_ones.enter_context(DatabaseJanitor(**options, template_dbname=wide_template.template_dbname))
            database = Database(server, name)
            if phase == "converted":
                finish(database)
            return database

        yield shared


class Profile:
    """A profile as it was before the upgrade: nothing in its columns, no JSON."""

    def __init__(self, database):
        self.database = database
        self.user = database.sign_up(f"{uuid.uuid4()}@example.org")
        self.as_it_was(appearance_confidence=None)

    def change(self, **values):
        """Change columns, values given as SQL."""
        assignments = ", ".join(f"{name} = {value}" for name, value in values.items())
        self.database.script(f"update public.user_profiles set {assignments} where user_id = '{self.user}'")

    def as_it_was(self, **values):
        """Write to wide columns as before the upgrade, when nobody followed."""
        groups = dict.fromkeys(GROUPS, "null")
        values = groups | {name: "null" if value is None else value for name, value in values.items()}
        self.database.script(
            "select set_config('profiles_internal.normalizing', 'skip', true);"
            f"update public.user_profiles set {', '.join(f'{name} = {value}' for name, value in values.items())}"
            f" where user_id = '{self.user}';"
            f"delete from public.user_profile_audit_logs where user_id = '{self.user}'"
        )

    def seen(self, name):
        """A column of it."""
        return getattr(self.database.profile(self.user), name)

    def read(self, *expressions):
        """Expressions over its row p."""
        sql = f"select {', '.join(expressions)} from public.user_profiles as p where p.user_id = :id"
        return tuple(self.database.run(sql, id=self.user)[0])

    def kept(self):
        """Its values that were set aside."""
        return [
            (row.jsonb_column, row.path, row.value)
            for row in self.database.run(
                "select * from profiles_internal.kept_json where user_id = :id order by jsonb_column, path",
                id=self.user,
            )
        ]

    def differences(self):
        """Where its columns and its JSON disagree."""
        return self.database.run(
            "select * from profiles_internal.trait_differences() where user_id = :id", id=self.user
        )

    def changes(self):
        """Its recorded changes."""
        return [
            row.changed
            for row in self.database.run(
                "select changed from public.user_profile_audit_logs where action = 'updated' and user_id = :id"
                " order by created_at, id",
                id=self.user,
            )
        ]


@pytest.fixture
def ada(shared, phase):
    return Profile(shared(phase))


@pytest.fixture
def untouched(shared):
    """Somebody whose row is not converted, where rows are converted when they are touched."""
    return Profile(shared("expanded"))


def finish(database):
    """Convert what is left."""
    with database.engine.connect() as connection:
        list(convert(connection))
    with database.engine.connect() as connection:
        assert status(connection).phase == "converted"


# The rules, path by path


def test_a_column_that_changed_changes_the_json(ada):
    ada.change(openness_score="71", shadow_archetype="'sage'")
    assert ada.seen("personality_traits") == {"bigFive": {"openness": 71}, "archetypes": {"shadow": "sage"}}
    ada.change(openness_score="72")
    assert ada.seen("personality_traits") == {"bigFive": {"openness": 72}, "archetypes": {"shadow": "sage"}}


def test_json_that_changed_changes_the_column(ada):
    ada.change(personality_traits="""'{"bigFive": {"openness": 71}, "attachmentStyle": "secure", "own": 1}'""")
    assert (ada.seen("openness_score"), ada.seen("attachment_style")) == (71, "secure")
    ada.change(personality_traits="jsonb_set(personality_traits, '{bigFive,openness}', '72')")
    assert (ada.seen("openness_score"), ada.seen("attachment_style")) == (72, "secure")
    assert ada.seen("personality_traits")["own"] == 1


def test_when_one_statement_changes_both_the_json_wins(ada):
    ada.change(openness_score="1")
    ada.change(openness_score="2", personality_traits="""'{"bigFive": {"openness": 3}}'""")
    assert (ada.seen("openness_score"), ada.seen("personality_traits")) == (3, {"bigFive": {"openness": 3}})


def test_json_that_is_written_as_it_was_does_not_win(ada):
    ada.change(openness_score="1")
    ada.change(openness_score="2", personality_traits="""'{"bigFive": {"openness": 1}}'""")
    assert (ada.seen("openness_score"), ada.seen("personality_traits")) == (2, {"bigFive": {"openness": 2}})


def test_a_column_and_another_path_of_its_group_can_change_in_one_statement(ada):
    ada.change(openness_score="1", neuroticism_score="2")
    ada.change(openness_score="3", personality_traits="jsonb_set(personality_traits, '{bigFive,neuroticism}', '4')")
    assert (ada.seen("openness_score"), ada.seen("neuroticism_score")) == (3, 4)
    assert ada.seen("personality_traits") == {"bigFive": {"openness": 3, "neuroticism": 4}}


def test_missing_parents_are_made_and_neighbours_stay(ada):
    ada.change(personality_traits="""'{"own": {"deep": [null]}, "bigFive": {"own": 1}}'""")
    ada.change(shadow_archetype="'sage'", openness_score="5")
    assert ada.seen("personality_traits") == {
        "own": {"deep": [None]}, "bigFive": {"own": 1, "openness": 5}, "archetypes": {"shadow": "sage"},
    }  # fmt: skip


@pytest.mark.parametrize("parent", ["a string", 5, [1], None], ids=str)
def test_a_parent_that_is_no_object_is_set_aside(ada, parent):
    ada.change(personality_traits=f"""'{json.dumps({"bigFive": parent, "own": 1})}'""")
    assert ada.kept() == []
    ada.change(openness_score="5")
    assert ada.seen("personality_traits") == {"bigFive": {"openness": 5}, "own": 1}
    assert ada.kept() == [("personality_traits", "bigFive", parent)]
    assert ada.differences() == []


def test_null_takes_the_key_away(ada):
    ada.change(openness_score="71", neuroticism_score="1", attachment_style="'secure'")
    ada.change(openness_score="null", attachment_style="null")
    assert ada.seen("personality_traits") == {"bigFive": {"neuroticism": 1}}


def test_null_over_null_leaves_json_that_the_column_cannot_hold(ada):
    ada.change(personality_traits="""'{"bigFive": {"openness": "many"}}'""")
    ada.change(openness_score="null", neuroticism_score="1")
    assert ada.seen("personality_traits") == {"bigFive": {"openness": "many", "neuroticism": 1}}


def test_a_key_that_is_taken_away_empties_the_column(ada):
    ada.change(openness_score="71", neuroticism_score="1")
    ada.change(personality_traits="personality_traits #- '{bigFive,openness}'")
    assert (ada.seen("openness_score"), ada.seen("neuroticism_score")) == (None, 1)
    ada.change(personality_traits="""'{"bigFive": 5}'""")
    assert ada.seen("neuroticism_score") is None


@pytest.mark.parametrize("data_type", sorted(NOT_HELD))
def test_json_that_a_column_cannot_hold_leaves_it_null_and_is_no_difference(untouched, data_type):
    trait = ONE_OF_TYPE[data_type]
    for value in NOT_HELD[data_type]:
        untouched.change(**{trait.name: "'x'" if data_type == "text" else "1"})
        untouched.change(**{trait.group: quoted(nested(trait, value))})
        assert (untouched.seen(trait.name), untouched.seen(trait.group)) == (None, nested(trait, value))
        assert untouched.differences() == []


@pytest.mark.parametrize("data_type", sorted(HELD))
def test_each_type_goes_both_ways(untouched, data_type):
    trait = ONE_OF_TYPE[data_type]
    both = f"p.{trait.name}::text", f"{at(trait)}::text"
    for image, value in HELD[data_type]:
        untouched.change(**{trait.name: f"cast('{image}' as {data_type})"})
        column, written = untouched.read(*both)
        assert (column, json.loads(written)) == (image, value)
        untouched.change(**{trait.group: """'{"own": 1}'"""})
        assert untouched.read(*both) == (None, None)
        untouched.change(**{trait.group: quoted(nested(trait, value))})
        assert untouched.read(*both) == (image, written)


def nested(trait, value):
    """A group that holds one value."""
    return {trait.path[0]: value if len(trait.path) == 1 else {trait.path[1]: value}}


def quoted(document):
    return "'" + json.dumps(document).replace("'", "''") + "'"


def test_zero_and_negative_zero_are_two_values(ada):
    ada.change(archetype_confidence="0")
    assert ada.seen("personality_traits") == {"archetypes": {"confidence": 0}}
    ada.change(archetype_confidence="'-0'::real")
    assert ada.seen("personality_traits") == {"archetypes": {"confidence": "-0"}}
    ada.change(personality_traits="""'{"archetypes": {"confidence": 0}}'""")
    assert str(ada.seen("archetype_confidence")) == "0.0"
    ada.change(personality_traits="""'{"archetypes": {"confidence": "-0"}}'""")
    assert str(ada.seen("archetype_confidence")) == "-0.0"


def test_a_number_more_precise_than_its_column_stays_as_it_is(ada):
    ada.change(personality_traits="""'{"archetypes": {"confidence": 0.123456789012}}'""")
    ada.change(openness_score="5")
    assert ada.seen("personality_traits")["archetypes"]["confidence"] == 0.123456789012
    assert ada.read("p.archetype_confidence::text") == ("0.12345679",)
    assert ada.differences() == []


def test_an_absent_key_is_null_and_a_json_null_is_a_value(ada):
    ada.change(secondary_archetypes="'null'", shadow_archetype="null")
    both = "p.secondary_archetypes::text", "(p.personality_traits -> 'archetypes')::text"
    assert ada.read(*both) == ("null", '{"secondary": null}')
    ada.change(personality_traits="""'{"archetypes": {"shadow": null}}'""")
    assert ada.read(*both) == (None, '{"shadow": null}')
    ada.change(personality_traits="""'{"archetypes": {"secondary": null, "shadow": null}}'""")
    assert ada.read(*both) == ("null", '{"shadow": null, "secondary": null}')


def test_a_whole_group_set_to_null_empties_its_columns_and_no_others(ada):
    ada.change(openness_score="5", attachment_style="'secure'", zodiac_sign="'leo'", feelings_json="'[1]'")
    ada.change(personality_traits="null", metadata="null")
    assert (ada.seen("openness_score"), ada.seen("attachment_style"), ada.seen("feelings_json")) == (None, None, None)
    assert (ada.seen("personality_traits"), ada.seen("metadata")) == (None, None)
    assert (ada.seen("zodiac_sign"), ada.seen("cultural_attributes")) == ("leo", {"astrology": {"sign": "leo"}})


@pytest.mark.parametrize("document", ["5", "null", "[]", '"text"'])
def test_a_group_that_is_no_object_is_refused_by_the_table_not_by_the_trigger(ada, document):
    with pytest.raises(IntegrityError, match="personality_traits_is_object"):
        ada.change(personality_traits=f"'{document}'", openness_score="3")


# The first touch


def test_the_first_touch_converts_the_whole_row(untouched):
    untouched.as_it_was(openness_score=5, zodiac_sign="'leo'", feelings_json="'[null]'", trust_level=0)
    untouched.change(display_name="'Ada'")
    assert [untouched.seen(group) for group in GROUPS] == [None] * 6
    untouched.change(zodiac_sign="'virgo'")
    assert untouched.seen("cultural_attributes") == {"astrology": {"sign": "virgo"}}
    assert untouched.seen("personality_traits") == {"bigFive": {"openness": 5}}
    assert untouched.seen("analysis_summary") == {"relationship": {"trustLevel": 0}}
    assert untouched.seen("metadata") == {"feelings": [None]}
    assert (untouched.seen("appearance_traits"), untouched.seen("behavioral_metrics")) == (None, None)
    assert untouched.differences() == []


def test_the_first_touch_may_come_through_the_json(untouched):
    untouched.as_it_was(openness_score=5, neuroticism_score=6, zodiac_sign="'leo'")
    untouched.change(
        personality_traits="coalesce(personality_traits, '{}') || "
        "jsonb_build_object('bigFive', coalesce(personality_traits -> 'bigFive', '{}') || '{\"openness\": 9}')"
    )
    assert (untouched.seen("openness_score"), untouched.seen("neuroticism_score")) == (9, 6)
    assert untouched.seen("personality_traits") == {"bigFive": {"openness": 9, "neuroticism": 6}}
    assert untouched.seen("cultural_attributes") == {"astrology": {"sign": "leo"}}


def test_the_first_touch_keeps_the_applications_own_json(untouched):
    untouched.as_it_was(
        openness_score=5, attachment_style="'secure'", personality_traits="""'{"bigFive": [1], "own": {"a": null}}'"""
    )
    untouched.change(zodiac_sign="'leo'")
    assert untouched.seen("personality_traits") == {
        "bigFive": {"openness": 5}, "attachmentStyle": "secure", "own": {"a": None},
    }  # fmt: skip
    assert untouched.kept() == [("personality_traits", "bigFive", [1])]


def test_json_that_disagrees_on_first_sight_gives_way_to_the_column_and_is_kept(wide):
    ada = Profile(wide)
    ada.as_it_was(openness_score=5, personality_traits="""'{"bigFive": {"openness": 6, "neuroticism": 7}}'""")
    finish(wide)
    assert ada.seen("personality_traits") == {"bigFive": {"openness": 5, "neuroticism": 7}}
    assert (ada.seen("openness_score"), ada.seen("neuroticism_score")) == (5, 7)
    assert ada.kept() == [("personality_traits", "bigFive.openness", 6)]


# Statements of other kinds


@pytest.fixture
def insert(shared, phase):
    """Insert the profile of a user who has none, values given as SQL."""

    def insert(**values):
        grace = Profile(shared(phase))
        shared(phase).script(
            f"delete from public.user_profiles where user_id = '{grace.user}';"
            f"insert into public.user_profiles (user_id, username, {', '.join(values)})"
            f" values ('{grace.user}', '{grace.user.hex}', {', '.join(values.values())})"
        )
        return grace

    return insert


def test_an_insert_with_columns_has_json(insert):
    grace = insert(openness_score="5", feelings_json="'null'")
    assert grace.seen("personality_traits") == {"bigFive": {"openness": 5}}
    assert grace.read("p.metadata::text") == ('{"feelings": null}',)


def test_an_insert_with_json_has_columns(insert):
    grace = insert(personality_traits="""'{"bigFive": {"openness": 5}}'""")
    assert (grace.seen("openness_score"), grace.seen("personality_traits")) == (5, {"bigFive": {"openness": 5}})


def test_an_insert_with_both_has_the_json(insert):
    document = """'{"bigFive": {"openness": 5}, "own": 1}'"""
    grace = insert(personality_traits=document, openness_score="6", neuroticism_score="7")
    assert (grace.seen("openness_score"), grace.seen("neuroticism_score")) == (5, 7)
    assert grace.seen("personality_traits") == {"bigFive": {"openness": 5, "neuroticism": 7}, "own": 1}


def test_the_default_of_a_column_is_in_the_json_unless_the_json_says_otherwise(insert):
    assert insert(bio="'x'").seen("appearance_traits") == {"confidence": 0}
    grace = insert(appearance_traits="""'{"confidence": 0.5}'""")
    assert (grace.seen("appearance_confidence"), grace.seen("appearance_traits")) == (0.5, {"confidence": 0.5})


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("openness_score = excluded.openness_score", 6),
        ("personality_traits = p.personality_traits || excluded.personality_traits", 5),
        (
            (
                "openness_score = excluded.openness_score + 1,"
                " personality_traits = p.personality_traits || excluded.personality_traits"
            ),
            5,
        ),
    ],
)
def test_an_upsert_that_updates_follows_the_same_rules(ada, assignment, expected):
    ada.change(openness_score="1", attachment_style="'secure'")
    proposed = "openness_score" if expected == 6 else "personality_traits"
    value = "6" if expected == 6 else """'{"bigFive": {"openness": 5}}'"""
    ada.database.script(
        f"insert into public.user_profiles as p (user_id, username, {proposed})"
        f" values ('{ada.user}', '{ada.user.hex}', {value})"
        f" on conflict (user_id) do update set {assignment}"
    )
    assert (ada.seen("openness_score"), ada.seen("attachment_style")) == (expected, "secure")
    assert ada.seen("personality_traits") == {"bigFive": {"openness": expected}, "attachmentStyle": "secure"}
    assert ada.differences() == []


@pytest.mark.parametrize("converted", [False, True])
def test_what_other_triggers_of_the_application_change_is_followed(wide, converted):
    ada = Profile(wide)
    if converted:
        finish(wide)
    wide.script(
        "create function public.grow() returns trigger language plpgsql as $$begin"
        "  new.openness_score := coalesce(old.openness_score, 0) + 1;"
        "  new.cultural_attributes := jsonb_build_object('background', new.bio); return new; end$$;"
        "create trigger grow before update on public.user_profiles for each row execute function public.grow()"
    )
    ada.change(bio="'one'")
    assert (ada.seen("personality_traits"), ada.seen("cultural_background")) == ({"bigFive": {"openness": 1}}, "one")
    ada.change(bio="'two'")
    assert (ada.seen("personality_traits"), ada.seen("cultural_background")) == ({"bigFive": {"openness": 2}}, "two")


# Records


def test_a_row_that_is_converted_shows_no_change(wide):
    ada = Profile(wide)
    ada.as_it_was(openness_score=5, zodiac_sign="'leo'", personality_traits="""'{"own": 1}'""")
    before = ada.seen("updated_at")
    finish(wide)
    assert ada.seen("cultural_attributes") == {"astrology": {"sign": "leo"}}
    assert ada.seen("personality_traits") == {"bigFive": {"openness": 5}, "own": 1}
    assert (ada.seen("updated_at"), ada.changes()) == (before, [])


def test_a_change_is_one_change_with_the_names_of_both(ada):
    before = ada.seen("updated_at")
    ada.change(openness_score="5")
    assert ada.seen("updated_at") > before
    assert ada.changes() == [["openness_score", "personality_traits"]]
    ada.change(personality_traits="""'{"bigFive": {"openness": 6}}'""")
    assert ada.changes()[1:] == [["openness_score", "personality_traits"]]


def test_a_statement_that_changes_nothing_leaves_no_trace(ada):
    ada.change(openness_score="5")
    before = ada.seen("updated_at"), ada.changes()
    ada.change(openness_score="openness_score", personality_traits="personality_traits")
    assert (ada.seen("updated_at"), ada.changes()) == before


# Rights


def test_a_role_without_rights_on_our_schema_can_write(ada):
    mine = f"where user_id = '{ada.user}'"
    with ada.database.acting_as("service_role") as connection:
        for right in ("insert", "update"):
            assert not connection.scalar(text(f"select has_table_privilege('profiles_internal.kept_json', '{right}')"))
        for assignment in (
            """personality_traits = '{"bigFive": 1}'""",
            "openness_score = 5",
            """cultural_attributes = '{"background": "x"}'""",
        ):
            connection.exec_driver_sql(f"update public.user_profiles set {assignment} {mine}")
        row = connection.execute(text(f"select * from public.user_profiles {mine}")).one()
        connection.exec_driver_sql("reset role")
        aside = connection.scalar(text(f"select value from profiles_internal.kept_json {mine}"))
    assert (row.personality_traits, row.cultural_background, aside) == ({"bigFive": {"openness": 5}}, "x", 1)


@pytest.mark.parametrize("setting", ["skip", "touch", "anything"])
def test_nobody_but_the_owner_hides_a_change_behind_the_setting(ada, setting):
    mine = f"where user_id = '{ada.user}'"
    before = ada.seen("updated_at")
    with ada.database.acting_as("service_role") as connection:
        connection.execute(text("select set_config('profiles_internal.normalizing', :s, true)"), {"s": setting})
        connection.exec_driver_sql(f"update public.user_profiles set bio = 'secret' {mine}")
        connection.exec_driver_sql("reset role")
        after = connection.scalar(text(f"select updated_at from public.user_profiles {mine}"))
        recorded = connection.scalar(text(f"select count(*) from public.user_profile_audit_logs {mine}"))
    assert after > before
    assert recorded == 1


@pytest.mark.parametrize("setting", ["skip", "touch", "anything"])
def test_nobody_but_the_owner_keeps_columns_and_json_apart_by_the_setting(ada, setting):
    mine = f"where user_id = '{ada.user}'"
    with ada.database.acting_as("service_role") as connection:
        connection.execute(text("select set_config('profiles_internal.normalizing', :s, true)"), {"s": setting})
        connection.exec_driver_sql(f"update public.user_profiles set openness_score = 5 {mine}")
        document = connection.scalar(text(f"select personality_traits from public.user_profiles {mine}"))
    assert document == {"bigFive": {"openness": 5}}


# Erasure


def reach(database, phase):
    """Bring the normalization to a phase."""
    if phase != "expanded":
        finish(database)
    if phase in {"contracted", "restoring", "restored"}:
        with database.engine.connect() as connection:
            list(contract(connection, now=True))
    if phase == "restoring":
        database.run("select profiles_internal.begin_trait_restore()")
    if phase == "restored":
        with database.engine.connect() as connection:
            list(restore(connection))


PHASES = ["expanded", "converted", "contracted", "restoring", "restored"]


@pytest.fixture
def secretive(wide):
    """A profile with secrets in columns, in JSON of its own, and in kept_json; not converted."""
    ada = Profile(wide)
    ada.as_it_was(
        openness_score=5, zodiac_sign="'secret'", appearance_confidence=0.5, feelings_json="'[\"secret\"]'",
        personality_traits="""'{"bigFive": "secret", "own": "secret"}'""",
        analysis_summary="""'{"relationship": {"thoughts": "secret", "trustLevel": "secret"}}'""",
    )  # fmt: skip
    keep_something(ada)
    return ada


def keep_something(profile):
    profile.database.run(
        "insert into profiles_internal.kept_json (user_id, jsonb_column, path, value)"
        " values (:id, 'personality_traits', 'facets.x', '\"secret\"') on conflict do nothing",
        id=profile.user,
    )


@pytest.mark.parametrize("phase_of_erasure", PHASES)
def test_erasure_leaves_nothing_in_columns_json_or_kept_values(wide, secretive, phase_of_erasure):
    reach(wide, phase_of_erasure)
    keep_something(secretive)
    wide.run("update auth.users set deleted_at = now() where id = :id", id=secretive.user)
    row = wide.profile(secretive.user)._mapping
    assert [name for name in TRAITS if row.get(name, row.get(f"restoring_{name}")) is not None] == []
    assert "secret" not in str(row)
    assert secretive.kept() == []
    assert secretive.differences() == []
    if phase_of_erasure == "expanded":
        finish(wide)
        assert "secret" not in str(wide.profile(secretive.user)._mapping)
        assert secretive.kept() == []


def test_a_deleted_user_leaves_no_kept_values(ada):
    other = Profile(ada.database)
    for profile in (ada, other):
        keep_something(profile)
    ada.database.run("delete from auth.users where id = :id", id=ada.user)
    assert (len(ada.kept()), len(other.kept())) == (0, 1)


# Many at once


@pytest.fixture
def crew(wide):
    """Writers on profiles that are not converted, each on a connection of its own, which stays over all phases."""
    users = prepare(wide, PROFILES, SEED)
    crew = Crew(wide, [Writer(wide, users, f"{SEED} {number}") for number in range(WRITERS)])
    yield crew
    for writer in crew.writers:
        writer.connection.close()


class Crew:
    """Every other writer knows the columns only."""

    def __init__(self, database, writers):
        self.database = database
        self.writers = writers
        self.by_column, self.by_path = writers[::2], writers[1::2]

    def during(self, work, *, columns=True, users=None):
        """Write while some work goes on, then look at everything; without ``columns`` through the JSON only."""
        stop = threading.Event()
        jobs = [(writer, BY_BOTH if columns else BY_PATH) for writer in self.by_path]
        jobs += [(writer, BY_COLUMN) for writer in self.by_column] if columns else []
        before = {writer: writer.done.total() for writer, _ in jobs}
        threads = [threading.Thread(target=writer.write, args=(kinds, users, stop)) for writer, kinds in jobs]
        for thread in threads:
            thread.start()
        try:
            work()
            # The first statement of a session takes long: it has the trigger to compile.
            while any(writer.done.total() < count + LEAST for writer, count in before.items()):
                assert any(thread.is_alive() for thread in threads)
                time.sleep(0.02)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [failure for writer in self.writers for failure in writer.failures] == []
        assert mistakes(self.database, columns=phase_of(self.database) in {"expanded", "converted"}) == []

    def through(self, steps, **options):
        """Write while an operation runs to its end; returns its last report."""
        columns = options.pop("columns", True)
        last = []

        def work():
            with self.database.engine.connect() as connection:
                last.extend(steps(connection, **options))

        self.during(work, columns=columns)
        return last[-1]


def phase_of(database):
    with database.engine.connect() as connection:
        return status(connection).phase


def compared(database):
    with database.engine.connect() as connection:
        *_, last = verify(connection)
    assert (last.counts["different"], last.state) == (0, "completed")
    return last.done


@pytest.mark.slow
def test_concurrent_writers_of_columns_and_json_agree_in_every_phase(wide, crew):
    def write():
        time.sleep(SECONDS)

    slowly = Limits(5, 5, PROFILES / SECONDS)
    unconverted = f"select user_id from public.user_profiles where num_nonnulls({', '.join(GROUPS)}) = 0"

    crew.during(write, users=PROFILES // 2)
    assert PROFILES // 2 <= len(wide.run(unconverted)) < PROFILES
    assert wide.run(f"select * from profiles_internal.trait_differences() where user_id not in ({unconverted})") == []
    converted = crew.through(convert, limits=slowly)
    assert (converted.state, phase_of(wide)) == ("completed", "converted")
    assert converted.counts["converted"] > 0
    assert compared(wide) >= PROFILES
    crew.during(write)
    compared(wide)
    crew.through(contract, now=True, columns=False)
    assert phase_of(wide) == "contracted"
    crew.during(write, columns=False)
    restored = crew.through(restore, columns=False, limits=Limits(20, 5, 3 * PROFILES / SECONDS))
    assert (restored.state, phase_of(wide)) == ("completed", "converted")
    compared(wide)
    crew.during(write)
    done = profiles_schema(wide.url, "normalize", "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["different"]) == (0, 0)
