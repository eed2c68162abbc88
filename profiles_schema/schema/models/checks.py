"""The CHECKs that several tables share, named by what they allow.

Plain built-in functions only: a function of our own would need EXECUTE for every role that writes.
Each column has its own CHECK, so that the error names the column. ``info["rule"]`` says the same to Python, for what validates
before it asks the database.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import CheckConstraint

JSON_LIMIT_BYTES = 65_536
JSON_LIMIT_LEVELS = 32
JSON_STORED_LIMIT_BYTES = 131_072
JSON_LARGEST_NUMBER = 1e40
JSON_SMALLEST_NUMBER = 1e-40
_EXTREME_NUMBERS = "strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))"
"""1e131071 is eight bytes of JSON and 131,072 digits when the server prints it; Python refuses to read 4,300."""
URL_LIMIT = 2_048

HIDDEN_CHARACTERS = r"[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
"""Control characters, line ends, what has no width, and what turns the direction of the text around it. The joiners
U+200C and U+200D stay allowed (Persian names and many emoji need them), and so do the marks U+200E and U+200F."""


@dataclass(frozen=True)
class Rule:
    r"""What a CHECK asks of each of its columns. Patterns are PostgreSQL's, with classes such as ``[\w]`` in brackets only."""

    columns: tuple[str, ...]
    max_length: int | None = None
    pattern: str | None = None
    forbidden: str | None = None
    values: tuple[str, ...] | None = None
    json: Literal["object", "array"] | None = None


def _check(sql: str, name: str, rule: Rule) -> CheckConstraint:
    return CheckConstraint(sql, name=name, info={"rule": rule})


def matches(column: str, pattern: str, name: str, *, limit: int | None = None) -> CheckConstraint:
    """A text of a pattern, and of ``limit`` characters at most, or null."""
    length = "" if limit is None else f" and char_length({column}) <= {limit}"
    return _check(f"{column} ~ '{pattern}'{length}", name, Rule((column,), max_length=limit, pattern=pattern))


def is_up_to(limit: int, column: str) -> CheckConstraint:
    """A text of ``limit`` characters at most, or null."""
    name = f"{column}_up_to_{limit}_characters"
    return _check(f"char_length({column}) <= {limit}", name, Rule((column,), max_length=limit))


def is_a_web_address(column: str) -> CheckConstraint:
    r"""An http or https URL, a path of the same site, or a file in a bucket, of 2,048 characters at most, or null.

    ``//host`` leads to another site, and browsers read ``/\host`` and ``/<tab>/host`` as the same. The name of a file
    (``0.998.png``, ``avatars/ada.png``) holds no colon, so that no other scheme (``javascript:``) is one, and no ``..``.
    """
    pattern = r"^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)"
    return matches(column, pattern, f"{column}_is_a_web_address", limit=URL_LIMIT)


# Only an object contains {}, and only an array contains []: the server parses each CHECK anew for every statement, and
# this is shorter than a comparison with jsonb_typeof.
_EMPTY = {"object": "{}", "array": "[]"}


def is_json_up_to_64_kb(kind: Literal["object", "array"], column: str) -> CheckConstraint:
    """JSON of one kind (``object`` or ``array``), 65,536 bytes as text and 32 levels deep at most, or null.

    Documents nested thousands of levels deep fit into 64 kB, and so do numbers of 100,000 digits; readers fail on both. A
    number is 0, or between 1e-40 and 1e40. The stored size is asked first, because making the text may cost a gigabyte.
    """
    return _check(
        f"pg_column_size({column}) <= {JSON_STORED_LIMIT_BYTES} and {column} @> '{_EMPTY[kind]}'"
        f" and not {column} @? '$.**{{{JSON_LIMIT_LEVELS + 1}}}' and not {column} @? '{_EXTREME_NUMBERS}'"
        f" and octet_length({column}::text) <= {JSON_LIMIT_BYTES}",
        f"{column}_{kind}_64_kb_32_levels",
        Rule((column,), json=kind),
    )


def is_an_object(column: str) -> CheckConstraint:
    """A JSON object of any size, or null."""
    return CheckConstraint(f"{column} @> '{_EMPTY['object']}'", name=f"{column}_is_object")


def have_no_hidden_characters(*columns: str) -> CheckConstraint:
    """Nothing in these texts hides, breaks the line, or turns what stands around it."""
    return _check(
        f"concat({', '.join(columns)}) !~ '{HIDDEN_CHARACTERS}'",
        "names_without_hidden_characters",
        Rule(columns, forbidden=HIDDEN_CHARACTERS),
    )


def is_one_of(column: str, *values: str) -> CheckConstraint:
    """One of the values that are known."""
    listed = ", ".join(f"'{value}'" for value in values)
    # ::text, because the server prints such a list over a varchar in a form that it reads back differently.
    return CheckConstraint(f"{column}::text in ({listed})", name=f"{column}_is_known")


def is_public_or_private(column: str) -> CheckConstraint:
    """Who may see it."""
    values = ("public", "private")
    return _check(
        f"{column} in ('{values[0]}', '{values[1]}')", f"{column}_is_public_or_private", Rule((column,), values=values)
    )


def is_not_negative(column: str) -> CheckConstraint:
    """Zero or more."""
    return CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative")
