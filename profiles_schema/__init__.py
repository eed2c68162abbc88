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
    from profiles_schema.services.acting import Actor, acting_as, current_actor, follow_actor, on_behalf_of
    from profiles_schema.services.engines import async_engine, async_require_rls, engine, require_rls

__all__ = [
    "Actor",
    "AuthUser",
    "Base",
    "ExportHistory",
    "LearningSession",
    "UserApiKeys",
    "UserProfile",
    "UserProfileAuditLog",
    "UserProgress",
    "__version__",
    "acting_as",
    "async_engine",
    "async_require_rls",
    "current_actor",
    "engine",
    "follow_actor",
    "metadata",
    "on_behalf_of",
    "require_rls",
]

_ACTING = "profiles_schema.services.acting"
_ENGINES = "profiles_schema.services.engines"
_HOMES = {
    "Actor": _ACTING,
    "acting_as": _ACTING,
    "async_engine": _ENGINES,
    "async_require_rls": _ENGINES,
    "current_actor": _ACTING,
    "engine": _ENGINES,
    "follow_actor": _ACTING,
    "on_behalf_of": _ACTING,
    "require_rls": _ENGINES,
}
"""The modules of what is no model."""

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = _HOMES.get(name, "profiles_schema.schema.models")
        value = globals()[name] = getattr(import_module(home), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
