"""What application code calls. A name is loaded on first use; most of them are at ``profiles_schema``, too."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles_schema.services.acting import Actor, acting_as, current_actor, follow_actor, on_behalf_of
    from profiles_schema.services.announcements import Listener
    from profiles_schema.services.api_key_queries import ApiKeyInfo
    from profiles_schema.services.api_keys import ApiKeyService, AsyncApiKeyService
    from profiles_schema.services.cache import Statistics
    from profiles_schema.services.default import configure, get_or_create_profile, get_profile, update_profile
    from profiles_schema.services.engines import async_engine, async_require_rls, engine, require_rls
    from profiles_schema.services.events import Event
    from profiles_schema.services.export_queries import Claim
    from profiles_schema.services.exports import AsyncExportService, ExportService
    from profiles_schema.services.key_validators import Check
    from profiles_schema.services.profiles import AsyncProfileService, ProfileService
    from profiles_schema.services.results import HistoryEntry, Outcome, Page, PublicProfile, SyncResult
    from profiles_schema.services.shared_cache import CacheRegion

__all__ = [
    "Actor",
    "ApiKeyInfo",
    "ApiKeyService",
    "AsyncApiKeyService",
    "AsyncExportService",
    "AsyncProfileService",
    "CacheRegion",
    "Check",
    "Claim",
    "Event",
    "ExportService",
    "HistoryEntry",
    "Listener",
    "Outcome",
    "Page",
    "ProfileService",
    "PublicProfile",
    "Statistics",
    "SyncResult",
    "acting_as",
    "async_engine",
    "async_require_rls",
    "configure",
    "current_actor",
    "engine",
    "follow_actor",
    "get_or_create_profile",
    "get_profile",
    "on_behalf_of",
    "require_rls",
    "update_profile",
]

_MODULES = {
    "acting": ("Actor", "acting_as", "current_actor", "follow_actor", "on_behalf_of"),
    "announcements": ("Listener",),
    "api_key_queries": ("ApiKeyInfo",),
    "api_keys": ("ApiKeyService", "AsyncApiKeyService"),
    "cache": ("Statistics",),
    "default": ("configure", "get_or_create_profile", "get_profile", "update_profile"),
    "engines": ("async_engine", "async_require_rls", "engine", "require_rls"),
    "events": ("Event",),
    "export_queries": ("Claim",),
    "exports": ("AsyncExportService", "ExportService"),
    "key_validators": ("Check",),
    "profiles": ("AsyncProfileService", "ProfileService"),
    "results": ("HistoryEntry", "Outcome", "Page", "PublicProfile", "SyncResult"),
    "shared_cache": ("CacheRegion",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
