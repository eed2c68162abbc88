"""What services return beside profiles."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from profiles_schema.errors import ServiceError
from profiles_schema.schema.models import UserProfile


@dataclass(frozen=True, slots=True)
class PublicProfile:
    """What a profile shows to everybody."""

    id: str
    user_id: uuid.UUID
    username: str
    display_name: str | None
    avatar_emoji: str | None
    avatar_url: str | None
    profile_picture_url: str | None
    bio: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one user of many: a profile, or an error."""

    profile: UserProfile | None = None
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a search; ``next`` is given as ``after`` for the page behind it, and is None at the end."""

    profiles: list[UserProfile]
    next: str | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A row of the audit log: names of columns, never values.

    Attributes:
        action: created, updated, repaired, failed, skipped or deleted.
        origin: By which road: manual, trigger, backfill, registration, sync or normalize.
        actor: The user who did it; None for the server.
        changed: Names of the columns that changed.
        error_code: The SQLSTATE of a failure.
        at: When.
        context: What ``acting_as`` was given as context.
        id: For ``before``, to read on.
    """

    action: str
    origin: str
    actor: uuid.UUID | None
    changed: tuple[str, ...]
    error_code: str | None
    at: datetime
    context: Any
    id: uuid.UUID


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a synchronization changed.

    Attributes:
        profile: As it is now.
        changed: Names of the columns that changed, by the source of the change; ``auth`` is the row of auth.users.
        failed: The error of each source that failed; what the others brought is kept.
    """

    profile: UserProfile
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: Mapping[str, Exception] = field(default_factory=dict)
