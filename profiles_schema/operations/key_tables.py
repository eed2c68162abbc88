"""Tables with API keys, as found, and the job that rewrites values in them.

A table may be one that was never migrated: there is no ``profiles_internal.jobs`` then, and the rows themselves show what
is left to do.

Plain text is read from the server and never sent to it: the text of a statement goes into its log when that fails. So a
row is written by its key and version, not by its old value, and no message of the server is passed on: it may quote a row.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import lost_connection
from profiles_schema.driver import LOCK_FAILURES, failed_objects, is_disconnect, sqlstate
from profiles_schema.encryption import LONGEST_TEXT_BYTES, KeyRing, bound_to
from profiles_schema.errors import (
    EncryptionKeyChanged,
    EncryptionNotKept,
    EncryptionRefused,
    InsufficientPrivilege,
    TableLocked,
)
from profiles_schema.operations.batch_job import Job, Limits, Progress
from profiles_schema.operations.batches import run
from profiles_schema.settings import ENVELOPE, ENVELOPE_LIMIT, ENVELOPE_PREFIX, RECORDED_BY_MISTAKE

COLUMNS = ("openai_api_key", "unsplash_api_key", "anthropic_api_key")
TABLE = "user_api_keys"
PROVIDER_TABLE = "user_provider_keys"
LOCKS = "ROW EXCLUSIVE on the table, and the rows of one batch at a time, committed each; rows in use are passed over"
BLANKS = " \t\n\r\f\v"
_NO_RIGHT = "42501"
_MOST_REFUSED = 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class KeyColumn:
    name: str
    quoted: str
    kind: str
    base: str
    limit: int | None
    nullable: bool


@dataclass(frozen=True)
class KeyTable:
    name: str
    sql: str
    columns: list[KeyColumn]
    user_type: str | None
    key: list[tuple[str, str]]
    guarded: bool
    labelled: bool
    """Whether its envelopes are bound to the provider and label of their row, as in user_provider_keys."""


def find(connection: Connection, name: str) -> KeyTable:
    schema, dot, bare = name.partition(".")
    schema, bare = (schema, bare) if dot else ("public", name)
    found = connection.execute(
        text(
            "select c.oid, format('%I.%I', n.nspname, c.relname) as sql from pg_class as c"
            " join pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname = :schema and c.relname = :name and c.relkind in ('r', 'p')"
        ),
        {"schema": schema, "name": bare},
    ).one_or_none()
    if found is None:
        raise EncryptionRefused(f"There is no table {schema}.{bare}. Name the one with the API keys: --table NAME")
    attributes = connection.execute(
        text(
            "select a.attname as name, quote_ident(a.attname) as quoted, format_type(a.atttypid, a.atttypmod) as kind,"
            " format_type(coalesce(nullif(y.typbasetype, 0), y.oid), null) as base,"
            " nullif(greatest(a.atttypmod, y.typtypmod), -1) - 4 as limit, not (a.attnotnull or y.typnotnull) as nullable,"
            " exists (select from pg_constraint as k where k.conrelid = a.attrelid and k.contype = 'c' and k.convalidated"
            "  and k.conkey = array[a.attnum] and strpos(pg_get_constraintdef(k.oid), :envelope) > 0) as guarded"
            " from pg_attribute as a join pg_type as y on y.oid = a.atttypid"
            " where a.attrelid = :table and a.attnum > 0 and not a.attisdropped"
        ),
        {"table": found.oid, "envelope": ENVELOPE},
    ).all()
    by_name = {row.name: row for row in attributes}
    labelled = {"provider", "label", "envelope"} <= set(by_name)
    columns = [by_name[column] for column in (("envelope",) if labelled else COLUMNS) if column in by_name]
    if not columns:
        raise EncryptionRefused(f"The table {schema}.{bare} has none of the columns {', '.join(COLUMNS)}.")
    if "user_id" not in by_name:
        raise EncryptionRefused(f"The table {schema}.{bare} has no column user_id, which envelopes are bound to.")
    key = connection.execute(
        text(
            "select (select array_agg(quote_ident(a.attname) order by k.place)"
            "  from unnest(i.indkey::smallint[]) with ordinality as k(number, place)"
            "  join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number where k.place <= i.indnkeyatts) as names,"
            " (select array_agg(format_type(a.atttypid, a.atttypmod) order by k.place)"
            "  from unnest(i.indkey::smallint[]) with ordinality as k(number, place)"
            "  join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number where k.place <= i.indnkeyatts) as types"
            " from pg_index as i where i.indrelid = :table and i.indisunique and i.indisvalid and i.indimmediate"
            "  and i.indpred is null and i.indexprs is null"
            # Nulls would be passed over by a walk along the index; rows without a user are not encrypted anyway.
            "  and not exists (select from pg_attribute as a where a.attrelid = i.indrelid"
            "   and a.attnum = any ((i.indkey::smallint[])[0 : i.indnkeyatts - 1])"
            "   and not a.attnotnull and a.attname <> 'user_id')"
            " order by i.indisprimary desc, i.indnkeyatts, i.indexrelid limit 1"
        ),
        {"table": found.oid},
    ).one_or_none()
    return KeyTable(
        f"{schema}.{bare}",
        _literal(found.sql),
        [KeyColumn(c.name, _literal(c.quoted), c.kind, c.base, c.limit, c.nullable) for c in columns],
        by_name["user_id"].kind,
        [(_literal(each), _literal(kind)) for each, kind in zip(key.names, key.types, strict=True)] if key else [],
        all(column.guarded for column in columns),
        labelled,
    )


def _literal(sql: str) -> str:
    """Keep SQLAlchemy from finding a parameter in a quoted name."""
    return sql.replace(":", "\\:")


def tables_of(connection: Connection) -> list[str]:
    """The tables that hold API keys here: ours, as far as they are there."""
    there = connection.scalar(text("select to_regclass(:name) is not null"), {"name": f"public.{PROVIDER_TABLE}"})
    connection.rollback()
    return [TABLE, PROVIDER_TABLE] if there else [TABLE]


_RECORDED = "select to_regclass('profiles_internal.encryption_keys') is not null"


def changed_keys(connection: Connection, ring: KeyRing) -> list[str]:
    """The ids whose key in the ring is another one than was first used under them. Only reads."""
    with connection.begin():
        if not connection.scalar(text(_RECORDED)):
            return []
        rows = connection.execute(text("select key_id, check_value from profiles_internal.encryption_keys"))
        known: dict[str, str] = {row.key_id: row.check_value for row in rows}
    return [key_id for key_id, value in ring.check_values.items() if known.get(key_id, value) != value]


def check_ring(connection: Connection, ring: KeyRing) -> None:
    """Record the keys of the ring, where the database keeps them; refuse a ring whose key changed under its id.

    Raises:
        EncryptionKeyChanged: nothing was changed.
    """
    if changed := changed_keys(connection, ring):
        raise EncryptionKeyChanged(
            f"Other keys are in the ring than were first used under these ids: {', '.join(changed)}. Nothing was changed."
            f" Put the former keys back, and give the new ones ids of their own. {RECORDED_BY_MISTAKE}"
        )
    with connection.begin():
        if connection.scalar(text(_RECORDED)):
            connection.execute(
                text(
                    "select profiles_internal.check_encryption_key(k.id, k.value)"
                    " from unnest(cast(:ids as text[]), cast(:values as text[])) as k (id, value)"
                ),
                {"ids": list(ring.check_values), "values": list(ring.check_values.values())},
            )


def fit(connection: Connection, name: str) -> KeyTable:
    """The table, if it can be encrypted; else everything that is in the way, at once, before the first change."""
    table = quietly(connection, name, lambda: find(connection, name))
    problems = []
    if table.user_type != "uuid":
        problems.append(f"user_id is {table.user_type} and must be uuid: envelopes are bound to the user's id")
    if not table.key:
        problems.append(
            "it has neither a primary key nor a unique index on columns that are NOT NULL; add one:"
            f" alter table {table.name} add primary key (user_id)"
        )
    for column in table.columns:
        if column.base not in {"text", "character varying"}:
            problems.append(f"{column.name} is {column.kind} and must be text")
        elif column.limit is not None and column.limit < ENVELOPE_LIMIT:
            problems.append(
                f"{column.name} is {column.kind} and too narrow for an envelope; this does not rewrite the table:"
                f" alter table {table.name} alter column {column.name} type text"
            )
    if problems:
        raise EncryptionRefused(
            f"{table.name} cannot be encrypted as it is; nothing was changed.\n" + "\n".join(f"  {p}" for p in problems)
        )
    return table


def kind_of(column: KeyColumn) -> str:
    """SQL for what a value is; the names are those of ColumnStatus, and envelope."""
    value = f"t.{column.quoted}"
    # What cannot become NULL has to be encrypted, empty or not.
    blank = f" when btrim({value}, E'{BLANKS.encode('unicode_escape').decode()}') = '' then 'blank'"
    return (
        f"case when {value} is null then 'null'"
        f" when {value} ~ '{ENVELOPE}' and char_length({value}) <= {ENVELOPE_LIMIT} then 'envelope'"
        f" when starts_with({value}, '{ENVELOPE_PREFIX}') then 'damaged'"
        f"{blank if column.nullable else ''}"
        f" when octet_length(convert_to({value}, 'UTF8')) > {LONGEST_TEXT_BYTES} then 'too_long' else 'plain' end"
    )


class KeyRow:
    """A row to be done, locked. No dataclass: its repr would show the values."""

    __slots__ = ("bound", "key", "user_id", "values", "version")

    def __init__(self, key: list[str], user_id: UUID, version: str, bound: str | None, values: dict[str, str]) -> None:
        self.key = key
        self.user_id = user_id
        self.version = version
        self.bound = bound
        self.values = values

    def binding(self, column: KeyColumn) -> str:
        """What an envelope in this column is bound to, together with the user."""
        return self.bound or column.name


class Rewrite(Job):
    """Values of a table become others: plain text an envelope, or an envelope another one.

    What is left to do shows in the rows, and two may share the work: no ledger is needed. Rows that others hold are passed
    over and come later, so that nobody waits for us for longer than a batch, and we for nobody.
    """

    unit = "rows"
    recorded = False
    done: str
    """What a value that was written counts as."""
    # Row level security that hid rows would make a table look encrypted that is not.
    session = MappingProxyType({"row_security": "off"})

    def __init__(self, table: KeyTable) -> None:
        self.table = table
        self.rows: dict[str, KeyRow] = {}
        """Those of the present batch, by key."""
        self.refused: set[str] = set()

    @abstractmethod
    def condition(self, column: KeyColumn) -> str:
        """SQL for whether a value is to be done."""

    @abstractmethod
    def rewrite(self, row: KeyRow, column: KeyColumn, value: str) -> str | None:
        """The new value."""

    @abstractmethod
    def is_kept(self, row: KeyRow, column: KeyColumn, value: str, found: str | None) -> bool:
        """Whether the value in the row now means what was read before."""

    def count(self, connection: Connection) -> int:
        wanted = " or ".join(self.condition(column) for column in self.table.columns)
        return int(
            connection.scalar(
                text(f"select count(*) from {self.table.sql} as t where t.user_id is not null and ({wanted})")
            )
            or 0
        )

    def left(self, connection: Connection) -> int:
        return self.count(connection)

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        keys = self.table.key
        behind = ""
        values: dict[str, Any] = {"rows": min(rows, window)}
        if after is not None:
            slots = ", ".join(f"cast(:k{i} as {kind})" for i, (_, kind) in enumerate(keys))
            behind = f" and ({', '.join(f't.{name}' for name, _ in keys)}) > ({slots})"
            values |= {f"k{i}": part for i, part in enumerate(json.loads(after))}
        wanted = [self.condition(column) for column in self.table.columns]
        # A value that is not to be done is not even read.
        read = [
            f"case when {each} then t.{column.quoted}::text end"
            for each, column in zip(wanted, self.table.columns, strict=True)
        ]
        found = connection.execute(
            text(
                f"select array[{', '.join(f't.{name}::text' for name, _ in keys)}], t.user_id::text, t.xmin::text,"
                f" {'t.provider::text, t.label::text' if self.table.labelled else 'null, null'},"
                f" array[{', '.join(read)}] from {self.table.sql} as t where t.user_id is not null"
                f" and ({' or '.join(wanted)}){behind} order by {', '.join(f't.{name}' for name, _ in keys)}"
                " limit :rows for no key update of t skip locked"
            ),
            values,
        )
        names = [column.name for column in self.table.columns]
        self.rows = {
            json.dumps(key): KeyRow(
                key, UUID(user_id), version, bound_to(provider, label) if self.table.labelled else None,
                {name: value for name, value in zip(names, old, strict=True) if value is not None},
            )
            for key, user_id, version, provider, label, old in found
        }  # fmt: skip
        found_keys = list(self.rows)
        return found_keys, found_keys[-1] if found_keys else None

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        """Write rows, and read them back."""
        rows = [self.rows[key] for key in keys]
        # Columns in which nothing changes are not named: a trigger may wait for them.
        columns = [column for column in self.table.columns if any(column.name in row.values for row in rows)]
        values: dict[str, Any] = {"version": [row.version for row in rows]}
        counts = {self.done: 0, "emptied": 0}
        names, sets = ["version"], []
        slots = ["cast(:version as text[])"]
        for i, column in enumerate(columns):
            new = [
                self.rewrite(row, column, row.values[column.name]) if column.name in row.values else None
                for row in rows
            ]
            flags = [column.name in row.values for row in rows]
            values |= {f"new{i}": new, f"flag{i}": flags}
            names += [f"new{i}", f"flag{i}"]
            slots += [f"cast(:new{i} as text[])", f"cast(:flag{i} as boolean[])"]
            sets.append(f"{column.quoted} = case when n.flag{i} then n.new{i} else t.{column.quoted} end")
            counts[self.done] += sum(value is not None for value in new)
            counts["emptied"] += sum(flag and value is None for flag, value in zip(flags, new, strict=True))
        values |= {f"k{i}": [row.key[i] for row in rows] for i in range(len(self.table.key))}
        names += [f"k{i}" for i in range(len(self.table.key))]
        slots += [f"cast(:k{i} as text[])" for i in range(len(self.table.key))]
        same = " and ".join(f"t.{name} = cast(n.k{i} as {kind})" for i, (name, kind) in enumerate(self.table.key))
        # The rows are locked. The version is there so that no mistake of ours can overwrite a newer value.
        written = connection.execute(
            text(
                f"update {self.table.sql} as t set {', '.join(sets)}"
                f" from unnest({', '.join(slots)}) as n({', '.join(names)}) where {same} and t.xmin::text = n.version"
            ),
            values,
        ).rowcount
        if written != len(rows):
            raise EncryptionNotKept(
                f"{self.table.name}: {len(rows) - written} of {len(rows)} rows were not written; the batch is rolled back."
                " A trigger or rule on the table suppresses updates: disable it, and run this again."
            )
        self._read_back(connection, rows, columns, same)
        return counts

    def _read_back(self, connection: Connection, rows: list[KeyRow], columns: list[KeyColumn], same: str) -> None:
        keys = {f"k{i}": [row.key[i] for row in rows] for i in range(len(self.table.key))}
        slots = ", ".join(f"cast(:{name} as text[])" for name in keys)
        found = connection.execute(
            text(
                f"select n.place, array[{', '.join(f't.{column.quoted}::text' for column in columns)}]"
                f" from unnest({slots}) with ordinality as n({', '.join(keys)}, place) join {self.table.sql} as t on {same}"
            ),
            keys,
        )
        kept = 0
        for place, values in found:
            row = rows[place - 1]
            kept += all(
                self.is_kept(row, column, row.values[column.name], value)
                for column, value in zip(columns, values, strict=True)
                if column.name in row.values
            )
        if kept != len(rows):
            raise EncryptionNotKept(
                f"{self.table.name}: {len(rows) - kept} of {len(rows)} rows did not come back as they were written; the"
                " batch is rolled back. A trigger on the table changes the keys: disable it, and run this again."
            )

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        """Leave a row as it is; where it is not one row that is at fault, but the table, each further one would be, too."""
        del connection
        self.refused.add(key)
        if code == _NO_RIGHT:
            raise InsufficientPrivilege(_rights(self.table.name))
        if len(self.refused) > _MOST_REFUSED:
            raise EncryptionRefused(_refusal(self.table.name, code, what))


def follow(
    connection: Connection, jobs: Sequence[Rewrite], limits: Limits | None, stopped: Callable[[], bool]
) -> Iterator[Progress]:
    """Run the jobs on connections of their own, to the same database; no error quotes a value."""
    reports = run(connection.engine, jobs, limits, stopped=stopped)
    while True:
        problem: Exception
        try:
            progress = next(reports, None)
        except (DBAPIError, UnicodeDecodeError) as error:
            problem = without_values(error, connection, " and ".join(job.table.name for job in jobs))
        else:
            if progress is None:
                return
            yield progress
            continue
        # Out here, so that it is not chained: a message of the server may quote a row.
        raise problem


def quietly(connection: Connection, table: str, work: Callable[[], _T]) -> _T:
    """Work in a transaction that waits for no lock for long, sees all rows or fails, and whose errors quote no value.

    Raises:
        TableLocked: a lock could not be had.
        EncryptionRefused, InsufficientPrivilege, NoDatabase: as ``encrypt``.
    """
    try:
        with connection.begin():
            connection.exec_driver_sql(
                "set local row_security = off; set local lock_timeout = '100ms'; set local jit = off"
            )
            return work()
    except (DBAPIError, UnicodeDecodeError) as error:
        problem = without_values(error, connection, table)
    # Out here, so that it is not chained: a message of the server may quote a row.
    raise problem


def without_values(error: DBAPIError | UnicodeDecodeError, connection: Connection, table: str) -> Exception:
    """The error to raise instead of one that may quote a row."""
    if isinstance(error, UnicodeDecodeError):
        return EncryptionRefused(
            f"{table} holds a value that is no text in the encoding of the database. Correct it, and run this again."
        )
    code = sqlstate(error) or "unknown"
    if is_disconnect(error):
        return lost_connection(connection.engine.url)
    if code in LOCK_FAILURES:
        return TableLocked()
    if code == _NO_RIGHT:
        return InsufficientPrivilege(_rights(table))
    return EncryptionRefused(_refusal(table, code, failed_objects(error)))


def _rights(table: str) -> str:
    return (
        f"This role may not read and update all rows of {table}: a right is missing, or row level security hides some."
        " Connect as the role that owns the table, or a superuser."
    )


def _refusal(table: str, code: str, what: str | None) -> str:
    about = f" ({what})" if what else ""
    return (
        f"{table} cannot be written: SQLSTATE {code}{about}. What is encrypted stands. A CHECK or trigger of your own that"
        " looks at the keys has to go first; then run this again."
    )
