"""``Secret``: a text that logs and tracebacks do not show, and the hint by which a person recognises it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Final, Never

from profiles_schema.errors import SecretNotSerializable

HINT_CHARACTERS: Final = 4
SHORTEST_WITH_HINT: Final = 20
"""A key of fewer characters shows nothing of itself: with four known, what is left could be guessed."""
_HIDDEN: Final = "\N{HORIZONTAL ELLIPSIS}"
_PREFIX: Final = re.compile(r"[A-Za-z]{2,4}[-_]")
_SHOWN: Final = re.compile(r"[!-~]{4}")


def hint_of(text: str) -> str | None:
    """The last four characters of an API key; None where it is too short to show them, or they are no plain ASCII."""
    last = text[-HINT_CHARACTERS:]
    return last if len(text) >= SHORTEST_WITH_HINT and _SHOWN.fullmatch(last) else None


class Secret:
    """An API key in plain text. ``reveal()`` is the one way to it; everything else shows ``sk-…abcd``, or nothing of it.

    ``repr``, ``str``, f-strings and logging show the hint. JSON, pickling and database drivers refuse it.
    """

    __slots__ = ("_reveal", "_shown")

    def __init__(self, text: str) -> None:
        # A closure, so that what prints the attributes of an object does not find it.
        self._reveal: Callable[[], str] = lambda: text
        hint = hint_of(text)
        prefix = _PREFIX.match(text)
        self._shown = f"{prefix[0] if prefix else ''}{_HIDDEN}{hint}" if hint else _HIDDEN

    def reveal(self) -> str:
        """The API key."""
        return self._reveal()

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Secret({self._shown})"

    def __format__(self, spec: str) -> str:
        return format(self._shown, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(
            self.reveal().encode("utf-8", "surrogatepass"), other.reveal().encode("utf-8", "surrogatepass")
        )

    __hash__ = None  # type: ignore[assignment] # it would tell equal keys

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> Never:
        raise SecretNotSerializable
