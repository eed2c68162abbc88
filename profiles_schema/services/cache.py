"""Profiles in the memory of this process: for a while, the recently used ones, each loaded once at a time."""

from __future__ import annotations

import random
import time
import uuid
from collections import deque
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import Any, Final, Literal, TypeAlias

from cachetools import TLRUCache, TTLCache

from profiles_schema.schema.models import UserProfile
from profiles_schema.services.events import LOGGER
from profiles_schema.services.forks import renew_after_fork

_LOADS_REMEMBERED: Final = 1_024
_COUNTED: Final = ("hits", "negative_hits", "misses", "joined", "shared_hits", "failures", "announcements", "loads")
SHORTEST_SHARE: Final = 0.85
"""Of the time to live, at random from there, so that what was loaded together does not expire together."""


class Unsettled(Enum):
    """In the place of a profile."""

    MISSING = "not in the cache"
    ABANDONED = "the one who was loading it gave up"


Found: TypeAlias = UserProfile | None
Flight: TypeAlias = "Future[Found | Unsettled]"
Key: TypeAlias = tuple[uuid.UUID, Literal["read", "create"]]
"""What is under way: each may be under way once."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the cache did since it was made.

    Attributes:
        hits: Reads answered from memory.
        negative_hits: Those among them that knew there is no profile.
        misses: Reads that were not.
        joined: Misses that waited for a load under way instead of asking the database.
        shared_hits: Misses that the region of dogpile.cache answered.
        failures: Times a cache itself failed; the read went on without it.
        announcements: Profiles that other processes said they changed, since ``listen``.
        entries: Profiles in memory now.
        loads: Loads from the database.
        load_seconds_median: Half of the last 1,024 loads took no longer; None without any.
        load_seconds_95: 95 in 100 of them took no longer.
        load_seconds_longest: None of them took longer.
    """

    hits: int
    negative_hits: int
    misses: int
    joined: int
    shared_hits: int
    failures: int
    announcements: int
    entries: int
    loads: int
    load_seconds_median: float | None
    load_seconds_95: float | None
    load_seconds_longest: float | None


class ProfileCache:
    """Time to live, least recently used, single flight. A failure in here is a miss."""

    def __init__(
        self,
        ttl_seconds: float,
        size: int,
        negative_ttl_seconds: float,
        sticky_seconds: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = uuid.uuid4().hex
        """Which cache announces a change: it need not hear of it."""
        self._ttl_seconds = ttl_seconds
        self._negative_ttl_seconds = min(negative_ttl_seconds, ttl_seconds)
        self._lock = Lock()
        self.store: MutableMapping[uuid.UUID, Found | Unsettled] = TLRUCache(max(size, 1), self._expiry, timer=timer)
        self._is_on = size > 0 and ttl_seconds > 0
        self._written: TTLCache[uuid.UUID, bool] = TTLCache(max(size, 1_000), sticky_seconds, timer=timer)
        self._flights: dict[Key, Flight] = {}
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._loads: deque[float] = deque(maxlen=_LOADS_REMEMBERED)
        renew_after_fork(self, ProfileCache._renew)

    def _renew(self) -> None:
        # The threads that hold the lock or do the loads are in the parent.
        self._lock, self._flights = Lock(), {}

    def _expiry(self, _key: object, value: Found | Unsettled, now: float) -> float:
        seconds = self._negative_ttl_seconds if value is None else self._ttl_seconds
        return now + seconds * random.uniform(SHORTEST_SHARE, 1)  # noqa: S311

    def get(self, user_id: uuid.UUID) -> Found | Unsettled:
        """The profile, None if it is known that there is none, or MISSING."""
        with self._lock:
            found = self._stored(user_id)
            self._counts["misses" if found is Unsettled.MISSING else "hits"] += 1
            self._counts["negative_hits"] += found is None
        return found

    def peek(self, user_id: uuid.UUID) -> Found | Unsettled:
        """As ``get``, without being counted."""
        with self._lock:
            return self._stored(user_id)

    def _stored(self, user_id: uuid.UUID) -> Found | Unsettled:
        if self._is_on:
            try:
                return self.store.get(user_id, Unsettled.MISSING)
            except Exception:  # noqa: BLE001 - whatever a store raises
                self._failed("read")
        return Unsettled.MISSING

    def join(self, key: Key) -> tuple[Flight, bool]:
        """The load of a profile, and whether the caller has to do it; otherwise another one is doing it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                self._counts["joined"] += 1
                return flight, False
            flight = self._flights[key] = Future()
            flight.set_running_or_notify_cancel()  # a task that stops waiting for it cannot cancel it
            return flight, True

    def land(self, key: Key, flight: Flight, found: Found) -> None:
        """Keep what was loaded, unless the profile was written meanwhile, and give it to all who wait."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
                if self._is_on:
                    try:
                        self.store[key[0]] = found
                    except Exception:  # noqa: BLE001 - whatever a store raises
                        self._failed("write")
        flight.set_result(found)

    def crash(self, key: Key, flight: Flight, error: BaseException) -> None:
        """Let all who wait know: they get the error, or try themselves where the one who loaded was only stopped."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        if isinstance(error, Exception):
            flight.set_exception(error)
        else:
            flight.set_result(Unsettled.ABANDONED)

    def forget(self, user_id: uuid.UUID) -> None:
        """The profile was written, and the write is committed. What is being loaded is not kept either."""
        with self._lock:
            self._flights.pop((user_id, "create"), None)
        self.created(user_id)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._flights.clear()
            self.store.clear()

    def created(self, user_id: uuid.UUID) -> None:
        """The profile was made: that there was none is forgotten. It is kept when its flight lands."""
        with self._lock:
            self._written[user_id] = True
            self._flights.pop((user_id, "read"), None)
            try:
                self.store.pop(user_id, None)
            except Exception:  # noqa: BLE001 - whatever a store raises
                self._failed("invalidation")

    def was_written(self, user_id: uuid.UUID) -> bool:
        """Whether this service wrote the profile so lately that a replica may not have it."""
        with self._lock:
            return user_id in self._written

    def count(self, name: str, times: int) -> None:
        """Count what another part did: one of the names of ``Statistics``."""
        with self._lock:
            self._counts[name] += times

    def loaded(self, seconds: float) -> None:
        """Count a load."""
        with self._lock:
            self._counts["loads"] += 1
            self._loads.append(seconds)

    def statistics(self) -> Statistics:
        """What it did so far."""
        with self._lock:
            loads = sorted(self._loads)
            try:
                entries = len(self.store)
            except Exception:  # noqa: BLE001 - whatever a store raises
                entries = 0
            counts: dict[str, Any] = dict(self._counts)
        last = len(loads) - 1
        return Statistics(
            **counts,
            entries=entries,
            load_seconds_median=loads[last // 2] if loads else None,
            load_seconds_95=loads[last * 95 // 100] if loads else None,
            load_seconds_longest=loads[last] if loads else None,
        )

    def failed(self, doing: str) -> None:
        """Count and log a failure of another cache that belongs to this one; called in its ``except``."""
        with self._lock:
            self._failed(doing)

    def _failed(self, doing: str) -> None:
        self._counts["failures"] += 1
        LOGGER.warning("the cache failed (%s); the database answers instead", doing, exc_info=True)
