"""``public.user_progress``: what a user has done, rolled up from the ended sessions."""

import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import CheckConstraint, Index, Numeric, text
from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import RANDOM_UUID, ZERO, Base, Timestamps, references_user
from profiles_schema.schema.models.checks import is_not_negative
from profiles_schema.schema.models.privacy import NULL, NUMBER, TOMBSTONE, label, label_all

# One CHECK for all of them: nobody but the roll-up writes them, and each CHECK costs every sign-up 2 microseconds.
ROLLED_UP = (
    "total_sessions",
    "total_descriptions",
    "total_images",
    "total_questions_answered",
    "total_correct_answers",
    "total_vocabulary_learned",
    "total_answer_seconds",
    "total_time_spent_minutes",
    "average_completion_time_seconds",
    "current_streak_days",
    "longest_streak_days",
)


class UserProgress(Timestamps, Base):
    """The totals of a user. Only the three counters of words belong to the application; award_points keeps the points."""

    __tablename__ = "user_progress"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    user_id: Mapped[uuid.UUID] = mapped_column(references_user())
    total_sessions: Mapped[int] = mapped_column(server_default=ZERO)
    total_descriptions: Mapped[int] = mapped_column(server_default=ZERO)
    total_images: Mapped[int] = mapped_column(server_default=ZERO)
    total_questions_answered: Mapped[int] = mapped_column(server_default=ZERO)
    total_correct_answers: Mapped[int] = mapped_column(server_default=ZERO)
    total_vocabulary_learned: Mapped[int] = mapped_column(server_default=ZERO)
    total_answer_seconds: Mapped[int] = mapped_column(server_default=ZERO)
    total_time_spent_minutes: Mapped[int] = mapped_column(server_default=ZERO)
    average_accuracy: Mapped[Decimal] = mapped_column(
        Numeric(5, 2), server_default=ZERO, comment="Percent of the questions answered correctly; 0 without questions"
    )
    average_completion_time_seconds: Mapped[int] = mapped_column(
        server_default=ZERO, comment="Seconds per question answered; 0 without questions"
    )
    last_activity_at: Mapped[datetime | None] = mapped_column(comment="The end of the last ended session")
    last_description_at: Mapped[datetime | None]
    last_qa_session_at: Mapped[datetime | None]
    last_vocabulary_practice_at: Mapped[datetime | None]
    last_active_on: Mapped[date | None] = mapped_column(comment="last_activity_at as a date in the user's time zone")
    current_streak_days: Mapped[int] = mapped_column(
        server_default=ZERO,
        comment="Consecutive local days that end on last_active_on; over once that is before yesterday",
    )
    longest_streak_days: Mapped[int] = mapped_column(server_default=ZERO)
    total_points: Mapped[int] = mapped_column(server_default=ZERO, comment="The sum of what award_points gave")
    mastered_words_count: Mapped[int] = mapped_column(server_default=ZERO, comment="Kept by the application")
    learning_words_count: Mapped[int] = mapped_column(server_default=ZERO, comment="Kept by the application")
    new_words_count: Mapped[int] = mapped_column(server_default=ZERO, comment="Kept by the application")

    __table_args__ = (
        CheckConstraint(f"least({', '.join(ROLLED_UP)}) >= 0", name="rolled_up_not_negative"),
        is_not_negative("total_points"),
        is_not_negative("mastered_words_count"),
        is_not_negative("learning_words_count"),
        is_not_negative("new_words_count"),
        Index("idx_user_progress_user_id", "user_id", unique=True),
        Index("idx_user_progress_last_activity", text("last_activity_at desc")),
        {"comment": "Totals per user, rolled up from ended sessions by a trigger"},
    )

    def streak_on(self, day: date) -> int:
        """The streak in days as it stands on ``day`` (today in the user's time zone): 0 once a day was missed."""
        if self.last_active_on is None or self.last_active_on < day - timedelta(days=1):
            return 0
        return self.current_streak_days


label(UserProgress, "identifier", TOMBSTONE, "id", "user_id")
label(UserProgress, "activity", NUMBER, "created_at", "updated_at")
label_all(UserProgress, "activity", NULL)
