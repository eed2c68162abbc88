"""API keys in ``user_api_keys``: which are encrypted, and the encryption of those found in plain text.

The table is taken as found, most often one that was never migrated: there is no ``profiles_internal.jobs`` then, so this
is not on the engine of ``batches``. It needs less: what is left to do is to be seen in the rows themselves. Batches by
key, each in a transaction of its own; rows that somebody else holds are passed over and come later, so that nobody waits
for us for longer than a batch, and we for nobody. On a migrated table nothing is to be done: its CHECKs admit envelopes only.

Plain text is read from the server and never sent to it: the text of a statement goes into its log when that fails. So a
row is written by its key and version, not by its old value, and no message of the server is passed on: it may quote a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import lost
from profiles_schema.driver import is_disconnect, sqlstate
from profiles_schema.encryption import LONGEST_TEXT_BYTES, KeyRing, new_entry
from profiles_schema.errors import (
    DecryptionFailed,
    EncryptionNotKept,
    EncryptionRefused,
    InsufficientPrivilege,
    InvalidKeyRing,
    KeyRingMissing,
    TableLocked,
    UsageError,
)
from profiles_schema.operations.batches import FIRST_ROWS, MOST_ROWS, TARGET_MS, Limits
from profiles_schema.settings import ENVELOPE, ENVELOPE_LIMIT, ENVELOPE_PREFIX

COLUMNS = ("openai_api_key", "unsplash_api_key", "anthropic_api_key")
TABLE = "user_api_keys"
LOCKS = "ROW EXCLUSIVE on the table, and the rows of one batch at a time, committed each; rows in use are passed over"
_BLANKS = " \t\n\r\f\v"
_LOCK_ERRORS = frozenset({"55P03", "40P01", "40001"})
_FROZEN = "25P03"  # what the server says then
_FROZEN_SECONDS = 5
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.2
_MOST_LEFT_OUT = 20
_T = TypeVar("_T")


@dataclass
class ColumnStatus:
    """What the values of a column are.

    ``plain`` and ``blank`` (nothing but white space, or nothing) are what ``encrypt`` deals with; ``too_long`` for an
    envelope and ``damaged`` (begins like one, and is none) are for a person. ``envelopes`` counts by key id, ``unknown``
    those whose key is not in the ring.
    """

    null: int = 0
    plain: int = 0
    blank: int = 0
    too_long: int = 0
    damaged: int = 0
    envelopes: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def unencrypted(self) -> int:
        """Values that the CHECKs of user_api_keys refuse."""
        return self.plain + self.blank + self.too_long + self.damaged


@dataclass
class KeysStatus:
    """What stands in a table, column by column, and which keys are in the ring.

    ``without_user`` counts unencrypted values of rows without a user, which no envelope can be bound to; ``guarded`` says
    whether our CHECKs are on every column.
    """

    table: str
    columns: dict[str, ColumnStatus]
    without_user: int
    ring: list[str]
    guarded: bool

    @property
    def unencrypted(self) -> int:
        """Values that the CHECKs of user_api_keys refuse."""
        return sum(column.unencrypted for column in self.columns.values())

    @property
    def unknown(self) -> int:
        """Envelopes whose key is not in the ring."""
        return sum(sum(column.unknown.values()) for column in self.columns.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"unencrypted": self.unencrypted}


@dataclass
class Progress:
    """How far an encryption is, in rows: done of total.

    ``encrypted`` and ``emptied`` count values, ``failed`` rows left out, by SQLSTATE.
    """

    total: int = 0
    done: int = 0
    encrypted: int = 0
    emptied: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    batch_rows: int = 0
    batch_ms: float = 0.0
    rows_per_second: float = 0.0
    eta_seconds: float | None = None
    state: str = "running"


def generate(key_id: str | None = None) -> str:
    """A new entry of the ring, with an id that the present ring does not have.

    Raises:
        UsageError: the id is taken, or cannot be one.
    """
    entry = new_entry(key_id)
    ids: tuple[str, ...] = ()
    with suppress(InvalidKeyRing):  # who mends a ring needs a new key, too
        ids = KeyRing.from_environment().ids
    if entry.partition(":")[0] in ids:
        raise UsageError(f'The id "{key_id}" is in the ring already. Choose another, or leave --id out.')
    return entry


def status(connection: Connection, *, table: str = TABLE) -> KeysStatus:
    """Count what is encrypted and what is not. Only counts and key ids leave the server.

    Raises:
        EncryptionRefused: there is no such table, or it has none of the columns.
        InvalidKeyRing: the ring is set, and wrong; without a ring every envelope counts as unknown.
    """
    ring: tuple[str, ...] = ()
    with suppress(KeyRingMissing):
        ring = KeyRing.from_environment().ids
    found, rows = _quietly(connection, table, lambda: _kinds(connection, table))
    result = KeysStatus(
        found.name, {column.name: ColumnStatus() for column in found.columns}, 0, [*ring], found.guarded
    )
    for row in rows:
        column = result.columns[row.name]
        if row.kind == "envelope":
            counts = column.envelopes if row.key_id in ring else column.unknown
            counts[row.key_id] = counts.get(row.key_id, 0) + row.rows
            continue
        setattr(column, row.kind, getattr(column, row.kind) + row.rows)
        if row.ownerless and row.kind in {"plain", "blank"}:
            result.without_user += row.rows
    return result


def _kinds(connection: Connection, name: str) -> tuple[_Table, Sequence[Row[Any]]]:
    table = _find(connection, name)
    values = ", ".join(f"('{each.name}', t.{each.quoted}, {_kind(each)}, t.user_id is null)" for each in table.columns)
    rows = connection.execute(
        text(
            "select v.name, v.kind, case when v.kind = 'envelope' then split_part(v.value, '.', 2) end as key_id,"
            f" v.ownerless, count(*) as rows from {table.sql} as t"
            f" cross join lateral (values {values}) as v(name, value, kind, ownerless) group by 1, 2, 3, 4"
        )
    )
    return table, rows.all()


def plan(connection: Connection, ring: KeyRing, *, table: str = TABLE, batch_rows: int = FIRST_ROWS) -> dict[str, Any]:
    """What ``encrypt`` would do: rows, seconds (least, most), locks. One batch is done and rolled back for the forecast.

    Raises:
        EncryptionRefused, InsufficientPrivilege: as ``encrypt``.
    """
    work = _Rewrite(connection, _fit(connection, table), _Encryption(ring), Limits(batch_rows=batch_rows))
    result: dict[str, Any] = {"rows": work.count(), "seconds": [0.0, 0.0], "locks": LOCKS}
    if result["rows"]:
        started = time.monotonic()
        batch = work.batch(commit=False)
        seconds = (time.monotonic() - started) * result["rows"] / max(batch.rows, 1)
        result["seconds"] = [round(seconds * 0.2, 3), round(seconds * 2 + 1, 3)]
    return result


def encrypt(
    connection: Connection,
    ring: KeyRing,
    *,
    table: str = TABLE,
    batch_rows: int = FIRST_ROWS,
    target_ms: int = TARGET_MS,
    max_rate: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Encrypt what is plain text, in place, yielding the progress; nothing where nothing is to be done.

    Envelopes are left alone, whatever their key. Blank text is no key and becomes NULL (in a NOT NULL column it is
    encrypted). Text that is too long, a damaged envelope and rows without a user are left as they are. Every row is read
    back and decrypted before its batch commits.

    Args:
        connection: A connection outside a transaction, as a role that sees and may update every row.
        ring: Its first key encrypts.
        table: The table, with its schema if that is not public.
        batch_rows: Rows in the first batch; later ones follow the target.
        target_ms: How long a batch should take.
        max_rate: Most rows per second.
        stopped: Asked between batches; True ends the work, which goes on the next time.

    Raises:
        EncryptionRefused: the table cannot be encrypted as it is, and nothing was changed; or it refuses the envelopes.
        EncryptionNotKept: a row did not come back as it was written; its batch is rolled back.
        InsufficientPrivilege: this role does not see all rows, or may not update them.
        TableLocked: the table was locked for a minute.
    """
    limits = Limits(batch_rows=batch_rows, target_ms=target_ms, max_rate=max_rate)
    work = _Rewrite(connection, _fit(connection, table), _Encryption(ring), limits, stopped)
    if work.count():
        yield from work.batches()


# The table as found


@dataclass(frozen=True)
class _Column:
    name: str
    quoted: str
    kind: str
    base: str
    limit: int | None
    nullable: bool


@dataclass(frozen=True)
class _Table:
    name: str
    sql: str
    columns: list[_Column]
    user_type: str | None
    key: list[tuple[str, str]]
    guarded: bool


def _find(connection: Connection, name: str) -> _Table:
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
    columns = [by_name[column] for column in COLUMNS if column in by_name]
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
    return _Table(
        f"{schema}.{bare}",
        _literal(found.sql),
        [_Column(c.name, _literal(c.quoted), c.kind, c.base, c.limit, c.nullable) for c in columns],
        by_name["user_id"].kind,
        [(_literal(each), _literal(kind)) for each, kind in zip(key.names, key.types, strict=True)] if key else [],
        all(column.guarded for column in columns),
    )


def _literal(sql: str) -> str:
    """Keep SQLAlchemy from finding a parameter in a quoted name."""
    return sql.replace(":", "\\:")


def _fit(connection: Connection, name: str) -> _Table:
    """The table, if it can be encrypted; else everything that is in the way, at once, before the first change."""
    table = _quietly(connection, name, lambda: _find(connection, name))
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


def _kind(column: _Column) -> str:
    """SQL for what a value is; the names are those of ColumnStatus, and envelope."""
    value = f"t.{column.quoted}"
    # What cannot become NULL has to be encrypted, empty or not.
    blank = f" when btrim({value}, E'{_BLANKS.encode('unicode_escape').decode()}') = '' then 'blank'"
    return (
        f"case when {value} is null then 'null'"
        f" when {value} ~ '{ENVELOPE}' and char_length({value}) <= {ENVELOPE_LIMIT} then 'envelope'"
        f" when starts_with({value}, '{ENVELOPE_PREFIX}') then 'damaged'"
        f"{blank if column.nullable else ''}"
        f" when octet_length(convert_to({value}, 'UTF8')) > {LONGEST_TEXT_BYTES} then 'too_long' else 'plain' end"
    )


# The work


class _Work(Protocol):
    """What is done with the values of a table: encryption here; a rotation selects other kinds and decrypts first."""

    def wanted(self, column: _Column) -> str:
        """SQL for whether a value is to be done."""

    def rewritten(self, user_id: UUID, column: _Column, value: str) -> str | None:
        """The new value."""

    def kept(self, user_id: UUID, column: _Column, value: str, found: str | None) -> bool:
        """Whether what stands in the row now means what was read before."""


class _Encryption:
    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def wanted(self, column: _Column) -> str:
        return f"{_kind(column)} in ('plain', 'blank')"

    def rewritten(self, user_id: UUID, column: _Column, value: str) -> str | None:
        if column.nullable and not value.strip(_BLANKS):
            return None
        return self.ring.encrypt(value, user_id=user_id, column=column.name)

    def kept(self, user_id: UUID, column: _Column, value: str, found: str | None) -> bool:
        if found is None:
            return column.nullable and not value.strip(_BLANKS)
        try:
            return self.ring.decrypt(found, user_id=user_id, column=column.name) == value
        except DecryptionFailed:
            return False


class _Row:
    """A row to be done, locked. No dataclass: its repr would show the values."""

    __slots__ = ("key", "user_id", "values", "version")

    def __init__(self, key: tuple[str, ...], user_id: UUID, version: str, values: dict[str, str]) -> None:
        self.key = key
        self.user_id = user_id
        self.version = version
        self.values = values


@dataclass
class _Batch:
    rows: int = 0
    encrypted: int = 0
    emptied: int = 0
    last: tuple[str, ...] | None = None


class _RowsRefused(EncryptionRefused):
    """The database refused a batch. Holds the SQLSTATE and the constraint, never the message."""

    def __init__(self, table: str, code: str, constraint: str | None) -> None:
        by = f', constraint "{constraint}"' if constraint else ""
        super().__init__(
            f"{table} cannot be written: SQLSTATE {code}{by}. What is encrypted stands. A CHECK or trigger of your own that"
            " looks at the keys has to go first; then run this again."
        )
        self.code = code
        self.rows: list[_Row] = []


class _Rewrite:
    def __init__(
        self,
        connection: Connection,
        table: _Table,
        work: _Work,
        limits: Limits,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.connection = connection
        self.table = table
        self.work = work
        self.limits = limits
        self.stopped = stopped
        self.most_rows = MOST_ROWS if limits.max_rate is None else max(1, min(MOST_ROWS, int(limits.max_rate)))
        self.size = min(limits.batch_rows, self.most_rows)
        self.after: tuple[str, ...] | None = None
        self.left_out: set[tuple[str, ...]] = set()
        self.progress = Progress()

    def count(self) -> int:
        """How many rows there are to do."""
        wanted = " or ".join(self.work.wanted(column) for column in self.table.columns)
        rows = text(f"select count(*) from {self.table.sql} as t where t.user_id is not null and ({wanted})")
        return _quietly(self.connection, self.table.name, lambda: int(self.connection.scalar(rows) or 0))

    def batches(self) -> Iterator[Progress]:
        """All of them, pass after pass: rows that were in use, or came in behind us, are found by the next one."""
        progress = self.progress
        progress.total = self.count()
        began = moved = fewer = time.monotonic()
        fewest: int | None = None
        while True:
            if self.stopped():
                progress.state = "stopped"
                yield progress
                return
            started = time.monotonic()
            batch = self._tried(give_up=moved + _PATIENCE_SECONDS)
            if batch is None:
                continue
            if batch.last is not None:
                if batch.rows:
                    moved = time.monotonic()
                    self._measure(batch, moved - started, moved - began)
                    yield progress
                    self._keep_to_the_rate(batch.rows, moved - started)
                continue
            self.after = None
            left = self.count()
            if fewest is None or left < fewest:
                fewest, fewer = left, time.monotonic()
            # Somebody may hold a row for ever, or put the plain text back as soon as we are gone.
            if left <= len(self.left_out) or time.monotonic() > fewer + _PATIENCE_SECONDS:
                progress.state = "completed"
                progress.eta_seconds = 0.0
                yield progress
                return
            time.sleep(_PAUSE_SECONDS)

    def _tried(self, *, give_up: float) -> _Batch | None:
        """A batch; None where it has to be tried again, with fewer rows."""
        try:
            return self.batch()
        except _RowsRefused as refused:
            self._narrow_down(refused)
        except DBAPIError as error:  # a lock on the whole table
            if sqlstate(error) not in _LOCK_ERRORS:
                raise
            if time.monotonic() > give_up:
                raise TableLocked from None
            self.size = max(1, self.size // 2)
            time.sleep(_PAUSE_SECONDS)
        return None

    def _narrow_down(self, refused: _RowsRefused) -> None:
        if len(refused.rows) > 1:
            self.size = max(1, len(refused.rows) // 2)
            return
        self.left_out |= {row.key for row in refused.rows}
        self.progress.failed[refused.code] = self.progress.failed.get(refused.code, 0) + 1
        # Not one row at fault, but the table: each further one would have to be narrowed down to, in vain.
        if not refused.rows or len(self.left_out) > _MOST_LEFT_OUT:
            raise refused

    def batch(self, *, commit: bool = True) -> _Batch:
        """The next rows: locked, read, written, read back, committed."""
        batch = _Batch()
        rows: list[_Row] = []

        def work() -> None:
            locked = self._locked()
            batch.last = locked[-1].key if locked else None
            rows.extend(row for row in locked if row.key not in self.left_out)
            if rows:
                self._write(rows, batch)

        try:
            _quietly(self.connection, self.table.name, work, commit=commit)
        except _RowsRefused as refused:
            refused.rows = rows
            raise
        if commit and batch.last is not None:
            self.after = batch.last
        return batch

    def _locked(self) -> list[_Row]:
        keys = self.table.key
        behind = ""
        values: dict[str, Any] = {"rows": self.size}
        if self.after is not None:
            slots = ", ".join(f"cast(:k{i} as {kind})" for i, (_, kind) in enumerate(keys))
            behind = f" and ({', '.join(f't.{name}' for name, _ in keys)}) > ({slots})"
            values |= {f"k{i}": part for i, part in enumerate(self.after)}
        wanted = [self.work.wanted(column) for column in self.table.columns]
        # A value that is not to be done is not even read.
        read = [
            f"case when {each} then t.{column.quoted}::text end"
            for each, column in zip(wanted, self.table.columns, strict=True)
        ]
        found = self.connection.execute(
            text(
                f"select array[{', '.join(f't.{name}::text' for name, _ in keys)}], t.user_id::text, t.xmin::text,"
                f" array[{', '.join(read)}] from {self.table.sql} as t where t.user_id is not null"
                f" and ({' or '.join(wanted)}){behind} order by {', '.join(f't.{name}' for name, _ in keys)}"
                " limit :rows for no key update of t skip locked"
            ),
            values,
        )
        names = [column.name for column in self.table.columns]
        return [
            _Row(
                tuple(key),
                UUID(user_id),
                version,
                {name: value for name, value in zip(names, old, strict=True) if value is not None},
            )
            for key, user_id, version, old in found
        ]

    def _write(self, rows: list[_Row], batch: _Batch) -> None:
        batch.rows = len(rows)
        # Columns in which nothing changes are not named: a trigger may wait for them.
        columns = [column for column in self.table.columns if any(column.name in row.values for row in rows)]
        values: dict[str, Any] = {"version": [row.version for row in rows]}
        names, sets = ["version"], []
        slots = ["cast(:version as text[])"]
        for i, column in enumerate(columns):
            new = [
                self.work.rewritten(row.user_id, column, row.values[column.name]) if column.name in row.values else None
                for row in rows
            ]
            flags = [column.name in row.values for row in rows]
            values |= {f"new{i}": new, f"flag{i}": flags}
            names += [f"new{i}", f"flag{i}"]
            slots += [f"cast(:new{i} as text[])", f"cast(:flag{i} as boolean[])"]
            sets.append(f"{column.quoted} = case when n.flag{i} then n.new{i} else t.{column.quoted} end")
            batch.encrypted += sum(value is not None for value in new)
            batch.emptied += sum(flag and value is None for flag, value in zip(flags, new, strict=True))
        values |= {f"k{i}": [row.key[i] for row in rows] for i in range(len(self.table.key))}
        names += [f"k{i}" for i in range(len(self.table.key))]
        slots += [f"cast(:k{i} as text[])" for i in range(len(self.table.key))]
        same = " and ".join(f"t.{name} = cast(n.k{i} as {kind})" for i, (name, kind) in enumerate(self.table.key))
        # The rows are locked. The version is there so that no mistake of ours can overwrite a newer value.
        written = self.connection.execute(
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
        self._read_back(rows, columns, same)

    def _read_back(self, rows: list[_Row], columns: list[_Column], same: str) -> None:
        keys = {f"k{i}": [row.key[i] for row in rows] for i in range(len(self.table.key))}
        slots = ", ".join(f"cast(:{name} as text[])" for name in keys)
        found = self.connection.execute(
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
                self.work.kept(row.user_id, column, row.values[column.name], value)
                for column, value in zip(columns, values, strict=True)
                if column.name in row.values
            )
        if kept != len(rows):
            raise EncryptionNotKept(
                f"{self.table.name}: {len(rows) - kept} of {len(rows)} rows did not come back as they were written; the"
                " batch is rolled back. A trigger on the table changes the keys: disable it, and run this again."
            )

    def _measure(self, batch: _Batch, seconds: float, elapsed: float) -> None:
        progress = self.progress
        progress.done += batch.rows
        progress.encrypted += batch.encrypted
        progress.emptied += batch.emptied
        progress.total = max(progress.total, progress.done)
        progress.batch_rows, progress.batch_ms = batch.rows, round(seconds * 1000, 1)
        rate = progress.done / max(elapsed, 1e-6)
        progress.rows_per_second = round(rate, 1)
        progress.eta_seconds = round((progress.total - progress.done) / rate, 1)
        wanted = int(batch.rows * self.limits.target_ms / max(seconds * 1000, 0.1))
        self.size = max(1, min(wanted, self.size * 2, self.most_rows))

    def _keep_to_the_rate(self, rows: int, seconds: float) -> None:
        until = time.monotonic() + (rows / self.limits.max_rate - seconds if self.limits.max_rate else 0.0)
        while not self.stopped() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _PAUSE_SECONDS))


def _quietly(connection: Connection, table: str, work: Callable[[], _T], *, commit: bool = True) -> _T:
    """Work in a short transaction that waits for no lock for long, sees all rows or fails, and whose errors quote no value.

    Raises:
        DBAPIError: a lock could not be had.
    """
    problem: Exception
    try:
        with connection.begin() as transaction:
            # Row level security that hid rows would make a table look encrypted that is not. A process that is frozen
            # in a batch must not hold its rows.
            connection.exec_driver_sql(
                "set local row_security = off; set local lock_timeout = '100ms'; set local jit = off;"
                f" set local idle_in_transaction_session_timeout = '{_FROZEN_SECONDS}s'"
            )
            result = work()
            if not commit:
                transaction.rollback()
    except DBAPIError as error:
        code = sqlstate(error) or "unknown"
        if code == _FROZEN or is_disconnect(error):
            problem = lost(connection.engine.url)
        elif code in _LOCK_ERRORS:
            raise
        elif code == "42501":
            problem = InsufficientPrivilege(
                f"This role may not read and update all rows of {table}: a right is missing, or row level security hides"
                " some. Connect as the role that owns the table, or a superuser."
            )
        else:
            diagnosis = getattr(error.orig, "diag", None)
            problem = _RowsRefused(table, code, getattr(diagnosis, "constraint_name", None))
    except UnicodeDecodeError:
        problem = EncryptionRefused(
            f"{table} holds a value that is no text in the encoding of the database. Correct it, and run this again."
        )
    else:
        return result
    # Out here, so that it is not chained: a message of the server may quote a row.
    raise problem
