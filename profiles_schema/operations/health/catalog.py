"""What the catalog shows: tables, columns, triggers, foreign keys, indexes, the role service_role."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.driver import quote_name
from profiles_schema.migrations import expected, foreign_keys, standing
from profiles_schema.migrations.drift import REMEDY, sentence
from profiles_schema.operations.findings import Finding, problem
from profiles_schema.schema.catalog import Key, Snapshot

_SHOWN = 5


def trigger_states(snapshot: Snapshot, differences: dict[Key, str]) -> dict[str, str]:
    """Each trigger of ours with its function as one thing: INSTALLED, MISSING, CHANGED or DISABLED."""
    states = {}
    functions = {key.subject for key in differences if key.kind == "function"}
    for key in {*snapshot, *differences}:
        value = snapshot.get(key, "")
        if key.kind != "trigger" or (key not in differences and " profiles_internal." not in value):
            continue
        runs = re.search(r"EXECUTE FUNCTION (\S+\(\))", value)
        if differences.get(key) == "missing":
            state = "MISSING"
        elif value.endswith(" DISABLED"):
            state = "DISABLED"
        elif key in differences or (runs and runs[1] in functions):
            state = "CHANGED"
        else:
            state = "INSTALLED"
        states[key.subject] = state
    return dict(sorted(states.items()))


def examine_catalog(
    connection: Connection, snapshot: Snapshot, differences: dict[Key, str], triggers: dict[str, str], *, full: bool
) -> Iterator[Finding]:
    """What differs from what this version declares; ``full`` also counts the rows that foreign keys would refuse."""
    yield from _renamed_columns(connection, differences)
    yield from _foreign_keys(connection, full=full)
    yield from _drift(snapshot, differences, triggers)


def missing_tables(connection: Connection) -> Iterator[Finding]:
    """Tables of ours that are gone, renamed or moved."""
    for obstacle in standing.missing_tables(connection):
        yield problem("table_missing", obstacle.message, obstacle.remedy)


def _renamed_columns(connection: Connection, differences: dict[Key, str]) -> Iterator[Finding]:
    for key, what in differences.items():
        if key.kind != "column" or what != "missing":
            continue
        if rename := standing.renamed_column(connection, key.relation, key.name):
            yield problem(
                "column_renamed",
                f"The column {key.name} of {key.relation} was renamed; what else differs there may follow from that.",
                rename,
            )


def _drift(snapshot: Snapshot, differences: dict[Key, str], triggers: dict[str, str]) -> Iterator[Finding]:
    for name, state in triggers.items():
        if state != "INSTALLED":
            yield problem("trigger", f"The trigger {name} is {state}.", REMEDY)
    others = [
        sentence(key, what, snapshot.get(key, ""))
        # What shuts the doors comes first.
        for key, what in sorted(differences.items(), key=lambda item: item[0].kind not in {"table", "policy"})
        if key.kind not in {"trigger", "comment"}
        and not snapshot.get(key, "").endswith(" INVALID")
        # A policy more is named by what it opens.
        and (key.kind, what) != ("policy", "not expected")
    ]
    if others:
        more = f" And {len(others) - _SHOWN} more." if len(others) > _SHOWN else ""
        yield problem(
            "drift",
            f"The database differs from what this version declares. {' '.join(others[:_SHOWN])}{more}",
            REMEDY,
            len(others),
        )


def _foreign_keys(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """Foreign keys of ours that are switched off, and rows that they would not allow.

    Rows first: a foreign key can be validated only without them.
    """
    keys = list(foreign_keys.our_foreign_keys(connection))
    for key in keys:
        orphans = key.count_orphans(connection) if full or not key.is_validated else 0
        if orphans:
            yield problem(
                "orphans",
                f"{orphans} {'row' if orphans == 1 else 'rows'} of {key.table} refer to no row of {key.refers_to}:"
                " their users were deleted while the foreign key was off or missing.",
                key.removes_orphans,
                orphans,
            )
    for key in keys:
        if not key.is_on:
            yield problem("foreign_key_off", str(key.difference()), REMEDY)


def examine_indexes(snapshot: Snapshot) -> Iterator[Finding]:
    """Invalid indexes, which no query uses."""
    declared = expected.keys()
    for key, value in snapshot.items():
        if key.kind != "index" or not value.endswith(" INVALID"):
            continue
        own = key._replace(name=re.sub(r"_cc(new|old)\d*$", "", key.name)) in declared
        if key in declared:
            remedy = REMEDY
        elif own:  # what REINDEX CONCURRENTLY leaves when it fails
            remedy = f"drop index concurrently {key.schema}.{quote_name(key.name)}"
        else:
            remedy = f"reindex index concurrently {key.schema}.{quote_name(key.name)}"
        yield problem("invalid_index", f"The index {key.name} is invalid.", remedy)


def examine_service_role(connection: Connection) -> Iterator[Finding]:
    """Whether service_role can read and write what it serves."""
    shut_out = connection.scalar(
        text(
            "select not r.rolbypassrls and not exists (select from pg_policies as p where p.schemaname = 'public'"
            " and p.tablename = 'user_profiles' and 'service_role' = any (p.roles)) from pg_roles as r"
            " where r.rolname = 'service_role'"
        )
    )
    if shut_out is None:
        yield problem("role", "The role service_role does not exist.", REMEDY)
    elif shut_out:
        yield problem(
            "role",
            "Row level security shuts service_role out: no BYPASSRLS, and no policy of its own. An administrator can change it.",
            "alter role service_role bypassrls",
        )
