"""Where a person's data is in the tables of this package: one list, for exports, erasure and documentation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any, Final

from sqlalchemy import ColumnElement, Date, DateTime, Select, Table, case, column, func, literal, null, select

from profiles_schema.schema.models import metadata
from profiles_schema.schema.models.privacy import DELETE, NULL
from profiles_schema.schema.traits import trait_columns


@dataclass(frozen=True)
class PersonTable:
    """A table whose rows belong to users. ``section`` is its short name in exports."""

    section: str
    table: Table
    user_column: str = "user_id"

    @property
    def name(self) -> str:
        """Its qualified name."""
        return f"{self.table.schema or 'public'}.{self.table.name}"

    def columns_with(self, on_erase: str) -> list[str]:
        """The columns that an erasure treats like this: delete or null."""
        return [each.name for each in self.table.columns if each.info["on_erase"] == on_erase]

    @property
    def is_deleted(self) -> bool:
        """Whether an erasure deletes the rows; otherwise it empties columns."""
        return self.columns_with(DELETE) != []

    @property
    def emptied(self) -> list[str]:
        """The columns that an erasure empties."""
        return self.columns_with(NULL)

    def rows(self, user_id: object, present: Collection[str], extra: Sequence[str] = ()) -> Select[Any]:
        """A query for a user's rows: the columns of ours that are there, secrets only as whether there is one.

        ``extra`` columns are the application's.
        """
        chosen: list[ColumnElement[Any]] = []
        for each in self.table.columns:
            if each.name not in present:
                continue
            if each.info["personal"] == "secret":
                chosen.append(case((each.is_(None), null()), else_=literal("encrypted")).label(each.name))
            elif isinstance(each.type, (Date, DateTime)):
                # As text of ISO 8601: Python has no infinity, and no year before 1 or after 9999.
                chosen.append(func.to_json(each).op("#>>")("{}").label(each.name))
            else:
                chosen.append(each)
        if self.table.name == "user_profiles":
            # Until they are converted and dropped, wide columns hold values of the person, too.
            wide = {trait.name for trait in trait_columns()} - {each.name for each in self.table.columns}
            chosen += [column(name) for name in sorted((wide & set(present)) - set(extra))]
        chosen += [column(name) for name in extra]
        return select(*chosen).select_from(self.table).where(self.table.columns[self.user_column] == user_id)


def _table(name: str) -> Table:
    return metadata.tables[name]


TABLES: Final = (
    PersonTable("user", _table("auth.users"), "id"),
    PersonTable("profile", _table("user_profiles")),
    PersonTable("progress", _table("user_progress")),
    PersonTable("sessions", _table("sessions")),
    PersonTable("api_keys", _table("user_api_keys")),
    PersonTable("provider_keys", _table("user_provider_keys")),
    PersonTable("exports", _table("export_history")),
    PersonTable("audit_log", _table("user_profile_audit_logs")),
    PersonTable("points", _table("profiles_internal.point_awards")),
    PersonTable("active_days", _table("profiles_internal.active_days")),
    PersonTable("stale_progress", _table("profiles_internal.stale_progress")),
    PersonTable("kept_values", _table("profiles_internal.kept_json")),
    PersonTable("identity_links", _table("profiles_internal.identity_links")),
    PersonTable("held_usernames", _table("profiles_internal.held_usernames")),
    PersonTable("erasures", _table("profiles_internal.erasures")),
)
"""The tables with a column that says whose a row is."""

BY_SECTION: Final = {each.section: each for each in TABLES}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: a number that is none, or too exact for a double, becomes a text."""
    if value is None or isinstance(value, (str, int, bool, dict)):
        return value
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() and Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, (bytes, memoryview)):
        return "\\x" + bytes(value).hex()
    return value.isoformat() if isinstance(value, (date, datetime, time)) else str(value)
