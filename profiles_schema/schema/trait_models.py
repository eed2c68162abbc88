"""The six JSONB groups of a profile as pydantic models.

Attributes are the JSON keys in snake_case. Every attribute is optional, and one that was never set stays absent: an absent
key is not a JSON null. Unknown keys are kept on every level, in ``model_extra``.

Writing is strict: constructing a model, ``model_validate`` and assigning an attribute raise pydantic's ValidationError for a
value that the path cannot hold. Reading (``from_json``) is not: the database may hold anything, so a value of another type
is kept as it is, under the same attribute, and ``to_json`` gives it back unchanged.
"""

from __future__ import annotations

import json
import math
import re
import struct
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializationInfo,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

# Numbers that JSON cannot say are stored as the text that PostgreSQL prints for them.
STORED_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, "-0": -0.0}
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def as_json(value: Any) -> Any:
    """A copy of a value that JSONB can hold; ValueError for any other."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        copied = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("This is not a JSON value") from None
    # Tuples and keys that are no text come back as something else.
    if copied != value:
        raise ValueError("This is not a JSON value")
    if _NUL.search(text):
        raise ValueError("JSONB cannot hold the character NUL")
    return copied


def _as_text(value: str) -> str:
    as_json(value)
    return value


def _as_real(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and value in STORED_FLOATS:
        return STORED_FLOATS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("real_type", "Input should be a number, or one of NaN, Infinity, -Infinity, -0")
    try:
        rounded = struct.unpack("<f", struct.pack("<f", value))[0]
    except (OverflowError, struct.error):
        raise ValueError("Input should fit a PostgreSQL real") from None
    if value and not rounded:
        raise ValueError("Input should fit a PostgreSQL real")
    return value


def _stored(value: Any) -> Any:
    """The JSON form of a number that JSON cannot say; every other value as it is."""
    if isinstance(value, float) and (not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0)):
        return next(stored for stored, number in STORED_FLOATS.items() if repr(number) == repr(float(value)))
    return value


String: TypeAlias = Annotated[str, Field(strict=True), AfterValidator(_as_text)] | None
Integer: TypeAlias = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)] | None
BigInteger: TypeAlias = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] | None
Real: TypeAlias = Annotated[float | None, PlainValidator(_as_real)]
Json: TypeAlias = Annotated[Any, BeforeValidator(as_json)]


class _Key(NamedTuple):
    name: str
    model: type[Traits] | None
    is_real: bool


class Traits(BaseModel):
    """What the models of the groups and of the objects in them share."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        validate_assignment=True,
        validate_default=False,
        hide_input_in_errors=True,  # values are personal, and errors end up in logs
        defer_build=True,
    )
    if not TYPE_CHECKING:  # a type checker takes it for an argument that every constructor needs
        __pydantic_extra__: dict[Annotated[str, AfterValidator(_as_text)], Json]

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> Self:
        """Read what the database holds; SQL NULL reads as a group without keys. It never fails, and it copies."""
        return _read(cls, json.loads(json.dumps(value or {})))

    def to_json(self) -> dict[str, Any]:
        """The JSON to store: what was set, under its keys, and every unknown key. It copies."""
        copied: dict[str, Any] = as_json(_written(self))
        return copied

    @model_serializer(mode="plain")
    def _serialize(self, _info: SerializationInfo) -> dict[str, Any]:
        return self.to_json()

    def __repr__(self) -> str:
        # Names only: the values are personal.
        names = [name for name in type(self).model_fields if name in self.model_fields_set]
        return f"{type(self).__name__}({', '.join(f'{name}=...' for name in names)})"

    __str__ = __repr__

    if not TYPE_CHECKING:  # a type checker that saw them would accept every misspelt attribute

        def __setattr__(self, name: str, value: Any) -> None:
            known = keys_of(type(self)).get(name)
            if known and known.name != name:
                raise AttributeError(f"{name} is the JSON key: assign to {known.name}")
            super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            """Leave a key out: ``del`` is absent, None is a JSON null."""
            if name in type(self).model_fields:
                self.__dict__[name] = None
                self.model_fields_set.discard(name)
            else:
                super().__delattr__(name)


@cache
def keys_of(model: type[Traits]) -> dict[str, _Key]:
    """The known JSON keys of a model."""
    keys = {}
    for name, field in model.model_fields.items():
        nested = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, Traits)]
        is_real = any(isinstance(part, PlainValidator) for part in field.metadata)
        keys[to_camel(name)] = _Key(name, nested[0] if nested else None, is_real)
    return keys


_Model = TypeVar("_Model", bound=Traits)


def _read(model: type[_Model], value: dict[str, Any]) -> _Model:
    keys = keys_of(model)
    found = {}
    for key in keys.keys() & value.keys():
        name, nested, is_real = keys[key]
        inner = value.pop(key)
        if nested and isinstance(inner, dict):
            inner = _read(nested, inner)
        elif is_real and isinstance(inner, str):
            inner = STORED_FLOATS.get(inner, inner)
        found[name] = inner
    read = model.model_construct(set(found), **found)
    # Not by model_construct: it would take an unknown key in snake_case for the attribute of that name.
    object.__setattr__(read, "__pydantic_extra__", value)
    return read


def _written(model: Traits) -> dict[str, Any]:
    written = dict(model.model_extra or {})
    for key, (name, _, is_real) in keys_of(type(model)).items():
        if name in model.model_fields_set:
            value = getattr(model, name)
            written[key] = _written(value) if isinstance(value, Traits) else _stored(value) if is_real else value
    return written


class Archetypes(Traits):
    """``archetypes`` in ``personality_traits``."""

    dominant: String = None
    secondary: Json = None
    shadow: String = None
    confidence: Real = None


class BigFive(Traits):
    """``bigFive`` in ``personality_traits``."""

    openness: Integer = None
    conscientiousness: Integer = None
    extraversion: Integer = None
    agreeableness: Integer = None
    neuroticism: Integer = None


class EmotionalIntelligence(Traits):
    """``emotionalIntelligence`` in ``personality_traits``."""

    awareness: Integer = None
    empathy: Integer = None
    regulation: Integer = None


class PersonalityTraits(Traits):
    """``user_profiles.personality_traits``: traits of character."""

    archetypes: Archetypes | None = None
    big_five: BigFive | None = None
    attachment_style: String = None
    attachment_confidence: Real = None
    emotional_intelligence: EmotionalIntelligence | None = None
    facets: Json = None


class Demographics(Traits):
    """``demographics`` in ``appearance_traits``."""

    detected_gender: String = None
    gender_confidence: Real = None
    age_range: String = None
    age_confidence: Real = None


class Facial(Traits):
    """``facial`` in ``appearance_traits``."""

    shape: String = None
    symmetry_score: Integer = None
    jawline_prominence: String = None
    cheekbone_prominence: String = None


class Hair(Traits):
    """``hair`` in ``appearance_traits``."""

    color: String = None
    texture: String = None
    length: String = None
    style: String = None
    density: String = None
    facial: String = None


class Eyes(Traits):
    """``eyes`` in ``appearance_traits``."""

    color: String = None
    shape: String = None
    spacing: String = None
    eyebrow_shape: String = None
    eyebrow_thickness: String = None


class Nose(Traits):
    """``nose`` in ``appearance_traits``."""

    shape: String = None
    size: String = None


class Mouth(Traits):
    """``mouth`` in ``appearance_traits``."""

    lip_fullness: String = None
    smile_type: String = None


class Skin(Traits):
    """``skin`` in ``appearance_traits``."""

    tone: String = None
    texture: String = None
    complexion_quality: String = None


class Physical(Traits):
    """``physical`` in ``appearance_traits``."""

    body_type: String = None
    build_description: String = None
    height_estimate: String = None
    posture: String = None


class Distinctive(Traits):
    """``distinctive`` in ``appearance_traits``."""

    features: Json = None
    clothing_style: String = None
    accessories: Json = None


class Impression(Traits):
    """``impression`` in ``appearance_traits``."""

    attractiveness: String = None
    approachability_score: Integer = None
    perceived_confidence: String = None
    aesthetic_archetype: String = None


class AppearanceTraits(Traits):
    """``user_profiles.appearance_traits``: traits of appearance."""

    uploaded_photo_url: String = None
    uploaded_photo_metadata: Json = None
    ai_description: String = None
    confidence: Real = None
    demographics: Demographics | None = None
    facial: Facial | None = None
    hair: Hair | None = None
    eyes: Eyes | None = None
    nose: Nose | None = None
    mouth: Mouth | None = None
    skin: Skin | None = None
    physical: Physical | None = None
    distinctive: Distinctive | None = None
    impression: Impression | None = None


class Communication(Traits):
    """``communication`` in ``behavioral_metrics``."""

    formality: String = None
    assertiveness: String = None
    engagement: String = None
    verbal_fluency: Integer = None
    question_frequency: Real = None


class Thinking(Traits):
    """``thinking`` in ``behavioral_metrics``."""

    analytical_score: Integer = None
    creative_score: Integer = None
    abstract_reasoning: Integer = None
    concrete_thinking: Integer = None


class Social(Traits):
    """``social`` in ``behavioral_metrics``."""

    dominance_score: Integer = None
    cooperation_score: Integer = None
    conflict_style: String = None
    humor_style: String = None


class Messaging(Traits):
    """``messaging`` in ``behavioral_metrics``."""

    avg_length: Real = None
    length_variance: Real = None
    response_latency: Real = None
    emoji_usage_rate: Real = None
    punctuation_style: String = None
    capitalization_pattern: String = None


class Interests(Traits):
    """``interests`` in ``behavioral_metrics``."""

    primary: Json = None
    expertise: Json = None
    technical_level: String = None


class BehavioralMetrics(Traits):
    """``user_profiles.behavioral_metrics``: measures of behaviour."""

    communication: Communication | None = None
    thinking: Thinking | None = None
    social: Social | None = None
    messaging: Messaging | None = None
    interests: Interests | None = None


class Astrology(Traits):
    """``astrology`` in ``cultural_attributes``."""

    sign: String = None
    element: String = None
    modality: String = None
    birth_date: String = None
    confidence: Real = None


class CulturalAttributes(Traits):
    """``user_profiles.cultural_attributes``: cultural attributes."""

    background: String = None
    values: Json = None
    communication_style: String = None
    confidence: Real = None
    astrology: Astrology | None = None


class Relationship(Traits):
    """``relationship`` in ``analysis_summary``."""

    affinity_score: Integer = None
    trust_level: Integer = None
    emotional_bond: String = None
    thoughts: String = None
    notable_patterns: Json = None


class Sentiment(Traits):
    """``sentiment`` in ``analysis_summary``."""

    overall: String = None
    positive_ratio: Real = None
    negative_ratio: Real = None
    dominant_emotions: Json = None


class Predictions(Traits):
    """``predictions`` in ``analysis_summary``."""

    behaviors: Json = None
    confidence: Real = None
    timeframe: String = None
    last_prediction_at: BigInteger = None
    accuracy_score: Real = None


class Integration(Traits):
    """``integration`` in ``analysis_summary``."""

    summary: String = None
    confidence: Real = None
    world_model_adjustments: Json = None
    personal_model_adjustments: Json = None


class AnalysisSummary(Traits):
    """``user_profiles.analysis_summary``: results of analyses."""

    relationship: Relationship | None = None
    sentiment: Sentiment | None = None
    predictions: Predictions | None = None
    integration: Integration | None = None


class Extras(Traits):
    """``user_profiles.metadata``: what belongs to no other group."""

    feelings: Json = None


GROUPS: dict[str, type[Traits]] = {
    "personality_traits": PersonalityTraits,
    "appearance_traits": AppearanceTraits,
    "behavioral_metrics": BehavioralMetrics,
    "cultural_attributes": CulturalAttributes,
    "analysis_summary": AnalysisSummary,
    "metadata": Extras,
}
