"""What a process must not share with the one that it was forked from: connections, locks, and waiting for its threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_RENEWALS: Final[WeakKeyDictionary[Any, Callable[[Any], object]]] = WeakKeyDictionary()


def renew_after_fork(thing: T, renew: Callable[[T], object]) -> None:
    """Call ``renew`` with the thing in each process that is forked from now on, for as long as the thing exists."""
    _RENEWALS[thing] = renew


def _renew_all() -> None:
    for thing, renew in list(_RENEWALS.items()):
        renew(thing)


os.register_at_fork(after_in_child=_renew_all)
