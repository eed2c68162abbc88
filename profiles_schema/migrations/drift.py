"""Say in words how a database differs from what this version declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy.engine import Connection

    from profiles_schema.schema.catalog import Key

REMEDY = "profiles-schema repair"

_KINDS = {"CHECK": "CHECK", "FOREIGN": "foreign key", "PRIMARY": "primary key", "UNIQUE": "unique constraint"}


def sentence(key: Key, what: str, found: str = "", declared: str = "") -> str:
    """One difference as a sentence.

    Args:
        key: What it is about, as in a snapshot.
        what: ``missing``, ``changed`` or ``not expected``.
        found: What the catalog says about it.
        declared: What this version says about it, where that is known.
    """
    if key.kind == "grant":
        return _right(key, what, found, declared)
    if key.kind == "table":
        return _table(key, what, found)
    if key.kind == "function":
        shown = f"The function {key.subject}"
    elif key.kind == "comment":
        shown = f"The comment on {key.subject}"
    else:
        word = _KINDS.get((found or declared).partition(" ")[0], key.kind) if key.kind == "constraint" else key.kind
        name = f'"{key.name}"' if key.kind == "policy" else key.name
        shown = f"The {word} {name} of {key.relation}"
    return f"{shown} {_state(key.kind, what, found)}."


def _state(kind: str, what: str, found: str) -> str:
    if what != "changed":
        return "is missing" if what == "missing" else "is not one of this version's"
    if found.endswith(" NOT VALID"):
        return "is not validated"
    if found.endswith(" INVALID"):
        return "is invalid"
    return f"is not as declared, but {found}" if kind == "column" else "is not as declared"


def _table(key: Key, what: str, found: str) -> str:
    if what == "missing":
        return f"The table {key.relation.removeprefix('public.')} is missing."
    if found.endswith(" forced"):
        return f"Row level security is forced on {key.relation}, which binds its owner too."
    if key.schema == "profiles_internal":
        return f"Row level security is on for {key.relation}, which needs none."
    return f"Row level security is off on {key.relation}."


def _right(key: Key, what: str, found: str, declared: str) -> str:
    if key.is_of_function:
        return f"{key.role} may {'not ' if what == 'missing' else ''}execute {key.subject}."
    target = (
        f"the column {key.name} of {key.relation}" if key.name else key.subject if key.table else f"schema {key.schema}"
    )
    if what == "missing":
        return f"{key.role} has lost its rights on {target}{f' ({declared})' if declared else ''}."
    if what == "not expected":
        return f"{key.role} has rights on {target} that are not declared: {found}."
    return f"{key.role} has other rights on {target} than declared: {found}{f' instead of {declared}' if declared else ''}."


def sentences(operations: UpgradeOps) -> Iterator[str]:
    """One line per operation that would bring the application's own tables to what its models declare."""
    for difference in operations.as_diffs():
        # What changes in one column comes as a list.
        for kind, *parts in difference if isinstance(difference, list) else [difference]:
            yield f"{str(kind).replace('_', ' ')} {_subject(str(kind), parts)}"


def dual_write_is_broken(connection: Connection) -> bool:
    """Whether wide columns and JSON no longer follow each other: their trigger is missing, disabled or another one.

    For a role that may not execute our functions, the body of the trigger is not compared.
    """
    from sqlalchemy import text

    function = "profiles_internal.dual_write_is_whole()"
    may_ask = connection.scalar(
        text("select pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(:function), 'execute')"),
        {"function": function},
    )
    if may_ask:
        return not connection.scalar(text(f"select {function}"))
    # None: there is no such function, and nothing to follow.
    return may_ask is not None and bool(
        connection.scalar(
            text(
                "select exists (select from profiles_internal.legacy_columns as l join pg_catalog.pg_attribute as a"
                "  on a.attrelid = pg_catalog.to_regclass('public.user_profiles') and not a.attisdropped and a.attname"
                "   = case l.state when 'restoring' then 'restoring_' || l.column_name else l.column_name end"
                "  where l.table_name = 'user_profiles' and l.state <> 'contracted')"
                " and not exists (select from pg_catalog.pg_trigger as t"
                "  where t.tgrelid = pg_catalog.to_regclass('public.user_profiles') and t.tgname = 'zz_dual_write'"
                "  and t.tgenabled in ('O', 'A') and t.tgtype = 23"
                "  and t.tgfoid = pg_catalog.to_regproc('profiles_internal.dual_write_traits'))"
            )
        )
    )


def uncarried_owner(connection: Connection) -> str | None:
    """The application's column for the user in an adopted user_profiles, if the triggers that keep it are not both there."""
    from sqlalchemy import text

    if not connection.scalar(
        text(
            "select coalesce(pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('profiles_internal'), 'usage')"
            " and pg_catalog.has_table_privilege(pg_catalog.to_regclass('profiles_internal.adopted'), 'select'), false)"
        )
    ):
        return None
    found: str | None = connection.scalar(
        text(
            "select a.data ->> 'owner' from profiles_internal.adopted as a where a.object_type = 'table'"
            " and a.object_name = 'public.user_profiles' and a.data ->> 'owner' <> 'user_id' and (select count(*) from pg_catalog.pg_trigger as t"
            "  where t.tgrelid = pg_catalog.to_regclass('public.user_profiles') and t.tgenabled in ('O', 'A')"
            "  and t.tgname in ('carry_user_id', 'carry_user_id_change')) < 2 order by a.id desc limit 1"
        )
    )
    return found


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
