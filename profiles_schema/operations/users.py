"""What is a person's: where it is, and its end.

An erasure is three transactions, and can be killed between or in them and run again: the first shuts the account and notes the
erasure, the second erases rows, the third, once the files are gone, forgets the exports and notes the end.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Table, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema import data_rights
from profiles_schema.data_rights import Registration
from profiles_schema.driver import quote_in_text, quote_name, retry_on_lock, sqlstate
from profiles_schema.errors import StorageMissing, UserNotFound
from profiles_schema.operations.health.users import ALIVE
from profiles_schema.schema.objects import Where
from profiles_schema.schema.personal_data import BY_SECTION, TABLES, PersonTable
from profiles_schema.storage import Storage

_LOCK_SECONDS: Final = 30.0
_FOREIGN_KEY: Final = ("23503", "23001")
"""A foreign key holds a row; PostgreSQL 18 has a code of its own for ON DELETE RESTRICT."""
_INTEGERS: Final = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
AUTH_SERVER: Final = "auth.users: the row is the auth server's. Delete the user with its admin API; on Supabase: auth.admin.deleteUser(id)"
LEARNING_SESSIONS: Final = (
    "exists (select from pg_trigger as t"
    " where t.tgrelid = to_regclass('public.sessions') and t.tgname like 'roll\\_up%')"
)
"""Whether the table sessions holds learning sessions: those of web frameworks are another thing under the same name."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Person:
    """A user, by everything that may stand in a column that says whose a row is."""

    user_id: uuid.UUID
    profile_id: str | None
    username: str | None
    linked: tuple[str, ...]
    """Keys in the application's own table of users."""
    exists: bool

    @property
    def keys(self) -> list[str]:
        """All of them, as text."""
        return list(dict.fromkeys([str(self.user_id), *([self.profile_id] if self.profile_id else []), *self.linked]))


@dataclass(frozen=True)
class Part:
    """A table: how many rows of the person, and what an erasure does with them (deleted, emptied or kept)."""

    table: str
    rows: int
    what: str
    reason: str | None = None


@dataclass
class Erasure:
    """What an erasure did, or would do.

    ``left`` is what it could not erase, a line each. ``unregistered`` tables and columns refer to users, and nobody has said
    what becomes of them; ``stale`` registrations do not fit the database. ``materialized_views`` may
    hold copies until somebody refreshes them. ``auth_server`` says what is to be done where the
    row in auth.users is not ours.
    """

    user_id: uuid.UUID | None
    parts: list[Part]
    username: str | None = None
    auth_server: str | None = None
    objects: int = 0
    left: list[str] = field(default_factory=list)
    unregistered: list[Unregistered] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    materialized_views: list[str] = field(default_factory=list)
    finished_at: datetime | None = None


def find_person(connection: Connection, user_id: uuid.UUID) -> Person:
    """The user, also one who is erased or gone."""
    exists = bool(connection.scalar(text("select exists (select from auth.users where id = :id)"), {"id": user_id}))
    profile = connection.execute(
        text("select p.id::text, p.username from public.user_profiles as p where p.user_id = :id"), {"id": user_id}
    ).one_or_none()
    linked = connection.scalars(
        text("select external_id from profiles_internal.identity_links where user_id = :id"), {"id": user_id}
    ).all()
    profile_id, username = profile or (None, None)
    return Person(user_id, profile_id, username, tuple(linked), exists)


def our_tables(connection: Connection) -> list[PersonTable]:
    """The tables of ours that hold rows of persons in this database."""
    learning = connection.scalar(text(f"select {LEARNING_SESSIONS}"))
    return [each for each in TABLES if each.section != "sessions" or learning]


def owns_identity(connection: Connection) -> bool:
    """Whether auth.users is ours to write, and not an auth server's."""
    return bool(connection.scalar(text(f"select {Where.OWN_IDENTITY.value}")))


@dataclass(frozen=True)
class Unregistered:
    """A table that refers to users, or a column of the application in a table of ours, of which nobody has said what it is."""

    table: str
    column: str
    ours: bool
    """Whether the table is ours, and the column the application's."""

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


def unregistered(connection: Connection) -> list[Unregistered]:
    """Everything that may hold a person's data, and of which nobody has said what an export or erasure does with it."""
    ours = {each.name for each in our_tables(connection)}
    said = _columns_with_an_answer(data_rights.registered(connection))
    found = [
        Unregistered(table, column, ours=False)
        for table, column in [*_referring(connection), *_identity_table(connection)]
        if table not in ours and (table, column) not in said
    ]
    for name in connection.scalar(text("select profiles_internal.left_columns()")) or []:
        table, _, column = name.replace('"', "").partition(".")
        if (f"public.{table}", column) not in said:
            found.append(Unregistered(f"public.{table}", column, ours=True))
    return found


def _columns_with_an_answer(registrations: Sequence[Registration]) -> set[tuple[str, str]]:
    """The columns that registrations name: by which a row is somebody's, and those that an erasure empties or keeps."""
    return {
        (each.table, column)
        for each in registrations
        for column in (each.user_column, *each.emptied, *(() if isinstance(each.on_erase, str) else each.on_erase))
    }


def _referring(connection: Connection) -> list[tuple[str, str]]:
    """The tables and columns with a foreign key to users or profiles; for a partition, the table that it is of."""
    rows = connection.execute(
        text(
            "select distinct n.nspname || '.' || c.relname, a.attname::text from pg_constraint as k"
            " cross join unnest(k.conkey, k.confkey) as pair (number, refers_to)"
            " join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = pair.number"
            " join pg_attribute as f on f.attrelid = k.confrelid and f.attnum = pair.refers_to"
            " join pg_class as c on c.oid = coalesce(pg_partition_root(k.conrelid), k.conrelid)"
            " join pg_namespace as n on n.oid = c.relnamespace"
            # What the auth server keeps of a user goes with its own row.
            " where k.contype = 'f' and k.conparentid = 0 and n.nspname <> 'auth'"
            # Of several columns, the one that holds the id: the others say something of the row, such as its tenant.
            " and (cardinality(k.conkey) = 1 or f.attname in ('id', 'user_id'))"
            " and k.confrelid in (to_regclass('auth.users'), to_regclass('public.user_profiles')) order by 1, 2"
        )
    )
    return [(table, column) for table, column in rows]


def _identity_table(connection: Connection) -> list[tuple[str, str]]:
    """The application's own table of users with its key, where there is one."""
    if connection.scalar(text("select to_regproc('profiles_internal.identity_table') is null")):
        return []
    rows = connection.execute(
        text(
            "select n.nspname || '.' || c.relname, i.key_name from profiles_internal.identity_table() as i"
            " join pg_class as c on c.oid = to_regclass(i.table_name) join pg_namespace as n on n.oid = c.relnamespace"
        )
    )
    return [(name, key) for name, key in rows]


class Condition:
    """Which rows of a registered table are the person's, in SQL."""

    def __init__(self, connection: Connection, table: str, user_column: str, person: Person) -> None:
        schema, _, name = table.partition(".")
        self.table = f"{quote_in_text(schema)}.{quote_in_text(name)}"
        kind = connection.scalar(
            text(
                "select coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text from pg_attribute as a"
                " join pg_type as t on t.oid = a.atttypid where a.attrelid = cast(:table as regclass) and a.attname = :column"
            ),
            {"table": f"{quote_name(schema)}.{quote_name(name)}", "column": user_column},
        )
        keys = person.keys
        if kind == "uuid":
            keys = [str(uuid.UUID(key)) for key in keys if _is_uuid(key)]
        elif kind in _INTEGERS:
            # A number is a key of the application's own table of users.
            end = _INTEGERS[kind]
            keys = [key for key in person.linked if _INTEGER.fullmatch(key) and -end <= int(key) < end]
        else:
            kind = "text"
            # Some applications write a uuid in capitals.
            keys = [*keys, *(key.upper() for key in keys if _is_uuid(key))]
        column = quote_in_text(user_column)
        compared = f"{column}::text" if kind == "text" else column
        self.sql = f"{compared} = any (cast(:keys as {kind}[]))"
        self.values: Mapping[str, Any] = {"keys": keys}

    def count(self, connection: Connection, also: str = "true") -> int:
        """How many rows there are of which ``also`` is true, too."""
        query = f"select count(*) from {self.table} where {self.sql} and ({also})"
        return int(connection.scalar(text(query), self.values) or 0)


def _is_uuid(key: str) -> bool:
    try:
        uuid.UUID(key)
    except ValueError:
        return False
    return True


def look(connection: Connection, user_id: uuid.UUID) -> Erasure:
    """What there is of a person, and what an erasure would do with it. Changes nothing.

    Raises:
        UserNotFound: there is no such user, and nothing here is theirs.
        InsufficientPrivilege: this role may not see all of it.
    """
    _see_everything(connection)
    person = find_person(connection, user_id)
    owned = owns_identity(connection)
    erasure = look_at_tables(connection)
    erasure.user_id, erasure.username = user_id, person.username
    for each in our_tables(connection):
        rows = _count(connection, each, user_id)
        kept = each.section in {"identity_links", "erasures"} or (each.section == "user" and not owned)
        what = "kept" if kept else "deleted" if each.is_deleted else "emptied"
        if rows:
            erasure.parts.append(Part(each.name, rows, what))
    for name, condition in SET_ASIDE.items():
        rows = connection.scalar(text(f"select count(*) from {name} where {condition}"), set_aside_keys(person)) or 0
        if rows:
            erasure.parts.append(Part(name, rows, "deleted"))
    for registration in data_rights.registered(connection):
        if data_rights.check(registration, connection):
            continue
        rows = Condition(connection, registration.table, registration.user_column, person).count(connection)
        if rows:
            what = "deleted" if registration.is_deleted else "emptied" if registration.emptied else "kept"
            erasure.parts.append(Part(registration.table, rows, what, registration.kept))
    if not person.exists and not erasure.parts:
        raise UserNotFound
    if not owned and connection.scalar(
        text(f"select exists (select from auth.users as u where u.id = :id and {ALIVE})"), {"id": user_id}
    ):
        erasure.auth_server = AUTH_SERVER
    return erasure


def look_at_tables(connection: Connection) -> Erasure:
    """What would keep an erasure from being complete, whoever it is: tables that are not registered, registrations that fit no more."""
    stale = [problem for each in data_rights.registered(connection) for problem in data_rights.check(each, connection)]
    return Erasure(None, [], unregistered=unregistered(connection), stale=stale)


# Rows that adoption set aside say in JSON whose they are.
SET_ASIDE: Final = {
    "profiles_internal.adopted": (
        "object_type in ('value', 'found value', 'kept value') and data ->> 'key' = any (cast(:keys as text[]))"
    ),
    "profiles_internal.quarantine": (
        "exists (select from jsonb_each_text(row_data) as v where v.value = any (cast(:keys as text[])))"
    ),
}


def set_aside_keys(person: Person) -> dict[str, Any]:
    """The parameters of ``SET_ASIDE``: uuids alone, because a number may be anything in such a row."""
    return {"keys": [key for key in person.keys if _is_uuid(key)]}


def _count(connection: Connection, table: PersonTable, user_id: uuid.UUID) -> int:
    mine = f"{table.user_column} = :id"
    if table.section == "audit_log":
        mine += " or actor = :id and actor is distinct from user_id"
    return int(connection.scalar(text(f"select count(*) from {table.name} where {mine}"), {"id": user_id}) or 0)


def _see_everything(connection: Connection) -> None:
    """Where row level security would hide rows from this role, the statement fails instead."""
    connection.execute(text("set local row_security = off"))


def pending(connection: Connection) -> list[uuid.UUID]:
    """The users whose erasure was asked for or began, and has not ended; the oldest first."""
    return list(
        connection.scalars(
            text("select user_id from profiles_internal.erasures where finished_at is null order by requested_at")
        )
    )


def erase(connection: Connection, user_id: uuid.UUID, storage: Storage | None = None) -> Erasure:
    """Erase a person. Can be repeated, also after it was killed at any point.

    Args:
        connection: Outside a transaction, as the role that owns the tables.
        user_id: Whom.
        storage: Where the files of exports are.

    Raises:
        UserNotFound: there is no such user, and nothing here is theirs.
        StorageMissing: there are files of exports, and ``storage`` is None.
        InsufficientPrivilege: this role may not see or change all of it. Nothing was erased.
    """
    with connection.begin():
        before = look(connection, user_id)
        if storage is None and _has_files(connection, user_id):
            raise StorageMissing
        # Files of a user who is gone are removed by `exports purge --orphans`.
        connection.execute(
            text(
                "insert into profiles_internal.erasures as e (user_id, requested_by)"
                " select u.id, 'operator' from auth.users as u where u.id = :id"
                " on conflict (user_id) do update set finished_at = null"
            ),
            {"id": user_id},
        )
        connection.execute(
            text("update public.user_profiles set is_active = false where user_id = :id and is_active"), {"id": user_id}
        )
    _in_transaction(connection, lambda: erase_rows(connection, user_id))
    objects = storage.delete_all(user_id) if storage is not None else 0
    finished_at = _in_transaction(connection, lambda: finish(connection, user_id))
    with connection.begin():
        before.left = _remains(connection, user_id)
        before.materialized_views = materialized_views(connection)
    before.objects, before.finished_at = objects, finished_at
    return before


def _has_files(connection: Connection, user_id: uuid.UUID) -> bool:
    return bool(
        connection.scalar(
            text(
                "select exists (select from public.export_history"
                " where user_id = :id and (file_size_bytes is not null or status = 'processing'))"
            ),
            {"id": user_id},
        )
    )


def _in_transaction(connection: Connection, work: Callable[[], Result]) -> Result:
    """Again where a lock cannot be had, which leaves nothing half done."""

    def whole() -> Result:
        with connection.begin():
            return work()

    return retry_on_lock(connection, whole, _LOCK_SECONDS)


def erase_rows(connection: Connection, user_id: uuid.UUID) -> None:
    """Erase the rows of a person in the present transaction; of exports the row stays until the file is gone."""
    _see_everything(connection)
    owned = owns_identity(connection)
    if owned:
        # What is being added for this user is waited for, and erased with the rest.
        connection.execute(text("select from auth.users where id = :id for update"), {"id": user_id})
    person = find_person(connection, user_id)
    _erase_registered(connection, person)
    for name, condition in SET_ASIDE.items():
        connection.execute(text(f"delete from {name} where {condition}"), set_aside_keys(person))
    connection.execute(text("select profiles_internal.erase_profile(:id)"), {"id": user_id})
    for each in our_tables(connection):
        if each.section in {"user", "profile", "exports", "audit_log"}:
            continue  # the profile is done; the others come below
        if each.is_deleted:
            connection.execute(text(f"delete from {each.name} where user_id = :id"), {"id": user_id})
        elif each.emptied:
            connection.execute(
                text(f"update {each.name} set {_emptied(each.table, each.emptied)} where user_id = :id"),
                {"id": user_id},
            )
    if owned:
        user = BY_SECTION["user"]
        connection.execute(
            text(
                f"update auth.users set {_emptied(user.table, user.emptied)}, deleted_at = coalesce(deleted_at, now())"
                " where id = :id"
            ),
            {"id": user_id},
        )
    _forget_in_log(connection, user_id)


def _emptied(table: Table, columns: Sequence[str]) -> str:
    return ", ".join(f"{each} = {'null' if table.columns[each].nullable else 'default'}" for each in columns)


def _erase_registered(connection: Connection, person: Person) -> None:
    """Delete and empty rows of the application, whatever foreign keys there are between its tables."""
    waiting = [each for each in data_rights.registered(connection) if not data_rights.check(each, connection)]
    while waiting:
        held: list[tuple[Registration, DBAPIError]] = []
        for each in waiting:
            savepoint = connection.begin_nested()
            try:
                _erase_one(connection, each, person)
                savepoint.commit()
            except DBAPIError as error:
                savepoint.rollback()
                if sqlstate(error) not in _FOREIGN_KEY:
                    raise
                held.append((each, error))
        if len(held) == len(waiting):
            raise held[0][1]
        waiting = [each for each, _ in held]


def _erase_one(connection: Connection, registration: Registration, person: Person) -> None:
    condition = Condition(connection, registration.table, registration.user_column, person)
    if registration.is_deleted:
        connection.execute(text(f"delete from {condition.table} where {condition.sql}"), condition.values)
    elif registration.emptied:
        values = ", ".join(f"{quote_in_text(each)} = null" for each in registration.emptied)
        connection.execute(text(f"update {condition.table} set {values} where {condition.sql}"), condition.values)


def _forget_in_log(connection: Connection, user_id: uuid.UUID) -> None:
    """What happened stays in the audit log, of nobody."""
    connection.execute(
        text(
            "update public.user_profile_audit_logs set user_id = null, actor = nullif(actor, :id), metadata = '{}'"
            " where user_id = :id"
        ),
        {"id": user_id},
    )
    connection.execute(
        text(
            "update public.user_profile_audit_logs set actor = null, metadata = metadata - 'context'"
            " where actor = :id and actor is distinct from user_id"
        ),
        {"id": user_id},
    )


def finish(connection: Connection, user_id: uuid.UUID) -> datetime | None:
    """Forget the exports, whose files are gone, and note the end of an erasure; when that was."""
    connection.execute(text("delete from public.export_history where user_id = :id"), {"id": user_id})
    finished: datetime | None = connection.scalar(
        text("update profiles_internal.erasures set finished_at = now() where user_id = :id returning finished_at"),
        {"id": user_id},
    )
    return finished


def _remains(connection: Connection, user_id: uuid.UUID) -> list[str]:
    """What is still there after an erasure, a line each."""
    _see_everything(connection)
    person = find_person(connection, user_id)
    left = [
        f"{each.name}: {rows} rows came in meanwhile; run this again"
        for each in our_tables(connection)
        if each.is_deleted and (rows := _count(connection, each, user_id))
    ]
    filled = connection.scalar(text("select profiles_internal.left_columns(:id)"), {"id": user_id}) or []
    for each in unregistered(connection):
        if each.ours:
            if f"{each.table.removeprefix('public.')}.{each.column}" in {name.replace('"', "") for name in filled}:
                left.append(f"{each}: a column of the application that is not registered")
        elif rows := Condition(connection, each.table, each.column, person).count(connection):
            left.append(f"{each.table}: {rows} rows by {each.column}, which is not registered")
    return left + _remains_registered(connection, person)


def _remains_registered(connection: Connection, person: Person) -> list[str]:
    """What is still there in registered tables, because a trigger or a rule kept it."""
    left = []
    for each in data_rights.registered(connection):
        if each.kept or data_rights.check(each, connection):
            continue
        filled = " or ".join(f"{quote_in_text(name)} is not null" for name in each.emptied) or "false"
        if rows := Condition(connection, each.table, each.user_column, person).count(
            connection, "true" if each.is_deleted else filled
        ):
            left.append(f"{each.table}: {rows} rows are still there; look for a trigger or rule that keeps them")
    return left


def materialized_views(connection: Connection) -> list[str]:
    """Materialized views that read tables with data of persons, also through views: they keep what they read before."""
    tables = [each.name for each in our_tables(connection)]
    tables += [each.table for each in data_rights.registered(connection)]
    return list(
        connection.scalars(
            text(
                "with recursive named as ("
                " select c.oid from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
                " where n.nspname || '.' || c.relname = any (cast(:tables as text[]))"
                "), reads as ("
                " select c.oid, c.relkind from pg_class as c where c.oid in (select n.oid from named as n)"
                " or c.relispartition and pg_partition_root(c.oid) in (select n.oid from named as n)"
                " union select c.oid, c.relkind from reads as r"
                " join pg_depend as d on d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid"
                " join pg_rewrite as w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid"
                " join pg_class as c on c.oid = w.ev_class)"
                " select format('%I.%I', n.nspname, c.relname) from reads as r join pg_class as c on c.oid = r.oid"
                " join pg_namespace as n on n.oid = c.relnamespace where c.relkind = 'm' and c.relispopulated order by 1"
            ),
            {"tables": tables},
        )
    )
