"""Profiles for application code: ``ProfileService`` and ``AsyncProfileService``, with the same methods.

What they return is detached and read-only. They work with the rights of their sessions, usually those of service_role: who may
see and change which profile is for the application to decide before it calls.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from profiles_schema.schema.models import UserProfile
from profiles_schema.services.acting import follows_actor
from profiles_schema.services.announcements import Listener
from profiles_schema.services.cache import ProfileCache, Statistics
from profiles_schema.services.change_flows import ChangeFlows, Source, Validator
from profiles_schema.services.events import Event, Events
from profiles_schema.services.flows import AsyncDriver, SyncDriver
from profiles_schema.services.profile_flows import UserId, as_uuid
from profiles_schema.services.results import HistoryEntry, Outcome, Page, PublicProfile, SyncResult
from profiles_schema.services.shared_cache import CacheRegion, SharedCache

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker


_Id = TypeVar("_Id", bound=UserId)


class _Service:
    """What both services share: settings, cache, events."""

    def __init__(
        self,
        may_share: Callable[[], bool],
        *,
        cache_region: CacheRegion | None,
        announce_changes: bool,
        cache_ttl_seconds: float,
        cache_size: int,
        negative_ttl_seconds: float,
        sticky_primary_seconds: float,
        burst_updates: int,
        burst_seconds: float,
    ) -> None:
        size = cache_size if cache_region is None else 0
        self._cache = ProfileCache(cache_ttl_seconds, size, negative_ttl_seconds, sticky_primary_seconds)
        self._events = Events(burst_updates, burst_seconds)
        shared = None
        if cache_region is not None:
            shared = SharedCache(
                cache_region, cache_ttl_seconds, negative_ttl_seconds, sticky_primary_seconds, self._cache.failed
            )
        self._flows = ChangeFlows(self._cache, self._events, may_share, shared, announces=announce_changes)

    def statistics(self) -> Statistics:
        """Hits, misses and latencies of the cache, since the service was made."""
        return self._cache.statistics()

    def subscribe(self, subscriber: Callable[[Event], object]) -> Callable[[], None]:
        """Call a function for every event, in the thread or task where it happens; what is returned ends that."""
        return self._events.subscribe(subscriber)

    def add_validator(self, validator: Validator) -> None:
        """Ask a function about every change: it takes the user's id and the fields that fit, and returns what is wrong.

        The answer is a rule in words by the name of the field, or None. It must not repeat values. For ``AsyncProfileService``
        the function may be asynchronous.
        """
        self._flows.validators.append(validator)

    def add_source(self, name: str, source: Source) -> None:
        """Let ``sync`` ask a function for changes: it takes the profile, and returns what ``patch`` takes, or None.

        For ``AsyncProfileService`` the function may be asynchronous.
        """
        self._flows.sources[name] = source

    def listen(self, url: str) -> Listener:
        """Hear from now on which profiles other processes change, and forget them: on a connection and a thread of its own.

        It hears of services with ``announce_changes=True``, and of what SQL announces. While the connection is lost, profiles
        are served for their time to live; the cache is emptied before it hears again. Call it in each process, after a fork.
        With ``cache_region``, what is heard is forgotten there; the region is not emptied.

        Args:
            url: As for DATABASE_URL: the primary, and no pooler in transaction mode.

        Raises:
            InvalidDatabaseUrl: the text is no PostgreSQL URL.
            NoDatabase: the server cannot be reached, refuses the role, or lacks the database.
            TransactionPooler: there is a pooler in between, which gives what is announced to others.
            ReadOnlyServer: it is a standby.
        """
        return Listener(url, self._cache, self._flows.forget_heard)


class ProfileService(_Service):
    """Profiles, by synchronous sessions.

    Args:
        session_factory: Sessions of the primary.
        cache_ttl_seconds: No profile is served from memory for longer. 0: no cache.
        cache_size: So many profiles are kept, the recently used ones. 0: no cache. There is none either where the factory
            was given to ``follow_actor``: what a session may read then depends on the user.
        read_session_factory: Sessions of a replica, for reads.
        cache_region: A region of dogpile.cache, in the place of the memory of this process. It belongs to one database, and
            to services whose role may read all profiles.
        announce_changes: Tell the services that ``listen`` about every change, by NOTIFY, after its commit.
        negative_ttl_seconds: For how long it is remembered that a user has no profile.
        sticky_primary_seconds: For so long after a write of this service, the profile is read from the primary.
        burst_updates: So many updates of one user within ``burst_seconds`` are an event of their own (suspicious).
        burst_seconds: See there.
    """

    def __init__(
        self,
        session_factory: sessionmaker[Session],
        cache_ttl_seconds: float = 300,
        cache_size: int = 10_000,
        *,
        read_session_factory: sessionmaker[Session] | None = None,
        cache_region: CacheRegion | None = None,
        announce_changes: bool = False,
        negative_ttl_seconds: float = 5,
        sticky_primary_seconds: float = 5,
        burst_updates: int = 30,
        burst_seconds: float = 60,
    ) -> None:
        super().__init__(
            lambda: not any(each and follows_actor(each) for each in (session_factory, read_session_factory)),
            cache_region=cache_region,
            announce_changes=announce_changes,
            cache_ttl_seconds=cache_ttl_seconds,
            cache_size=cache_size,
            negative_ttl_seconds=negative_ttl_seconds,
            sticky_primary_seconds=sticky_primary_seconds,
            burst_updates=burst_updates,
            burst_seconds=burst_seconds,
        )
        self._run = SyncDriver(session_factory, read_session_factory).run

    def get(self, user_id: UserId) -> UserProfile | None:
        """The profile of a user; None without one.

        Raises:
            NotAllowed: the role may not read profiles.
            ServiceFailed: the database failed, three times where that may pass.
        """
        return self._run(self._flows.get(user_id))

    def get_many(self, user_ids: Iterable[UserId]) -> dict[uuid.UUID, UserProfile]:
        """The profiles of these users, by user; who has none is left out. One statement for all that are not in the cache.

        Raises:
            NotAllowed, ServiceFailed: as ``get``.
        """
        return self._run(self._flows.get_many(user_ids))

    def get_or_create(self, user_id: UserId) -> UserProfile:
        """The profile of a user, made if it is missing.

        It is read; else made by ``ensure_user_profile``; else, if that function fails, by a plain INSERT with what is known.
        Up to three attempts, where the failure is one that may pass. The last failure is recorded in the audit log, for
        ``health`` and ``backfill``.

        Raises:
            ProfileNotFound: there is no such user, or the user is deleted.
            NotAllowed: the role may not act for this user.
            ProfileNotCreated: everything failed.
            ServiceFailed: the database did not answer the first read.
        """
        return self._run(self._flows.get_or_create(user_id))

    def get_public_many(self, user_ids: Iterable[UserId]) -> dict[uuid.UUID, PublicProfile]:
        """What these users show to everybody, by user; private, inactive and unknown ones are left out.

        One statement for 200 users.

        Raises:
            NotAllowed, ServiceFailed: as ``get``.
        """
        return self._run(self._flows.get_public_many(user_ids))

    def update(
        self, user_id: UserId, changes: Mapping[str, Any], *, if_updated_at: datetime | None = None
    ) -> UserProfile:
        """Write fields of a profile: what a person may edit, and nothing else.

        Args:
            user_id: Whose profile.
            changes: New values by field. A document (``preferences`` and the like) is replaced as a whole; see ``patch``.
            if_updated_at: Write only if the profile still has this ``updated_at``.

        Raises:
            InvalidProfile: names every field that is wrong, unknown or not to be changed here.
            UsernameTaken: nothing else is wrong.
            StaleProfile: ``updated_at`` is another one by now.
            ValueError: ``if_updated_at`` has no time zone.
            ProfileNotFound: there is no profile.
            NotAllowed: the role may not do this, or the account is erased or inactive.
            ServiceFailed: the database failed.
        """
        return self._run(self._flows.change(user_id, changes, if_updated_at, merge=False))

    def patch(
        self, user_id: UserId, changes: Mapping[str, Any], *, if_updated_at: datetime | None = None
    ) -> UserProfile:
        """As ``update``, but documents are merged into the stored ones (RFC 7386): None removes a key.

        The profile is locked meanwhile, so that two patches never undo each other.
        """
        return self._run(self._flows.change(user_id, changes, if_updated_at, merge=True))

    def sync(self, user_id: UserId) -> SyncResult:
        """Bring a profile up to date with the user's row in auth.users and with the sources of ``add_source``.

        A profile that is missing is made.

        Raises:
            ProfileNotFound: there is no such user, or the user is deleted.
            NotAllowed: the role may not act for this user.
            ServiceFailed: the database failed. A source that fails is in the result instead.
        """
        return self._run(self._flows.sync(user_id))

    def create_many(self, user_ids: Iterable[UserId]) -> dict[uuid.UUID, Outcome]:
        """As ``get_or_create``, for many users: an outcome each, in their order. Three statements, unless one fails."""
        return self._run(self._flows.create_many(user_ids))

    def update_many(self, changes: Mapping[_Id, Mapping[str, Any]]) -> dict[uuid.UUID, Outcome]:
        """As ``update``, for many users: an outcome each. Two statements (three with usernames), unless one is refused.

        Raises:
            ValueError: a user is named twice.
            NotAllowed, ServiceFailed: nothing was written, or the answer of the commit was lost.
        """
        return self._run(self._flows.update_many(changes))

    def search(
        self,
        prefix: str = "",
        *,
        containing: Mapping[str, Mapping[str, Any]] | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Active profiles in the order of their usernames, a page at a time.

        Args:
            prefix: How the username begins, in either case.
            containing: What documents contain, by column: ``preferences``, ``personality_traits``, ``appearance_traits`` or
                ``behavioral_metrics``.
            after: ``next`` of the page before.
            limit: At most so many, up to 200.

        Raises:
            ValueError: another column, a limit out of range, or what is no text or JSON for PostgreSQL.
            NotAllowed, ServiceFailed: as ``get``.
        """
        return self._run(self._flows.search(prefix, containing or {}, after, limit))

    def history(self, user_id: UserId, *, before: HistoryEntry | None = None, limit: int = 50) -> list[HistoryEntry]:
        """What the audit log says about a user, the newest first; ``before`` is the last entry of the page before.

        Raises:
            NotAllowed, ServiceFailed: as ``get``.
        """
        return self._run(self._flows.history(user_id, before, limit))

    def warm(self, user_ids: Iterable[UserId] = (), *, most_recent: int = 0) -> int:
        """Load these profiles into the cache, or those that changed last; returns how many there are.

        Raises:
            NotAllowed, ServiceFailed: as ``get``.
        """
        return self._run(self._flows.warm(user_ids, most_recent))

    def forget(self, *user_ids: UserId) -> None:
        """Serve these profiles from the database next: after a change that did not go through a service."""
        return self._run(self._flows.forget([as_uuid(each) for each in user_ids]))


class AsyncProfileService(_Service):
    """Profiles, by asynchronous sessions: arguments, methods and errors are those of ProfileService."""

    def __init__(
        self,
        session_factory: async_sessionmaker[AsyncSession],
        cache_ttl_seconds: float = 300,
        cache_size: int = 10_000,
        *,
        read_session_factory: async_sessionmaker[AsyncSession] | None = None,
        cache_region: CacheRegion | None = None,
        announce_changes: bool = False,
        negative_ttl_seconds: float = 5,
        sticky_primary_seconds: float = 5,
        burst_updates: int = 30,
        burst_seconds: float = 60,
    ) -> None:
        super().__init__(
            lambda: not any(each and follows_actor(each) for each in (session_factory, read_session_factory)),
            cache_region=cache_region,
            announce_changes=announce_changes,
            cache_ttl_seconds=cache_ttl_seconds,
            cache_size=cache_size,
            negative_ttl_seconds=negative_ttl_seconds,
            sticky_primary_seconds=sticky_primary_seconds,
            burst_updates=burst_updates,
            burst_seconds=burst_seconds,
        )
        self._run = AsyncDriver(session_factory, read_session_factory).run

    async def get(self, user_id: UserId) -> UserProfile | None:
        """As ProfileService.get."""
        return await self._run(self._flows.get(user_id))

    async def get_many(self, user_ids: Iterable[UserId]) -> dict[uuid.UUID, UserProfile]:
        """As ProfileService.get_many."""
        return await self._run(self._flows.get_many(user_ids))

    async def get_or_create(self, user_id: UserId) -> UserProfile:
        """As ProfileService.get_or_create."""
        return await self._run(self._flows.get_or_create(user_id))

    async def get_public_many(self, user_ids: Iterable[UserId]) -> dict[uuid.UUID, PublicProfile]:
        """As ProfileService.get_public_many."""
        return await self._run(self._flows.get_public_many(user_ids))

    async def update(
        self, user_id: UserId, changes: Mapping[str, Any], *, if_updated_at: datetime | None = None
    ) -> UserProfile:
        """As ProfileService.update."""
        return await self._run(self._flows.change(user_id, changes, if_updated_at, merge=False))

    async def patch(
        self, user_id: UserId, changes: Mapping[str, Any], *, if_updated_at: datetime | None = None
    ) -> UserProfile:
        """As ProfileService.patch."""
        return await self._run(self._flows.change(user_id, changes, if_updated_at, merge=True))

    async def sync(self, user_id: UserId) -> SyncResult:
        """As ProfileService.sync."""
        return await self._run(self._flows.sync(user_id))

    async def create_many(self, user_ids: Iterable[UserId]) -> dict[uuid.UUID, Outcome]:
        """As ProfileService.create_many."""
        return await self._run(self._flows.create_many(user_ids))

    async def update_many(self, changes: Mapping[_Id, Mapping[str, Any]]) -> dict[uuid.UUID, Outcome]:
        """As ProfileService.update_many."""
        return await self._run(self._flows.update_many(changes))

    async def search(
        self,
        prefix: str = "",
        *,
        containing: Mapping[str, Mapping[str, Any]] | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """As ProfileService.search."""
        return await self._run(self._flows.search(prefix, containing or {}, after, limit))

    async def history(
        self, user_id: UserId, *, before: HistoryEntry | None = None, limit: int = 50
    ) -> list[HistoryEntry]:
        """As ProfileService.history."""
        return await self._run(self._flows.history(user_id, before, limit))

    async def warm(self, user_ids: Iterable[UserId] = (), *, most_recent: int = 0) -> int:
        """As ProfileService.warm."""
        return await self._run(self._flows.warm(user_ids, most_recent))

    async def forget(self, *user_ids: UserId) -> None:
        """As ProfileService.forget."""
        return await self._run(self._flows.forget([as_uuid(each) for each in user_ids]))
