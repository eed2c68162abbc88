"""What a person may change in a profile, and by which rules: one pydantic model, made from the CHECKs of the table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, Table

from profiles_schema.schema.models import UserProfile
from profiles_schema.schema.models.checks import (
    JSON_LARGEST_NUMBER,
    JSON_LIMIT_BYTES,
    JSON_LIMIT_LEVELS,
    JSON_SMALLEST_NUMBER,
    Rule,
)
from profiles_schema.schema.trait_models import as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

Changes = Mapping[str, Any]
Broken = dict[str, list[str]]
"""Rules that are broken, in words, by the name of the field."""

TEXTS: Final = (
    "username",
    "display_name",
    "first_name",
    "last_name",
    "phone",
    "bio",
    "company_name",
    "target_audience",
    "business_context",
    "master_system_prompt",
    "avatar_emoji",
    "profile_picture_url",
    "logo_url",
    "profile_visibility",
    "timezone",
    "language",
)
DOCUMENTS: Final = ("key_metrics", "preferences", "notification_settings")
EDITABLE: Final = (*TEXTS, *DOCUMENTS)
"""The columns that ``authenticated`` may update; the database's own lists are in the policies and in update_my_profile_v2."""

_TABLE: Final = cast("Table", UserProfile.__table__)
_KEY_SHOWN: Final = 100
_IN_WORDS: Final = {
    "dict_type": "must be an object",
    "list_type": "must be an array",
    "string_type": "must be a text",
    "extra_forbidden": "cannot be changed here",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def rules() -> Iterator[tuple[str, Rule]]:
    """The names of the CHECKs, without the table's, and what they ask."""
    for constraint in _TABLE.constraints:
        if isinstance(constraint, CheckConstraint) and (rule := constraint.info.get("rule")):
            yield str(constraint.name).removeprefix("ck_user_profiles_"), rule


def in_words(name: str, column: str) -> str:
    """A CHECK's name as a rule of a column, as the database's own errors say it."""
    return name.removeprefix("ck_user_profiles_").removeprefix(f"{column}_").replace("_", " ")


@cache
def changes_model() -> type[BaseModel]:
    """The model. Its JSON schema is that of a request body."""
    fields: dict[str, Any] = {}
    for name in EDITABLE:
        mine = sorted((check, rule) for check, rule in rules() if name in rule.columns)
        kind: Any = str if name in TEXTS else next(dict[str, Any] if r.json == "object" else list[Any] for _, r in mine)
        annotation: Any = Annotated[kind, AfterValidator(_as_stored)]
        for check, rule in mine:
            annotation = Annotated[annotation, AfterValidator(_checking(in_words(check, name), rule))]
        if _TABLE.c[name].nullable:
            annotation = annotation | None
        longest = min((rule.max_length for _, rule in mine if rule.max_length), default=None)
        schema: dict[str, Any] = {"maxLength": longest} if longest else {}
        fields[name] = (annotation, Field(default=None, json_schema_extra=schema))
    return create_model("ProfileChanges", __base__=_Strict, **fields)


def broken_rules(changes: Changes) -> Broken:
    """What is wrong with these changes, as far as one can say without the database: every field at once."""
    broken: Broken = {}
    try:
        changes_model().model_validate({_printable(key)[:_KEY_SHOWN]: value for key, value in changes.items()})
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False, include_context=False):
            field = str(each["loc"][0])
            rule = _IN_WORDS.get(each["type"], each["msg"])
            missing = changes.get(field) is None and field in EDITABLE
            rule = "cannot be null" if missing else rule
            if rule not in broken.setdefault(field, []):
                broken[field].append(rule)
    return broken


def _printable(key: Any) -> str:
    """The key as pydantic takes it: JSON can name half a surrogate pair, which is no Unicode text."""
    return str(key).encode("utf-8", "backslashreplace").decode()


def merge_patch(target: Any, patch: Any) -> Any:
    """A JSON document with another merged into it, by RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _as_stored(value: Any) -> Any:
    try:
        return as_json(value)
    except ValueError as error:
        what = "has the character NUL" if "NUL" in str(error) else "is no Unicode text or JSON value"
        raise PydanticCustomError("not_storable", what) from None


def _in_python(pattern: str) -> str:
    """The pattern as Python reads it: $ is the end of the text alone.

    What is a letter or a space beyond ASCII depends on the server, which has the last word: nothing is refused here for that.
    """
    translated = re.sub(r"(?<!\\)\$", r"\\Z", pattern)
    return translated.replace(r"\s", r"\t-\r ").replace(r"\w", "0-9A-Za-z_\u0080-\U0010ffff")


def _checking(words: str, rule: Rule) -> Any:
    pattern = rule.pattern and re.compile(_in_python(rule.pattern), re.DOTALL)
    forbidden = rule.forbidden and re.compile(rule.forbidden)

    def check(value: Any) -> Any:
        if (
            (rule.max_length is not None and len(value) > rule.max_length)
            or (rule.values is not None and value not in rule.values)
            or (pattern and not pattern.search(value))
            or (forbidden and forbidden.search(value))
            or (rule.json and not _fits(value))
        ):
            raise PydanticCustomError("broken_rule", words)
        return value

    return check


def _fits(document: Any) -> bool:
    """Whether a document is within the limits; the server has the last word on its size as it prints it."""
    if len(json.dumps(document, ensure_ascii=False).encode()) > JSON_LIMIT_BYTES:
        return False
    level, at_this_level = 0, [document]
    while at_this_level:
        if level > JSON_LIMIT_LEVELS:
            return False
        below: list[Any] = []
        for value in at_this_level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int | float) and not isinstance(value, bool) and value:
                size = abs(value)
                if size > JSON_LARGEST_NUMBER or size < JSON_SMALLEST_NUMBER:
                    return False
        level, at_this_level = level + 1, below
    return True
