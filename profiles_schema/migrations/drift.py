"""Say in words how a database differs from what this version declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy.engine import Connection

REMEDY = "profiles-schema repair"

_KINDS = {"CHECK": "CHECK", "FOREIGN": "foreign key", "PRIMARY": "primary key", "UNIQUE": "unique constraint"}


def sentence(key: str, what: str, found: str = "", declared: str = "") -> str:
    """One difference as a sentence.

    Args:
        key: What it is about, as in a snapshot: ``policy public.user_profiles.Owners can read their own profile``.
        what: ``missing``, ``changed`` or ``not expected``.
        found: What the catalog says about it.
        declared: What this version says about it, where that is known.
    """
    if key.startswith("grant "):
        return _right(key, what, found, declared)
    kind, _, name = key.partition(" ")
    if kind == "table":
        return _table(name, what, found)
    schema, _, rest = name.partition(".")
    table, _, part = rest.partition(".")
    if kind == "function":
        shown = f"The function {name}"
    elif kind == "comment":
        shown = f"The comment on {name}"
    else:
        word = _KINDS.get((found or declared).partition(" ")[0], kind) if kind == "constraint" else kind
        part = f'"{part}"' if kind == "policy" else part
        shown = f"The {word} {part} of {schema}.{table}"
    return f"{shown} {_state(kind, what, found)}."


def _state(kind: str, what: str, found: str) -> str:
    if what != "changed":
        return "is missing" if what == "missing" else "is not one of this version's"
    if found.endswith(" NOT VALID"):
        return "is not validated"
    if found.endswith(" INVALID"):
        return "is invalid"
    return f"is not as declared, but {found}" if kind == "column" else "is not as declared"


def _table(name: str, what: str, found: str) -> str:
    if what == "missing":
        return f"The table {name.removeprefix('public.')} is missing."
    if found.endswith(" forced"):
        return f"Row level security is forced on {name}, which binds its owner too."
    if name.startswith("profiles_internal."):
        return f"Row level security is on for {name}, which needs none."
    return f"Row level security is off on {name}."


def _right(key: str, what: str, found: str, declared: str) -> str:
    target, _, role = key.removeprefix("grant ").rpartition(" to ")
    target = target.removeprefix("function ")
    if target.count(".") > 1 and "(" not in target:
        schema, table, column = target.split(".", 2)
        target = f"the column {column} of {schema}.{table}"
    if "(" in target:
        return f"{role} may {'not ' if what == 'missing' else ''}execute {target}."
    if what == "missing":
        return f"{role} has lost its rights on {target}{f' ({declared})' if declared else ''}."
    if what == "not expected":
        return f"{role} has rights on {target} that are not declared: {found}."
    return f"{role} has other rights on {target} than declared: {found}{f' instead of {declared}' if declared else ''}."


def described(operations: UpgradeOps) -> Iterator[str]:
    """One line per operation that would bring the database to what is declared."""
    for difference in operations.as_diffs():
        # What changes in one column comes as a list.
        for kind, *parts in difference if isinstance(difference, list) else [difference]:
            if kind == "replace_sql":
                what, why = parts
                yield f"{what}: {' '.join(why) or 'not as declared.'}"
            else:
                yield f"{str(kind).replace('_', ' ')} {_subject(str(kind), parts)}"


def beyond_autogenerate(connection: Connection) -> Iterator[str]:
    """What neither alembic nor our comparison of SQL objects looks at, a line each."""
    from profiles_schema.migrations.foreign_keys import ours

    if dual_write_is_broken(connection):
        yield "trigger public.user_profiles.zz_dual_write: not as it is made (profiles-schema normalize run)"
    if owner := uncarried_owner(connection):
        yield f"triggers public.user_profiles.carry_user_id: not as they are made for {owner} (profiles-schema repair)"
    for key in ours(connection):
        if difference := key.difference():
            yield difference


def dual_write_is_broken(connection: Connection) -> bool:
    """Whether wide columns and JSON no longer follow each other: their trigger is missing, disabled or another one."""
    from sqlalchemy import text

    function = "profiles_internal.dual_write_is_whole()"
    if connection.scalar(text("select pg_catalog.to_regprocedure(:function) is null"), {"function": function}):
        return False
    return not connection.scalar(text(f"select {function}"))


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
