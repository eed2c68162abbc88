"""Profiles of a table that had its 106 trait columns before the upgrade that turns them into JSON."""

from __future__ import annotations

import json
import random
from typing import Any

from profiles_schema.schema.traits import TraitColumn, trait_columns
from support import Database

BEFORE = "0015_backfill_profiles"
GROUPS = tuple(sorted({trait.group for trait in trait_columns()}))

# What a column of a type may hold, as the server prints it, and the JSON that stands for it.
HELD: dict[str, tuple[tuple[str, Any], ...]] = {
    "text": (("", ""), ("null", "null"), ("-0", "-0"), ("Zoë 🎈\n\\", "Zoë 🎈\n\\"), ("plain", "plain")),
    "integer": (("0", 0), ("-2147483648", -(2**31)), ("2147483647", 2**31 - 1), ("7", 7)),
    "bigint": (("0", 0), ("9007199254740993", 2**53 + 1), ("9223372036854775807", 2**63 - 1)),
    "real": (("0", 0), ("-0", "-0"), ("0.1", 0.1), ("NaN", "NaN"), ("-Infinity", "-Infinity"), ("1e+20", 10**20)),
    "jsonb": (
        ("null", None), ("[]", []), ("{}", {}), ('""', ""), ("[null]", [None]), ('{"a": {"b": null}}', {"a": {"b": None}}),
    ),
}  # fmt: skip

# What JSON may hold where a column of the type cannot; a jsonb column holds everything.
NOT_HELD: dict[str, tuple[Any, ...]] = {
    "text": (None, 5, True, [], {"a": "b"}),
    "integer": (None, "5", 1.5, 2**31, [5], {}),
    "bigint": (None, "5", 0.5, 2**63),
    "real": (None, "0.1", "inf", True, {}),
    "jsonb": (),
}


def add_columns_sql() -> str:
    """What gives the table its trait columns."""
    return "alter table public.user_profiles " + ", ".join(
        f"add column {trait.name} {trait.data_type}" + (f" default {trait.default}" if trait.default else "")
        for trait in trait_columns()
    )


def add_columns(database: Database) -> None:
    """Give the table its trait columns."""
    database.script(add_columns_sql())


def at(trait: TraitColumn, row: str = "p") -> str:
    """The SQL of what stands at a trait's path."""
    return f"({row}.{trait.group} #> '{{{','.join(trait.path)}}}')"


def held(trait: TraitColumn, chance: random.Random) -> tuple[str | None, str | None]:
    """A value for a column, as the server prints it, and the text of the JSON that stands for it; None for NULL."""
    image, value = chance.choice((*HELD[trait.data_type], (None, ...)))
    return image, None if image is None else json.dumps(value)
