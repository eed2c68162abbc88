"""The logic of ProfileService and AsyncProfileService, as flows."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from profiles_schema.errors import (
    NotAllowed,
    ProfileNotCreated,
    ServiceError,
)
from profiles_schema.schema.models import UserProfile
from profiles_schema.schema.trait_models import as_json
from profiles_schema.services import announcements, queries
from profiles_schema.services.cache import Flight, Found, Key, ProfileCache, Unsettled
from profiles_schema.services.events import LOGGER, Events, Kind
from profiles_schema.services.flows import (
    ATTEMPTS,
    Block,
    Db,
    Flow,
    Sleep,
    Wait,
    is_transient,
    pause_seconds,
    retry,
    sqlstate,
)
from profiles_schema.services.refusals import failed_objects, failure, is_from_database, refusal_to_create
from profiles_schema.services.results import HistoryEntry, Page, PublicProfile
from profiles_schema.services.shared_cache import Generations, SharedCache

T = TypeVar("T")
UserId = uuid.UUID | str
Happened = list[tuple[Kind, dict[str, Any]]]
"""Events to emit, with their details."""

_WARM_ROWS: Final = 1_000
_PUBLIC_ROWS: Final = 200
_PAGE_ROWS: Final = 200


def as_uuid(user_id: UserId) -> uuid.UUID:
    """The id of a user; ValueError where it is no uuid."""
    if isinstance(user_id, uuid.UUID):
        return user_id
    try:
        return uuid.UUID(user_id)
    except (ValueError, AttributeError, TypeError):
        raise ValueError("The id of a user is a uuid") from None


class ProfileFlows:
    """What a profile service does; a driver runs it."""

    def __init__(
        self,
        cache: ProfileCache,
        events: Events,
        may_share: Callable[[], bool],
        shared: SharedCache | None = None,
        *,
        announces: bool = False,
    ) -> None:
        self.cache = cache
        self.events = events
        self._may_share = may_share
        """Whether what one caller read may be shown to the next; not where sessions act for different users."""
        self._shared = shared
        self._announces = announces

    def get(self, user_id: UserId) -> Flow[UserProfile | None]:
        """As ProfileService.get."""
        user = as_uuid(user_id)
        if not self._may_share():
            return (yield from self._read(user))
        found = self.cache.get(user)
        may_be_old = self._shared is not None
        while isinstance(found, Unsettled):
            flight, is_mine = self.cache.join((user, "read"))
            if is_mine:
                found = yield from self._fly((user, "read"), flight, self._read(user))
            else:
                found = yield Wait(flight)
                # Another process may have written since that load began; the next one begins after this call.
                if may_be_old:
                    found, may_be_old = Unsettled.MISSING, False
        return found

    def get_many(self, user_ids: Iterable[UserId]) -> Flow[dict[uuid.UUID, UserProfile]]:
        """As ProfileService.get_many."""
        users = list(dict.fromkeys(map(as_uuid, user_ids)))
        if not self._may_share():
            return (yield from self._read_many(users))
        known: dict[uuid.UUID, Found | Unsettled] = {user: self.cache.get(user) for user in users}
        missing = [user for user, found in known.items() if isinstance(found, Unsettled)]
        flights = {user: self.cache.join((user, "read")) for user in missing}
        mine = {user: flight for user, (flight, is_mine) in flights.items() if is_mine}
        if mine:
            try:
                loaded = yield from self._read_many(list(mine))
            except BaseException as error:
                for user, flight in mine.items():
                    self.cache.crash((user, "read"), flight, error)
                raise
            for user, flight in mine.items():
                known[user] = loaded.get(user)
                self.cache.land((user, "read"), flight, loaded.get(user))
        others = [user for user in missing if user not in mine]
        for user in others:
            found = yield Wait(flights[user][0])
            known[user] = (yield from self.get(user)) if isinstance(found, Unsettled) else found
        if self._shared is not None and others:  # as in get
            known |= dict.fromkeys(others) | (yield from self._read_many(others))
        return {user: found for user, found in known.items() if isinstance(found, UserProfile)}

    def get_or_create(self, user_id: UserId) -> Flow[UserProfile]:
        """As ProfileService.get_or_create."""
        user = as_uuid(user_id)
        found: Found | Unsettled = yield from self.get(user)
        happened: Happened = []
        try:
            if found is None and not self._may_share():
                return (yield from self._create(user, happened))
            while not isinstance(found, UserProfile):
                flight, is_mine = self.cache.join((user, "create"))
                if is_mine:
                    found = yield from self._fly((user, "create"), flight, self._create(user, happened))
                else:
                    found = yield Wait(flight)
            return found
        finally:
            # After the flight: a subscriber that asks for the profile would wait for itself.
            for kind, details in happened:
                self.events.emit(kind, user, **details)

    def get_public_many(self, user_ids: Iterable[UserId]) -> Flow[dict[uuid.UUID, PublicProfile]]:
        """As ProfileService.get_public_many."""
        users = list(dict.fromkeys(map(as_uuid, user_ids)))
        found: dict[uuid.UUID, PublicProfile] = {}
        for start in range(0, len(users), _PUBLIC_ROWS):
            work = partial(queries.read_public, user_ids=users[start : start + _PUBLIC_ROWS])
            rows: list[PublicProfile] = yield from self._asking(retry(Db(work, replica=True), is_transient))
            found |= {row.user_id: row for row in rows}
        return found

    def search(
        self, prefix: str, containing: Mapping[str, Mapping[str, Any]], after: str | None, limit: int
    ) -> Flow[Page]:
        """As ProfileService.search."""
        if not 1 <= limit <= _PAGE_ROWS:
            raise ValueError(f"A page has 1 to {_PAGE_ROWS} profiles")
        if unknown := sorted(set(containing) - queries.searchable()):
            raise ValueError(f"{', '.join(unknown)}: not a column that can be searched")
        # A ValueError for what PostgreSQL cannot hold, and so cannot find.
        as_json(json.loads(json.dumps([prefix, after, *map(dict, containing.values())])))
        statement = queries.search_statement(prefix, containing, after)
        work = partial(queries.search, statement=statement, limit=limit)
        page: Page = yield from self._asking(retry(Db(work, replica=True), is_transient))
        return page

    def history(self, user_id: UserId, before: HistoryEntry | None, limit: int) -> Flow[list[HistoryEntry]]:
        """As ProfileService.history."""
        if limit < 0:
            raise ValueError("A page has no fewer than 0 entries")
        work = partial(queries.history, user_id=as_uuid(user_id), before=before, limit=limit)
        found: list[HistoryEntry] = yield from self._asking(retry(Db(work, replica=True), is_transient))
        return found

    def warm(self, user_ids: Iterable[UserId], most_recent: int) -> Flow[int]:
        """As ProfileService.warm."""
        users = list(map(as_uuid, user_ids))
        if most_recent < 0:
            raise ValueError("There are no fewer than 0 profiles to load")
        if most_recent:
            work = partial(queries.recent_users, rows=most_recent)
            users += yield from self._asking(retry(Db(work, replica=True), is_transient))
        loaded = 0
        for start in range(0, len(users), _WARM_ROWS):
            loaded += len((yield from self.get_many(users[start : start + _WARM_ROWS])))
        return loaded

    def forget(self, users: Collection[uuid.UUID]) -> Flow[None]:
        """These profiles were written, and the write is committed: nobody is served what was there before.

        Other processes are told as far as they can be: those that share a region, and those that listen.
        """
        for user in users:
            self.cache.forget(user)
        yield from self._tell(users)

    def forget_heard(self, users: Collection[uuid.UUID]) -> None:
        """As ``forget``, for what somebody else has announced: it announces nothing. It may block."""
        for user in users:
            self.cache.forget(user)
        if self._shared is not None and users:
            self._shared.invalidate(users)

    def forget_soon(self, users: Collection[uuid.UUID]) -> None:
        """As ``forget``, for a caller that is stopped and cannot wait; it announces nothing."""
        for user in users:
            self.cache.forget(user)
        if self._shared is not None:
            self._shared.invalidate_soon(users)

    def _tell(self, users: Collection[uuid.UUID]) -> Flow[None]:
        if self._shared is not None:
            try:
                yield Block(partial(self._shared.invalidate, users))
            except GeneratorExit:  # perhaps no thread has begun with it
                self._shared.invalidate_soon(users)
                raise
        if self._announces:
            try:
                yield Db(partial(announcements.announce, users=users, sender=self.cache.identity))
            except Exception as error:  # noqa: BLE001 - the write itself is done
                LOGGER.warning("a change was not announced to other processes (SQLSTATE %s)", sqlstate(error))

    def _read(self, user: uuid.UUID) -> Flow[UserProfile | None]:
        return (yield from self._read_many([user])).get(user)

    def _read_many(self, users: Sequence[uuid.UUID]) -> Flow[dict[uuid.UUID, UserProfile]]:
        if not users:
            return {}
        shared = self._shared if self._may_share() else None
        known: dict[uuid.UUID, Found] = {}
        generations: Generations = {}
        if shared is not None:
            known, generations = yield Block(partial(shared.read, users))
            self.cache.count("shared_hits", len(known))
        if missing := [user for user in users if user not in known]:
            began, started = time.time(), time.perf_counter()
            lately = any(map(self.cache.was_written, missing)) or (
                shared is not None and any(shared.was_written(generations.get(user, "")) for user in missing)
            )
            work = Db(partial(queries.read_many, user_ids=missing), replica=not lately)
            loaded: dict[uuid.UUID, UserProfile] = yield from self._asking(retry(work, is_transient))
            self.cache.loaded(time.perf_counter() - started)
            fresh = {user: loaded.get(user) for user in missing}
            if shared is not None:
                yield Block(partial(shared.write, fresh, generations, began))
            known |= fresh
        return {user: profile for user, profile in known.items() if profile is not None}

    def _fly(self, key: Key, flight: Flight, flow: Flow[Any]) -> Flow[Any]:
        """Do what others wait for."""
        try:
            found = yield from flow
        except BaseException as error:
            self.cache.crash(key, flight, error)
            raise
        self.cache.land(key, flight, found)
        return found

    def _asking(self, flow: Flow[T]) -> Flow[T]:
        """A database that fails, and a role that may not, as typed errors."""
        try:
            return (yield from flow)
        except Exception as error:
            if isinstance(error, ServiceError) or not is_from_database(error):
                raise
            raise failure(error) from None

    def _create(self, user: uuid.UUID, happened: Happened) -> Flow[UserProfile]:
        # Another one may have finished after this one had read.
        if isinstance(known := self.cache.peek(user), UserProfile) and self._may_share():
            return known
        attempt, failed = 0, None
        while attempt < ATTEMPTS:
            attempt += 1
            made = yield from self._create_once(user, happened)
            if not isinstance(made, Exception):
                profile, is_new = made
                self.cache.created(user)
                if is_new:
                    yield from self._tell([user])
                    happened.append(("created", {"attempts": attempt}))
                return profile
            failed = made
            if not is_transient(failed):
                break
            if attempt < ATTEMPTS:
                yield Sleep(pause_seconds(attempt))
        raise (yield from self._record(user, failed, attempt, happened))

    def _create_once(self, user: uuid.UUID, happened: Happened) -> Flow[tuple[UserProfile, bool] | Exception]:
        """The profile, and whether it is new; or the failure, where another attempt or a record is called for."""
        failed: Exception | None = None
        for work in (queries.ensure, queries.insert_directly):
            try:
                profile, is_new = yield Db(partial(work, user_id=user))
            except Exception as error:  # noqa: BLE001 - whatever a driver raises
                if refused := refusal_to_create(error):
                    happened.append(("refused", {"error": type(refused).__name__}))
                    raise refused from None
                # What the function of the database says is closer to the cause than what the plain insert meets.
                failed = failed or error
                if is_transient(error):
                    return error
            else:
                if profile is None:
                    happened.append(("refused", {"error": NotAllowed.__name__}))
                    raise NotAllowed
                return profile, is_new
        assert failed is not None  # noqa: S101
        return failed

    def _record(self, user: uuid.UUID, failed: Exception | None, attempts: int, happened: Happened) -> Flow[Exception]:
        """The error to raise, after the failure is on record: in a transaction of its own, for health and backfill."""
        assert failed is not None  # noqa: S101
        state = sqlstate(failed)
        try:
            yield Db(partial(queries.record_failure, user_id=user, error=failed, attempts=attempts))
        except Exception as error:  # noqa: BLE001 - the failure itself counts
            LOGGER.error("the failure is not on record (SQLSTATE %s)", sqlstate(error))
        details = {"sqlstate": state, "objects": failed_objects(failed), "attempts": attempts}
        happened.append(("failed", details))
        if not is_from_database(failed):
            return failed
        return ProfileNotCreated(sqlstate=state, objects=failed_objects(failed))
