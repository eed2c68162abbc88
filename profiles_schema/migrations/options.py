"""The ``-x KEY=VALUE`` options of a migration: what is known, what each may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from profiles_schema.errors import UsageError
from profiles_schema.settings import DEADLINE_SECONDS, LOCK_TIMEOUT_MS, LOCK_WAIT_SECONDS

# Key: (pattern of its value, the value in words)
_KNOWN: Mapping[str, tuple[str, str]] = {
    "adopt-rewrite": (r"yes|no", "yes or no"),
    "adopt-table": (r".+", "the name of a table in schema public"),
    "allow-data-loss": (r"yes|no", "yes or no"),
    "app-role": (r".+", "a role name"),
    "backfill": (r"inline|defer|auto", "inline, defer or auto"),
    "contract": (r"now", "now"),
    "deadline": (r"\d{1,6}(\.\d+)?", "seconds"),
    "identity": (r".+\..+", "SCHEMA.TABLE"),
    "local": (r"yes|no", "yes or no"),
    "lock-timeout": (r"[1-9]\d{0,5}", "milliseconds, at least 1"),
    "lock-wait": (r"\d{1,6}(\.\d+)?", "seconds"),
    "sessions": (r"require", "require"),
}


@dataclass(frozen=True)
class Options:
    """One run's options.

    ``values`` holds every known key, absent ones as the empty text, so that a setting of an earlier run in the
    same session is overwritten too.
    """

    lock_timeout_ms: int = LOCK_TIMEOUT_MS
    deadline_seconds: float = DEADLINE_SECONDS
    lock_wait_seconds: float = LOCK_WAIT_SECONDS
    local: bool = False
    values: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(_KNOWN, ""))

    def session_settings(self) -> dict[str, str]:
        """The options as the settings that the SQL of a revision reads: ``profiles_schema.app_role`` and so on."""
        return {f"profiles_schema.{key.replace('-', '_')}": value for key, value in self.values.items()}


def parse(pairs: Iterable[str], *, known_x: Iterable[str] = ()) -> Options:
    """Read ``KEY=VALUE`` pairs; a key given twice counts with its last value.

    Args:
        pairs: as alembic hands over what followed each ``-x``.
        known_x: keys that a downstream ``env.py`` reads itself; their values are not checked.

    Raises:
        UsageError: a pair is malformed, its key unknown, or its value not of the key's form.
    """
    foreign = frozenset(known_x)
    values = dict.fromkeys(sorted({*_KNOWN, *foreign}), "")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in values:
            raise UsageError(f'Unknown option -x "{key}". Known: {", ".join(values)}.')
        if key in foreign:
            values[key] = value
            continue
        pattern, words = _KNOWN[key]
        if not equals or not re.fullmatch(pattern, value):
            raise UsageError(f"-x {key} takes {words}: -x {key}=VALUE.")
        values[key] = value
    return Options(
        lock_timeout_ms=int(values["lock-timeout"] or LOCK_TIMEOUT_MS),
        deadline_seconds=float(values["deadline"] or DEADLINE_SECONDS),
        lock_wait_seconds=float(values["lock-wait"] or LOCK_WAIT_SECONDS),
        local=values["local"] == "yes",
        values=values,
    )
