"""``public.user_profile_audit_logs``: what happened to profiles; append only, by grants."""

import uuid
from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import EMPTY_OBJECT, NOW, RANDOM_UUID, ZERO, Base, JsonObject, references_user
from profiles_schema.schema.models.checks import is_not_negative, is_one_of
from profiles_schema.schema.models.privacy import NULL, label

ACTIONS = (
    "created", "updated", "failed", "skipped", "repaired", "deleted",
    "key_set", "key_deleted", "key_disabled", "key_enabled", "key_read",
)  # fmt: skip


class UserProfileAuditLog(Base):
    """One event of a profile. It never holds a value of the profile, only names of columns and objects."""

    __tablename__ = "user_profile_audit_logs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    user_id: Mapped[uuid.UUID | None] = mapped_column(
        references_user(on_delete="SET NULL"), comment="Whose profile; null once the user is deleted"
    )
    action: Mapped[str]
    origin: Mapped[str] = mapped_column(comment="The road by which it happened")
    actor: Mapped[uuid.UUID | None] = mapped_column(comment="The user who did it; null for the server")
    changed: Mapped[list[str] | None] = mapped_column(comment="Names of the columns that changed, never their values")
    error_code: Mapped[str | None] = mapped_column(comment="SQLSTATE of a failure")
    error_message: Mapped[str | None] = mapped_column(comment="Names of the objects involved, never quoted values")
    retry_count: Mapped[int] = mapped_column(server_default=ZERO)
    # `metadata` belongs to SQLAlchemy in a declarative class.
    metadata_: Mapped[JsonObject] = mapped_column("metadata", server_default=EMPTY_OBJECT)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (
        is_one_of("action", *ACTIONS),
        is_one_of("origin", "trigger", "manual", "backfill", "registration", "sync", "normalize"),
        is_not_negative("retry_count"),
        # For those who acted on others, which an erasure looks for; most rows are of users who change their own profile.
        Index(
            "idx_user_profile_audit_logs_actor",
            "actor",
            postgresql_where=text("actor is not null and actor is distinct from user_id"),
        ),
        Index("idx_user_profile_audit_logs_user_id", "user_id", text("created_at desc")),
        Index(
            "idx_user_profile_audit_logs_failures",
            text("created_at desc"),
            postgresql_where=text("action in ('failed', 'skipped')"),
        ),
        {"comment": "What happened to profiles: who, by which road, which columns; failures with their SQLSTATE"},
    )


_PROOF = "keep: what happened, of no person any more"

label(UserProfileAuditLog, "identifier", NULL, "user_id", "actor")
label(UserProfileAuditLog, "content", NULL, "metadata")
label(
    UserProfileAuditLog, "activity", _PROOF, "id", "action", "origin", "changed", "error_code", "error_message",
    "retry_count", "created_at",
)  # fmt: skip
