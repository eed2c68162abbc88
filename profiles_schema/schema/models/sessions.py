"""``public.sessions``: learning sessions, created only where there is no table of that name."""

import uuid
from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import NOW, RANDOM_UUID, ZERO, Base, references_user
from profiles_schema.schema.models.checks import is_not_negative
from profiles_schema.schema.models.privacy import DELETE, label, label_all


class LearningSession(Base):
    """One sitting of a user; it counts towards the user's progress once ``ended_at`` is set."""

    __tablename__ = "sessions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    user_id: Mapped[uuid.UUID | None] = mapped_column(references_user())
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None] = mapped_column(comment="Null while the session runs")
    duration_minutes: Mapped[int | None] = mapped_column(comment="Null: the whole minutes from started_at to ended_at")
    descriptions_generated: Mapped[int] = mapped_column(server_default=ZERO)
    images_processed: Mapped[int] = mapped_column(server_default=ZERO)
    qa_attempts: Mapped[int] = mapped_column(server_default=ZERO)
    qa_correct: Mapped[int] = mapped_column(server_default=ZERO)
    qa_seconds: Mapped[int] = mapped_column(server_default=ZERO, comment="Seconds spent on all answers")
    vocabulary_learned: Mapped[int] = mapped_column(server_default=ZERO)

    __table_args__ = (
        is_not_negative("descriptions_generated"),
        is_not_negative("images_processed"),
        is_not_negative("qa_attempts"),
        is_not_negative("qa_correct"),
        is_not_negative("qa_seconds"),
        is_not_negative("vocabulary_learned"),
        Index("idx_sessions_user_id", "user_id", "ended_at"),
        Index("idx_sessions_described", "user_id", "ended_at", postgresql_where=text("descriptions_generated > 0")),
        Index("idx_sessions_answered", "user_id", "ended_at", postgresql_where=text("qa_attempts > 0")),
        Index("idx_sessions_practised", "user_id", "ended_at", postgresql_where=text("vocabulary_learned > 0")),
        {"comment": "profiles-schema: learning sessions; ended ones are rolled up into user_progress"},
    )


label(LearningSession, "identifier", DELETE, "id", "user_id")
label_all(LearningSession, "activity", DELETE)
