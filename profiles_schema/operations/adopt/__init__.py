"""What an upgrade would do to tables that are there already: the plan, and nothing else.

The plan is one function, `profiles_internal.adoption_plan`, by which the upgrade refuses and works, too. Where it does not
exist yet, it is made in a transaction that is rolled back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.migrations.interrupts import interruptible
from profiles_schema.migrations.options import parse
from profiles_schema.migrations.session import notice_a_dead_client, session_settings
from profiles_schema.operations.adopt.consequences import find_candidates, find_consequences
from profiles_schema.operations.adopt.planner import (
    LOCK_TIMEOUT_MS,
    PLAN,
    completed_revisions,
    create_planner,
    functions,
)
from profiles_schema.operations.adopt.steps import Plan, PlanStep

__all__ = ["LOCK_TIMEOUT_MS", "Plan", "PlanStep", "functions", "plan"]

_LAST: Final = "0014_create_sign_up_triggers"
_ASKED: Final = frozenset({"stop", "question", "answered"})


def plan(
    connection: Connection,
    *,
    x: Sequence[str] = (),
    answers: Mapping[str, str] | None = None,
    asked: Mapping[str, str] | None = None,
) -> Plan:
    """What `upgrade` with the same options would do to the tables it finds.

    Everything happens in one transaction that is rolled back. Tables are read, under ACCESS SHARE locks.

    Args:
        connection: One of the role that would upgrade.
        x: ``KEY=VALUE`` options, as for the upgrade.
        answers: Instead of the file that ``x`` names; those that no question needs are passed over.
        asked: Of these, the fingerprints of what was asked.

    Raises:
        UsageError: an option is unknown, or its value not of its form.
        InsufficientPrivilege: the role may not create what the plan needs.
        MigrationLockTimeout: a migration runs.
    """
    wanted = session_settings(parse(x)) | {"lock_timeout": f"{LOCK_TIMEOUT_MS}ms", "profiles_schema.dry_run": "yes"}
    if answers is not None:
        wanted["profiles_schema.answers"] = json.dumps(answers)
        wanted["profiles_schema.asked"] = json.dumps(dict(asked or {}))
    connection.rollback()
    with interruptible():
        found = _plan(connection, wanted)
    if answers is not None:
        found = replace(found, stoppers=[step for step in found.stoppers if step.id is None])
    return found


def _plan(connection: Connection, wanted: Mapping[str, str]) -> Plan:
    try:
        for name, value in wanted.items():
            connection.execute(text("select set_config(:name, :value, true)"), {"name": name, "value": value})
        notice_a_dead_client(connection)
        done = completed_revisions(connection)
        if _LAST in done:
            return Plan(finished=True)
        if connection.scalar(text("select to_regproc(:name) is null"), {"name": PLAN}):
            create_planner(connection)
        else:
            connection.exec_driver_sql("set transaction read only")
        rows = connection.execute(text(f"select p.* from {PLAN}() as p order by p.seq")).mappings()
        # What ran will not run again, whatever was added since.
        steps = [step for step in _steps(rows) if step.revision not in done]
        steps += [*find_candidates(connection, steps, done), *find_consequences(connection, steps)]
    finally:
        if not (connection.closed or connection.invalidated):
            connection.rollback()
    return Plan(
        stoppers=[step for step in steps if step.action == "stop"],
        questions=[step for step in steps if step.action == "question"],
        answered=[step for step in steps if step.action == "answered"],
        steps=[step for step in steps if step.action not in _ASKED and (step.action != "note" or step.takes_over)],
        notes=[step for step in steps if step.action == "note" and not step.takes_over],
        finished=_LAST in done,
    )


def _steps(rows: Any) -> Iterator[PlanStep]:
    for row in rows:
        values: Mapping[str, Any] = row
        yield PlanStep(**{name: values[name] for name in PlanStep.__dataclass_fields__})
