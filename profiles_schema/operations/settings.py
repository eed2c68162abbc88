"""Read and change the settings that the database itself reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import UsageError

KNOWN: Mapping[str, Sequence[Any]] = {
    "auto_create_profiles": (True, False),
    "audit_level": ("failures", "changes", "all"),
    "normalize_verification_days": range(3651),
}
"""Each setting with the values it may have; the defaults are true, changes and 7."""


def get_settings(connection: Connection) -> dict[str, Any]:
    """All settings with their values."""
    rows = connection.execute(text("select key, value from profiles_internal.settings order by key"))
    return {row.key: row.value for row in rows}


def set_setting(connection: Connection, key: str, value: str) -> Any:
    """Change one setting; returns its new value.

    Raises:
        UsageError: no such setting, or not a value it may have.
    """
    if key not in KNOWN:
        raise UsageError(f'There is no setting "{key}". Settings: {", ".join(KNOWN)}.')
    wanted = {str(each).lower(): each for each in KNOWN[key]}
    if value.lower() not in wanted:
        allowed = KNOWN[key]
        words = f"a number from {allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(wanted)
        raise UsageError(f'"{value}" is no value of {key}. Values: {words}.')
    connection.execute(
        text(
            "insert into profiles_internal.settings (key, value) values (:key, cast(:value as jsonb))"
            " on conflict (key) do update set value = excluded.value, updated_at = now()"
        ),
        {"key": key, "value": json.dumps(wanted[value.lower()])},
    )
    return wanted[value.lower()]
