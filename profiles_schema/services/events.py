"""What happens in a service, as log records with structured extras, and to subscribers."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, Literal

from cachetools import TTLCache

from profiles_schema.services.forks import renew_after_fork

Kind = Literal["created", "updated", "synced", "failed", "refused", "suspicious"]

LOGGER: Final = logging.getLogger("profiles_schema.services")
_LEVELS: Final = {"failed": logging.ERROR, "refused": logging.WARNING, "suspicious": logging.WARNING}
_USERS_WATCHED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """One event. It never holds a value of the profile, only names of columns and of errors.

    Attributes:
        kind: created, updated, synced, failed (a ServiceFailed was raised), refused (another typed error), or suspicious
            (more updates of one user within a minute than people make).
        user_id: Whose profile.
        details: For example ``changed`` (names of columns), ``error`` (name of the exception), ``sqlstate``.
    """

    kind: Kind
    user_id: uuid.UUID
    details: Mapping[str, Any] = field(default_factory=dict)


class Events:
    """Writes events to the log, and hands them to subscribers."""

    def __init__(self, burst_updates: int, burst_seconds: float) -> None:
        self._subscribers: list[Callable[[Event], object]] = []
        self._burst_updates = burst_updates
        self._recent: TTLCache[uuid.UUID, list[float]] = TTLCache(_USERS_WATCHED, burst_seconds)
        self._burst_seconds = burst_seconds
        self._lock = Lock()
        renew_after_fork(self, Events._renew)

    def _renew(self) -> None:
        self._lock = Lock()

    def subscribe(self, subscriber: Callable[[Event], object]) -> Callable[[], None]:
        """Call this for every event from now on, until the function that is returned is called."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def emit(self, kind: Kind, user_id: uuid.UUID, **details: Any) -> None:
        """Log an event and tell the subscribers; one that fails is logged, and disturbs nobody."""
        event = Event(kind, user_id, details)
        extra = {"event": kind, "user_id": str(user_id), **details}
        LOGGER.log(_LEVELS.get(kind, logging.INFO), "profile %s: %s", kind, user_id, extra=extra)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:
                LOGGER.exception("a subscriber failed on the event %s", kind)
        if kind == "updated" and self._is_burst(user_id):
            self.emit("suspicious", user_id, updates=self._burst_updates, seconds=self._burst_seconds)

    def _is_burst(self, user_id: uuid.UUID) -> bool:
        """Whether this update is the one too many: true once, and again when as many have followed."""
        now = time.monotonic()
        with self._lock:
            times = [at for at in self._recent.get(user_id, ()) if at > now - self._burst_seconds]
            times.append(now)
            is_burst = len(times) >= self._burst_updates
            self._recent[user_id] = [] if is_burst else times
        return is_burst
