"""``public.user_provider_keys``: a user's own keys at any provider, encrypted by the application."""

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import (
    EMPTY_OBJECT,
    EMPTY_TEXT,
    RANDOM_UUID,
    TRUE,
    Base,
    JsonObject,
    Timestamps,
    references_user,
)
from profiles_schema.schema.models.checks import is_an_object, matches
from profiles_schema.schema.models.privacy import DELETE, label, label_all
from profiles_schema.schema.models.user_api_keys import Envelope, is_encrypted

PROVIDER = "^[a-z0-9][a-z0-9_.-]{0,62}$"
LABEL = r"^[^\u0001-\u001f\u007f-\u009f]{0,64}$"


class UserProviderKey(Timestamps, Base):
    """A key of a user at a provider, as ciphertext."""

    __tablename__ = "user_provider_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    user_id: Mapped[uuid.UUID] = mapped_column(references_user())
    provider: Mapped[str] = mapped_column(comment="Name of the provider, for example deepl")
    label: Mapped[str] = mapped_column(
        server_default=EMPTY_TEXT,
        comment="The user's name for it, where there are several; bound to the ciphertext",
    )
    envelope: Mapped[str] = mapped_column(Envelope, comment="Ciphertext envelope psk1.KEYID.DATA")
    hint: Mapped[str | None] = mapped_column(comment="The last four characters of the key, to know it by")
    is_active: Mapped[bool] = mapped_column(server_default=TRUE)
    validation: Mapped[JsonObject] = mapped_column(
        server_default=EMPTY_OBJECT,
        comment="Whether the key is valid, when that was checked, and why not",
    )
    last_used_at: Mapped[datetime | None] = mapped_column(comment="When it was last read to be used, to the hour")

    __table_args__ = (
        is_encrypted("envelope"),
        matches("hint", "^[!-~]{4}$", "hint_four_characters"),
        is_an_object("validation"),
        matches("provider", PROVIDER, "provider_is_a_name"),
        matches("label", LABEL, "label_up_to_64_characters"),
        # The keys of these providers without a label are in user_api_keys: each key has one place.
        CheckConstraint(
            "label <> '' or provider not in ('openai', 'unsplash', 'anthropic')", name="label_for_these_providers"
        ),
        Index("idx_user_provider_keys_user_id", "user_id", "provider", "label", unique=True),
        {"comment": "Keys of users at any provider, encrypted before they reach the database"},
    )


label(UserProviderKey, "identifier", DELETE, "id", "user_id")
label(UserProviderKey, "secret", DELETE, "envelope", "hint")
label(UserProviderKey, "content", DELETE, "label")
label_all(UserProviderKey, "activity", DELETE)
