"""The foreign keys of this package: switched on, validated, and kept by every row?

PostgreSQL keeps a foreign key by internal triggers on both tables. ``alter table ... disable trigger all``, which data
loads and ``pg_restore --disable-triggers`` do, switches those off too, and nothing else in the catalog tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.migrations import expected
from profiles_schema.schema.catalog import subjects


@dataclass(frozen=True)
class ForeignKey:
    """One of our foreign keys, as it is in the database. Names are quoted for SQL."""

    name: str
    table: str
    column: str
    refers_to: str
    refers_to_column: str
    definition: str
    sets_null: bool
    is_on: bool
    is_validated: bool

    def difference(self) -> str | None:
        """What is wrong with it, in words; None if nothing is."""
        if not self.is_on:
            return f"The foreign key {self.name} of {self.table} is switched off: its internal triggers are disabled."
        if not self.is_validated:
            return f"The foreign key {self.name} of {self.table} is not validated."
        return None

    @property
    def orphans(self) -> str:
        """The condition, in SQL, under which a row ``r`` refers to nothing."""
        return (
            f"r.{self.column} is not null and not exists (select from {self.refers_to} as u"
            f" where u.{self.refers_to_column} = r.{self.column})"
        )

    @property
    def removes_orphans(self) -> str:
        """The statement that does with orphans what the foreign key would have done."""
        if self.sets_null:
            return f"update {self.table} as r set {self.column} = null where {self.orphans}"
        return f"delete from {self.table} as r where {self.orphans}"

    def count_orphans(self, connection: Connection) -> int:
        """How many rows refer to nothing; 0 where row level security could hide what they refer to."""
        hidden = text("select row_security_active(:refers_to) or row_security_active(:table)")
        if connection.scalar(hidden, {"refers_to": self.refers_to, "table": self.table}):
            return 0
        return int(connection.scalar(text(f"select count(*) from {self.table} as r where {self.orphans}")) or 0)


def our_foreign_keys(connection: Connection) -> Iterator[ForeignKey]:
    """Each foreign key that this version declares and the database has."""
    rows = connection.execute(
        text(
            "select quote_ident(k.conname) as name, format('%I.%I', n.nspname, c.relname) as \"table\","
            " quote_ident(a.attname) as \"column\", format('%I.%I', fn.nspname, fc.relname) as refers_to,"
            " quote_ident(fa.attname) as refers_to_column,"
            " regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') as definition,"
            " k.confdeltype = 'n' as sets_null, k.convalidated as is_validated,"
            " not exists (select from pg_trigger as t where t.tgconstraint = k.oid and t.tgenabled not in ('O', 'A')) as is_on"
            " from pg_constraint as k join pg_class as c on c.oid = k.conrelid join pg_namespace as n on n.oid = c.relnamespace"
            " join pg_class as fc on fc.oid = k.confrelid join pg_namespace as fn on fn.oid = fc.relnamespace"
            " join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]"
            " join pg_attribute as fa on fa.attrelid = k.confrelid and fa.attnum = k.confkey[1]"
            " where k.contype = 'f' and n.nspname || '.' || c.relname || '.' || k.conname = any (cast(:declared as text[]))"
            " order by 2, 1"
        ),
        {"declared": subjects(expected.keys(), "constraint")},
    )
    for row in rows.mappings():
        yield ForeignKey(**row)
