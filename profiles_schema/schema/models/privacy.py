"""What every column says about the person in it: ``info["personal"]`` and ``info["on_erase"]``.

``personal`` is a kind of :data:`KINDS`, or None where the column says nothing about a person. ``on_erase`` is what
``profiles-schema users erase`` does with it:

- ``delete``: the row is deleted.
- ``null``: the row stays and the value goes. The column is NULL then, or has its default where it cannot be NULL; a
  username becomes random, and the profile private.
- ``keep: reason``: the value stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from sqlalchemy import Table

Kind = Literal["identifier", "contact", "content", "activity", "secret"]

KINDS: Final[Mapping[str, str]] = {
    "identifier": "tells one person from another",
    "contact": "reaches a person, or is how others know them",
    "content": "what a person wrote or chose, and what was found out about them",
    "activity": "what a person did, and when",
    "secret": "opens something that is theirs; an export says only that it is there",
}
"""The kinds of personal values."""

DELETE: Final = "delete"
NULL: Final = "null"
KEEP: Final = "keep: "

TOMBSTONE: Final = "keep: an empty row stays, so that foreign keys keep their target"
NUMBER: Final = "keep: a number or a time alone, which statistics count"
NO_PERSON: Final = "keep: says nothing about a person"


def label(model: Any, personal: Kind | None, on_erase: str, *columns: str) -> None:
    """Give columns of a table or model their labels.

    Raises:
        ValueError: a column has labels already, or the label is none.
    """
    table: Table = getattr(model, "__table__", model)
    if on_erase not in {DELETE, NULL} and not (on_erase.startswith(KEEP) and on_erase.removeprefix(KEEP).strip()):
        raise ValueError(f"{on_erase!r} is neither delete, null, nor keep with a reason.")
    for name in columns:
        info = table.columns[name].info
        if "on_erase" in info:
            raise ValueError(f"{table.fullname}.{name} has labels already.")
        info |= {"personal": personal, "on_erase": on_erase}


def label_all(model: Any, personal: Kind | None, on_erase: str) -> None:
    """Give the same labels to every column that has none yet."""
    table: Table = getattr(model, "__table__", model)
    label(table, personal, on_erase, *(column.name for column in table.columns if "on_erase" not in column.info))
