"""The ``-x KEY=VALUE`` options of a migration: what is known, what each may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from profiles_schema.errors import UsageError
from profiles_schema.migrations import answers
from profiles_schema.settings import DEADLINE_SECONDS, LOCK_TIMEOUT_MS, LOCK_WAIT_SECONDS

_MAX_NAME_BYTES = 63

# Key: (pattern of its value, the value in words, the value in a synopsis, what the key does)
_KNOWN: Mapping[str, tuple[str, str, str, str]] = {
    "adopt-table": (
        r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+",
        "the name of a table in schema public, of up to 63 bytes and without control characters", "NAME", "Adopt the table of this name as user_profiles.",
    ),
    "allow-data-loss": (r"yes|no", "yes or no", "yes|no", "Let a downgrade drop tables that hold rows."),
    "answers": (
        r".+", "the name of a file", "FILE",
        "The answers to the questions of the plan, in the file that adopt --write-answers writes.",
    ),
    "app-role": (r".+", "a role name", "NAME", "Also grant the three API roles to this role."),
    "backfill": (
        r"inline|defer|auto", "inline, defer or auto", "inline|defer|auto",
        "Create profiles of existing users and convert wide columns now, later, or (auto) now for up to 100,000.",
    ),
    "contract": (
        r"now", "now", "now",
        "Drop wide columns in this upgrade, if they are converted and every row proves equal.",
    ),
    "deadline": (
        r"\d{1,6}(\.\d+)?", "seconds", "SECONDS",
        f"How long a revision tries to get its locks; by default {DEADLINE_SECONDS:g}.",
    ),
    "identity": (
        r".+\..+", "SCHEMA.TABLE", "SCHEMA.TABLE", "On plain servers: users come from the application's own table.",
    ),
    "local": (r"yes|no", "yes or no", "yes|no", "Work on the embedded server, for plain alembic; here --local does the same."),
    "lock-timeout": (
        r"[1-9]\d{0,5}", "milliseconds, at least 1", "MS",
        f"How long one statement waits for a lock; by default {LOCK_TIMEOUT_MS}.",
    ),
    "lock-wait": (
        r"\d{1,6}(\.\d+)?", "seconds", "SECONDS",
        f"How long to wait for another migrator; by default {LOCK_WAIT_SECONDS:g}.",
    ),
    "sessions": (r"require", "require", "require", "Fail if a table sessions exists that does not hold learning sessions."),
}  # fmt: skip


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
    answers: str = ""
    asked: str = ""

    def session_settings(self) -> dict[str, str]:
        """The options as the settings that the SQL of a revision reads: ``profiles_schema.app_role`` and so on.

        Of ``answers`` what the file says, as a JSON object; ``asked`` are the fingerprints in it.
        """
        given = dict(self.values) | {"answers": self.answers, "asked": self.asked}
        return {f"profiles_schema.{key.replace('-', '_')}": value for key, value in given.items()}


def descriptions() -> list[tuple[str, str]]:
    """Every key with the form of its value, and what it does."""
    return [(f"{key}={value}", purpose) for key, (_, _, value, purpose) in _KNOWN.items()]


def parse(pairs: Iterable[str], *, known_x: Iterable[str] = ()) -> Options:
    """Read ``KEY=VALUE`` pairs; a key given twice counts with its last value.

    Args:
        pairs: as alembic hands over what followed each ``-x``.
        known_x: keys that a downstream ``env.py`` reads itself; their values are not checked.

    Raises:
        UsageError: a pair is malformed, its key unknown, or its value not of the key's form; or the file of answers
            cannot be read.
    """
    foreign = frozenset(known_x)
    values = dict.fromkeys(sorted({*_KNOWN, *foreign}), "")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in values:
            near = get_close_matches(key, values, 1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f'Unknown option -x "{key}".{guess} Known: {", ".join(values)}.')
        if key in foreign:
            values[key] = value
            continue
        pattern, words, _, _ = _KNOWN[key]
        # The server would cut a longer name, and find another table.
        too_long = key == "adopt-table" and len(value.encode(errors="replace")) > _MAX_NAME_BYTES
        if not equals or not re.fullmatch(pattern, value) or too_long:
            raise UsageError(f"-x {key} takes {words}: -x {key}=VALUE.")
        values[key] = value
    return Options(
        lock_timeout_ms=int(values["lock-timeout"] or LOCK_TIMEOUT_MS),
        deadline_seconds=float(values["deadline"] or DEADLINE_SECONDS),
        lock_wait_seconds=float(values["lock-wait"] or LOCK_WAIT_SECONDS),
        local=values["local"] == "yes",
        values=values,
        answers=json.dumps(answers.read(values["answers"])) if values["answers"] else "",
        asked=json.dumps(answers.read_asked(values["answers"])) if values["answers"] else "",
    )
