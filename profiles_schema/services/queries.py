"""What services ask the database, as plain functions of a ``Session``. Each says how many statements it takes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final, cast

from sqlalchemy import Table, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID, insert
from sqlalchemy.orm import Session

from profiles_schema.schema.models import Base, UserProfile, UserProfileAuditLog, UserProgress
from profiles_schema.services.flows import sqlstate
from profiles_schema.services.refusals import failed_objects
from profiles_schema.services.snapshots import snapshot

# Made once: SQLAlchemy compiles the same statement object from its cache, without building a key.
_ONE: Final = select(UserProfile).where(UserProfile.user_id == bindparam("user_id"))
_MANY: Final = select(UserProfile).where(
    UserProfile.user_id == func.any(bindparam("user_ids", type_=ARRAY(UUID(as_uuid=True))))
)
_RECENT: Final = select(UserProfile.user_id).order_by(UserProfile.updated_at.desc()).limit(bindparam("rows"))
_ENSURE: Final = select(func.public.ensure_user_profile(bindparam("user_id", type_=UUID(as_uuid=True))))
_MADE: Final = select(UserProfile, (UserProfile.created_at == func.now()).label("is_new")).where(
    UserProfile.user_id == bindparam("user_id")
)


def read(session: Session, user_id: uuid.UUID) -> UserProfile | None:
    """The profile of a user: one statement."""
    profile = session.scalars(_ONE, {"user_id": user_id}).one_or_none()
    return None if profile is None else snapshot(session, profile)


def read_many(session: Session, user_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, UserProfile]:
    """The profiles of these users: one statement."""
    found = session.scalars(_MANY, {"user_ids": list(user_ids)}).all()
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


def _table(model: type[Base]) -> Table:
    # Not the model: the ORM would read generated values back.
    return cast("Table", model.__table__)
