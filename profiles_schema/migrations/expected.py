"""What a healthy database looks like: fingerprints of all our objects at head, shipped with the package.

Comparing with it needs no rights beyond reading the catalog, and no lock. A test keeps the file fresh
(``make snapshot`` writes it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from importlib.resources import files

from sqlalchemy.engine import Connection

from profiles_schema.migrations.drift import dual_write_is_broken, sentence, uncarried_owner
from profiles_schema.migrations.sql_objects import OWN_POLICY_PREFIX, applies, is_generated, keeps_key, public_functions
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import Key, Snapshot, take_snapshot
from profiles_schema.schema.objects import Where

FILE = "catalog.json"

Fingerprints = dict[str, dict[Key, str]]
"""From the condition under which objects exist (a name of ``Where``) to their fingerprints."""


def load() -> Fingerprints:
    """The fingerprints of this version."""
    found = json.loads((files("profiles_schema.schema") / FILE).read_text(encoding="utf-8"))
    return {where: {Key(*key): value for *key, value in rows} for where, rows in found.items()}


def dump(found: Fingerprints) -> str:
    """The text that ``load`` reads: an entry per line."""
    parts = []
    for where, entries in sorted(found.items()):
        rows = ",\n".join(f"  {json.dumps([*key, value])}" for key, value in sorted(entries.items()))
        parts.append(f' "{where}": [\n{rows}\n ]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def keys() -> set[Key]:
    """What this version declares on any database."""
    return {key for entries in load().values() for key in entries}


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
        if snapshot.get(key) != value and not is_generated(key) and not keeps_key(key, value):
            where = _condition(key)
            result[(Where.OWN_INSERTS if where is Where.EVERYWHERE else where).name][key] = _fingerprint(value)
    return result


def every_table() -> list[str]:
    """The qualified names of all tables of this package, auth.users included."""
    from profiles_schema.schema.models.base import metadata

    return [f"{table.schema or 'public'}.{table.name}" for table in metadata.tables.values()]


def declared_fingerprints(connection: Connection) -> dict[Key, str]:
    """The fingerprints of what this version declares on this database."""
    known = load()
    # The narrower condition comes later and decides.
    return {
        key: value for where in Where if applies(connection, where) for key, value in known.get(where.name, {}).items()
    }


def compare(connection: Connection) -> tuple[Snapshot, dict[Key, str]]:
    """Look at a database: its snapshot, and what differs from this version: missing, changed or not expected.

    Only functions of profiles_internal, triggers that run them, policies in our words, and rights of the API roles can be
    "not expected". Anything else belongs to the application.
    """
    found = take_snapshot(connection, every_table(), public_functions(), ["profiles_internal", "auth"])
    expected = declared_fingerprints(connection)
    problems = {}
    for key, value in expected.items():
        if key not in found:
            problems[key] = "missing"
        elif _fingerprint(found[key]) != value and not keeps_key(key, found[key]):
            problems[key] = "changed"
    if uncarried_owner(connection):
        problems[Key("trigger", "public", "user_profiles", "carry_user_id")] = "missing"
    for key, value in found.items():
        if key not in expected and _must_be_ours(connection, key, value, expected):
            problems[key] = "not expected"
    return found, dict(sorted(problems.items()))


def sentences(connection: Connection) -> Iterator[str]:
    """What differs from this version, a sentence each. Of a table that is missing, only that."""
    from profiles_schema.migrations.foreign_keys import our_foreign_keys

    found, problems = compare(connection)
    missing = {key.relation for key, what in problems.items() if key.kind == "table" and what == "missing"}
    for key, what in problems.items():
        if key.kind == "table" or key.relation not in missing:
            yield sentence(key, what, found.get(key, ""))
    if dual_write_is_broken(connection):
        yield "The trigger zz_dual_write of public.user_profiles is not as it is made: profiles-schema normalize run."
    for foreign_key in our_foreign_keys(connection):
        # Internal triggers that are off: nothing that a constraint says of itself tells.
        if not foreign_key.is_on:
            yield str(foreign_key.difference())


def _must_be_ours(connection: Connection, key: Key, value: str, expected: Collection[Key]) -> bool:
    if is_generated(key):
        return False
    where = _condition(key)
    if where not in {Where.EVERYWHERE, Where.OLD_STATEMENTS, Where.OWN_INSERTS_BY_ID} and not applies(
        connection, where
    ):
        return False
    if key.kind == "trigger":
        return " profiles_internal." in value
    if key.kind == "policy":
        return key.name.startswith(OWN_POLICY_PREFIX)
    if key.is_of_function:
        # In public and auth, the application may have its own functions, also with the names of ours.
        is_declared = Key("function", key.schema, "", key.name) in expected
        return key.kind in {"function", "grant"} and (is_declared or key.schema == "profiles_internal")
    # A right on a column counts if the column is not the application's own.
    return key.kind == "grant" and (not key.name or Key("column", *key[1:4]) in expected)


_BY_NAME = {
    "forget_adopted_values": Where.ADOPTED_PROFILES,
    "fill_profile_of_view": Where.OLD_STATEMENTS,
    "roll_up_": Where.USABLE_SESSIONS,
}

_OF_FUNCTIONS = {each.name: each.where for each in objects.FUNCTIONS}


def _condition(key: Key) -> Where:
    """Where the subject of a key exists."""
    if key.schema == "auth":
        signs_up = key.kind == "trigger" and key.name.startswith("profiles_on_auth_user_")
        return Where.EVERYWHERE if signs_up else Where.OWN_IDENTITY
    for name, where in _BY_NAME.items():
        if key.name.startswith(name):
            return where
    if key.kind == "grant" and key.subject == "public.user_profiles.id":
        return Where.OWN_INSERTS_BY_ID
    if key.relation == "public.sessions":
        return Where.OWN_SESSIONS
    return _OF_FUNCTIONS.get(key.subject.partition("(")[0], Where.EVERYWHERE)


def _fingerprint(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]
