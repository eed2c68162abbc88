"""One service for a whole program: ``configure`` makes it, and the functions here use it.

For programs with one database. Those with several, or with asynchronous sessions, make their services themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from profiles_schema.errors import NotConfigured
from profiles_schema.schema.models import UserProfile
from profiles_schema.services.profile_flows import UserId
from profiles_schema.services.profiles import ProfileService

_service: ProfileService | None = None


def configure(session_factory: sessionmaker[Session], **options: Any) -> ProfileService:
    """Make the service that the functions of this module use from now on, and return it.

    Args:
        session_factory: Sessions of the primary.
        options: As for ``ProfileService``: ``cache_ttl_seconds``, ``cache_size`` and so on.
    """
    global _service  # noqa: PLW0603 - it is what this module is for
    _service = ProfileService(session_factory, **options)
    return _service


def get_profile(user_id: UserId) -> UserProfile | None:
    """As ``ProfileService.get``. Raises NotConfigured before ``configure``."""
    return _configured().get(user_id)


def get_or_create_profile(user_id: UserId) -> UserProfile:
    """As ``ProfileService.get_or_create``. Raises NotConfigured before ``configure``."""
    return _configured().get_or_create(user_id)


def update_profile(
    user_id: UserId, changes: Mapping[str, Any], *, if_updated_at: datetime | None = None
) -> UserProfile:
    """As ``ProfileService.update``. Raises NotConfigured before ``configure``."""
    return _configured().update(user_id, changes, if_updated_at=if_updated_at)


def _configured() -> ProfileService:
    if _service is None:
        raise NotConfigured
    return _service
