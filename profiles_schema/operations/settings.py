"""Read and change the settings that the database itself reads, and those that health reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import UsageError
from profiles_schema.migrations import expected
from profiles_schema.operations import openings
from profiles_schema.operations.findings import Finding, problem

_CHOICES: Mapping[str, Sequence[Any]] = {
    "auto_create_profiles": (True, False),
    "audit_level": ("failures", "changes", "all"),
    "audit_key_reads": (True, False),
    "normalize_verification_days": range(3651),
    "audit_keep_days": range(1, 36_501),
    "username_hold_days": range(3651),
}
_LISTS = ("accepted_policies", "accepted_openings")
DEFAULTS: Mapping[str, Any] = {
    "auto_create_profiles": True,
    "audit_level": "changes",
    "audit_key_reads": False,
    "normalize_verification_days": 7,
    "audit_keep_days": 365,
    "username_hold_days": 90,
    "accepted_policies": [],
    "accepted_openings": [],
}
"""Each setting, with what holds where the database has none."""

VERIFICATION_DAYS = (
    "coalesce((select s.value::numeric::integer from profiles_internal.settings as s"
    " where s.key = 'normalize_verification_days' and s.value::text ~ '^[0-9]{1,4}$'), 7)"
)
"""The setting normalize_verification_days in SQL; its default where it holds no number."""


def get_settings(connection: Connection) -> dict[str, Any]:
    """All settings with their values, as they are in the database; one may be missing."""
    rows = connection.execute(text("select key, value from profiles_internal.settings order by key"))
    return {row.key: row.value for row in rows}


def set_setting(connection: Connection, key: str, value: str) -> Any:
    """Change one setting; returns its new value.

    Raises:
        UsageError: no such setting, or not a value it may have.
    """
    if key not in DEFAULTS:
        raise UsageError(f'There is no setting "{key}". Settings: {", ".join(DEFAULTS)}.')
    new = _names(connection, key, value) if key in _LISTS else _choice(key, value)
    connection.execute(
        text(
            "insert into profiles_internal.settings (key, value) values (:key, cast(:value as jsonb))"
            " on conflict (key) do update set value = excluded.value, updated_at = now()"
        ),
        {"key": key, "value": json.dumps(new)},
    )
    return new


def accepted(connection: Connection) -> dict[str, list[str]]:
    """What health is told to accept, by setting; nothing where the setting is missing or cannot be read."""
    if connection.scalar(text("select to_regclass('profiles_internal.settings') is null")):
        return {}
    found = get_settings(connection)
    return {key: found[key] for key in _LISTS if key in found and _is_valid(key, found[key])}


def examine_settings(connection: Connection) -> Iterator[Finding]:
    """Settings that are missing or hold what no setting of that name may hold."""
    found = get_settings(connection)
    for key, default in DEFAULTS.items():
        usual = "'[]'" if key in _LISTS else str(default).lower()
        if key not in found and key not in _LISTS:
            fact = f"The setting {key} is missing; {usual} holds."
        elif key in found and not _is_valid(key, found[key]):
            fact = f"The setting {key} has a value that means nothing; {_allowed(key)}."
        else:
            continue
        yield problem("setting", fact, f"profiles-schema settings set {key} {usual}")


def _choice(key: str, value: str) -> Any:
    wanted = {str(each).lower(): each for each in _CHOICES[key]}
    if value.lower() not in wanted:
        raise UsageError(f'"{value}" is no value of {key}. {_allowed(key).capitalize()}.')
    return wanted[value.lower()]


def _allowed(key: str) -> str:
    if key in _LISTS:
        return "it is a list of names"
    choices = _CHOICES[key]
    if isinstance(choices, range):
        return f"values: a number from {choices[0]} to {choices[-1]}"
    return "values: " + ", ".join(str(each).lower() for each in choices)


def _is_valid(key: str, value: Any) -> bool:
    if key in _LISTS:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    # True is 1 to Python, and no number of days.
    return any(type(value) is type(each) and value == each for each in _CHOICES[key])


def _names(connection: Connection, key: str, value: str) -> list[str]:
    """A JSON list replaces what is accepted, a name is added to it. What is new must be something that is there."""
    before: list[str] = []
    wanted: Any = [value]
    if value.lstrip().startswith("["):
        try:
            wanted = json.loads(value)
        except json.JSONDecodeError:
            wanted = None
        if not _is_valid(key, wanted):
            raise UsageError(f'{key} takes one name, which is added, or the whole list: ["NAME", "NAME"] or [].')
    else:
        before = accepted(connection).get(key, [])
    known = [each.name for each in openings.acceptable(connection, expected.declared_fingerprints(connection))[key]]
    for name in wanted:
        if name not in known:
            there = f"There are: {'; '.join(known)}." if known else "There is nothing to accept."
            raise UsageError(f'health finds no "{name}" here. {there}')
    return list(dict.fromkeys([*before, *wanted]))
