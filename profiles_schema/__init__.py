"""profiles-schema: user profiles on PostgreSQL that sign-ups cannot trip over.

The public names load on first use: ``import profiles_schema`` alone imports nothing else, and
``from profiles_schema import UserProfile`` imports SQLAlchemy, but no driver and no alembic.
"""

from typing import TYPE_CHECKING

from profiles_schema._version import __version__

if TYPE_CHECKING:
    from profiles_schema.schema.models import (
        AuthUser,
        Base,
        ExportHistory,
        LearningSession,
        UserApiKeys,
        UserProfile,
        UserProfileAuditLog,
        UserProgress,
        metadata,
    )

__all__ = [
    "AuthUser",
    "Base",
    "ExportHistory",
    "LearningSession",
    "UserApiKeys",
    "UserProfile",
    "UserProfileAuditLog",
    "UserProgress",
    "__version__",
    "metadata",
]

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from profiles_schema.schema import models

        value = globals()[name] = getattr(models, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
