"""settings: read and change the feature flag and the audit level."""

import json
import shlex

import pytest

from profiles_schema.operations.health import examine
from support import profiles_schema


def test_get_shows_the_defaults(database):
    assert profiles_schema(database.url, "settings", "get").stdout == (
        "accepted_openings [] (default)\naccepted_policies [] (default)\n"
        "audit_keep_days 365\naudit_key_reads false\naudit_level changes\nauto_create_profiles true\nnormalize_verification_days 7\nusername_hold_days 90\n"
    )
    assert profiles_schema(database.url, "settings", "get", "audit_level").stdout == "changes\n"


def test_set_takes_effect_at_once(database):
    done = profiles_schema(database.url, "settings", "set", "auto_create_profiles", "false", "--json")
    assert json.loads(done.stdout) == {"auto_create_profiles": False}
    user = database.sign_up("ada@example.org")
    assert database.profile(user) is None
    assert profiles_schema(database.url, "settings", "set", "auto_create_profiles", "true").returncode == 0
    assert database.profile(database.sign_up("bob@example.org")) is not None


def test_an_unknown_setting_or_value_is_refused_with_what_is_known(database):
    unknown = profiles_schema(database.url, "settings", "set", "colour", "red")
    assert unknown.returncode == 2
    assert "audit_level" in unknown.stderr
    wrong = profiles_schema(database.url, "settings", "set", "audit_level", "loud")
    assert wrong.returncode == 2
    assert "failures, changes, all" in wrong.stderr
    days = profiles_schema(database.url, "settings", "set", "normalize_verification_days", "soon")
    assert days.returncode == 2
    assert "a number from 0 to 3650" in days.stderr
    assert profiles_schema(database.url, "settings", "get", "colour").returncode == 2
    assert database.value("select value from profiles_internal.settings where key = 'audit_level'") == "changes"


def test_a_number_can_be_set(database):
    done = profiles_schema(database.url, "settings", "set", "normalize_verification_days", "14", "--json")
    assert json.loads(done.stdout) == {"normalize_verification_days": 14}


def test_a_missing_row_is_shown_as_its_default(database):
    database.run("delete from profiles_internal.settings where key = 'audit_level'")
    assert (
        "audit_key_reads false\naudit_level changes (default)\n"
        in profiles_schema(database.url, "settings", "get").stdout
    )
    assert profiles_schema(database.url, "settings", "get", "audit_level").stdout == "changes (default)\n"
    found = json.loads(profiles_schema(database.url, "settings", "get", "--json").stdout)
    assert found["audit_level"] == "changes"


@pytest.mark.parametrize(
    "key", ["auto_create_profiles", "audit_level", "normalize_verification_days", "accepted_policies"]
)
@pytest.mark.parametrize("value", [None, '"banana"', "true", "1", "null", '["x", 1]'])
def test_health_names_a_setting_that_is_missing_or_nonsense_and_how_to_set_it(database, key, value):
    if value is None:
        database.run("delete from profiles_internal.settings where key = :key", key=key)
    else:
        database.run(
            "insert into profiles_internal.settings (key, value) values (:key, cast(:value as jsonb))"
            " on conflict (key) do update set value = excluded.value", key=key, value=value,
        )  # fmt: skip
    fine = {("auto_create_profiles", "true"), ("normalize_verification_days", "1"), ("accepted_policies", None)}
    with database.engine.connect() as connection:
        found = examine(connection).problems
    if (key, value) in fine:
        assert found == []
        return
    (problem,) = found
    assert problem.code == "setting"
    assert key in problem.message
    done = profiles_schema(database.url, *shlex.split(problem.remedy)[1:])
    assert done.returncode == 0, done.stderr
    with database.engine.connect() as connection:
        assert examine(connection).findings == []
