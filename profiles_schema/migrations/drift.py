"""Say in words what autogenerate found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy.engine import Connection


def described(operations: UpgradeOps) -> Iterator[str]:
    """One line per operation that would bring the database to what is declared."""
    for difference in operations.as_diffs():
        # What changes in one column comes as a list.
        for kind, *parts in difference if isinstance(difference, list) else [difference]:
            yield f"{str(kind).replace('_', ' ')} {_subject(str(kind), parts)}"


def dual_write_is_broken(connection: Connection) -> bool:
    """Whether wide columns and JSON no longer follow each other: their trigger is missing, disabled or another one."""
    from sqlalchemy import text

    function = "profiles_internal.dual_write_is_whole()"
    if connection.scalar(text("select to_regprocedure(:function) is null"), {"function": function}):
        return False
    return not connection.scalar(text(f"select {function}"))


def _subject(kind: str, parts: list[Any]) -> str:
    if kind.startswith("modify_"):
        schema, table, column, _, found, declared = parts
        return f"{_dotted(schema or 'public', table, column)}: {_word(found) or 'none'}, declared {_word(declared) or 'none'}"
    if kind.endswith("_column"):
        schema, table, column = parts
        return _dotted(schema or "public", table, column.name)
    return " ".join(word for part in parts if (word := _word(part)))


def _dotted(*names: str | None) -> str:
    return ".".join(name for name in names if name)


def _word(part: Any) -> str:
    from sqlalchemy import DefaultClause, Table
    from sqlalchemy.schema import Constraint, Index

    if isinstance(part, Table):
        return part.fullname
    if isinstance(part, Constraint | Index):
        table = getattr(part, "table", None)
        return f"{part.name} on {table.fullname}" if table is not None else str(part.name)
    if isinstance(part, DefaultClause):
        return str(getattr(part.arg, "text", part.arg))
    return "" if part is None or isinstance(part, dict) else str(part)
