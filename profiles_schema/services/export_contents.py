"""What an export holds, and how it is written: rows are read and written one after the other, never all at once."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from profiles_schema.errors import InvalidExport
from profiles_schema.schema.personal_data import BY_SECTION, PersonTable, plain
from profiles_schema.services.export_queries import Claim, wait_for_storage

_ROWS_AT_ONCE: Final = 1_000
# Those that a service may read; `profiles-schema users export` writes what the database keeps for itself, too.
_SECTIONS: Final[Mapping[str, PersonTable]] = {
    name: person for name, person in BY_SECTION.items() if person.table.schema is None
}
_XLSX_ROWS: Final = 1_048_576
_XLSX_CHARACTERS: Final = 32_767
_NO_CHARACTERS: Final = re.compile("[\ufffe\uffff]")
_FILTERS: Final = ("since", "until")


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one table."""

    name: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


def write(session: Session, claim: Claim, file: BinaryIO, alive: Callable[[], None]) -> int:
    """Write an export to a file, from one snapshot of the database; returns how many rows there are.

    Args:
        session: Begun with this call; nothing is changed.
        claim: What is wanted.
        file: Where it goes.
        alive: Called now and then; raises where it is no use to go on.

    Raises:
        InvalidExport: a filter is wrong, or there are no learning sessions in this database.
    """
    session.execute(text("set transaction isolation level repeatable read, read only"))
    wait_for_storage(session)
    names = list(_SECTIONS) if claim.export_type == "everything" else [claim.export_type]
    if claim.export_type == "everything" and not _has_learning_sessions(session):
        names.remove("sessions")
    sections = (_section(session, name, claim, alive) for name in names)
    return _WRITERS[claim.export_format](file, sections, several=claim.export_type == "everything")


def _section(session: Session, name: str, claim: Claim, alive: Callable[[], None]) -> Section:
    person = _SECTIONS[name]
    table = person.table
    if name == "sessions" and not _has_learning_sessions(session):
        raise InvalidExport("The table sessions of this database does not hold learning sessions.")
    # Only columns of ours: those that the application added may hold what is not for its users.
    present = set(
        session.scalars(
            text(
                "select a.attname::text from pg_attribute as a"
                " where a.attrelid = to_regclass(:table) and a.attnum > 0 and not a.attisdropped"
            ),
            {"table": f"public.{table.name}"},
        )
    )
    query = person.rows(claim.user_id, present)
    if name == "sessions":
        since, until = _period(claim.filters)
        if since:
            query = query.where(table.c.started_at >= since)
        if until:
            query = query.where(table.c.started_at < until)
        query = query.order_by(table.c.started_at, table.c.id)

    def rows() -> Iterator[tuple[Any, ...]]:
        for part in session.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}).partitions():
            alive()
            for row in part:
                yield tuple(map(plain, row))

    return Section(name, tuple(query.selected_columns.keys()), rows())


def _has_learning_sessions(session: Session) -> bool:
    """Whether sessions are rolled up into progress: those of web frameworks are another thing under the same name."""
    return bool(
        session.scalar(
            text(
                "select exists (select from pg_trigger as t"
                " where t.tgrelid = to_regclass('public.sessions') and t.tgname like 'roll\\_up%')"
            )
        )
    )


def _period(filters: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """The filters since and until: what the user wrote, checked."""
    wrong = {name: ["is no filter"] for name in filters if name not in _FILTERS}
    found: list[datetime | None] = []
    for name in _FILTERS:
        value = filters.get(name)
        try:
            moment = None if value is None else datetime.fromisoformat(value)
        except (TypeError, ValueError):
            wrong[name] = ["is no time as of ISO 8601"]
            continue
        found.append(moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment)
    if wrong:
        # Names of filters are the user's own words, and may be long.
        known = {name: rules for name, rules in wrong.items() if name in _FILTERS}
        raise InvalidExport(fields=known or {"filters": [f"are {' and '.join(_FILTERS)}"]})
    return found[0], found[1]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write_csv(file: BinaryIO, sections: Iterator[Section], *, several: bool) -> int:
    """A line of names, then a line per row; JSON as its text, nothing for null."""
    del several
    lines = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    try:
        writer = csv.writer(lines)
        written = 0
        for section in sections:
            writer.writerow(section.columns)
            for row in section.rows:
                writer.writerow([_json(value) if isinstance(value, (dict, list)) else value for value in row])
                written += 1
        return written
    finally:
        lines.flush()
        lines.detach()


def _write_json(file: BinaryIO, sections: Iterator[Section], *, several: bool) -> int:
    """An array of rows; of several tables, an object with an array each."""
    written = 0
    file.write(b"{" if several else b"")
    for number, section in enumerate(sections):
        if several:
            file.write(f"{',' if number else ''}\n{_json(section.name)}: ".encode())
        file.write(b"[")
        for index, row in enumerate(section.rows):
            file.write(b",\n" if index else b"\n")
            file.write(_json(dict(zip(section.columns, row, strict=True))).encode())
            written += 1
        file.write(b"\n]")
    file.write(b"\n}\n" if several else b"\n")
    return written


def _write_ndjson(file: BinaryIO, sections: Iterator[Section], *, several: bool) -> int:
    """A JSON object per line and row; of several tables, with the name of the table."""
    written = 0
    for section in sections:
        for row in section.rows:
            values: Any = dict(zip(section.columns, row, strict=True))
            file.write(_json({"section": section.name, "row": values} if several else values).encode() + b"\n")
            written += 1
    return written


def _write_xlsx(file: BinaryIO, sections: Iterator[Section], *, several: bool) -> int:
    """A sheet per table, and another one where a sheet is full. Every text is a text, also one that begins with "="."""
    del several
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    # Rows go to a temporary file each as they come.
    book = Workbook(write_only=True)

    def cell(sheet: Any, value: Any) -> Any:
        if isinstance(value, (dict, list)):
            value = _json(value)
        if not isinstance(value, str):
            return value
        if len(value.encode("utf-16-le")) > 2 * _XLSX_CHARACTERS:
            raise InvalidExport("A text is longer than a cell of xlsx can hold. Ask for another format.")
        # Characters that XML cannot hold: with one of them nobody could open the file.
        made = WriteOnlyCell(sheet, _NO_CHARACTERS.sub("\ufffd", ILLEGAL_CHARACTERS_RE.sub("\ufffd", value)))
        made.data_type = "s"
        return made

    written = 0
    for section in sections:
        sheet, rows_in_sheet, sheets = None, 0, 0
        for row in section.rows:
            if sheet is None or rows_in_sheet == _XLSX_ROWS:
                sheets += 1
                sheet = book.create_sheet(section.name if sheets == 1 else f"{section.name} {sheets}")
                sheet.append(section.columns)
                rows_in_sheet = 1
            sheet.append([cell(sheet, value) for value in row])
            rows_in_sheet += 1
            written += 1
        if sheet is None:
            book.create_sheet(section.name).append(section.columns)
    book.save(file)
    return written


_WRITERS: Final = {"csv": _write_csv, "json": _write_json, "ndjson": _write_ndjson, "xlsx": _write_xlsx}
