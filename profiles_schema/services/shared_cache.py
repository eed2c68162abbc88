"""Profiles in a cache that several processes share: a region of dogpile.cache, for example on Redis.

Beside each profile stands the generation of its user, a random word that every write replaces. A profile is served only with
the generation that was read before it was loaded. So a process that loaded it before a write, and stores it after, brings
nothing old back, without a lock. A region may evict what it likes: who finds no generation makes one before loading, because
profiles that were stored without one would match again. Of a write, its time is stored, too: for how long a replica may lack it.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import inspect

from profiles_schema.schema.models import UserProfile
from profiles_schema.services.cache import SHORTEST_SHARE, Found
from profiles_schema.services.snapshots import rebuild

Generations = Mapping[uuid.UUID, str]

_PREFIX: Final = "profiles_schema"
_COLUMNS: Final = [each.key for each in inspect(UserProfile).column_attrs]
_SHAPE: Final = hashlib.sha256(" ".join(_COLUMNS).encode()).hexdigest()[:12]
"""In the key of a profile: two releases with other columns share a region, and not their profiles."""
_FOREVER: Final = 10.0 * 365 * 86_400
"""An entry has a time of its own to expire; whether the region was invalidated is still asked."""
_PAUSE_SECONDS: Final = 5.0
"""For so long after a failure the region is not asked: one that does not answer costs a timeout each time."""
_MOST_UNTOLD: Final = 10_000
_DECODERS: Final[Mapping[str, Callable[[str], Any]]] = {"UUID": uuid.UUID, "datetime": datetime.fromisoformat}


class CacheRegion(Protocol):
    """What is used of ``dogpile.cache.CacheRegion``. Values are strings; all of it may block and may fail."""

    def get_multi(self, keys: Sequence[str], expiration_time: float | None = None) -> Sequence[Any]:
        """The values, in the order of the keys; something that is no string in the place of one that is not there."""

    def set_multi(self, mapping: Mapping[str, Any]) -> None:
        """Store the values."""

    def delete_multi(self, keys: Sequence[str]) -> None:
        """Remove the values."""


class SharedCache:
    """Profiles and generations in a region. It never raises; what fails is told to ``failed``."""

    def __init__(
        self,
        region: CacheRegion,
        ttl_seconds: float,
        negative_ttl_seconds: float,
        sticky_seconds: float,
        failed: Callable[[str], None],
    ) -> None:
        self._region = region
        self._sticky_seconds = sticky_seconds
        self._ttl_seconds = ttl_seconds
        self._negative_ttl_seconds = min(negative_ttl_seconds, ttl_seconds)
        self._failed = failed
        self._rest_until = 0.0
        self._untold: set[uuid.UUID] = set()
        """Written, which the region would not take."""

    def read(self, users: Sequence[uuid.UUID]) -> tuple[dict[uuid.UUID, Found], Generations]:
        """What is known of these users (None: no profile), and their generations, which ``write`` wants back."""
        if time.monotonic() < self._rest_until:
            return {}, {}
        try:
            if self._untold:
                self._tell(list(self._untold))
            keys = [*map(_profile_key, users), *map(_word_key, users), *map(_time_key, users)]
            answers = self._region.get_multi(keys, expiration_time=_FOREVER)
            texts = [answer if isinstance(answer, str) else "" for answer in answers]
            count = len(users)
            entries, words, times = (texts[start : start + count] for start in range(0, 3 * count, count))
            made = {user: uuid.uuid4().hex for user, word in zip(users, words, strict=True) if not word}
            if made:
                self._region.set_multi({_word_key(user): word for user, word in made.items()})
            generations = {
                user: f"{made.get(user, word)} {written}"
                for user, word, written in zip(users, words, times, strict=True)
            }
        except Exception:  # noqa: BLE001 - whatever a region raises
            self._rest("shared read")
            return {}, {}
        found: dict[uuid.UUID, Found] = {}
        for user, entry in zip(users, entries, strict=True):
            try:
                document: dict[str, Any] = json.loads(entry or "{}")
                # At most the time to live: the clock of another machine may be fast.
                lasts = document.get("until", 0) - time.time()
                if document.get("generation") == generations[user] and 0 < lasts <= self._ttl_seconds:
                    found[user] = _decoded(document["profile"])
            except Exception:  # noqa: BLE001 - whatever somebody else stored: it is loaded and replaced
                self._failed("shared read")
        return found, generations

    def write(self, loaded: Mapping[uuid.UUID, Found], generations: Generations, began: float) -> None:
        """Keep what was loaded since ``began`` (of ``time.time``), for users whose generation is known."""
        try:
            entries = {
                _profile_key(user): json.dumps(
                    {
                        "generation": generations[user],
                        "until": began + self._lifetime(profile),
                        "profile": _encoded(profile),
                    }
                )
                for user, profile in loaded.items()
                if user in generations
            }
            if entries:
                self._region.set_multi(entries)
        except Exception:  # noqa: BLE001 - whatever a region raises
            self._rest("shared write")

    def invalidate(self, users: Collection[uuid.UUID]) -> None:
        """These profiles were written, and the write is committed."""
        try:
            self._tell(users)
        except Exception:  # noqa: BLE001 - whatever a region raises
            if len(self._untold) < _MOST_UNTOLD:
                self._untold.update(users)
            self._rest("shared invalidation")

    def invalidate_soon(self, users: Collection[uuid.UUID]) -> None:
        """The same, for a caller that is stopped and cannot wait."""
        threading.Thread(target=self.invalidate, args=(list(users),), name="profiles-schema-invalidation").start()

    def was_written(self, generation: str) -> bool:
        """Whether some process wrote the profile so lately that a replica may not have it."""
        try:
            return time.time() < float(generation.partition(" ")[2] or 0) + self._sticky_seconds
        except ValueError:  # somebody else stored it
            return True

    def _tell(self, users: Collection[uuid.UUID]) -> None:
        now = str(time.time())
        words = {_word_key(user): uuid.uuid4().hex for user in users}
        try:
            self._region.set_multi({**words, **{_time_key(user): now for user in users}})
        except Exception:  # noqa: BLE001 - a Redis that is full still removes
            self._region.delete_multi(list(words))
        self._untold.difference_update(users)

    def _lifetime(self, profile: Found) -> float:
        seconds = self._negative_ttl_seconds if profile is None else self._ttl_seconds
        return seconds * random.uniform(SHORTEST_SHARE, 1)  # noqa: S311

    def _rest(self, doing: str) -> None:
        self._rest_until = time.monotonic() + _PAUSE_SECONDS
        self._failed(doing)


def _profile_key(user: uuid.UUID) -> str:
    return f"{_PREFIX}:{_SHAPE}:{user}"


def _word_key(user: uuid.UUID) -> str:
    return f"{_PREFIX}:generation:{user}"


def _time_key(user: uuid.UUID) -> str:
    return f"{_PREFIX}:written:{user}"


def _encoded(profile: Found) -> dict[str, Any] | None:
    if profile is None:
        return None
    values = {name: getattr(profile, name) for name in _COLUMNS}
    types = {name: type(value).__name__ for name, value in values.items() if isinstance(value, (uuid.UUID, datetime))}
    return {"values": {name: str(value) if name in types else value for name, value in values.items()}, "types": types}


def _decoded(document: Mapping[str, Any] | None) -> Found:
    if document is None:
        return None
    types: Mapping[str, str] = document["types"]
    return rebuild(
        {name: _DECODERS[types[name]](value) if name in types else value for name, value in document["values"].items()}
    )
