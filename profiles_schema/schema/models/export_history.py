"""``public.export_history``: the exports a user asked for, and what became of them."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, FetchedValue, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from profiles_schema.schema.models.base import RANDOM_UUID, ZERO, Base, JsonObject, Timestamps, references_user
from profiles_schema.schema.models.checks import is_json_up_to_64_kb, is_not_negative, is_one_of
from profiles_schema.schema.models.privacy import DELETE, label, label_all


class ExportHistory(Timestamps, Base):
    """One export. It starts as pending; a trigger refuses steps that the state machine does not know."""

    __tablename__ = "export_history"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    user_id: Mapped[uuid.UUID] = mapped_column(references_user())
    export_type: Mapped[str] = mapped_column(String(50))
    export_format: Mapped[str] = mapped_column(String(20))
    status: Mapped[str] = mapped_column(String(20), server_default=text("'pending'::character varying"))
    records_count: Mapped[int] = mapped_column(server_default=ZERO)
    file_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    file_url: Mapped[str | None]
    filters: Mapped[JsonObject | None] = mapped_column(comment="What the user asked for; fixed once work has begun")
    data: Mapped[JsonObject | None] = mapped_column(comment="The export itself, where it is small enough to keep here")
    error_message: Mapped[str | None]
    retry_count: Mapped[int] = mapped_column(server_default=ZERO)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    processing_time_seconds: Mapped[int | None] = mapped_column(
        server_onupdate=FetchedValue(), comment="From started_at to completed_at; set by a trigger"
    )
    expires_at: Mapped[datetime | None] = mapped_column(comment="From then on the export may be purged")

    __table_args__ = (
        is_one_of("status", "pending", "processing", "completed", "failed", "expired"),
        is_not_negative("records_count"),
        is_not_negative("file_size_bytes"),
        is_not_negative("retry_count"),
        is_json_up_to_64_kb("object", "filters"),
        Index("idx_export_history_user_id", "user_id", text("created_at desc")),
        Index("idx_export_history_status", "status"),
        Index("idx_export_history_created_at", text("created_at desc")),
        Index("idx_export_history_export_type", "export_type"),
        Index("idx_export_history_expires_at", "expires_at", postgresql_where=text("expires_at is not null")),
        {"comment": "Exports that users asked for, from pending to expired"},
    )


label(ExportHistory, "identifier", DELETE, "id", "user_id")
label(ExportHistory, "content", DELETE, "filters", "data", "file_url", "error_message")
label_all(ExportHistory, "activity", DELETE)
