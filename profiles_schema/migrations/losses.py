"""What a downgrade would drop, counted before anything starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import DataLossRefused
from profiles_schema.schema.objects import Where
from profiles_schema.settings import INTERNAL_SCHEMA

# Tables that are dropped only where this package made them.
_ONLY_WHERE = {"auth.users": Where.OWN_IDENTITY, "public.sessions": Where.OWN_SESSIONS}


def refuse_data_loss(connection: Connection, steps: Iterable[Any]) -> None:
    """Stop a downgrade whose revisions name tables that hold rows in their ``downgrade_drops``.

    Raises:
        DataLossRefused: with every such table and its number of rows.
    """
    tables, adopted = dropped_tables(connection, steps)
    holding, narrowed = [], []
    for table in tables:
        rows = connection.scalar(text(f"select count(*) from {table}"))
        if rows and table in adopted:
            narrowed.append(f"{table} ({rows} rows)")
        elif rows:
            holding.append(f"{table} ({rows} rows)")
    connection.rollback()
    losses = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("drop tables that hold rows", holding),
            ("give adopted tables back as they were found, without the columns that were added", narrowed),
        )
        if names
    ]
    if losses:
        raise DataLossRefused(
            f"This downgrade would {'; and '.join(losses)}. Nothing was changed. "
            "Save what you need first, then run it again with: -x allow-data-loss=yes"
        )


def dropped_tables(connection: Connection, steps: Iterable[Any]) -> tuple[list[str], set[str]]:
    """The tables that the steps of a downgrade drop, and which tables were adopted: those lose only what was added."""
    named = dict.fromkeys(
        table
        for step in steps
        if not getattr(step, "is_upgrade", True)
        for table in getattr(step.revision.module, "downgrade_drops", ())
    )
    tables = [
        table
        for table in named
        if connection.scalar(
            text(f"select to_regclass(:table) is not null and {_ONLY_WHERE.get(table, Where.EVERYWHERE).value}"),
            {"table": table},
        )
    ]
    return tables, _adopted_tables(connection) if named else set()


def _adopted_tables(connection: Connection) -> set[str]:
    if not connection.scalar(text(f"select to_regclass('{INTERNAL_SCHEMA}.adopted') is not null")):
        return set()
    return set(
        connection.scalars(text(f"select object_name from {INTERNAL_SCHEMA}.adopted where object_type = 'table'"))
    )
