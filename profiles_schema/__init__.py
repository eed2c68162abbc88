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
        UserProviderKey,
        metadata,
    )
    from profiles_schema.secret import Secret
    from profiles_schema.services.acting import Actor, acting_as, current_actor, follow_actor, on_behalf_of
    from profiles_schema.services.api_keys import ApiKeyService, AsyncApiKeyService
    from profiles_schema.services.default import configure, get_or_create_profile, get_profile, update_profile
    from profiles_schema.services.engines import async_engine, async_require_rls, engine, require_rls
    from profiles_schema.services.profiles import AsyncProfileService, ProfileService

__all__ = [
    "Actor",
    "ApiKeyService",
    "AsyncApiKeyService",
    "AsyncProfileService",
    "AuthUser",
    "Base",
    "ExportHistory",
    "LearningSession",
    "ProfileService",
    "Secret",
    "UserApiKeys",
    "UserProfile",
    "UserProfileAuditLog",
    "UserProgress",
    "UserProviderKey",
    "__version__",
    "acting_as",
    "async_engine",
    "async_require_rls",
    "configure",
    "current_actor",
    "engine",
    "follow_actor",
    "get_or_create_profile",
    "get_profile",
    "metadata",
    "on_behalf_of",
    "require_rls",
    "update_profile",
]

_MODELS = (
    "AuthUser",
    "Base",
    "ExportHistory",
    "LearningSession",
    "UserApiKeys",
    "UserProfile",
    "UserProfileAuditLog",
    "UserProgress",
    "UserProviderKey",
    "metadata",
)

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = "profiles_schema.services"
        if name in _MODELS:
            home = "profiles_schema.schema.models"
        elif name == "Secret":
            home = "profiles_schema.secret"
        value = globals()[name] = getattr(import_module(home), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
