"""A JSONB group of a profile as a pydantic model, beside the raw attribute."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from sqlalchemy.orm.attributes import flag_modified

if TYPE_CHECKING:
    from profiles_schema.schema.trait_models import Traits

Group = TypeVar("Group", bound="Traits")


class TypedGroup(Generic[Group]):
    """A group as a model of :mod:`profiles_schema.traits`.

    What it returns is a snapshot: changing it changes nothing in the profile. Assign it back, which writes the whole group
    at the next flush, or use :func:`profiles_schema.traits.update_traits`, which writes single paths.

    SQL NULL reads as a model without keys; a model without keys leaves SQL NULL as it is. A dict is validated; None is SQL
    NULL. In queries use the raw attribute.
    """

    def __init__(self, group: str, *, attribute: str | None = None) -> None:
        self.group = group
        self.attribute = attribute or group

    @overload
    def __get__(self, profile: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, profile: object, owner: type[Any]) -> Group: ...
    def __get__(self, profile: object | None, owner: type[Any]) -> Self | Group:
        if profile is None:
            return self
        return cast("Group", self._model().from_json(getattr(profile, self.attribute)))

    def __set__(self, profile: object, value: Group | Mapping[str, Any] | None) -> None:
        model = self._model()
        if not (value is None or isinstance(value, model | Mapping)):
            raise TypeError(f"Assign {model.__name__}, a dict or None")
        if value is not None:
            value = (value if isinstance(value, model) else model.model_validate(dict(value))).to_json()
        before = vars(profile).get(self.attribute)
        if not value and before is None and self.attribute in vars(profile):
            return
        setattr(profile, self.attribute, value)
        # Python takes 1 and true for equal, JSON does not.
        if value == before and _text(value) != _text(before):
            flag_modified(profile, self.attribute)

    def _model(self) -> "type[Traits]":
        from profiles_schema.schema.trait_models import GROUPS

        return GROUPS[self.group]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
