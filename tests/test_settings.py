"""settings: read and change the feature flag and the audit level."""

import json

from support import profiles_schema


def test_get_shows_the_defaults(database):
    assert profiles_schema(database.url, "settings", "get").stdout == (
        "audit_level changes\nauto_create_profiles true\nnormalize_verification_days 7\n"
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
