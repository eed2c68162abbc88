"""A person's data as one JSON document, from one snapshot of the database: what a request for access is answered with."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Executable, text
from sqlalchemy.engine import Connection, Result

from profiles_schema import data_rights
from profiles_schema.driver import quote_in_text
from profiles_schema.errors import UserNotFound
from profiles_schema.operations import users
from profiles_schema.operations.users import Condition, Person, Unregistered
from profiles_schema.schema.personal_data import PersonTable, plain

FORMAT: Final = "profiles-schema/user-export/1"
EXPORT_TYPE: Final = "users export"
"""The type in export_history: none that a worker takes."""
_ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True)
class Exported:
    """How much was handed over, and what was not, because nobody has registered it."""

    rows: int
    tables: int
    unregistered: list[Unregistered]


@contextmanager
def opened(path: Path | None) -> Iterator[IO[bytes]]:
    """A file that gets its name when everything is in it, readable for its owner alone; without a path, stdout."""
    directory = path.parent if path else None
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".unfinished-", delete=False) as file:
        try:
            yield file
            file.flush()
            if path:
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            else:
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
        finally:
            Path(file.name).unlink(missing_ok=True)


def export(connection: Connection, user_id: uuid.UUID, file: IO[bytes]) -> Exported:
    """Write everything that is a person's into a file, and note in export_history that it was handed over.

    Raises:
        UserNotFound: there is no such user, and nothing here is theirs.
        InsufficientPrivilege: this role may not see all of it.
    """
    with connection.begin():
        connection.execute(text("set transaction isolation level repeatable read, read only"))
        connection.execute(text("set local row_security = off"))
        person = users.find_person(connection, user_id)
        head = {
            "format": FORMAT,
            "user_id": str(user_id),
            "exported_at": plain(connection.scalar(text("select now()"))),
        }
        file.write(json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "tables": {')
        rows = tables = 0
        for name, result in _tables(connection, person):
            written = _write_table(file, name, result, first=tables == 0)
            rows += written
            tables += written > 0
        file.write(b"\n}}\n")
        missing = users.unregistered(connection)
        if not person.exists and not rows:
            raise UserNotFound
    if person.exists:
        with connection.begin():
            _record(connection, user_id, rows)
    return Exported(rows, tables, missing)


def _write_table(file: IO[bytes], name: str, result: Result[Any], *, first: bool) -> int:
    """The rows of a table as an array; a table without rows is left out."""
    columns = list(result.keys())
    written = 0
    for part in result.partitions():
        for row in part:
            if not written:
                file.write(f"{'' if first else ','}\n{json.dumps(name)}: [".encode())
            values = dict(zip(columns, map(plain, row), strict=True))
            file.write((b",\n" if written else b"\n") + json.dumps(values, ensure_ascii=False, default=str).encode())
            written += 1
    if written:
        file.write(b"\n]")
    return written


def _tables(connection: Connection, person: Person) -> Iterator[tuple[str, Result[Any]]]:
    """Every table that may hold something of the person, with their rows."""

    def rows_of(query: Executable, values: Mapping[str, Any] | None = None) -> Result[Any]:
        return connection.execute(query, values or {}, execution_options={"yield_per": _ROWS_AT_ONCE})

    registered = [each for each in data_rights.registered(connection) if not data_rights.check(each, connection)]
    for table in users.our_tables(connection):
        extra = tuple(
            dict.fromkeys(column for each in registered if each.table == table.name for column in each.export)
        )
        query = table.rows(person.user_id, {*_present(connection, table), *extra}, extra)
        yield table.name, rows_of(query.order_by(*table.table.primary_key.columns))
    for name, condition in users.SET_ASIDE.items():
        yield name, rows_of(text(f"select * from {name} where {condition} order by id"), users.set_aside_keys(person))
    ours = {each.name for each in users.our_tables(connection)}
    for each in registered:
        if each.table in ours or not each.export:
            continue
        theirs = Condition(connection, each.table, each.user_column, person)
        columns = ", ".join(map(quote_in_text, each.export))
        # What one of two persons may see of a row, the other may not.
        several = sum(other.table == each.table for other in registered) > 1
        name = f"{each.table} by {each.user_column}" if several else each.table
        yield name, rows_of(text(f"select {columns} from {theirs.table} where {theirs.sql}"), theirs.values)


def _present(connection: Connection, table: PersonTable) -> set[str]:
    return set(
        connection.scalars(
            text(
                "select a.attname::text from pg_attribute as a"
                " where a.attrelid = to_regclass(:table) and a.attnum > 0 and not a.attisdropped"
            ),
            {"table": table.name},
        )
    )


def _record(connection: Connection, user_id: uuid.UUID, rows: int) -> None:
    """In one transaction, so that no worker ever sees it waiting. The file is not in the storage: nothing to purge."""
    export_id = connection.scalar(
        text(
            "insert into public.export_history (user_id, export_type, export_format)"
            " values (:id, :type, 'json') returning id"
        ),
        {"id": user_id, "type": EXPORT_TYPE},
    )
    connection.execute(text("update public.export_history set status = 'processing' where id = :id"), {"id": export_id})
    connection.execute(
        text(
            "update public.export_history set status = 'completed', records_count = :rows, expires_at = now()"
            " where id = :id"
        ),
        {"id": export_id, "rows": rows},
    )
