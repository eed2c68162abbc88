"""Record the revision that a database is at, if the catalog proves it: for a version row that was lost."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import NotMigrated, NotProven
from profiles_schema.migrations import expected, standing
from profiles_schema.migrations.drift import REMEDY
from profiles_schema.operations.health import current_revision

_SHOWN = 20


def proven_head(connection: Connection) -> tuple[str, str | None]:
    """The newest revision, which the database is proven to be at, and the one that is recorded, if any. Reads only.

    Raises:
        NotProven: the catalog differs from this version's fingerprints, or another history is recorded.
        NotMigrated: there is nothing of ours.
    """
    recorded = current_revision(connection)
    heads, ours = standing.heads_and_ours()
    if recorded is not None and not set(recorded.split(", ")) <= ours:
        raise NotProven(
            f"The database is at {recorded}, which is not a revision of this package: the application keeps one history"
            " with ours. Use its own alembic: alembic stamp heads"
        )
    if recorded is None:
        obstacle = standing.lost_version(connection)
        if obstacle is None:
            raise NotMigrated
        if obstacle.code != "version_lost":
            raise obstacle.error()
    lines = list(expected.sentences(connection))
    head = ", ".join(sorted(heads))
    if lines:
        more = [f"And {len(lines) - _SHOWN} more."] if len(lines) > _SHOWN else []
        raise NotProven("\n".join([_refusal(connection, head, len(lines)), *lines[:_SHOWN], *more]))
    return head, recorded


def _refusal(connection: Connection, head: str, differences: int) -> str:
    last = None
    if connection.scalar(text("select to_regclass('profiles_internal.migration_log') is not null")):
        last = connection.scalar(
            text(
                "select l.revision from profiles_internal.migration_log as l"
                " where l.outcome = 'done' and l.direction = 'upgrade' order by l.started desc limit 1"
            )
        )
    said = f"The database is not proven to be at {head}; only this version's newest revision can be proven."
    if last == head:
        remedy = (
            f"Its log says that it was upgraded to {last}. Put it back with: {REMEDY}; then: profiles-schema stamp."
        )
    elif last is not None:
        remedy = f"Its log says that it was upgraded to {last}. Use the version of the package whose newest revision that is."
    else:
        remedy = "Restore the version row from a backup."
    return f"{said} {remedy} Differences: {differences}."
