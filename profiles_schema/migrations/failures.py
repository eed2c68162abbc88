"""What a failed revision means to the person who ran it, in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from profiles_schema.driver import diagnosis, is_disconnect, server_message, sqlstate
from profiles_schema.errors import (
    DatabaseAhead,
    DatabaseUnreachable,
    ForeignHistory,
    InsufficientPrivilege,
    MigrationFailed,
    NotAtHead,
    ProfilesSchemaError,
    UnknownRevision,
    UsageError,
)
from profiles_schema.migrations.paths import script_location

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError, NoReferencedTableError

_INSUFFICIENT_PRIVILEGE = "42501"
_READ_ONLY = "25006"
_DEPENDENT_OBJECTS = "2BP01"


def database_error(error: DBAPIError, *, doing: str, role: str) -> ProfilesSchemaError:
    """The error to raise for a database error.

    Args:
        error: as SQLAlchemy raised it.
        doing: what was going on, such as ``upgrade 0003_sign_up``.
        role: the database role at work.
    """
    if is_disconnect(error):
        return DatabaseUnreachable(
            f"The connection to the database was lost during {doing}. "
            "What is finished stays; run this again to continue."
        )
    state = sqlstate(error) or "no SQLSTATE"
    message = server_message(error)
    # DETAIL quotes values of rows, unless a revision wrote it on purpose.
    on_purpose = state == "P0001" or state.startswith("PS")
    if state == _DEPENDENT_OBJECTS:  # here DETAIL names objects, and the hint is CASCADE: never by our advice
        on_what = (diagnosis(error, "message_detail") or message).replace("\n", "; ")
        return MigrationFailed(
            f"{doing} failed: something of the application's depends on what it drops: {on_what}.\n"
            "Drop that first, or leave it and stay at this revision."
        )
    detail = diagnosis(error, "message_detail") if on_purpose else None
    further = "".join(f"\n{line}" for line in (detail, diagnosis(error, "message_hint")) if line)
    if state == _INSUFFICIENT_PRIVILEGE:
        remedy = further or (
            f"\nRun the migration as the owner of that object, or let an administrator grant it to role {role}."
        )
        return InsufficientPrivilege(f'Role "{role}" may not do this ({doing}): {message}.{remedy}')
    if state == _READ_ONLY:
        return MigrationFailed(
            f"The database is read-only ({doing}): DATABASE_URL may name a standby. Use the primary."
        )
    if on_purpose:
        return MigrationFailed(f"{message}{further}")
    return MigrationFailed(f"{doing} failed: {message} (SQLSTATE {state}).{further}")


def path_error(error: CommandError, script: ScriptDirectory, heads: tuple[str, ...]) -> ProfilesSchemaError:
    """The error to raise where alembic cannot find its way from ``heads`` to the target."""
    from alembic.script.revision import ResolutionError

    for head in heads:
        if not _is_known(script, head):
            return _unknown_head(script, head)
    text = str(error).rstrip(".")
    if isinstance(error.__cause__, ResolutionError):
        return UnknownRevision(f"No such revision: {text}. `profiles-schema history` lists them.")
    if "not up to date" in text or "not on all head revisions" in text:
        return NotAtHead(
            f"The database is at {', '.join(heads) or 'no revision'}, not at the newest revision "
            f"({', '.join(script.get_heads())}). Run `upgrade {'head' if _is_our_history(script) else 'heads'}` first."
        )
    return UsageError(f"{text}.")


def _is_our_history(script: ScriptDirectory) -> bool:
    return Path(script.dir).resolve() == script_location().resolve()


def _unknown_head(script: ScriptDirectory, head: str) -> ProfilesSchemaError:
    number = re.match(r"(\d{4})_", head)
    newest = max(script.get_heads(), default="")
    if number and number[1] > newest[:4]:
        return DatabaseAhead(
            f"The database is at revision {head}, which this version of the package does not know: upgrade the package."
        )
    if _is_our_history(script):
        return ForeignHistory(
            f"The database is at revision {head} of an application that keeps our revisions in its own history. "
            "Use the application's `alembic` for upgrade, downgrade, current and check."
        )
    return DatabaseAhead(
        f"The database is at revision {head}, which is in no directory of version_locations: deploy the version of the "
        "application that has it."
    )


def foreign_key_error(error: NoReferencedTableError) -> UsageError:
    """The error to raise where a model's foreign key names a table that its own metadata does not have."""
    from profiles_schema.schema.models.base import Base, metadata

    table = metadata.tables.get(error.table_name)
    column = re.search(r"column '([^']+)'", str(error))
    what = f"Column {column[1]}" if column else "A column"
    if table is None:
        return UsageError(f'{what} has a foreign key to table "{error.table_name}", which is in none of the metadatas.')
    model = next(mapper.class_.__name__ for mapper in Base.registry.mappers if mapper.local_table is table)
    target = re.search(r"target column '([^']+)'", str(error))
    name = target[1] if target else "user_id"
    return UsageError(
        f'{what} names table "{error.table_name}" of profiles-schema in a text, which SQLAlchemy looks up in the '
        f"application's own metadata. Name the column itself: ForeignKey({model}.{name}), from profiles_schema import {model}."
    )


def _is_known(script: ScriptDirectory, revision: str) -> bool:
    from alembic.util import CommandError

    try:
        found = script.get_revision(revision)
    except CommandError:
        return False
    return found is not None and found.revision == revision
