"""The trait columns that older tables have, and the JSONB path that holds each one's value instead.

``trait_columns.csv`` beside this module is the one place where the mapping stands. What is written from it, SQL or
Python, is held to it by a test.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class TraitColumn:
    """One old column of ``user_profiles``, and where its value lives: ``path`` below the JSONB column ``group``."""

    name: str
    data_type: str
    group: str
    path: tuple[str, ...]
    default: str | None


@cache
def trait_columns() -> tuple[TraitColumn, ...]:
    """All trait columns, in the order of the old table."""
    source = files("profiles_schema.schema") / "trait_columns.csv"
    return tuple(
        TraitColumn(
            name=row["column"],
            data_type=row["type"],
            group=row["jsonb_column"],
            path=tuple(row["path"].split(".")),
            default=row["default"] or None,
        )
        for row in csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    )
