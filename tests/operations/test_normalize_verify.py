"""verify finds every cell in which column and JSON disagree, and nothing else; contract drops nothing then."""

import json
import os
import random

import pytest
from sqlalchemy import text

from profiles_schema.errors import ValuesDiffer
from profiles_schema.operations.normalize import Differences, contract, verify
from profiles_schema.schema.traits import trait_columns
from support import profiles_schema
from support.trait_oracle import BEFORE, COLUMNS, NAMES, at, present, widen

PROFILES = int(os.environ.get("PROFILES_TEST_VERIFY_PROFILES", "150"))
SEED = int(os.environ.get("PROFILES_TEST_VERIFY_SEED", "1"))

# Cells that are NULL in a tenth of the profiles, made by the database from a hash.
HASH = "(hashtextextended(p.user_id::text, {number}) & 1048575)"
CELL = {
    "text": "'text ' || {hash}",
    "integer": "({hash} % 101)::integer",
    "bigint": "{hash} * 1000003",
    "real": "({hash} / 1024.0)::real",
    "jsonb": "jsonb_build_object('score', {hash}, 'list', jsonb_build_array(null, {hash} % 7))",
}
OTHER = {"text": "other", "integer": "-7", "bigint": "-7", "real": "-7.5", "jsonb": '{"other": null}'}
OTHER_TYPE = {"text": [7], "integer": "7", "bigint": True, "real": {"a": 1}, "jsonb": False}


def fill(database):
    items = []
    for number, column in enumerate(trait_columns()):
        made_of = HASH.format(number=number)
        value = CELL[column.data_type].format(hash=made_of)
        items.append(f"{column.name} = case when {made_of} % 10 > 0 then {value} end")
    database.script(f"update public.user_profiles as p set {', '.join(items)}; analyze public.user_profiles")


@pytest.fixture
def converted(database):
    """Wide columns and JSON in step, with some JSON beside NULL that no column can hold."""
    database.users = widen(database, PROFILES)
    fill(database)
    database.upgrade()
    database.run(
        "update public.user_profiles set personality_traits = jsonb_set(personality_traits, '{bigFive,openness}', '\"high\"')"
        " where openness_score is null and personality_traits ? 'bigFive'"
    )
    assert database.value("select count(*) from public.user_profiles where openness_score is null") > 0
    return database


def damage(database, cells):
    """Change cells behind the trigger, on either side; what verify has to say, by user and column."""
    rnd = random.Random(f"{SEED} {cells}")
    chosen = set()
    while len(chosen) < cells:
        chosen.add((rnd.choice(database.users), rnd.choice(NAMES)))
    expected = {}
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        for user, name in sorted(chosen):
            column = COLUMNS[name]
            path = "{" + ",".join(column.path) + "}"
            read = text(
                f"select {name}::text, ({column.group} #> '{path}')::text"
                " from public.user_profiles where user_id = cast(:u as uuid)"
            )
            old, document = connection.execute(read, {"u": user}).one()
            if old is None:
                how = rnd.choice(["other column", "other JSON"])
            else:
                how = rnd.choice(["no column", "other column", "no key", "JSON null", "other JSON", "other type"])
            json_value = {
                "JSON null": None,
                "other JSON": json.loads(OTHER[column.data_type]) if column.data_type != "text" else "other",
                "other type": OTHER_TYPE[column.data_type],
            }
            if how == "no key":
                write = f"{column.group} = {column.group} #- '{path}'"
            elif how in json_value:
                parent = f"coalesce({column.group}, '{{}}')"
                if len(column.path) > 1:
                    parent = f"jsonb_set({parent}, '{{{column.path[0]}}}', coalesce({column.group} -> '{column.path[0]}', '{{}}'))"
                write = f"{column.group} = jsonb_set({parent}, '{path}', cast(:v as jsonb))"
            else:
                write = f"{name} = cast(:v as {column.data_type})"
            value = json.dumps(json_value[how]) if how in json_value else OTHER[column.data_type]
            connection.execute(
                text(f"update public.user_profiles set {write} where user_id = cast(:u as uuid)"),
                {"u": user, **({} if how == "no key" else {"v": None if how == "no column" else value})},
            )
            old, document = connection.execute(read, {"u": user}).one()
            expected[user, name] = (old and old[:80], document and document[:80])
    assert len(expected) == cells
    return expected


def verified(database):
    """The last report, and the differences."""
    found = Differences()
    with database.engine.connect() as connection:
        return list(verify(connection, differences=found))[-1], found


def test_what_agrees_is_not_reported(converted):
    last, found = verified(converted)
    assert (last.done, last.counts, found.named, last.state) == (PROFILES, {"different": 0}, [], "completed")
    done = profiles_schema(converted.url, "normalize", "verify")
    assert (done.returncode, done.stdout) == (0, f"{PROFILES} profiles compared, 0 values differ\n")


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 10, 1000])
def test_every_damaged_cell_is_found_and_no_other_and_contract_drops_nothing(converted, cells):
    expected = damage(converted, cells)
    by_column = {name: sum(column == name for _, column in expected) for _, name in expected}

    last, found = verified(converted)
    assert {(d.user_id, d.column): (d.old, d.new) for d in found.named} == expected
    assert (last.counts["different"], found.columns, last.done) == (cells, by_column, PROFILES)

    done = profiles_schema(converted.url, "normalize", "verify", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert {(d["user_id"], d["column"]): (d["old"], d["new"]) for d in report["differences"]} == expected
    assert (report["different"], report["columns"], report["profiles"]) == (cells, by_column, PROFILES)
    assert (report["phase"], report["state"]) == ("converted", "completed")

    told = profiles_schema(converted.url, "normalize", "verify")
    assert told.returncode == 1
    assert told.stdout.startswith(f"{PROFILES} profiles compared, {cells} values differ\n")
    lines = told.stdout.splitlines()[1 : min(cells, 50) + 1]
    assert len({tuple(line.split()[:2]) for line in lines} & set(expected)) == min(cells, 50)
    assert ("… and 950 more" in told.stdout) == (cells == 1000)

    refused = profiles_schema(converted.url, "normalize", "contract", "--now")
    assert refused.returncode == 1
    assert f"{cells} values of {len(by_column)} columns differ from the JSON; no column is dropped" in refused.stderr
    named = {tuple(line.strip().split(":")[0].split()) for line in refused.stderr.splitlines() if line.startswith("  ")}
    assert len(named & set(expected)) == min(cells, 20)
    with converted.engine.connect() as connection, pytest.raises(ValuesDiffer):
        list(contract(connection, now=True))
    assert present(converted) == list(NAMES)

    # A deploy does not fail for it.
    converted.downgrade("0018_index_traits")
    deployed = profiles_schema(converted.url, "upgrade", "-x", "contract=now")
    assert deployed.returncode == 0, deployed.stderr
    assert "106 wide columns of user_profiles stay: values differ from the JSON" in deployed.stderr
    assert sum(f"{name} of user {user}" in deployed.stderr for user, name in expected) == min(cells, 5)
    assert present(converted) == list(NAMES)
    assert verified(converted)[0].counts["different"] == cells


@pytest.mark.slow
def test_after_run_the_columns_count_and_the_json_that_disagreed_is_kept(converted):
    expected = damage(converted, 100)
    before = converted.run(f"select user_id, {', '.join(NAMES)} from public.user_profiles order by 1")
    documents = {
        (user, name): at(converted.value(
            f"select {COLUMNS[name].group} from public.user_profiles where user_id = cast(:u as uuid)", u=user
        ), COLUMNS[name].path)
        for (user, name) in expected
    }  # fmt: skip
    done = profiles_schema(converted.url, "normalize", "run")
    assert done.returncode == 0, done.stderr
    assert verified(converted)[0].counts["different"] == 0
    after = converted.run(f"select user_id, {', '.join(NAMES)} from public.user_profiles order by 1")
    # A NULL beside JSON that its column can hold is the one cell that changes.
    kept = {
        (str(user), path): value
        for user, path, value in converted.run("select user_id, path, value from profiles_internal.kept_json")
    }
    for old, new in zip(before, after, strict=True):
        for name, was, now in zip(NAMES, old[1:], new[1:], strict=True):
            if was != now:
                assert was is None
                assert (str(old[0]), name) in expected
    for (user, name), (column_value, json_text) in expected.items():
        if column_value is not None and json_text is not None:
            assert kept[user, ".".join(COLUMNS[name].path)] == documents[user, name]
    done = profiles_schema(converted.url, "normalize", "contract", "--now")
    assert (done.returncode, done.stdout) == (
        0, f"{PROFILES} profiles compared, no difference; 106 columns dropped\n",
    )  # fmt: skip
    converted.downgrade(BEFORE)
    assert converted.run(f"select user_id, {', '.join(NAMES)} from public.user_profiles order by 1") == after


@pytest.mark.parametrize(
    ("column", "value", "document", "differs"),
    [
        ("archetype_confidence", "'-0'", "0", True),
        ("archetype_confidence", "0", '"-0"', True),
        ("archetype_confidence", "'NaN'", '"NaN"', False),
        ("archetype_confidence", "'NaN'", '"Infinity"', True),
        ("archetype_confidence", "0.1", "0.10000000000000001", False),
        ("archetype_confidence", "0.1", "0.1000001", True),
        ("archetype_confidence", "null", '"much"', False),
        ("archetype_confidence", "null", "0", True),
        ("dominant_archetype", "''", '""', False),
        ("dominant_archetype", "''", "null", True),
        ("dominant_archetype", "null", "null", False),
        ("dominant_archetype", "null", '""', True),
        ("secondary_archetypes", "'null'", "null", False),
        ("secondary_archetypes", "null", "null", True),
        ("secondary_archetypes", "'[1.0]'", "[1]", False),
        ("secondary_archetypes", "'[]'", "{}", True),
    ],
)
def test_a_difference_is_what_the_column_could_hold_and_does_not(database, column, value, document, differs):
    (user,) = widen(database, 1)
    database.upgrade()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        key = COLUMNS[column].path[1]
        connection.execute(
            text(
                f"update public.user_profiles set {column} = {value}, personality_traits ="
                f" jsonb_build_object('archetypes', jsonb_build_object('{key}', cast(:document as jsonb)))"
            ),
            {"document": document},
        )
    found = [(d.user_id, d.column) for d in verified(database)[1].named]
    assert found == [(user, column)] * differs
