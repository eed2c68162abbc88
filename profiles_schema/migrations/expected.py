"""What a healthy database looks like: fingerprints of every object of ours at head, shipped with the package.

Comparing with it needs no rights beyond reading the catalog, and no lock. A test keeps the file fresh
(``make snapshot`` writes it).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from importlib.resources import files

from sqlalchemy.engine import Connection

from profiles_schema.migrations.drift import uncarried_owner
from profiles_schema.migrations.sql_objects import holds, keeps_key, public_functions
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import Snapshot, take_snapshot
from profiles_schema.schema.objects import Where

FILE = "catalog.json"

Fingerprints = dict[str, dict[str, str]]
"""From the condition under which objects exist (a name of ``Where``) to their fingerprints by key."""


def load() -> Fingerprints:
    """The fingerprints of this version."""
    text = (files("profiles_schema.schema") / FILE).read_text(encoding="utf-8")
    found: Fingerprints = json.loads(text)
    return found


def fingerprints(snapshot: Snapshot, with_inserts: Snapshot) -> Fingerprints:
    """The fingerprints of a database at head that has everything: an identity and sessions of its own.

    Args:
        snapshot: Of such a database.
        with_inserts: Of the same, where users went on inserting their own row into a table that was taken over.
    """
    result: Fingerprints = {where.name: {} for where in Where}
    for key, value in snapshot.items():
        result[_condition(key).name][key] = _fingerprint(value)
    # Of a right that is there either way, both values are known.
    for key, value in with_inserts.items():
        if snapshot.get(key) != value and (
            key.partition(" ")[2] not in objects.GENERATED and not keeps_key(key, value)
        ):
            where = _condition(key)
            result[(Where.OWN_INSERTS if where is Where.EVERYWHERE else where).name][key] = _fingerprint(value)
    return result


def every_table() -> list[str]:
    """The qualified names of all tables of this package, auth.users included."""
    from profiles_schema.schema.models.base import metadata

    return [f"{table.schema or 'public'}.{table.name}" for table in metadata.tables.values()]


def declared(connection: Connection) -> dict[str, str]:
    """The fingerprints, by key, of what this version declares on this database."""
    known = load()
    # The narrower condition comes later and decides.
    return {
        key: value for where in Where if holds(connection, where) for key, value in known.get(where.name, {}).items()
    }


def compare(connection: Connection) -> tuple[Snapshot, dict[str, str]]:
    """Look at a database: its snapshot, and what differs from this version, by key: missing, changed or not expected.

    Only functions of profiles_internal, triggers that run them, and rights of the API roles can be "not expected":
    anything else that is there besides ours is the application's.
    """
    found = take_snapshot(connection, every_table(), public_functions(), ["profiles_internal", "auth"])
    expected = declared(connection)
    problems = {}
    for key, value in expected.items():
        if key not in found:
            problems[key] = "missing"
        elif _fingerprint(found[key]) != value and not keeps_key(key, found[key]):
            problems[key] = "changed"
    if uncarried_owner(connection):
        problems["trigger public.user_profiles.carry_user_id"] = "missing"
    for key, value in found.items():
        on_column = re.match(r"grant (\w+\.\w+\..+) to \w+$", key)
        if on_column and f"column {on_column[1]}" not in expected:
            continue  # the application's own column
        if key not in expected and _must_be_ours(connection, key, value, expected):
            problems[key] = "not expected"
    return found, dict(sorted(problems.items()))


def _must_be_ours(connection: Connection, key: str, value: str, expected: Collection[str]) -> bool:
    if key.partition(" ")[2] in objects.GENERATED:
        return False
    if _condition(key) not in {Where.EVERYWHERE, Where.OLD_STATEMENTS, Where.OWN_INSERTS_BY_ID} and not holds(
        connection, _condition(key)
    ):
        return False
    if key.startswith("trigger "):
        return " profiles_internal." in value
    if key.startswith("grant function "):
        # In public and auth, the application may have functions of its own, and other forms of ours.
        function = key.removeprefix("grant ").rpartition(" to ")[0]
        return function in expected or function.startswith("function profiles_internal.")
    return key.startswith(
        ("grant public.", "grant profiles_internal.", "grant schema profiles_internal", "function profiles_internal.")
    )


_CONDITIONS = (
    (r"auth\.users\.profiles_on_auth_user_", Where.EVERYWHERE),
    (r"auth\b", Where.OWN_IDENTITY),
    (r".*forget_adopted_values", Where.ADOPTED_PROFILES),
    (r".*fill_profile_of_view", Where.OLD_STATEMENTS),
    (r"public\.user_profiles\.id to ", Where.OWN_INSERTS_BY_ID),
    (r".*roll_up_", Where.USABLE_SESSIONS),
    (r"public\.sessions\b", Where.OWN_SESSIONS),
)

_OF_FUNCTIONS = {each.name: each.where for each in objects.FUNCTIONS}


def _condition(key: str) -> Where:
    """Where the subject of a key exists: ``grant function auth.uid() to anon`` is about ``auth.uid()``."""
    subject = re.sub(r"^(grant function|grant schema|\w+) ", "", key)
    for pattern, where in _CONDITIONS:
        if re.match(pattern, subject):
            return where
    return _OF_FUNCTIONS.get(subject.partition("(")[0], Where.EVERYWHERE)


def _fingerprint(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]
