"""Wide columns become JSON and come back: no cell is lost, and no JSON that has no column."""

import copy
import json
import logging
import os
import random
import re
import struct
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from profiles_schema.errors import NormalizationRefused, ProfilesSchemaError
from profiles_schema.operations.normalize import contract
from profiles_schema.schema.traits import trait_columns
from support import drift
from support.trait_oracle import (
    BEFORE,
    COLUMNS,
    MISSING,
    NAMES,
    as_images,
    at,
    cells,
    document_of,
    documents,
    exactly,
    expected_cells,
    holds,
    json_of,
    parsed,
    present,
    put,
    set_cells,
    some,
    widen,
    write_groups,
)

PROFILES = int(os.environ.get("PROFILES_TEST_ROUND_TRIP_PROFILES", "60"))
SEED = int(os.environ.get("PROFILES_TEST_ROUND_TRIP_SEED", "1"))
TYPES = {column.name: column.data_type for column in trait_columns()}
PARENTS = sorted({(column.group, column.path[0]) for column in trait_columns() if len(column.path) > 1})

CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SMALL_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def float4(bits):
    return repr(struct.unpack("f", struct.pack("I", bits))[0])


# Cells as text: what hypothesis makes up, and the edges that must not be left to it.
CELLS = {
    "text": TEXTS,
    "integer": st.integers(-(2**31), 2**31 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "real": SMALL_FLOATS.map(repr),
    "jsonb": JSON.map(json.dumps),
    "character varying(12)": st.text(CHARACTERS, max_size=12),
    "character varying": TEXTS,
    "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
    "double precision": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(str),
    "boolean": st.sampled_from(["true", "false"]),
}
EDGES = {
    "text": [
        None, "", " ", "null", "NULL", "\\", '"', "'", "{}", "[]", "\\u0000", "\n\t\r", "\x01\x1f\x7f\x80", "\u2028",
        "\ufeff", "\ufffe", "é", "e\u0301", "ж", "漢字", "👩‍👩‍👧", "\U0010ffff", "%s %(a)s :a", "$1", "-0", "NaN", "true", "0",
    ],
    "integer": [None, "0", "1", "-1", "2147483647", "-2147483648"],
    "bigint": [None, "0", "9007199254740993", "-9007199254740993", "9223372036854775807", "-9223372036854775808"],
    "real": [
        None, "0", "-0", "NaN", "Infinity", "-Infinity", "0.1", "0.3", "16777216", "16777217", "1e10", "1e-10", "1.17549435e-38",
        "1e-45", "-1e-45", "3.4028235e38", "-3.4028235e38", "8.5899346e9", "2.1e-44", float4(1), float4(0x007FFFFF), float4(0x3EAAAAAB),
        float4(0x4B800001),
    ],
    "jsonb": [
        None, "null", "{}", "[]", '""', "0", "-0.0", "1.0", "1.10", "true", "false", '"null"', "[null]", '{"a": null}',
        '{"a": {"b": null, "c": {}}, "d": [{}, [], null, ""]}', '{"": {"": 1}}', '{"a.b": 1, "c\\\\d": 2}', "9007199254740993",
        "123456789012345678901234567890.123456789", "1e400", "1e-400", '"👩‍👩‍👧\\u0001"', '"NaN"', '{"ключ": ["漢字"]}',
    ],
    "character varying(12)": [None, "", "x" * 12, "👩‍👩‍👧" * 2, "            ", "\\", "\x01"],
    "character varying": [None, "", "null", "👩‍👩‍👧"],
    "smallint": [None, "0", "32767", "-32768"],
    "double precision": [
        None, "0", "-0", "NaN", "Infinity", "-Infinity", "0.1", "1.7976931348623157e308", "-1.7976931348623157e308", "5e-324",
        "2.2250738585072014e-308", "9007199254740993", "0.30000000000000004",
    ],
    "numeric": [
        None, "0", "0.00", "1.10", "-1e-300", "1e300", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.12345678901234567890",
    ],
    "boolean": [None, "true", "false"],
}  # fmt: skip
# JSON that no column of the type can hold, or holds less precisely.
STRANGE = {
    "text": ["null", "0", "true", "{}", "[]", '["a"]', '{"a": {"b": null}}'],
    "integer": ["null", "1.5", "2147483648", "-2147483649", "1e40", '"5"', '""', "false", "[1]", '{"a": 1}', '"NaN"'],
    "bigint": ["null", "0.1", "9223372036854775808", "-9223372036854775809", '"5"', "true", "{}"],
    "real": [
        "null", "1e39", "-1e39", "1e-46", "0.123456789012345", "16777217", "9007199254740993", "1e-44", '"nan"', '"0"',
        '"inf"', '""', "true", "[]", '{"a": 1}', "123456789012345678901234567890.5",
    ],
    "jsonb": [],
    "character varying(12)": ["null", '"xxxxxxxxxxxxx"', "1", "{}"],
    "character varying": ["null", "1", "[]"],
    "smallint": ["null", "32768", "1.5", "true", '"1"'],
    "double precision": ["null", "1e400", "1e-400", "0.12345678901234567890", '"1"', "9007199254740993"],
    "numeric": ["null", '"1"', '"-0"', "true", "[]"],
    "boolean": ["null", '"true"', "0", "1", "[]"],
}  # fmt: skip
OWN_KEYS = [
    "own",
    "",
    ".",
    "a.b",
    "a\\b",
    "\\",
    "\\.",
    "0",
    "-1",
    "ключ 👩‍👩‍👧",
    "\t",
    "{}",
    '"',
    "bigFive.openness",
    "null",
]
OWN_KEY = st.sampled_from(OWN_KEYS) | TEXTS


def drawn(strategy, number, start=SEED):
    """Some examples, the same for the same seed."""
    found = []

    @seed(start)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example):
        found.append(example)

    draw()
    return found


class MadeUp:
    """Rows, and what is done to them; the same for the same seed."""

    def __init__(self, types=TYPES, start=SEED):
        self.types = types
        self.rnd = random.Random(start)
        self.cells = {
            kind: [*EDGES[kind], *drawn(CELLS[kind], 150, start)] for kind in {*types.values(), *TYPES.values()}
        }
        self.json = [parsed(json.dumps(value)) for value in drawn(JSON, 150, start)]
        self.keys = drawn(OWN_KEY, 100, start) + OWN_KEYS

    def row(self):
        share = self.rnd.choice([0, 0.1, 0.5, 0.9, 1])
        return {
            name: self.rnd.choice(self.cells[kind]) if self.rnd.random() < share else None
            for name, kind in self.types.items()
        }

    def edge(self, number):
        """The row in which every column has the edge of this number, if its type has so many."""
        return {name: EDGES[kind][number % len(EDGES[kind])] for name, kind in self.types.items()}

    def own(self):
        """An application's own value, up to three objects deep."""
        value = self.rnd.choice([*self.json, {}, [], None, {"": {}}])
        for _ in range(self.rnd.randrange(3)):
            value = {self.rnd.choice(self.keys): value}
        return copy.deepcopy(value)

    def write(self, groups):
        """Change some of one profile's groups in place, as an application would."""
        for _ in range(self.rnd.randrange(1, 12)):
            column = COLUMNS[self.rnd.choice(NAMES)]
            group, kind = column.group, self.types.get(column.name, column.data_type)
            document = groups[group] = {} if groups[group] is None else groups[group]
            match self.rnd.randrange(8):
                case 0 | 1:
                    value = json_of(kind, self.rnd.choice(self.cells[kind]))
                    put(document, column.path, value)
                case 2:
                    put(document, column.path, parsed(self.rnd.choice(STRANGE[kind] or ["null"])))
                case 3:
                    put(document, column.path, MISSING)
                case 4:
                    put(document, column.path, copy.deepcopy(self.rnd.choice(self.json)))
                case 5:
                    document[column.path[0]] = copy.deepcopy(
                        self.rnd.choice([Decimal(7), "calm", None, True, [], [None, {}], {}])
                    )
                case 6:
                    self.put_own(document)
                case 7:
                    parents = [
                        parent for of, parent in PARENTS if of == group and isinstance(document.get(parent), dict)
                    ]
                    if parents:
                        self.put_own(document[self.rnd.choice(parents)])

    def put_own(self, document):
        taken = {column.path[0] for column in trait_columns()} | {column.path[-1] for column in trait_columns()}
        key = self.rnd.choice([key for key in self.keys if key not in taken])
        document[key] = self.own()


def fill(database, users, rows, types=TYPES):
    for user, row in zip(users, rows, strict=True):
        set_cells(database, user, row, types)


def without_empty_groups(rows, types=TYPES):
    """A group that was {} is NULL after it was away: both hold nothing."""
    away = {COLUMNS[name].group for name in types}
    return {
        user: {group: (document or None) if group in away else document for group, document in groups.items()}
        for user, groups in rows.items()
    }


def assert_same(found, wanted):
    """Equal, or a short list of what is not."""
    assert found.keys() == wanted.keys()
    differ = [
        f"{user} {name}: {found[user][name]!r:.200} is not {wanted[user][name]!r:.200}"
        for user in wanted
        for name in wanted[user]
        if found[user][name] != wanted[user][name]
    ]
    assert not differ, f"{len(differ)} differ:\n" + "\n".join(differ[:20])


def assert_same_json(found, wanted):
    assert_same(
        {user: {group: exactly(value) for group, value in row.items()} for user, row in found.items()},
        {user: {group: exactly(value) for group, value in row.items()} for user, row in wanted.items()},
    )


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="profiles_schema.migrations")
    return caplog


@pytest.fixture
def made_up():
    return MadeUp()


@pytest.fixture
def wide(database, made_up):
    """A database from before expand with every edge of every type, and made-up rows."""
    edges = max(len(values) for values in EDGES.values())
    database.users = widen(database, edges + PROFILES)
    rows = [made_up.edge(number) for number in range(edges)] + [made_up.row() for _ in range(PROFILES)]
    rows[-1]["attachment_style"] = "👩‍👩‍👧" * 58_000  # 1 MB
    rows[-1]["personality_facets"] = json.dumps({"long": "x" * 2**20})
    fill(database, database.users, rows)
    return database


@pytest.mark.slow
def test_every_cell_survives_contract_and_the_way_back(wide):
    before = cells(wide)
    wide.upgrade(contract="now")
    assert present(wide) == []
    assert_same_json(documents(wide), {user: document_of(row, TYPES) for user, row in before.items()})
    wide.downgrade(BEFORE)
    assert present(wide) == list(NAMES)
    assert_same(cells(wide), before)
    assert wide.value("select count(*) from profiles_internal.kept_json") == 0
    types = dict(
        wide.run(
            "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = 'public.user_profiles'::regclass and attname = any (:names)",
            names=list(NAMES),
        )
    )
    assert types == TYPES


def test_a_null_column_is_an_absent_key_and_a_json_null_is_a_json_null(database):
    ada, grace = widen(database, 2)
    database.run("update public.user_profiles set personality_facets = 'null' where user_id = cast(:u as uuid)", u=ada)
    database.upgrade(contract="now")
    found = documents(database)
    assert found[ada]["personality_traits"] == {"facets": None}
    assert found[grace]["personality_traits"] is None
    database.downgrade(BEFORE)
    found = cells(database, ["personality_facets"])
    assert (found[ada]["personality_facets"], found[grace]["personality_facets"]) == ("null", None)


def written(database, made_up):
    """New writes through JSON to two of three profiles; what all groups hold then."""
    groups = documents(database)
    for number, user in enumerate(database.users):
        if number % 3:
            made_up.write(groups[user])
            write_groups(database, user, groups[user])
    assert_same_json(documents(database), groups)
    return groups


def assert_round_trip(database, made_up):
    """Up, new writes, down, and up and down again."""
    types = made_up.types
    before = cells(database)
    database.upgrade(contract="now")
    assert present(database) == []
    assert_same_json(documents(database), {user: document_of(row, types) for user, row in before.items()})
    groups = written(database, made_up)
    database.downgrade(BEFORE)
    down = cells(database)
    assert set(present(database)) == set(types)
    assert_same(as_images(down, types), expected_cells(database, groups, types))
    away = {COLUMNS[name].group for name in types}
    for user, row in documents(database).items():
        for group, document in row.items():
            assert exactly(document) == (exactly(None) if group in away else exactly(groups[user][group]))
    kept = database.value("select count(*) from profiles_internal.kept_json")
    database.upgrade(contract="now")
    assert_same_json(documents(database), without_empty_groups(groups, types))
    assert database.value("select count(*) from profiles_internal.kept_json") == 0
    database.downgrade(BEFORE)
    assert_same(cells(database), down)
    return kept


@pytest.mark.slow
def test_what_was_written_since_is_in_the_columns_and_what_none_can_hold_comes_back_with_the_next_upgrade(
    wide, made_up
):
    assert assert_round_trip(wide, made_up) > PROFILES


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2, 9, 53, 105])
def test_a_table_may_have_any_of_the_columns(database, columns):
    chosen = random.Random(f"{SEED} {columns}").sample(NAMES, columns)
    made_up = MadeUp({name: TYPES[name] for name in NAMES if name in chosen})
    rows = [made_up.row() for _ in range(PROFILES // 4)]
    database.users = widen(database, len(rows), made_up.types)
    fill(database, database.users, rows, made_up.types)
    assert_round_trip(database, made_up)


@pytest.mark.slow
def test_columns_of_other_types_come_and_go_too(database):
    rnd = random.Random(SEED)
    odd = [kind for kind in CELLS if kind not in TYPES.values()]
    made_up = MadeUp({name: rnd.choice(odd) for name in NAMES})
    edges = max(len(EDGES[kind]) for kind in odd)
    rows = [made_up.edge(number) for number in range(edges)] + [made_up.row() for _ in range(PROFILES // 2)]
    database.users = widen(database, len(rows), made_up.types)
    fill(database, database.users, rows, made_up.types)
    assert_round_trip(database, made_up)


def with_new_cells(groups, changed):
    """One profile's groups after its columns were changed; and the paths that cannot come back."""
    groups, lost = copy.deepcopy(groups), set()
    for name, cell in changed.items():
        column = COLUMNS[name]
        value = json_of(column.data_type, cell)
        document = groups[column.group]
        old = at(document, column.path)
        if not holds(column.data_type, old) and old is not MISSING:
            lost.add((column.group, ".".join(column.path)))
        if value is MISSING:
            if document is not None:
                put(document, column.path, MISSING)
                if len(column.path) > 1 and document.get(column.path[0]) == {}:
                    del document[column.path[0]]
            continue
        if document is None:
            document = groups[column.group] = {}
        parent = at(document, column.path[:-1])
        if parent is not MISSING and not isinstance(parent, dict):
            lost.add((column.group, column.path[0]))
        put(document, column.path, value)
    return groups, lost


@pytest.mark.slow
def test_a_newer_value_of_a_column_stands_and_everything_else_comes_back(wide, made_up):
    wide.upgrade(contract="now")
    groups = written(wide, made_up)
    wide.downgrade(BEFORE)
    before = cells(wide)
    changed = {
        user: {
            name: made_up.rnd.choice(made_up.cells[kind]) for name, kind in TYPES.items() if made_up.rnd.random() < 0.1
        }
        for user in wide.users
    }
    for user, new in changed.items():
        if new:
            set_cells(wide, user, new, TYPES)
    down = cells(wide)
    wanted, lost = {}, set()
    for user in wide.users:
        # Written anew, but to the same value, is not newer.
        newer = {name: down[user][name] for name in changed[user] if down[user][name] != before[user][name]}
        wanted[user], gone = with_new_cells(groups[user], newer)
        lost |= {(user, *path) for path in gone}
    wide.upgrade(contract="now")
    assert_same_json(documents(wide), without_empty_groups(wanted))
    kept = set(wide.run("select user_id::text, jsonb_column, path from profiles_internal.kept_json"))
    assert {tuple(row) for row in kept} >= lost
    assert lost
    wide.downgrade(BEFORE)
    assert_same(cells(wide), down)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "document", "cell", "found"),
    [
        # Held less exactly: back as long as the column says the same.
        ("archetype_confidence", {"archetypes": {"confidence": Decimal("0.123456789012345")}}, None, None),
        ("archetype_confidence", {"archetypes": {"confidence": Decimal("0.123456789012345")}}, "0.5", {"archetypes": {"confidence": Decimal("0.5")}}),
        # Not held at all: back as long as the column is NULL.
        ("openness_score", {"bigFive": {"openness": "high"}}, "71", {"bigFive": {"openness": Decimal(71)}}),
        ("openness_score", {"bigFive": "calm"}, "71", {"bigFive": {"openness": Decimal(71)}}),
        ("attachment_style", {"attachmentStyle": None}, "", {"attachmentStyle": ""}),
    ],
)  # fmt: skip
def test_what_was_kept_waits_where_the_column_has_something_newer(database, column, document, cell, found):
    (ada,) = widen(database, 1)
    database.upgrade(contract="now")
    write_groups(database, ada, {"personality_traits": document})
    database.downgrade(BEFORE)
    before = cells(database)[ada]
    set_cells(database, ada, {column: "7" if COLUMNS[column].data_type != "text" else "x"}, TYPES)
    set_cells(database, ada, {column: cell}, TYPES)
    database.upgrade(contract="now")
    assert exactly(documents(database)[ada]["personality_traits"]) == exactly(found)
    assert database.value("select count(*) from profiles_internal.kept_json") == 1
    database.downgrade(BEFORE)
    assert cells(database)[ada] == before | {column: cell}
    # It does not come back later, when what stands there now may have been removed on purpose; it is not lost, either.
    set_cells(database, ada, {column: before[column]}, TYPES)
    database.upgrade(contract="now")
    # (But for an object's place that nothing stands in any more.)
    comes_back = document == {"bigFive": "calm"}
    assert (exactly(documents(database)[ada]["personality_traits"]) == exactly(document)) is comes_back
    assert database.value("select count(superseded_at) from profiles_internal.kept_json") == (not comes_back)


WORLD = """
alter table public.user_profiles
  alter column openness_score set default 50,
  alter column attachment_style set not null,
  add constraint openness_is_a_share check (openness_score between 0 and 100),
  add constraint awareness_below_empathy check (emotional_awareness_score <= empathy_score),
  add constraint one_face_each unique (dominant_archetype),
  alter column shadow_archetype set statistics 500;
create index shadows on public.user_profiles using btree (shadow_archetype) where openness_score > 10;
create index shadows_lower on public.user_profiles (lower(shadow_archetype), user_id);
create unique index one_shadow on public.user_profiles (shadow_archetype);
comment on column public.user_profiles.empathy_score is $$it's 0 to 100, "in per cent"$$;
grant select (empathy_score), update (empathy_score) on public.user_profiles to authenticated;
grant select (openness_score) on public.user_profiles to public;
"""
WORLD_OF_COLUMNS = """
select 'constraint', conname::text, pg_get_constraintdef(oid) from pg_constraint where conrelid = 'public.user_profiles'::regclass
union all select 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index where indrelid = 'public.user_profiles'::regclass
union all select 'column', attname::text, concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attacl::text, pg_get_expr(adbin, adrelid),
  col_description(attrelid, attnum)) from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where attrelid = 'public.user_profiles'::regclass and attnum > 0 and not attisdropped
order by 1, 2
"""


def test_rules_indexes_comments_defaults_and_rights_of_the_columns_are_set_aside_and_put_back(database):
    users = widen(database, 3)
    fill(
        database,
        users,
        [{column.name: some(number, column, number) for column in trait_columns()} for number in range(3)],
    )
    database.run("update public.user_profiles set emotional_awareness_score = 1, shadow_archetype = user_id")
    database.run("update public.user_profiles set dominant_archetype = user_id")
    database.script(WORLD)
    before, values = database.run(WORLD_OF_COLUMNS), cells(database)
    database.upgrade()
    # The JSON may say what the columns' rules forbid.
    database.run(
        "update public.user_profiles set personality_traits = personality_traits - 'attachmentStyle'"
        " || cast('{\"bigFive\": {\"openness\": 500}}' as jsonb) where user_id = cast(:u as uuid)", u=users[0],
    )  # fmt: skip
    assert cells(database)[users[0]]["openness_score"] == "500"
    for user in users[:1]:
        set_cells(database, user, values[user], TYPES)
    database.upgrade(contract="now")
    database.downgrade("0018_index_traits")
    database.upgrade(contract="now")
    assert present(database) == []
    assert drift(database) == []
    database.downgrade(BEFORE)
    assert cells(database) == values
    assert database.run(WORLD_OF_COLUMNS) == before
    assert database.value("select count(*) from profiles_internal.adopted") == 0


def test_rules_that_the_rows_do_not_keep_any_more_come_back_as_far_as_they_can_and_it_says_so(database, log):
    ada, grace = widen(database, 2)
    database.run("update public.user_profiles set attachment_style = 'secure', dominant_archetype = user_id")
    database.script(WORLD)
    database.upgrade(contract="now")
    for user in (ada, grace):
        write_groups(
            database, user, {"personality_traits": {"bigFive": {"openness": 500}, "archetypes": {"dominant": "sage"}}}
        )
    database.downgrade(BEFORE)
    assert [cells(database)[user]["openness_score"] for user in (ada, grace)] == ["500", "500"]
    rules = dict(
        database.run(
            "select conname::text, convalidated from pg_constraint where conrelid = 'public.user_profiles'::regclass"
        )
    )
    assert rules["openness_is_a_share"] is False
    assert rules["awareness_below_empathy"] is True
    assert "one_face_each" not in rules
    assert "openness_is_a_share came back NOT VALID" in log.text
    assert "constraint public.one_face_each could not come back (SQLSTATE 23505)" in log.text
    assert "attachment_style could not come back (SQLSTATE 23502)" in log.text


@pytest.mark.parametrize(
    "kind",
    ["uuid", "text[]", "timestamptz", "numeric(10,2)", "char(3)", "json", "integer generated always as (1) stored"],
)
def test_a_type_that_cannot_come_back_is_refused_before_anything_changes(database, kind):
    widen(database, 1, {"openness_score": kind, "attachment_style": "text"})
    state = "select version_num from profiles_internal.alembic_version"
    with pytest.raises(ProfilesSchemaError) as refused:
        database.upgrade(contract="now")
    assert "have a type that cannot become JSON and come back: openness_score" in str(refused.value)
    assert "attachment_style" not in str(refused.value)
    assert database.value(state) == BEFORE
    assert database.value("select count(*) from profiles_internal.legacy_columns") == 0
    assert database.value("select to_regproc('profiles_internal.expand_traits')") is None
    database.script("alter table public.user_profiles drop column openness_score")
    database.upgrade(contract="now")
    assert present(database) == []


USERS = [
    (
        "create view public.shares as select user_id, openness_score from public.user_profiles",
        "view public.shares|view shares",
    ),
    (
        "create function public.noted() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger noted after update of openness_score on public.user_profiles for each row execute function public.noted()",
        "trigger noted on table",
    ),
    (
        "create policy shared on public.user_profiles for select using (openness_score > 50)",
        "policy shared on table",
    ),
]


@pytest.mark.parametrize(("own", "name"), USERS, ids=["view", "trigger", "policy"])
def test_what_uses_a_column_keeps_all_of_them_and_is_named(database, log, own, name):
    (ada,) = widen(database, 1)
    set_cells(database, ada, {"openness_score": "71"}, TYPES)
    database.script(own)
    before = cells(database)
    database.upgrade(contract="now")
    assert re.search(f"wide columns of user_profiles are still used by: ({name})", log.text)
    assert cells(database) == before
    with database.engine.connect() as connection, pytest.raises(NormalizationRefused, match=name):
        list(contract(connection, now=True))
    assert cells(database) == before
    set_cells(database, ada, {"openness_score": "72"}, TYPES)
    assert documents(database)[ada]["personality_traits"] == {"bigFive": {"openness": Decimal(72)}}
