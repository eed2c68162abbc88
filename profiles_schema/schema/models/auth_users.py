"""``auth.users``: who signs in. On Supabase it exists with more columns and is never altered."""

import uuid
from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import FALSE, NOW, RANDOM_UUID, Base, JsonObject
from profiles_schema.schema.models.privacy import NULL, NUMBER, TOMBSTONE, label


class AuthUser(Base):
    """A user of the auth server: the columns that this package reads, and creates where there is no table."""

    __tablename__ = "users"
    __table_args__ = {"schema": "auth", "comment": "profiles-schema: who signs in"}  # noqa: RUF012 - a declarative directive, not a class attribute

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    email: Mapped[str | None]
    phone: Mapped[str | None]
    email_confirmed_at: Mapped[datetime | None]
    phone_confirmed_at: Mapped[datetime | None]
    last_sign_in_at: Mapped[datetime | None]
    raw_app_meta_data: Mapped[JsonObject | None]
    # Written by clients, in any shape and size: loaded when it is asked for.
    raw_user_meta_data: Mapped[JsonObject | None] = mapped_column(deferred=True)
    is_sso_user: Mapped[bool] = mapped_column(server_default=FALSE)
    is_anonymous: Mapped[bool] = mapped_column(server_default=FALSE)
    banned_until: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime | None] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime | None] = mapped_column(server_default=NOW)


label(AuthUser, "identifier", TOMBSTONE, "id")
label(AuthUser, "contact", NULL, "email", "phone")
label(AuthUser, "content", NULL, "raw_user_meta_data", "raw_app_meta_data")
label(
    AuthUser, "activity", NULL, "email_confirmed_at", "phone_confirmed_at", "last_sign_in_at", "is_sso_user",
    "is_anonymous", "banned_until",
)  # fmt: skip
label(AuthUser, "activity", "keep: says that the account is erased, and keeps it shut", "deleted_at")
label(AuthUser, "activity", NUMBER, "created_at", "updated_at")
