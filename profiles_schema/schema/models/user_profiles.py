"""``public.user_profiles``: one profile per user."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import (
    EMPTY_ARRAY,
    EMPTY_OBJECT,
    EPOCH_SECONDS_NOW,
    FALSE,
    RANDOM_UUID_AS_TEXT,
    TRUE,
    ZERO,
    Base,
    JsonArray,
    JsonObject,
    ProfileId,
    Timestamps,
    references_user,
)
from profiles_schema.schema.models.checks import (
    have_no_hidden_characters,
    is_a_web_address,
    is_an_object,
    is_json_up_to_64_kb,
    is_not_negative,
    is_public_or_private,
    is_up_to,
    matches,
)
from profiles_schema.schema.models.typed_group import TypedGroup

if TYPE_CHECKING:  # pydantic is loaded with the first group that is read or written
    from profiles_schema.schema.trait_models import (
        AnalysisSummary,
        AppearanceTraits,
        BehavioralMetrics,
        CulturalAttributes,
        Extras,
        PersonalityTraits,
    )
from profiles_schema.schema.models.privacy import NULL, NUMBER, TOMBSTONE, label


class UserProfile(Timestamps, Base):
    """The profile of a user. JSON values are replaced, not changed in place: assign a new dict or list.

    ``personality``, ``appearance``, ``behavior``, ``culture``, ``analysis`` and ``extras`` are the groups of traits as
    models, each beside its raw attribute (:class:`TypedGroup` says what assigning one does).
    """

    __tablename__ = "user_profiles"
    shown_in_repr = ("id", "username")

    id: Mapped[str] = mapped_column(
        ProfileId,
        primary_key=True,
        server_default=RANDOM_UUID_AS_TEXT,
        comment="The user id as text, for a profile made at sign-up",
    )
    user_id: Mapped[uuid.UUID] = mapped_column(references_user())
    external_id: Mapped[str | None] = mapped_column(
        unique=True, comment="The id of this user in an outside system, for example a Discord snowflake"
    )
    username: Mapped[str] = mapped_column(comment="Unique without regard to case; lower case only")
    display_name: Mapped[str | None]
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    email: Mapped[str | None] = mapped_column(comment="Follows auth.users; not unique; see email_verified")
    phone: Mapped[str | None] = mapped_column(comment="The person's contact number; not unique")
    bio: Mapped[str | None]
    company_name: Mapped[str | None]
    target_audience: Mapped[str | None]
    business_context: Mapped[str | None]
    master_system_prompt: Mapped[str | None]
    avatar_emoji: Mapped[str | None] = mapped_column(server_default=text("'👶'::text"))
    avatar_url: Mapped[str | None] = mapped_column(comment="The picture of the identity provider")
    profile_picture_url: Mapped[str | None] = mapped_column(
        comment="The picture the user uploaded; takes precedence over avatar_url"
    )
    logo_url: Mapped[str | None] = mapped_column(comment="The logo the user uploaded")
    profile_visibility: Mapped[str] = mapped_column(
        server_default=text("'public'::text"),
        comment="public: get_public_profile shows it; private: nobody else sees it",
    )
    role: Mapped[str] = mapped_column(
        server_default=text("'user'::text"), comment="Set by the server only, never from sign-up metadata"
    )
    referral_code: Mapped[str | None] = mapped_column(
        unique=True, comment="Made by the server on first request, at random"
    )
    key_metrics: Mapped[JsonArray] = mapped_column(server_default=EMPTY_ARRAY)
    preferences: Mapped[JsonObject] = mapped_column(server_default=EMPTY_OBJECT)
    notification_settings: Mapped[JsonObject] = mapped_column(server_default=EMPTY_OBJECT)
    timezone: Mapped[str] = mapped_column(
        server_default=text("'UTC'::text"), comment="A name of pg_timezone_names; a trigger checks it"
    )
    language: Mapped[str] = mapped_column(server_default=text("'en'::text"), comment="A BCP 47 tag, for example pt-BR")
    is_active: Mapped[bool] = mapped_column(server_default=TRUE)
    email_verified: Mapped[bool] = mapped_column(server_default=FALSE)
    is_anonymous: Mapped[bool] = mapped_column(server_default=FALSE)
    last_login: Mapped[datetime | None] = mapped_column(comment="The last sign-in that the auth server recorded")
    login_count: Mapped[int] = mapped_column(server_default=ZERO)
    first_seen_at: Mapped[int] = mapped_column(BigInteger, server_default=EPOCH_SECONDS_NOW, comment="Epoch seconds")
    last_interaction_at: Mapped[int] = mapped_column(
        BigInteger, server_default=EPOCH_SECONDS_NOW, comment="Epoch seconds"
    )
    last_analyzed_at: Mapped[int | None] = mapped_column(BigInteger, comment="Epoch seconds")
    last_photo_analyzed_at: Mapped[int | None] = mapped_column(BigInteger, comment="Epoch seconds")
    message_count: Mapped[int] = mapped_column(server_default=ZERO)
    personality_traits: Mapped[JsonObject | None] = mapped_column(comment="Traits of character, grouped")
    appearance_traits: Mapped[JsonObject | None] = mapped_column(comment="Traits of appearance, grouped")
    behavioral_metrics: Mapped[JsonObject | None] = mapped_column(comment="Measures of behaviour, grouped")
    cultural_attributes: Mapped[JsonObject | None] = mapped_column(comment="Cultural attributes, grouped")
    analysis_summary: Mapped[JsonObject | None] = mapped_column(comment="Results of analyses, grouped")
    # `metadata` belongs to SQLAlchemy in a declarative class.
    metadata_: Mapped[JsonObject | None] = mapped_column("metadata", comment="What belongs to no other group")

    personality: "TypedGroup[PersonalityTraits]" = TypedGroup("personality_traits")
    appearance: "TypedGroup[AppearanceTraits]" = TypedGroup("appearance_traits")
    behavior: "TypedGroup[BehavioralMetrics]" = TypedGroup("behavioral_metrics")
    culture: "TypedGroup[CulturalAttributes]" = TypedGroup("cultural_attributes")
    analysis: "TypedGroup[AnalysisSummary]" = TypedGroup("analysis_summary")
    extras: "TypedGroup[Extras]" = TypedGroup("metadata", attribute="metadata_")

    __table_args__ = (
        matches("username", "^[a-z0-9_.-]{3,32}$", "username_is_3_to_32_of_a_z_0_9"),
        is_up_to(200, "display_name"),
        is_up_to(200, "first_name"),
        is_up_to(200, "last_name"),
        is_up_to(200, "company_name"),
        # One CHECK for all four: a sign-up pays for each.
        have_no_hidden_characters("display_name", "first_name", "last_name", "company_name"),
        is_up_to(320, "email"),
        is_up_to(40, "phone"),
        is_up_to(4_000, "bio"),
        is_up_to(20_000, "target_audience"),
        is_up_to(20_000, "business_context"),
        is_up_to(20_000, "master_system_prompt"),
        matches("avatar_emoji", r"^[^\u0001-\u001f&<>]{0,16}$", "avatar_emoji_up_to_16_characters_no_markup"),
        is_a_web_address("avatar_url"),
        is_a_web_address("profile_picture_url"),
        is_a_web_address("logo_url"),
        is_public_or_private("profile_visibility"),
        is_json_up_to_64_kb("array", "key_metrics"),
        is_json_up_to_64_kb("object", "preferences"),
        is_json_up_to_64_kb("object", "notification_settings"),
        matches("language", "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", "language_is_a_bcp_47_tag", limit=35),
        is_not_negative("login_count"),
        is_not_negative("message_count"),
        is_an_object("personality_traits"),
        is_an_object("appearance_traits"),
        is_an_object("behavioral_metrics"),
        is_an_object("cultural_attributes"),
        is_an_object("analysis_summary"),
        is_an_object("metadata"),
        Index("idx_user_profiles_user_id", "user_id", unique=True),
        Index("idx_user_profiles_username_lower", text("lower(username)"), unique=True),
        Index("idx_user_profiles_updated_at", text("updated_at desc")),
        Index("idx_user_profiles_last_analyzed", "last_analyzed_at"),
        Index(
            "idx_user_profiles_preferences_gin",
            "preferences",
            postgresql_using="gin",
            postgresql_ops={"preferences": "jsonb_path_ops"},
        ),
        # Partial, so that a sign-up, which leaves these groups null, does not pay for them. The planner takes them for every
        # condition with @> or @?, which null never fulfils.
        *(
            Index(
                f"idx_user_profiles_{name}_gin",
                column,
                postgresql_using="gin",
                postgresql_ops={column: "jsonb_path_ops"},
                postgresql_where=text(f"{column} is not null"),
            )
            for name, column in (
                ("personality", "personality_traits"),
                ("appearance", "appearance_traits"),
                ("behavioral", "behavioral_metrics"),
            )
        ),
        {"comment": "One profile per user, made by a trigger at sign-up"},
    )

    @property
    def picture_url(self) -> str | None:
        """The picture to show: the uploaded one, else that of the identity provider, else None."""
        return self.profile_picture_url or self.avatar_url


label(UserProfile, "identifier", TOMBSTONE, "id", "user_id")
label(UserProfile, "identifier", NULL, "external_id", "username", "referral_code")
label(UserProfile, "contact", NULL, "display_name", "first_name", "last_name", "email", "phone")
label(
    UserProfile, "content", NULL, "bio", "company_name", "target_audience", "business_context", "master_system_prompt",
    "avatar_emoji", "avatar_url", "profile_picture_url", "logo_url", "profile_visibility", "key_metrics", "preferences",
    "notification_settings", "timezone", "language", "personality_traits", "appearance_traits", "behavioral_metrics",
    "cultural_attributes", "analysis_summary", "metadata",
)  # fmt: skip
label(UserProfile, "activity", NULL, "email_verified", "last_login")
label(
    UserProfile, "activity", NUMBER, "is_anonymous", "login_count", "first_seen_at", "last_interaction_at",
    "last_analyzed_at", "last_photo_analyzed_at", "message_count", "created_at", "updated_at",
)  # fmt: skip
label(UserProfile, None, "keep: a right of the account; an erased account can use none", "role")
label(UserProfile, None, "keep: false, which keeps the account shut", "is_active")
