"""Wide tables: `user_profiles` as it was, with trait columns; and what the columns and the JSON should hold, reckoned here."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from profiles_schema.schema.traits import TraitColumn, trait_columns
from support import Database

BEFORE = "0015_backfill_profiles"
GROUPS = tuple(dict.fromkeys(column.group for column in trait_columns()))
COLUMNS = {column.name: column for column in trait_columns()}
NAMES = tuple(COLUMNS)
_WHOLE = {"smallint": 15, "integer": 31, "bigint": 63}
_WORDS = {"real": ("NaN", "Infinity", "-Infinity", "-0"), "numeric": ("NaN", "Infinity", "-Infinity")}
_WORDS["double precision"] = _WORDS["real"]
_BOUNDS = {
    "real": (Decimal("1e-45"), Decimal("3.4028235e38")),
    "double precision": (Decimal("5e-324"), Decimal("1.7976931348623157e308")),
}


def widen(database: Database, profiles: int, types: Mapping[str, str] | None = None) -> list[str]:
    """Make a database at head one from before, with trait columns and profiles; the user ids."""
    database.downgrade(BEFORE)
    types = types or {column.name: column.data_type for column in trait_columns()}
    database.script(
        "alter table public.user_profiles "
        + ", ".join(
            f"add column {name} {kind}"
            + (f" default {COLUMNS[name].default}" if COLUMNS[name].default and " default " not in kind else "")
            for name, kind in types.items()
        )
    )
    database.run(
        "insert into auth.users (email) select 'usr' || g || '@example.org' from generate_series(1, :n) as g",
        n=profiles,
    )
    return [row[0] for row in database.run("select user_id::text from public.user_profiles order by user_id")]


def present(database: Database) -> list[str]:
    """The trait columns that the table has, in the order of the mapping."""
    found = {
        row[0]
        for row in database.run(
            "select attname from pg_attribute where attrelid = 'public.user_profiles'::regclass and not attisdropped"
        )
    }
    return [name for name in NAMES if name in found]


def cells(database: Database, names: Iterable[str] | None = None) -> dict[str, dict[str, str | None]]:
    """Every cell of the trait columns as text, by user."""
    names = list(names or present(database))
    rows = database.run(
        "select user_id::text, " + ", ".join(f"{name}::text" for name in names) + " from public.user_profiles"
    )
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}


def set_cells(database: Database, user: str, values: Mapping[str, str | None], types: Mapping[str, str]) -> None:
    """Write cells of one profile, given as text, in one statement."""
    slots = ", ".join(f"{name} = cast(:{name} as {types[name]})" for name in values)
    database.run(f"update public.user_profiles set {slots} where user_id = cast(:user as uuid)", user=user, **values)


def documents(database: Database) -> dict[str, dict[str, Any]]:
    """The groups of every profile, by user; None for NULL. Numbers are decimals."""
    rows = database.run(
        "select user_id::text, " + ", ".join(f"{group}::text" for group in GROUPS) + " from public.user_profiles"
    )
    return {row[0]: {g: parsed(cell) for g, cell in zip(GROUPS, row[1:], strict=True)} for row in rows}


def write_groups(database: Database, user: str, groups: Mapping[str, Any]) -> None:
    """Write whole groups of one profile."""
    slots = ", ".join(f"{group} = cast(:{group} as jsonb)" for group in groups)
    values = {group: None if value is None else printed(value) for group, value in groups.items()}
    database.run(f"update public.user_profiles set {slots} where user_id = cast(:user as uuid)", user=user, **values)


def parsed(document: str | None) -> Any:
    """JSON with its numbers as decimals; None for NULL."""
    return None if document is None else json.loads(document, parse_float=Decimal, parse_int=Decimal)


def printed(value: Any) -> str:
    """JSON with decimals in it as text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {printed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(printed(v) for v in value) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def exactly(value: Any) -> Any:
    """Something that is equal only where JSON is: Python takes 1 and True for equal."""
    if isinstance(value, dict):
        return "object", frozenset((key, exactly(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(exactly(inner) for inner in value)
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, str):
        return "text", value
    return "number", Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


class Missing:
    """No such key; JSON null is None."""

    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()


def at(document: Any, path: Iterable[str]) -> Any:
    """What a JSON document holds at a path."""
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return MISSING
        document = document[key]
    return document


def put(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a path in place, or take it away; parents that are no objects become some."""
    for key in path[:-1]:
        if not isinstance(document.get(key), dict):
            if value is MISSING:
                return
            document[key] = {}
        document = document[key]
    if value is MISSING:
        document.pop(path[-1], None)
    else:
        document[path[-1]] = value


def json_of(kind: str, cell: str | None) -> Any:
    """The JSON that stands for a cell."""
    if cell is None:
        return MISSING
    if kind == "jsonb":
        return parsed(cell)
    if kind == "boolean":
        return cell == "true"
    if kind in _WHOLE:
        return Decimal(cell)
    if kind in _WORDS:
        return cell if cell in _WORDS[kind] else Decimal(cell)
    return cell


def document_of(values: Mapping[str, str | None], types: Mapping[str, str]) -> dict[str, Any]:
    """The groups that stand for one row's cells; None where all of a group's cells are NULL."""
    groups: dict[str, Any] = dict.fromkeys(GROUPS)
    for name, cell in values.items():
        value = json_of(types[name], cell)
        if value is not MISSING:
            column = COLUMNS[name]
            groups[column.group] = groups[column.group] or {}
            put(groups[column.group], column.path, value)
    return groups


def holds(kind: str, value: Any) -> bool:
    """Whether a column can hold something of a JSON value, the nearest number included."""
    if value is MISSING or kind == "jsonb":
        return value is not MISSING
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    if isinstance(value, Decimal):
        if kind in _WHOLE:
            return value == value.to_integral_value() and -(2 ** _WHOLE[kind]) <= value < 2 ** _WHOLE[kind]
        if kind in _BOUNDS:
            return value == 0 or _BOUNDS[kind][0] <= value.copy_abs() <= _BOUNDS[kind][1]
        return kind == "numeric"
    longest = int(kind[18:-1]) if kind.startswith("character varying(") else None
    return isinstance(value, str) and (
        len(value) <= longest if longest else kind in {"text", "character varying"} or value in _WORDS.get(kind, ())
    )


def expected_cells(
    database: Database, rows: Mapping[str, Mapping[str, Any]], types: Mapping[str, str]
) -> dict[str, dict[str, str | None]]:
    """What the columns hold of every profile's groups, as text."""
    numbers: dict[str, dict[str, str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for user, groups in rows.items():
        found[user] = {}
        for name, kind in types.items():
            value = at(groups[COLUMNS[name].group], COLUMNS[name].path)
            if not holds(kind, value):
                found[user][name] = None
            elif kind == "jsonb":
                found[user][name] = exactly(value)
            elif isinstance(value, Decimal):
                literal = str(int(value) if kind in _WHOLE else value)
                if kind in _BOUNDS and not value:
                    literal = "0"  # JSON's zero has no sign
                numbers.setdefault(kind, {})[literal] = ""
                found[user][name] = (kind, literal)
            else:
                found[user][name] = str(value).lower() if kind == "boolean" else value
    # A number is the nearest one, as PostgreSQL reads and prints it.
    for kind, literals in numbers.items():
        every = list(literals)
        printed_so = database.run(f"select cast(n as {kind})::text from unnest(cast(:n as text[])) as n", n=every)
        literals.update(zip(every, (row[0] for row in printed_so), strict=True))
    return {
        user: {
            name: numbers[cell[0]][cell[1]] if isinstance(cell, tuple) and cell[0] in numbers else cell
            for name, cell in row.items()
        }
        for user, row in found.items()
    }


def as_images(rows: Mapping[str, Mapping[str, str | None]], types: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Cells as `expected_cells` has them: those of JSON columns as what they mean."""
    return {
        user: {
            name: exactly(parsed(cell)) if types[name] == "jsonb" and cell is not None else cell
            for name, cell in row.items()
        }
        for user, row in rows.items()
    }


def corrupted(database: Database, script: str) -> None:
    """Run a script behind the dual-write trigger."""
    database.script(
        "alter table public.user_profiles disable trigger zz_dual_write;"
        f"{script};"
        "alter table public.user_profiles enable trigger zz_dual_write"
    )


def some(seed: int, column: TraitColumn, number: int) -> str:
    """A plausible cell."""
    rnd = random.Random(f"{seed} {column.name} {number}")
    return {
        "text": lambda: f"text {rnd.randrange(1000)}",
        "integer": lambda: str(rnd.randrange(100)),
        "bigint": lambda: str(1_700_000_000_000 + rnd.randrange(10**9)),
        "real": lambda: str(round(rnd.random(), 2)),
        "jsonb": lambda: json.dumps({"score": rnd.randrange(100), "list": ["a", None]}),
    }[column.data_type]()
