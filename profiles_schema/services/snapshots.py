"""What services return: detached profiles that nobody can change by mistake, because others may hold the same object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, NoReturn, TypeVar

from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, class_mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from profiles_schema.errors import ReadOnlyProfile
from profiles_schema.schema.models import UserProfile

T = TypeVar("T")

_STATE: Final = "_sa_instance_state"


class ProfileSnapshot(UserProfile):
    """A profile as it was read. It is a ``UserProfile``; assigning to it raises ReadOnlyProfile."""

    __abstract__ = True  # not mapped: the mapping is that of UserProfile

    def __setattr__(self, name: str, value: Any) -> None:
        if name != _STATE:  # which unpickling sets
            raise ReadOnlyProfile
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise ReadOnlyProfile


@event.listens_for(Session, "before_attach")
def _stay_detached(_session: Session, instance: object) -> None:
    # A session would expire, at its commit, what others are reading.
    if isinstance(instance, ProfileSnapshot):
        raise ReadOnlyProfile


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ReadOnlyProfile


class ReadOnlyDict(dict[str, Any]):
    """A JSON object that cannot be changed; ``copy()`` and ``deepcopy`` make one that can."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: deepcopy(value, memo) for key, value in self.items()}

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return ReadOnlyDict, (dict(self),)


class ReadOnlyList(list[Any]):
    """A JSON array that cannot be changed; ``copy()`` and ``deepcopy`` make one that can."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = append = clear = extend = _refuse
    insert = pop = remove = reverse = sort = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [deepcopy(value, memo) for value in self]

    def __copy__(self) -> list[Any]:
        return list(self)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return ReadOnlyList, (list(self),)


_JSON: Final = [each.key for each in class_mapper(UserProfile).column_attrs if isinstance(each.columns[0].type, JSONB)]


def _read_only(value: Any) -> Any:
    if isinstance(value, dict):
        return ReadOnlyDict({key: _read_only(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return ReadOnlyList([_read_only(inner) for inner in value])
    return value


def snapshot(session: Session, profile: UserProfile) -> UserProfile:
    """The profile, detached from its session and read-only. Nothing in it is loaded later."""
    session.expunge(profile)
    return _frozen(profile)


def rebuild(values: Mapping[str, Any]) -> UserProfile:
    """The profile with these values of all its columns, as ``snapshot`` returned it."""
    profile = UserProfile()
    for name, value in values.items():
        set_committed_value(profile, name, value)
    make_transient_to_detached(profile)
    return _frozen(profile)


def _frozen(profile: UserProfile) -> UserProfile:
    # Not by assignment: that would be a change.
    values = vars(profile)
    for name in _JSON:
        if values[name] is not None:
            values[name] = _read_only(values[name])
    profile.__class__ = ProfileSnapshot
    return profile
