"""How services read and write API keys, as plain functions of a ``Session``. Each says how many statements it takes.

The keys of three providers without a label are in columns of ``user_api_keys``, all others in ``user_provider_keys``.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import RowMapping, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from profiles_schema.encryption import bound_to
from profiles_schema.services.acting import acting_as

COLUMNS: Final[Mapping[str, str]] = {
    "anthropic": "anthropic_api_key",
    "openai": "openai_api_key",
    "unsplash": "unsplash_api_key",
}
"""The columns of user_api_keys, by the name of their provider."""


class Place(NamedTuple):
    """Where a key is stored."""

    user_id: uuid.UUID
    provider: str
    label: str

    @property
    def column(self) -> str | None:
        """Its column of user_api_keys, if it has one."""
        return None if self.label else COLUMNS.get(self.provider)

    @property
    def binding(self) -> str:
        """What its envelope is bound to, together with the user."""
        return self.column or bound_to(self.provider, self.label)

    @property
    def values(self) -> dict[str, str]:
        """As parameters of a statement."""
        return {"user_id": str(self.user_id), "provider": self.provider, "label": self.label}


@dataclass(frozen=True, slots=True)
class ApiKeyInfo:
    """A key as lists show it, without the key.

    Attributes:
        provider: Name of the provider.
        label: The user's name for it; empty where there is one key of the provider.
        hint: Its last four characters; None for a short key, and for one that was not stored by the service.
        is_active: Whether it may be used.
        validation: What the last validation found: ``valid``, ``checked_at``, ``reason``, ``refusals``.
        last_used_at: When it was last read to be used, to the hour; None for the columns of ``user_api_keys``.
        updated_at: When the row that holds it changed.
    """

    provider: str
    label: str
    hint: str | None
    is_active: bool
    validation: Mapping[str, Any]
    last_used_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class StoredKey:
    """A key as it is stored."""

    place: Place
    envelope: str
    is_active: bool
    validation: Mapping[str, Any]


_KEYS: Final = """
select k.provider, '' as label, k.envelope, r.hints ->> k.provider as hint,
  r.is_active and r.validation #>> array[k.provider, 'disabled'] is distinct from 'true' as is_active,
  coalesce(r.validation -> k.provider, '{}') as validation, null::timestamptz as last_used_at, r.updated_at
from public.user_api_keys as r
cross join lateral (
  values ('anthropic', r.anthropic_api_key), ('openai', r.openai_api_key), ('unsplash', r.unsplash_api_key)
) as k (provider, envelope)
where r.user_id = cast(:user_id as uuid) and k.envelope is not null
union all
select p.provider, p.label, p.envelope, p.hint, p.is_active, p.validation, p.last_used_at, p.updated_at
from public.user_provider_keys as p
where p.user_id = cast(:user_id as uuid)
"""
_LIST: Final = text(f"select * from ({_KEYS}) as k order by k.provider, k.label").columns(validation=JSONB)
_OF_PROVIDER: Final = text(
    f"select * from ({_KEYS}) as k where k.provider = :provider order by k.label <> :label, k.label"
).columns(validation=JSONB)
_USE: Final = text("select profiles_internal.record_key_use(cast(:user_id as uuid), :provider, :label)")
_CHECK: Final = text("select profiles_internal.check_encryption_key(:key_id, :check_value)")
_HINTED: Final = text("select set_config('profiles_internal.api_keys', 'hinted', true)")
_SET: Final = text(
    "insert into public.user_provider_keys (user_id, provider, label, envelope, hint)"
    " values (cast(:user_id as uuid), :provider, :label, :envelope, :hint)"
    " on conflict (user_id, provider, label) do update set envelope = excluded.envelope, hint = excluded.hint"
)
_DELETE: Final = text(
    "delete from public.user_provider_keys where user_id = cast(:user_id as uuid) and provider = :provider and label = :label"
    " returning true"
)
_JUDGE: Final = text(
    "update public.user_provider_keys set validation = :validation, is_active = is_active and not :disable"
    " where user_id = cast(:user_id as uuid) and provider = :provider and label = :label and envelope = :envelope"
    " returning true"
).bindparams(bindparam("validation", type_=JSONB))


def read_all(session: Session, user_id: uuid.UUID) -> list[ApiKeyInfo]:
    """The keys of a user, by provider and label: one statement."""
    return [_info(row) for row in session.execute(_LIST, {"user_id": str(user_id)}).mappings()]


def read(session: Session, place: Place) -> StoredKey | None:
    """One key: one statement."""
    return next((key for key in read_provider(session, place) if key.place == place), None)


def read_provider(session: Session, place: Place) -> list[StoredKey]:
    """The keys of a user at a provider, that of this label first: one statement."""
    return [
        StoredKey(Place(place.user_id, row.provider, row.label), row.envelope, row.is_active, row.validation)
        for row in session.execute(_OF_PROVIDER, place.values)
    ]


def record_use(session: Session, place: Place) -> None:
    """Note that a key was read to be used: one statement."""
    session.execute(_USE, place.values)


def check_key(session: Session, key_id: str, check_value: str) -> str:
    """Whether the key of this id is the one that was first used under it: same, other or new. One statement."""
    return str(session.scalar(_CHECK, {"key_id": key_id, "check_value": check_value}))


def record_key(session: Session, key_id: str, check_value: str) -> str:
    """The same as service_role, which may record a new one, where the role that logged in may become it."""
    with acting_as(session, None, role="service_role"):
        return check_key(session, key_id, check_value)


def store(session: Session, place: Place, envelope: str, hint: str | None) -> ApiKeyInfo:
    """Store or replace a key: three statements."""
    session.execute(_HINTED)
    if place.column:
        hints = "jsonb_build_object(cast(:provider as text), cast(:hint as text))" if hint else "cast('{}' as jsonb)"
        session.execute(
            text(
                f"insert into public.user_api_keys (user_id, {place.column}, hints)"
                f" values (cast(:user_id as uuid), :envelope, {hints}) on conflict (user_id) do update"
                f" set {place.column} = excluded.{place.column},"
                " hints = (user_api_keys.hints - cast(:provider as text)) || excluded.hints"
            ),
            {"user_id": str(place.user_id), "provider": place.provider, "envelope": envelope, "hint": hint},
        )
    else:
        session.execute(_SET, {**place.values, "envelope": envelope, "hint": hint})
    row = session.execute(_OF_PROVIDER, place.values).mappings().first()
    assert row is not None  # noqa: S101 - it was just written
    return _info(row)


def delete(session: Session, place: Place) -> bool:
    """Delete a key; returns whether there was one. One statement."""
    if place.column:
        statement = text(
            f"update public.user_api_keys set {place.column} = null"
            f" where user_id = cast(:user_id as uuid) and {place.column} is not null returning true"
        )
    else:
        statement = _DELETE
    return bool(session.scalar(statement, place.values))


def judge(session: Session, key: StoredKey, validation: Mapping[str, Any], *, definite: bool, disable: bool) -> bool:
    """Write the result of a validation, if the key is still the one that was looked at; returns whether. One statement."""
    place = key.place
    values = {**place.values, "envelope": key.envelope, "disable": disable, "validation": dict(validation)}
    if not place.column:
        return bool(session.scalar(_JUDGE, values))
    statement = text(
        f"update public.user_api_keys set validation = validation || jsonb_build_object(cast(:provider as text), :validation),"
        f" last_validated_at = case when :definite then now() else last_validated_at end"
        f" where user_id = cast(:user_id as uuid) and {place.column} = :envelope returning true"
    ).bindparams(bindparam("validation", type_=JSONB))
    return bool(session.scalar(statement, {**values, "definite": definite}))


def _info(row: RowMapping) -> ApiKeyInfo:
    return ApiKeyInfo(**{name: row[name] for name in ApiKeyInfo.__slots__})
