"""Schema ``profiles_internal``: what the package itself keeps. Plain tables; nobody works with them as objects."""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from profiles_schema.schema.models.base import EMPTY_OBJECT, NOW, ZERO, Json, metadata, references_user
from profiles_schema.schema.models.checks import is_one_of
from profiles_schema.schema.models.privacy import DELETE, NO_PERSON, label, label_all

INTERNAL_SCHEMA = "profiles_internal"

TIME = DateTime(timezone=True)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True, comment="Name of the setting"),
    Column("value", Json, nullable=False, comment="Its value"),
    Column("updated_at", TIME, nullable=False, server_default=NOW, comment="When it was last set"),
    schema=INTERNAL_SCHEMA,
    comment="Settings that the database itself reads: the feature flag, the audit level, thresholds",
)

timezones = Table(
    "timezones",
    metadata,
    Column("name", Text, primary_key=True, comment="A name of pg_timezone_names"),
    schema=INTERNAL_SCHEMA,
    comment="Time zones the server knows, so that validating one is an index probe instead of a directory walk",
)

encryption_keys = Table(
    "encryption_keys",
    metadata,
    Column(
        "key_id",
        Text,
        primary_key=True,
        comment="Id of the key, as in the envelopes",
    ),
    Column(
        "check_value",
        Text,
        nullable=False,
        comment="Fingerprint of the key, which tells nothing about it",
    ),
    Column(
        "recorded_at",
        TIME,
        nullable=False,
        server_default=NOW,
        comment="When it was first used here",
    ),
    schema=INTERNAL_SCHEMA,
    comment="Which key each id of the ring stood for when it was first used: another one under that id is noticed",
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Number of the job"),
    Column("kind", Text, nullable=False, comment="What it does, for example backfill"),
    Column("state", Text, nullable=False, server_default=text("'pending'::text"), comment="Where it stands"),
    Column(
        "parameters",
        Json,
        nullable=False,
        server_default=EMPTY_OBJECT,
        comment="What it was called with; under left_out, until it ends, the rows skipped",
    ),
    Column("cursor", Json, comment="Key of the last row done; null before the first batch"),
    Column("rows_total", BigInteger, comment="Rows to do, as estimated at the start"),
    Column("rows_done", BigInteger, nullable=False, server_default=ZERO, comment="Rows done so far"),
    Column("rows_failed", BigInteger, nullable=False, server_default=ZERO, comment="Rows recorded and skipped"),
    Column("batch_rows", Integer, comment="Rows of the present batch size"),
    Column(
        "target_ms",
        Integer,
        nullable=False,
        server_default=text("100"),
        comment="Milliseconds that a batch should take",
    ),
    Column(
        "fence",
        BigInteger,
        nullable=False,
        server_default=ZERO,
        comment="Grows with every runner; a runner with an older one may not write",
    ),
    Column("runner", Text, comment="Who works on it: host and process id"),
    Column("heartbeat_at", TIME, comment="Last sign of life of the runner"),
    Column("created_at", TIME, nullable=False, server_default=NOW, comment="When it was registered"),
    Column("started_at", TIME, comment="When the first runner began"),
    Column("finished_at", TIME, comment="When it completed or was cancelled"),
    is_one_of("state", "pending", "running", "paused", "completed", "cancelled"),
    schema=INTERNAL_SCHEMA,
    comment="Work in batches: where each job stands, so that it can be paused, resumed and taken over",
)

adopted = Table(
    "adopted",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order in which things were set aside"),
    Column("revision", Text, nullable=False, comment="The revision that set it aside"),
    Column("object_type", Text, nullable=False, comment="What it is, for example policy, trigger, column"),
    Column("object_name", Text, nullable=False, comment="Its qualified name"),
    Column("definition", Text, comment="SQL that brings it back"),
    Column("data", Json, comment="Values it held that were changed"),
    Column("created_at", TIME, nullable=False, server_default=NOW, comment="When it was set aside"),
    Index("ix_adopted_key", text("(data ->> 'key')")),
    schema=INTERNAL_SCHEMA,
    comment="What an upgrade found and set aside; downgrade restores it",
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order in which rows were set aside"),
    Column("table_name", Text, nullable=False, comment="Qualified name of the table the row was in"),
    Column("row_data", Json, nullable=False, comment="The whole row"),
    Column("reason", Text, nullable=False, comment="Why it could not stay"),
    Column("created_at", TIME, nullable=False, server_default=NOW, comment="When it was set aside"),
    schema=INTERNAL_SCHEMA,
    comment="Rows that adoption could not keep in their table, for example those without a user",
)

legacy_columns = Table(
    "legacy_columns",
    metadata,
    Column("table_name", Text, primary_key=True, comment="Name of the table"),
    Column("column_name", Text, primary_key=True, comment="Name of the column"),
    Column("data_type", Text, nullable=False, comment="Its type as the server prints it"),
    Column("column_default", Text, comment="Its default as the server prints it"),
    Column("jsonb_column", Text, nullable=False, comment="The JSON column that takes its values"),
    Column("path", Text, nullable=False, comment="The path inside that column, keys separated by dots"),
    Column(
        "state",
        Text,
        nullable=False,
        server_default=text("'expanded'::text"),
        comment="Where its normalization stands, from expanded to contracted",
    ),
    Column("recorded_at", TIME, nullable=False, server_default=NOW, comment="When it was found"),
    Column("converted_at", TIME, comment="When all its values had been converted"),
    Column("contracted_at", TIME, comment="When it was dropped"),
    schema=INTERNAL_SCHEMA,
    comment="Wide columns that become JSON, as they were found; downgrade recreates them from here",
)

kept_json = Table(
    "kept_json",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order in which values were kept"),
    Column("user_id", UUID(as_uuid=True), references_user(), nullable=False, index=True, comment="Whose value"),
    Column("jsonb_column", Text, nullable=False, comment="The JSON column it was in"),
    Column("path", Text, nullable=False, comment="Its path inside that column"),
    Column("value", Json, nullable=False, comment="The value"),
    Column("kept_at", TIME, nullable=False, server_default=NOW, comment="When it was put here"),
    Column("superseded_at", TIME, comment="When something newer stood in its place; it does not come back"),
    schema=INTERNAL_SCHEMA,
    comment="JSON values that no wide column can hold, kept over a downgrade",
)

identity_links = Table(
    "identity_links",
    metadata,
    Column("external_id", Text, primary_key=True, comment="Key of the row, as text"),
    Column("user_id", UUID(as_uuid=True), references_user(), nullable=False, unique=True, comment="Whose row it is"),
    schema=INTERNAL_SCHEMA,
    comment="Rows of the application's own table of users, where one was chosen, and the users they became",
)

migration_log = Table(
    "migration_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order of the runs"),
    Column("revision", Text, nullable=False, comment="The revision"),
    Column("direction", Text, nullable=False, comment="upgrade or downgrade"),
    Column("started", TIME, nullable=False, comment="When it began"),
    Column("seconds", Double, comment="How long it took; null while it runs"),
    Column("role", Text, nullable=False, server_default=text("CURRENT_USER"), comment="The role that ran it"),
    Column("package_version", Text, comment="Version of profiles-schema"),
    Column("outcome", Text, nullable=False, server_default=text("'running'::text"), comment="How it ended"),
    Column("users", BigInteger, comment="Users when it ended"),
    Column("missing", BigInteger, comment="Users without a profile when it ended"),
    is_one_of("direction", "upgrade", "downgrade"),
    is_one_of("outcome", "running", "done", "failed"),
    schema=INTERNAL_SCHEMA,
    comment="Every run of a revision: when, by whom, how long, and the users it left without a profile",
)

active_days = Table(
    "active_days",
    metadata,
    Column("user_id", UUID(as_uuid=True), references_user(), primary_key=True, comment="Whose day"),
    Column("day", Date, primary_key=True, comment="The day in the user's time zone"),
    Column("sessions", BigInteger, nullable=False, comment="Sessions that ended on it"),
    schema=INTERNAL_SCHEMA,
    comment="The days on which users ended sessions, from which streaks are told",
)

stale_progress = Table(
    "stale_progress",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="Order in which they were noted"),
    Column(
        "user_id", UUID(as_uuid=True), references_user(), nullable=False, comment="Whose progress is to be counted anew"
    ),
    Column("error_code", Text, nullable=False, comment="SQLSTATE of the failure"),
    Column("error_message", Text, comment="Names of the objects involved, never quoted values"),
    Column("created_at", TIME, nullable=False, server_default=NOW, comment="When it failed"),
    Index("ix_stale_progress_user_id", "user_id"),
    schema=INTERNAL_SCHEMA,
    comment="Users whose sessions changed without their progress, because the roll-up failed",
)

point_awards = Table(
    "point_awards",
    metadata,
    Column("user_id", UUID(as_uuid=True), references_user(), primary_key=True, comment="Who got them"),
    Column("key", Text, primary_key=True, comment="What makes a repeated award count once"),
    Column("amount", Integer, nullable=False, comment="Points; negative where they were spent"),
    Column("reason", Text, nullable=False, comment="What for"),
    Column("created_at", TIME, nullable=False, server_default=NOW, comment="When"),
    schema=INTERNAL_SCHEMA,
    comment="The ledger of points: user_progress.total_points is its sum",
)


held_usernames = Table(
    "held_usernames",
    metadata,
    Column("username", Text, primary_key=True, comment="In lower case"),
    Column("user_id", UUID(as_uuid=True), references_user(), nullable=False, index=True, comment="Who had it"),
    Column("held_until", TIME, nullable=False, comment="From then on anybody can take it"),
    schema=INTERNAL_SCHEMA,
    comment="Usernames that their owners gave up lately: get_public_profile answers them, and nobody else can take them",
)

erasures = Table(
    "erasures",
    metadata,
    Column("user_id", UUID(as_uuid=True), references_user(), primary_key=True, comment="Whose account ends"),
    Column("requested_at", TIME, nullable=False, server_default=NOW, comment="When that was asked for"),
    Column("requested_by", Text, nullable=False, comment="user: delete_my_account; operator: users erase"),
    Column("finished_at", TIME, comment="When everything was erased; null until then"),
    is_one_of("requested_by", "user", "operator"),
    Index("ix_erasures_pending", "requested_at", postgresql_where=text("finished_at is null")),
    schema=INTERNAL_SCHEMA,
    comment="Accounts that end or have ended: they stay shut, and their profiles no longer follow auth.users",
)

label(kept_json, "identifier", DELETE, "user_id")
label(kept_json, "content", DELETE, "id", "jsonb_column", "path", "value", "kept_at", "superseded_at")
label(active_days, "activity", DELETE, "user_id", "day", "sessions")
label(stale_progress, "activity", DELETE, "id", "user_id", "error_code", "error_message", "created_at")
label(point_awards, "content", DELETE, "key", "reason")
label_all(point_awards, "activity", DELETE)
label(
    identity_links,
    "identifier",
    "keep: goes with its row in the application's table of users",
    "external_id",
    "user_id",
)
label(held_usernames, "identifier", DELETE, "username", "user_id", "held_until")
label(erasures, "identifier", "keep: the proof of the erasure; goes with the row of the user", "user_id")
label(erasures, "activity", "keep: the proof of the erasure", "requested_at", "requested_by", "finished_at")
# Rows that hold something of the person; those that hold definitions stay.
label(adopted, "content", DELETE, "id", "revision", "object_type", "object_name", "definition", "data", "created_at")
label(quarantine, "content", DELETE, "id", "table_name", "row_data", "reason", "created_at")
label(jobs, "identifier", "keep: ids alone, of the rows that a job has reached or left out", "cursor", "parameters")
for _table in (settings, timezones, encryption_keys, jobs, legacy_columns, migration_log):
    label_all(_table, None, NO_PERSON)
