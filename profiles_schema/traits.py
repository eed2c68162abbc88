"""Traits from Python: the models of the six JSONB groups, and updates that touch single paths only.

A partial update is one statement that computes the new value from the row as it is, so two writers of different paths never
undo each other. A path is ``"personality_traits.bigFive.openness"`` or, for keys that hold dots, a tuple: the column, then
JSON keys. Known paths are validated against the models; other paths below a group are the application's own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Integer, Text, case, cast, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import KeyedColumnElement

from profiles_schema.errors import NotAnObject, ProfileNotFound
from profiles_schema.schema.models import UserProfile
from profiles_schema.schema.trait_models import (
    GROUPS,
    AnalysisSummary,
    AppearanceTraits,
    Archetypes,
    Astrology,
    BehavioralMetrics,
    BigFive,
    Communication,
    CulturalAttributes,
    Demographics,
    Distinctive,
    EmotionalIntelligence,
    Extras,
    Eyes,
    Facial,
    Hair,
    Impression,
    Integration,
    Interests,
    Messaging,
    Mouth,
    Nose,
    PersonalityTraits,
    Physical,
    Predictions,
    Relationship,
    Sentiment,
    Skin,
    Social,
    Thinking,
    Traits,
    as_json,
    keys_of,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = [
    "REMOVE",
    "AnalysisSummary",
    "AppearanceTraits",
    "Archetypes",
    "Astrology",
    "BehavioralMetrics",
    "BigFive",
    "Communication",
    "CulturalAttributes",
    "Demographics",
    "Distinctive",
    "EmotionalIntelligence",
    "Extras",
    "Eyes",
    "Facial",
    "Hair",
    "Impression",
    "Integration",
    "Interests",
    "Messaging",
    "Mouth",
    "Nose",
    "PersonalityTraits",
    "Physical",
    "Predictions",
    "Relationship",
    "Sentiment",
    "Skin",
    "Social",
    "Thinking",
    "Traits",
    "set_traits",
    "update_traits",
    "update_traits_async",
]

Path: TypeAlias = str | tuple[str, ...]
_Keys: TypeAlias = tuple[str, ...]


class _Remove(Enum):
    REMOVE = "remove"


REMOVE: Final = _Remove.REMOVE
"""In the place of a value: the key is removed. (None is a JSON null.)"""


def set_traits(changes: Mapping[Path, Any]) -> dict[KeyedColumnElement[Any], ColumnElement[Any]]:
    """What ``update(UserProfile).values(...)`` takes to change these paths and nothing else.

    Missing parents are created, unless there is nothing but keys to remove below them. Where a parent is not an object, the
    statement fails and its message names the parent.
    """
    columns = UserProfile.__table__.c
    return {
        columns[group]: _changed(
            func.coalesce(columns[group], _jsonb({})) if changed.fresh() is not None else columns[group],
            changed,
            (group,),
        )
        for group, changed in _grouped(changes).items()
    }


def update_traits(session: Session, user_id: uuid.UUID, changes: Mapping[Path, Any]) -> None:
    """Change these paths of a user's profile, in one statement of the session's transaction.

    The groups are expired on a profile that the session has loaded. ProfileNotFound and NotAnObject leave the transaction
    usable; nothing is written then.
    """
    if not changes:
        return
    parents = [parent for group, changed in _grouped(changes).items() for parent in changed.parents((group,))]
    theirs = UserProfile.user_id == user_id
    statement = (
        update(UserProfile)
        .where(theirs, *(_is_object(parent) for parent in parents))
        .values(set_traits(changes))
        .returning(UserProfile.id)
        .execution_options(synchronize_session="fetch")
    )
    if session.execute(statement).first():
        return
    # Locked, so that what the error says is still true, and a second attempt meets what was seen.
    found = session.execute(
        select(UserProfile.id, *(_is_object(parent) for parent in parents)).where(theirs).with_for_update()
    ).first()
    for parent, is_object in zip(parents, found[1:] if found else (), strict=False):
        if not is_object:
            raise NotAnObject(f"{'.'.join(parent)} is not a JSON object. Replace or remove that value first.")
    if not (found and session.execute(statement).first()):
        raise ProfileNotFound


async def update_traits_async(session: AsyncSession, user_id: uuid.UUID, changes: Mapping[Path, Any]) -> None:
    """The same in an asynchronous session; a profile that it has loaded needs ``await session.refresh(profile)``."""
    await session.run_sync(update_traits, user_id, changes)


@dataclass
class _Changes:
    """What changes in one object: keys to write, keys to remove, objects to change inside."""

    written: dict[str, Any] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    below: dict[str, _Changes] = field(default_factory=dict)

    def fresh(self) -> dict[str, Any] | None:
        """The object to create where there is none; None if there is nothing to write in it."""
        inner = {key: below.fresh() for key, below in self.below.items()}
        found = self.written | {key: value for key, value in inner.items() if value is not None}
        return found or None

    def parents(self, above: _Keys) -> Iterator[_Keys]:
        """The paths that have to be objects, or absent; outer ones first."""
        for key, below in self.below.items():
            yield (*above, key)
            yield from below.parents((*above, key))


def _grouped(changes: Mapping[Path, Any]) -> dict[str, _Changes]:
    paths: dict[_Keys, Any] = {}
    for path, value in changes.items():
        keys = _keys(path)
        for other in paths:
            if keys[: len(other)] == other[: len(keys)]:
                raise ValueError(f"{'.'.join(keys)} and {'.'.join(other)} overlap: write one of them")
        paths[keys] = value
    written = _validated({keys: value for keys, value in paths.items() if value is not REMOVE})
    groups: dict[str, _Changes] = {}
    for keys, value in paths.items():
        place = groups.setdefault(keys[0], _Changes())
        for key in keys[1:-1]:
            place = place.below.setdefault(key, _Changes())
        if value is REMOVE:
            place.removed.append(keys[-1])
        else:
            place.written[keys[-1]] = written[keys]
    return groups


def _keys(path: Path) -> _Keys:
    keys = tuple(path.split(".")) if isinstance(path, str) else path
    if not keys or keys[0] not in GROUPS:
        raise ValueError(f"A path begins with one of {', '.join(GROUPS)}")
    if len(keys) == 1 or not all(isinstance(key, str) for key in keys) or (isinstance(path, str) and "" in keys):
        raise ValueError(f"A path is {keys[0]}.KEY or {keys[0]}.KEY.KEY and so on, or a tuple of these")
    model: type[Traits] | None = GROUPS[keys[0]]
    for key in keys[1:]:
        as_json(key)
        known = keys_of(model) if model else {}
        for json_key, (name, _, _) in known.items():
            if key == name != json_key:
                raise ValueError(f"A path is written in JSON keys: {json_key} instead of {key}")
        model = known[key].model if key in known else None
    return keys


def _validated(values: dict[_Keys, Any]) -> dict[_Keys, Any]:
    """The values as JSON, after the models of their groups have seen them in their places."""
    groups: dict[str, Any] = {}
    for keys, value in values.items():
        place = groups
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    stored = {group: GROUPS[group].model_validate(inner).to_json() for group, inner in groups.items()}
    found = {}
    for keys in values:
        place = stored
        for key in keys:
            place = place[key]
        found[keys] = place
    return found


def _jsonb(value: Any) -> ColumnElement[Any]:
    # As text: a driver of its own mind about None or numbers does not see the value.
    return cast(literal(json.dumps(value), Text()), JSONB)


def _at(keys: _Keys) -> ColumnElement[Any]:
    """The value at a path; SQL NULL where there is none."""
    return func.jsonb_extract_path(UserProfile.__table__.c[keys[0]], *keys[1:], type_=JSONB)


def _is_object(keys: _Keys) -> ColumnElement[bool]:
    return func.coalesce(func.jsonb_typeof(_at(keys)), "object") == "object"


def _changed(value: ColumnElement[Any], changes: _Changes, at: _Keys) -> ColumnElement[Any]:
    """An object with the changes made in it."""
    if changes.removed:
        value = value.op("-", return_type=JSONB())(cast(array(changes.removed), ARRAY(Text)))
    if changes.written:
        value = value.op("||", return_type=JSONB())(_jsonb(changes.written))
    for key, below in changes.below.items():
        keys = (*at, key)
        fresh = below.fresh()
        inner = func.jsonb_build_object(cast(key, Text), _changed(_at(keys), below, keys), type_=JSONB)
        value = value.op("||", return_type=JSONB())(
            case(
                (_at(keys).is_(None), _jsonb({} if fresh is None else {key: fresh})),
                (func.jsonb_typeof(_at(keys)) == "object", inner),
                else_=_refusal(f"{'.'.join(keys)} is not a JSON object"),
            )
        )
    return value


def _refusal(message: str) -> ColumnElement[Any]:
    """An expression that fails with the message when it is reached. It reads the row: a constant would fail at once."""
    return func.to_jsonb(cast(func.concat(message, func.left(UserProfile.__table__.c.id, 0)), Integer))
