"""API keys of users: which are encrypted, by which key of the ring, and the encryption of those found in plain text.

The table to encrypt is taken as found (module ``key_tables``), most often one that was never migrated. On a migrated table
nothing is to be done: its CHECKs admit envelopes only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Row

from profiles_schema.encryption import KeyRing, new_entry, new_id
from profiles_schema.errors import DecryptionFailed, KeyRingMissing, ProfilesSchemaError, UsageError
from profiles_schema.key_providers import keys_from_environment
from profiles_schema.operations.batch_job import FIRST_ROWS, Limits, Progress
from profiles_schema.operations.batches import trial
from profiles_schema.operations.key_tables import (
    BLANKS,
    LOCKS,
    TABLE,
    KeyColumn,
    KeyRow,
    KeyTable,
    Rewrite,
    changed_keys,
    check_ring,
    find,
    fit,
    follow,
    kind_of,
    quietly,
    tables_of,
)


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
    """What the tables hold, column by column, and which keys are in the ring.

    ``without_user`` counts unencrypted values of rows without a user, which no envelope can be bound to; ``guarded`` says
    whether our CHECKs are on every column. ``changed`` are ids of the ring whose key is another one than was first used
    under them.
    """

    table: str
    columns: dict[str, ColumnStatus]
    without_user: int
    ring: list[str]
    guarded: bool
    changed: list[str] = field(default_factory=list)

    @property
    def uses(self) -> Counter[str]:
        """How many values each key encrypts, in the ring or not."""
        return sum((Counter(each.envelopes) + Counter(each.unknown) for each in self.columns.values()), Counter[str]())

    @property
    def old(self) -> int:
        """Values under keys of the ring that do not encrypt any more: what a rotation has to do."""
        return sum(self.uses[key_id] for key_id in self.ring[1:])

    @property
    def removable(self) -> list[str]:
        """Keys of the ring that do not encrypt any more, and that no value needs."""
        return [key_id for key_id in self.ring[1:] if not self.uses[key_id]]

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
        return asdict(self) | {
            "unencrypted": self.unencrypted,
            "uses": dict(self.uses),
            "old": self.old,
            "removable": self.removable,
        }


def generate(key_id: str | None = None) -> str:
    """A new entry of the ring, with an id that the present ring does not have.

    Raises:
        UsageError: the id is taken, or cannot be one.
    """
    return new_entry(_free_id(key_id))


def generate_wrapped(master_key: str, key_id: str | None = None) -> str:
    """A new entry of a ring in KMS: made by KMS, and encrypted under a key of it.

    Raises:
        UsageError: as ``generate``.
        KeyServiceFailed: KMS did not answer, or refused.
    """
    from profiles_schema.key_kms import new_wrapped_entry

    return new_wrapped_entry(master_key, _free_id(key_id))


def _free_id(key_id: str | None) -> str:
    key_id = new_id(key_id)
    ids: tuple[str, ...] = ()
    with suppress(ProfilesSchemaError):  # who mends a ring needs a new key, too
        ids = keys_from_environment().ring().ids
    if key_id in ids:
        raise UsageError(f'The id "{key_id}" is in the ring already. Choose another, or leave --id out.')
    return key_id


def status(connection: Connection, *, table: str | None = None) -> KeysStatus:
    """Count what is encrypted and what is not, in one table or in all. Only counts and key ids leave the server.

    Raises:
        EncryptionRefused: there is no such table, or it has none of the columns.
        InvalidKeyRing: the ring is set, and wrong; without a ring every envelope counts as unknown.
    """
    keys: KeyRing | None = None
    with suppress(KeyRingMissing):
        keys = keys_from_environment().ring()
    ring = keys.ids if keys else ()
    names = [table] if table else tables_of(connection)
    found = [quietly(connection, name, lambda name=name: _kinds(connection, name)) for name in names]  # type: ignore[misc]
    result = KeysStatus(
        " and ".join(each.name for each, _ in found),
        {column.name: ColumnStatus() for each, _ in found for column in each.columns},
        0,
        [*ring],
        all(each.guarded for each, _ in found),
        changed_keys(connection, keys) if keys else [],
    )
    for row in (row for _, rows in found for row in rows):
        column = result.columns[row.name]
        if row.kind == "envelope":
            counts = column.envelopes if row.key_id in ring else column.unknown
            counts[row.key_id] = counts.get(row.key_id, 0) + row.rows
            continue
        setattr(column, row.kind, getattr(column, row.kind) + row.rows)
        if row.ownerless and row.kind in {"plain", "blank"}:
            result.without_user += row.rows
    return result


def _kinds(connection: Connection, name: str) -> tuple[KeyTable, Sequence[Row[Any]]]:
    table = find(connection, name)
    values = ", ".join(
        f"('{each.name}', t.{each.quoted}, {kind_of(each)}, t.user_id is null)" for each in table.columns
    )
    rows = connection.execute(
        text(
            "select v.name, v.kind, case when v.kind = 'envelope' then split_part(v.value, '.', 2) end as key_id,"
            f" v.ownerless, count(*) as rows from {table.sql} as t"
            f" cross join lateral (values {values}) as v(name, value, kind, ownerless) group by 1, 2, 3, 4"
        )
    )
    return table, rows.all()


def forecast(
    connection: Connection, ring: KeyRing, *, table: str = TABLE, batch_rows: int = FIRST_ROWS
) -> dict[str, Any]:
    """What ``encrypt`` would do: rows, seconds (least, most), locks. One batch is done and rolled back.

    Raises:
        EncryptionRefused, InsufficientPrivilege: as ``encrypt``.
    """
    job = _Encryption(fit(connection, table), ring)

    def attempt() -> dict[str, Any]:
        with trial(connection, job, batch_rows) as batch:
            return {"rows": batch.total, "seconds": list(batch.seconds), "locks": LOCKS}

    return quietly(connection, table, attempt)


def encrypt(
    connection: Connection,
    ring: KeyRing,
    *,
    table: str = TABLE,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Encrypt what is plain text, in place, yielding the progress.

    It counts values ``encrypted`` and ``emptied``. Envelopes are left alone, whatever their key. Blank text is no key and
    becomes NULL (in a NOT NULL column it is encrypted). Text that is too long, a damaged envelope and rows without a user
    are left as they are. Every row is read back and decrypted before its batch commits.

    Args:
        connection: Says which database and role, which sees and may update every row; the work has a connection of its own.
        ring: Its first key encrypts.
        table: The table, with its schema if that is not public.
        limits: Sizes and rates.
        stopped: Asked between batches; True ends the work, which goes on the next time.

    Raises:
        EncryptionRefused: the table cannot be encrypted as it is, and nothing was changed; or it refuses the envelopes.
        EncryptionNotKept: a row did not come back as it was written; its batch is rolled back.
        EncryptionKeyChanged: the ring has another key under an id than before, and nothing was changed.
        InsufficientPrivilege: this role does not see all rows, or may not update them.
        TableLocked: the table was locked for long.
    """
    job = _Encryption(fit(connection, table), ring)
    check_ring(connection, ring)
    yield from follow(connection, [job], limits, stopped)


class _Encryption(Rewrite):
    kind = "encrypt"
    done = "encrypted"

    def __init__(self, table: KeyTable, ring: KeyRing) -> None:
        super().__init__(table)
        self.ring = ring

    def condition(self, column: KeyColumn) -> str:
        return f"{kind_of(column)} in ('plain', 'blank')"

    def rewrite(self, row: KeyRow, column: KeyColumn, value: str) -> str | None:
        if column.nullable and not value.strip(BLANKS):
            return None
        return self.ring.encrypt(value, user_id=row.user_id, column=row.binding(column))

    def is_kept(self, row: KeyRow, column: KeyColumn, value: str, found: str | None) -> bool:
        if found is None:
            return column.nullable and not value.strip(BLANKS)
        try:
            return self.ring.decrypt(found, user_id=row.user_id, column=row.binding(column)) == value
        except DecryptionFailed:
            return False
