"""What a downgrade would drop, counted before anything starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import DataLossRefused
from profiles_schema.schema.objects import Where

# Tables that are dropped only where this package made them.
_ONLY_WHERE = {"auth.users": Where.OWN_IDENTITY, "public.sessions": Where.OWN_SESSIONS}


def refuse_data_loss(connection: Connection, steps: Iterable[Any]) -> None:
    """Stop a downgrade whose revisions name tables that hold rows in their ``downgrade_drops``.

    Raises:
        DataLossRefused: with every such table and its number of rows.
    """
    tables = dict.fromkeys(
        table
        for step in steps
        if not getattr(step, "is_upgrade", True)
        for table in getattr(step.revision.module, "downgrade_drops", ())
    )
    holding = []
    for table in tables:
        where = _ONLY_WHERE.get(table, Where.EVERYWHERE)
        if connection.scalar(text(f"select to_regclass(:table) is not null and {where.value}"), {"table": table}):
            rows = connection.scalar(text(f"select count(*) from {table}"))
            if rows:
                holding.append(f"{table} ({rows} rows)")
    connection.rollback()
    if holding:
        raise DataLossRefused(
            f"This downgrade would drop tables that hold rows: {', '.join(holding)}. Nothing was changed. "
            "Save them first, then run it again with: -x allow-data-loss=yes"
        )
