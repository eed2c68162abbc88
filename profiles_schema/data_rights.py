"""Which tables of the application hold a person's data: ``profiles-schema users`` exports and erases them, too.

Call :func:`register` in a revision of the application, next to what makes the table::

    from profiles_schema import data_rights

    def upgrade():
        op.create_table("posts", ...)
        data_rights.register("public.posts", "author_id", export=["title", "body"], on_erase="delete")

The database keeps the registration (setting ``data_rights``). Whoever has to export or erase a person needs this package
and DATABASE_URL, and not the application's code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from profiles_schema.errors import InvalidRegistration
from profiles_schema.schema.models import metadata

SETTING: Final = "data_rights"
DELETE: Final = "delete"
NULL: Final = "null"
KEEP: Final = "keep: "


@dataclass(frozen=True)
class Registration:
    """A table of the application: which column says whose a row is, what is exported, and what an erasure does."""

    table: str
    user_column: str
    export: tuple[str, ...]
    on_erase: str | Mapping[str, str]

    @property
    def is_deleted(self) -> bool:
        """Whether an erasure deletes the rows."""
        return self.on_erase == DELETE

    @property
    def emptied(self) -> list[str]:
        """The columns that an erasure sets to NULL; the one that says whose the row is comes last."""
        if isinstance(self.on_erase, str):
            columns = [*self.export, self.user_column] if self.on_erase == NULL else []
        else:
            columns = [name for name, what in self.on_erase.items() if what == NULL]
        return sorted(dict.fromkeys(columns), key=lambda name: name == self.user_column)

    @property
    def kept(self) -> str | None:
        """Why the rows stay as they are, if they do."""
        return self.on_erase if isinstance(self.on_erase, str) and self.on_erase.startswith(KEEP) else None


def register(
    table: str,
    user_column: str,
    export: Sequence[str] = (),
    on_erase: str | Mapping[str, str] = DELETE,
    *,
    bind: Connection | Session | None = None,
) -> None:
    """Say that a table holds data of persons. A second call for the same column replaces the first.

    A table whose rows are of two persons is registered by each column, for example messages by sender and by recipient.

    Args:
        table: Its name, with its schema if that is not public. A table of this package stands for the columns that the
            application added to it; ``on_erase`` names each of them.
        user_column: The column that says whose a row is: the user's id, or the id of the profile.
        export: The columns that ``users export`` hands over.
        on_erase: ``delete`` deletes the rows. ``null`` sets ``export`` and ``user_column`` to NULL. ``keep: reason``
            leaves the rows as they are. A mapping says ``null`` or ``keep: reason`` for single columns.
        bind: A connection or session; in a revision of Alembic it is the revision's own.

    Raises:
        InvalidRegistration: there is no such table or column, or a column cannot be NULL.
    """
    _save(Registration(_qualified(table), user_column, tuple(export), _checked(on_erase)), bind)


def unregister(table: str, user_column: str | None = None, *, bind: Connection | Session | None = None) -> None:
    """Take back the registration by a column, or all of the table: in the downgrade of the revision that made it."""
    name = _literal(_qualified(table))
    value = f"value - {name}"
    if user_column is not None:
        value = f"value || jsonb_build_object({name}, {_others('value', name, user_column)})"
    (_alembic() if bind is None else bind).execute(
        text(f"update profiles_internal.settings set value = {value}, updated_at = now() where key = '{SETTING}'")
    )


def _others(value: str, name: str, user_column: str) -> str:
    """The registrations of a table by other columns, in SQL."""
    return (
        f"(select coalesce(jsonb_agg(e), '[]') from jsonb_array_elements({value} -> {name}) as e"
        f" where e ->> 'user_column' <> {_literal(user_column)})"
    )


def registered(connection: Connection) -> list[Registration]:
    """The registrations of a database, by table and column."""
    value = connection.scalar(
        text("select value from profiles_internal.settings where key = :key").bindparams(key=SETTING)
    )
    found = value if isinstance(value, dict) else {}
    return [
        Registration(name, each["user_column"], tuple(each["export"]), each["on_erase"])
        for name, registrations in sorted(found.items())
        for each in sorted(registrations, key=lambda each: str(each["user_column"]))
    ]


def _checked(on_erase: str | Mapping[str, str]) -> str | dict[str, str]:
    words = [on_erase] if isinstance(on_erase, str) else list(on_erase.values())
    for word in words:
        if word == NULL or (word == DELETE and isinstance(on_erase, str)):
            continue
        if not (word.startswith(KEEP) and word.removeprefix(KEEP).strip()):
            raise InvalidRegistration(
                f'"{word}" says nothing about an erasure. Write delete, null, or keep: and the reason; a single column takes'
                " null or keep: and the reason."
            )
    if not words:
        raise InvalidRegistration("on_erase names no column.")
    return on_erase if isinstance(on_erase, str) else dict(on_erase)


def _qualified(table: str) -> str:
    return table if "." in table else f"public.{table}"


def _literal(value: str) -> str:
    """A text as it stands in SQL: a revision that is printed has no parameters."""
    return "'" + value.replace("'", "''").replace(":", "\\:") + "'"


def _alembic() -> Any:
    """What executes in the revision that runs; offline it prints."""
    from alembic import op

    try:
        op.get_context()
    except (NameError, AttributeError):  # none has run yet; none runs any more
        raise InvalidRegistration("Outside a revision of Alembic, give a connection or session as bind.") from None
    return op


def _save(registration: Registration, bind: Connection | Session | None) -> None:
    executor: Any = _alembic() if bind is None else bind
    # Offline, a revision prints its statements, and there is nothing to look at.
    if bind is not None or not executor.get_context().as_sql:
        problems = check(registration, executor if bind is not None else executor.get_bind())
        if problems:
            raise InvalidRegistration(" ".join(problems))
    value = {
        "user_column": registration.user_column,
        "export": list(registration.export),
        "on_erase": registration.on_erase,
    }
    name, element = _literal(registration.table), f"{_literal(json.dumps(value))}::jsonb"
    others = _others("s.value", name, registration.user_column)
    executor.execute(
        text(
            "insert into profiles_internal.settings as s (key, value)"
            f" values ('{SETTING}', jsonb_build_object({name}, jsonb_build_array({element})))"
            f" on conflict (key) do update set value = s.value || jsonb_build_object({name}, {others} || {element}),"
            " updated_at = now()"
        )
    )


def check(registration: Registration, connection: Connection | Session) -> list[str]:
    """What is wrong with a registration in this database, a sentence each."""
    name = registration.table
    rows = connection.execute(
        text(
            "select a.attname::text as name, a.attnotnull as required, a.attgenerated <> '' as generated"
            " from pg_attribute as a join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname || '.' || c.relname = :name and c.relkind in ('r', 'p', 'f')"
            " and a.attnum > 0 and not a.attisdropped"
        ),
        {"name": name},
    ).all()
    if not rows:
        return [f"There is no table {name}."]
    columns = {row.name: row for row in rows}
    own_table = next(
        (each for each in metadata.tables.values() if f"{each.schema or 'public'}.{each.name}" == name), None
    )
    if own_table is not None:
        named = {*registration.export, *(() if isinstance(registration.on_erase, str) else registration.on_erase)}
        if isinstance(registration.on_erase, str) or any(each in own_table.columns for each in named):
            return [
                f"{name} is a table of this package: name the columns of the application in on_erase, and no others."
            ]
    own = () if isinstance(registration.on_erase, str) else registration.on_erase
    wanted = dict.fromkeys([registration.user_column, *registration.export, *own])
    problems = [f"{name} has no column {column}." for column in wanted if column not in columns]
    problems += [
        f"{name}.{column} cannot be NULL; delete the rows, or keep it with a reason."
        for column in registration.emptied
        if column in columns and (columns[column].required or columns[column].generated)
    ]
    return problems
