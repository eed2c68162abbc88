"""Is every user's profile there, and is everything in place that makes the next one?

Bounded by default, so that it can run every minute on any database: a window of users from a random point of the
primary key, the newest users where an index serves them, and the users of recorded failures. ``full`` counts all.
Reads only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema import settings
from profiles_schema.migrations import expected, standing
from profiles_schema.migrations.sql_objects import applies
from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.operations.health import catalog
from profiles_schema.operations.health.adoption import examine_adoption, examine_normalization
from profiles_schema.operations.health.identity import examine_identity, identity_triggers
from profiles_schema.operations.health.roles import examine_roles
from profiles_schema.operations.health.users import BACKFILL, examine_flag, examine_users
from profiles_schema.operations.jobs import examine_jobs
from profiles_schema.operations.openings import examine_openings
from profiles_schema.operations.recount import examine_progress
from profiles_schema.operations.settings import accepted, examine_settings
from profiles_schema.operations.switches import examine_switches
from profiles_schema.schema.objects import Where


@dataclass(frozen=True)
class Health:
    """What was looked at, and what was found.

    ``users`` is the number of users looked at, ``missing`` how many of them lack a profile or progress, ``coverage``
    the share that has both (1.0 without users). ``full`` says whether all users were counted. ``triggers`` maps each
    trigger of ours to INSTALLED, MISSING, CHANGED or DISABLED.
    """

    revision: str | None
    full: bool
    users: int
    missing: int
    triggers: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """Share of the users looked at that have profile and progress."""
        return 1.0 - self.missing / self.users if self.users else 1.0

    @property
    def problems(self) -> list[Finding]:
        """The findings that need somebody to act."""
        return [finding for finding in self.findings if finding.severity == "problem"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"healthy": not self.problems, "coverage": round(self.coverage, 6), **asdict(self)}


def examine(
    connection: Connection, *, full: bool = False, fail_under: float = 1.0, application_roles: Iterable[str] = ()
) -> Health:
    """Look at a database.

    Args:
        connection: Any connection that may read our tables and auth.users; the transaction is the caller's.
        full: Count all users instead of a window.
        fail_under: The least share of users with profile and progress that is no problem.
        application_roles: Roles that the application logs in as; row level security must bind them.

    Returns:
        What was found; nothing is changed.
    """
    revision = current_revision(connection)
    if revision is None:
        return Health(None, full, 0, 0, {}, [_not_migrated(connection)])
    findings = list(_revisions(revision))
    if findings and connection.scalar(text("select to_regclass('profiles_internal.settings') is null")):
        return Health(revision, full, 0, 0, {}, findings)  # the first revision alone: nothing to look at yet
    if (users_gone := standing.missing_users(connection)) is not None:
        return Health(
            revision, full, 0, 0, {}, [*findings, problem(users_gone.code, users_gone.message, users_gone.remedy)]
        )
    snapshot, differences = expected.compare(connection)
    triggers = catalog.trigger_states(snapshot, differences)
    if not findings and (gone := list(catalog.missing_tables(connection))):
        return Health(revision, full, 0, 0, triggers, gone)
    damaged = any(what == "missing" and key.kind in {"table", "column"} for key, what in differences.items())
    if not damaged:
        triggers = dict(sorted((triggers | identity_triggers(connection)).items()))
    if not findings:  # at another revision the differences are no news
        findings += catalog.examine_catalog(connection, snapshot, differences, triggers, full=full)
    declared = expected.declared_fingerprints(connection)
    findings += catalog.examine_indexes(snapshot)
    findings += examine_openings(connection, declared, accepted(connection))
    findings += examine_switches(connection, declared)
    findings += catalog.examine_service_role(connection)
    findings += examine_roles(connection, application_roles)
    if damaged:
        # What is gone is named above; nothing can be counted without it.
        return Health(revision, full, 0, 0, triggers, findings)
    users, missing, found = examine_users(connection, full=full, fail_under=fail_under)
    findings += found
    findings += examine_flag(connection)
    findings += examine_settings(connection)
    findings += examine_jobs(connection)
    findings += examine_adoption(connection, full=full)
    findings += examine_normalization(connection)
    findings += examine_identity(connection, full=full)
    findings += _examine_sessions(connection)
    findings += examine_progress(connection, full=full)
    findings.sort(key=lambda finding: finding.code != "quarantine")
    return Health(revision, full, users, missing, triggers, _paused_first(findings))


def _paused_first(findings: list[Finding]) -> list[Finding]:
    """While the backfill is paused, the command that works on it only waits: what resumes it comes first."""
    paused = [
        finding
        for finding in findings
        if finding.code == "job"
        and " jobs resume " in (finding.remedy or "")
        and re.search(r"[(](backfill|identity)[)]", finding.message)
    ]
    if not paused:
        return findings
    resume = f"{paused[0].remedy} && {BACKFILL}"
    return [
        *paused,
        *(
            replace(finding, remedy=resume) if finding.remedy == BACKFILL else finding
            for finding in findings
            if finding not in paused
        ),
    ]


def current_revision(connection: Connection) -> str | None:
    """The revision a database is at; None where it was never migrated."""
    table = f"{settings.INTERNAL_SCHEMA}.{settings.VERSION_TABLE}"
    if connection.scalar(text("select to_regclass(:name) is null"), {"name": table}):
        return None
    revision: str | None = connection.scalar(text(f"select string_agg(version_num, ', ') from {table}"))
    return revision


def _not_migrated(connection: Connection) -> Finding:
    obstacle = standing.lost_version(connection)
    if obstacle is not None:
        return problem(obstacle.code, obstacle.message, obstacle.remedy)
    return problem("not_migrated", "This database is not migrated.", "profiles-schema upgrade")


def _revisions(revision: str) -> Iterator[Finding]:
    if not standing.at_head(revision):
        newest = ", ".join(sorted(standing.heads_and_ours()[0]))
        yield problem(
            "not_at_head",
            f"The database is at {revision}, this version's newest is {newest}.",
            "profiles-schema upgrade",
        )


def _examine_sessions(connection: Connection) -> Iterator[Finding]:
    if not applies(connection, Where.USABLE_SESSIONS):
        yield notice("sessions", "The table sessions is not one of learning sessions: user_progress is not rolled up.")
