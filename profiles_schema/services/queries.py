"""What services ask the database, as plain functions of a ``Session``. Each says how many statements it takes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from sqlalchemy import Select, Table, bindparam, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, UUID, insert
from sqlalchemy.orm import Session

from profiles_schema.schema.models import Base, UserProfile, UserProfileAuditLog, UserProgress
from profiles_schema.services.flows import sqlstate
from profiles_schema.services.refusals import failed_objects
from profiles_schema.services.results import HistoryEntry, Page, PublicProfile
from profiles_schema.services.snapshots import snapshot

# Made once: SQLAlchemy compiles the same statement object from its cache, without building a key.
_ONE: Final = select(UserProfile).where(UserProfile.user_id == bindparam("user_id"))
_MANY: Final = select(UserProfile).where(
    UserProfile.user_id == func.any(bindparam("user_ids", type_=ARRAY(UUID(as_uuid=True))))
)
_RECENT: Final = select(UserProfile.user_id).order_by(UserProfile.updated_at.desc()).limit(bindparam("rows"))
_ENSURE: Final = select(func.public.ensure_user_profile(bindparam("user_id", type_=UUID(as_uuid=True))))
_ENSURE_MANY: Final = select(
    func.public.ensure_user_profile(func.unnest(bindparam("user_ids", type_=ARRAY(UUID(as_uuid=True)))))
)
_MADE: Final = select(UserProfile, (UserProfile.created_at == func.now()).label("is_new")).where(
    UserProfile.user_id == bindparam("user_id")
)
_PUBLIC: Final = text("select * from public.get_public_profiles(cast(:user_ids as uuid[]))").columns(
    user_id=UUID(as_uuid=True)
)
_NAME: Final = func.lower(UserProfile.username)
_BEHIND_ALL_NAMES: Final = "\u9fa5"
"""Sorts behind what names consist of in every collation. z does not: Estonian has t, u and v after it, Danish aa."""


def read(session: Session, user_id: uuid.UUID) -> UserProfile | None:
    """The profile of a user: one statement."""
    profile = session.scalars(_ONE, {"user_id": user_id}).one_or_none()
    return None if profile is None else snapshot(session, profile)


def read_many(session: Session, user_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, UserProfile]:
    """The profiles of these users: one statement."""
    users = list(user_ids)
    if len(users) == 1:  # the same statement by hand is as fast
        profile = read(session, users[0])
        return {} if profile is None else {users[0]: profile}
    found = session.scalars(_MANY, {"user_ids": users}).all()
    return {profile.user_id: snapshot(session, profile) for profile in found}


def recent_users(session: Session, rows: int) -> list[uuid.UUID]:
    """The users whose profiles changed last: one statement, by idx_user_profiles_updated_at."""
    return list(session.scalars(_RECENT, {"rows": rows}))


def ensure(session: Session, user_id: uuid.UUID) -> tuple[UserProfile | None, bool]:
    """The profile by ensure_user_profile, and whether this call made it: two statements.

    None where the role may make a profile that it may not read.
    """
    session.execute(_ENSURE, {"user_id": user_id})
    return _made(session, user_id)


def insert_directly(session: Session, user_id: uuid.UUID) -> tuple[UserProfile | None, bool]:
    """The profile by plain INSERTs, for a database whose function fails, and whether this call made it: three statements.

    It knows the id only. The name is the last choice of a sign-up; address and sign-in follow with the next sign-in.
    """
    profile = insert(_table(UserProfile)).values(id=str(user_id), user_id=user_id, username=user_id.hex)
    session.execute(profile.on_conflict_do_nothing())
    session.execute(insert(_table(UserProgress)).values(user_id=user_id).on_conflict_do_nothing())
    return _made(session, user_id)


def _made(session: Session, user_id: uuid.UUID) -> tuple[UserProfile | None, bool]:
    row = session.execute(_MADE, {"user_id": user_id}).one_or_none()
    return (None, False) if row is None else (snapshot(session, row[0]), row[1])


def record_failure(session: Session, user_id: uuid.UUID, error: BaseException, attempts: int) -> None:
    """A row in the audit log, as the sign-up trigger writes it: health shows it, and backfill repairs what it names."""
    session.execute(
        insert(_table(UserProfileAuditLog)).values(
            user_id=user_id,
            action="failed",
            origin="registration",
            error_code=sqlstate(error),
            error_message=failed_objects(error),
            retry_count=attempts - 1,
        )
    )


def read_public(session: Session, user_ids: Iterable[uuid.UUID]) -> list[PublicProfile]:
    """What these users show to everybody, of 200 at most: one statement."""
    rows = session.execute(_PUBLIC, {"user_ids": [str(each) for each in user_ids]}).mappings()
    return [PublicProfile(**row) for row in rows]


def searchable() -> set[str]:
    """The columns of JSON that an index finds documents in."""
    indexes = _table(UserProfile).indexes
    return {index.columns[0].name for index in indexes if index.dialect_options["postgresql"]["using"] == "gin"}


def search_statement(prefix: str, containing: Mapping[str, Mapping[str, Any]], after: str | None) -> Select[Any]:
    """Active profiles by the begin of their names and by what their documents contain, in the order of the names."""
    begin = prefix.lower()
    statement = select(UserProfile).where(UserProfile.is_active).order_by(_NAME)
    if begin:
        # A range, because an index takes a pattern only where the database sorts by bytes.
        between = _NAME.between(begin, begin + _BEHIND_ALL_NAMES)
        statement = statement.where(between, func.starts_with(_NAME, begin))
    for column, document in containing.items():
        statement = statement.where(UserProfile.__table__.c[column].contains(dict(document)))
    if after is not None:
        statement = statement.where(after < _NAME)
    return statement


def search(session: Session, statement: Select[Any], limit: int) -> Page:
    """A page of what the statement finds: one statement."""
    statement = statement.limit(limit + 1)
    found = [snapshot(session, profile) for profile in session.scalars(statement)]
    return Page(found[:limit], found[limit - 1].username if len(found) > limit else None)


def history(session: Session, user_id: uuid.UUID, before: HistoryEntry | None, limit: int) -> list[HistoryEntry]:
    """What the audit log says about a user, the newest first: one statement."""
    log = UserProfileAuditLog
    newest = (log.created_at.desc(), log.id.desc())
    statement = select(log).where(log.user_id == user_id).order_by(*newest).limit(limit)
    if before is not None:
        statement = statement.where(tuple_(log.created_at, log.id) < tuple_(before.at, before.id))
    return [
        HistoryEntry(
            action=row.action,
            origin=row.origin,
            actor=row.actor,
            changed=tuple(row.changed or ()),
            error_code=row.error_code,
            at=row.created_at,
            context=row.metadata_.get("context"),
            id=row.id,
        )
        for row in session.scalars(statement)
    ]


def ensure_many(session: Session, user_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, UserProfile]:
    """The profiles of these users by ensure_user_profile: two statements. It fails for all of them if it fails for one."""
    users = list(user_ids)
    session.execute(_ENSURE_MANY, {"user_ids": users})
    return read_many(session, users)


def _table(model: type[Base]) -> Table:
    # Not the model: the ORM would read generated values back.
    return cast("Table", model.__table__)
