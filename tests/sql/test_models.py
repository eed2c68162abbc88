"""The models, without a database: what they declare, what they cost to import, what they show of themselves."""

import json
import subprocess
import sys
import uuid
from datetime import date

import pytest
from sqlalchemy import CheckConstraint, Column, Identity, UniqueConstraint, insert
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import configure_mappers
from sqlalchemy.schema import CreateIndex, CreateTable, DefaultClause

import profiles_schema
from profiles_schema import (
    AuthUser,
    Base,
    ExportHistory,
    LearningSession,
    UserApiKeys,
    UserProfile,
    UserProfileAuditLog,
    UserProgress,
    metadata,
)
from profiles_schema.schema.models import checks
from support import REPOSITORY

DIALECT = postgresql.dialect()

ID = "uuid not null default gen_random_uuid()"
NOW = "timestamp with time zone not null default now()"
TIME = "timestamp with time zone"
COUNT = "integer not null default 0"
EPOCH = "bigint not null default (EXTRACT(epoch FROM now()))::bigint"
NUMBER = "bigint not null identity"

COLUMNS = {
    "auth.users": {
        "id": ID,
        "email": "text",
        "phone": "text",
        "email_confirmed_at": TIME,
        "phone_confirmed_at": TIME,
        "last_sign_in_at": TIME,
        "raw_app_meta_data": "jsonb",
        "raw_user_meta_data": "jsonb",
        "is_sso_user": "boolean not null default false",
        "is_anonymous": "boolean not null default false",
        "banned_until": TIME,
        "deleted_at": TIME,
        "created_at": f"{TIME} default now()",
        "updated_at": f"{TIME} default now()",
    },
    "user_profiles": {
        "id": "text not null default (gen_random_uuid())::text",
        "user_id": "uuid not null",
        "external_id": "text",
        "username": "text not null",
        "display_name": "text",
        "first_name": "text",
        "last_name": "text",
        "email": "text",
        "phone": "text",
        "bio": "text",
        "company_name": "text",
        "target_audience": "text",
        "business_context": "text",
        "master_system_prompt": "text",
        "avatar_emoji": "text default '👶'::text",
        "avatar_url": "text",
        "profile_picture_url": "text",
        "logo_url": "text",
        "profile_visibility": "text not null default 'public'::text",
        "role": "text not null default 'user'::text",
        "referral_code": "text",
        "key_metrics": "jsonb not null default '[]'::jsonb",
        "preferences": "jsonb not null default '{}'::jsonb",
        "notification_settings": "jsonb not null default '{}'::jsonb",
        "timezone": "text not null default 'UTC'::text",
        "language": "text not null default 'en'::text",
        "is_active": "boolean not null default true",
        "email_verified": "boolean not null default false",
        "is_anonymous": "boolean not null default false",
        "last_login": TIME,
        "login_count": COUNT,
        "first_seen_at": EPOCH,
        "last_interaction_at": EPOCH,
        "last_analyzed_at": "bigint",
        "last_photo_analyzed_at": "bigint",
        "message_count": COUNT,
        "personality_traits": "jsonb",
        "appearance_traits": "jsonb",
        "behavioral_metrics": "jsonb",
        "cultural_attributes": "jsonb",
        "analysis_summary": "jsonb",
        "metadata": "jsonb",
        "created_at": NOW,
        "updated_at": NOW,
    },
    "user_progress": {
        "id": ID,
        "user_id": "uuid not null",
        "total_sessions": COUNT,
        "total_descriptions": COUNT,
        "total_images": COUNT,
        "total_questions_answered": COUNT,
        "total_correct_answers": COUNT,
        "total_vocabulary_learned": COUNT,
        "total_answer_seconds": COUNT,
        "total_time_spent_minutes": COUNT,
        "average_accuracy": "numeric(5, 2) not null default 0",
        "average_completion_time_seconds": COUNT,
        "last_activity_at": TIME,
        "last_description_at": TIME,
        "last_qa_session_at": TIME,
        "last_vocabulary_practice_at": TIME,
        "last_active_on": "date",
        "current_streak_days": COUNT,
        "longest_streak_days": COUNT,
        "total_points": COUNT,
        "mastered_words_count": COUNT,
        "learning_words_count": COUNT,
        "new_words_count": COUNT,
        "created_at": NOW,
        "updated_at": NOW,
    },
    "sessions": {
        "id": ID,
        "user_id": "uuid",
        "started_at": NOW,
        "ended_at": TIME,
        "duration_minutes": "integer",
        "descriptions_generated": COUNT,
        "images_processed": COUNT,
        "qa_attempts": COUNT,
        "qa_correct": COUNT,
        "qa_seconds": COUNT,
        "vocabulary_learned": COUNT,
    },
    "user_api_keys": {
        "id": ID,
        "user_id": "uuid not null",
        "openai_api_key": "text",
        "unsplash_api_key": "text",
        "anthropic_api_key": "text",
        "last_validated_at": TIME,
        "is_active": "boolean not null default true",
        "validation": "jsonb not null default '{}'::jsonb",
        "hints": "jsonb not null default '{}'::jsonb",
        "created_at": NOW,
        "updated_at": NOW,
    },
    "user_provider_keys": {
        "id": ID,
        "user_id": "uuid not null",
        "provider": "text not null",
        "label": "text not null default ''::text",
        "envelope": "text not null",
        "hint": "text",
        "is_active": "boolean not null default true",
        "validation": "jsonb not null default '{}'::jsonb",
        "last_used_at": TIME,
        "created_at": NOW,
        "updated_at": NOW,
    },
    "export_history": {
        "id": ID,
        "user_id": "uuid not null",
        "export_type": "varchar(50) not null",
        "export_format": "varchar(20) not null",
        "status": "varchar(20) not null default 'pending'::character varying",
        "records_count": COUNT,
        "file_size_bytes": "bigint",
        "file_url": "text",
        "filters": "jsonb",
        "data": "jsonb",
        "error_message": "text",
        "retry_count": COUNT,
        "started_at": TIME,
        "completed_at": TIME,
        "processing_time_seconds": "integer",
        "expires_at": TIME,
        "created_at": NOW,
        "updated_at": NOW,
    },
    "user_profile_audit_logs": {
        "id": ID,
        "user_id": "uuid",
        "action": "text not null",
        "origin": "text not null",
        "actor": "uuid",
        "changed": "text[]",
        "error_code": "text",
        "error_message": "text",
        "retry_count": COUNT,
        "metadata": "jsonb not null default '{}'::jsonb",
        "created_at": NOW,
    },
    "profiles_internal.settings": {"key": "text not null", "value": "jsonb not null", "updated_at": NOW},
    "profiles_internal.timezones": {"name": "text not null"},
    "profiles_internal.encryption_keys": {
        "key_id": "text not null",
        "check_value": "text not null",
        "recorded_at": NOW,
    },
    "profiles_internal.jobs": {
        "id": NUMBER,
        "kind": "text not null",
        "state": "text not null default 'pending'::text",
        "parameters": "jsonb not null default '{}'::jsonb",
        "cursor": "jsonb",
        "rows_total": "bigint",
        "rows_done": "bigint not null default 0",
        "rows_failed": "bigint not null default 0",
        "batch_rows": "integer",
        "target_ms": "integer not null default 100",
        "fence": "bigint not null default 0",
        "runner": "text",
        "heartbeat_at": TIME,
        "created_at": NOW,
        "started_at": TIME,
        "finished_at": TIME,
    },
    "profiles_internal.adopted": {
        "id": NUMBER,
        "revision": "text not null",
        "object_type": "text not null",
        "object_name": "text not null",
        "definition": "text",
        "data": "jsonb",
        "created_at": NOW,
    },
    "profiles_internal.quarantine": {
        "id": NUMBER,
        "table_name": "text not null",
        "row_data": "jsonb not null",
        "reason": "text not null",
        "created_at": NOW,
    },
    "profiles_internal.legacy_columns": {
        "table_name": "text not null",
        "column_name": "text not null",
        "data_type": "text not null",
        "column_default": "text",
        "jsonb_column": "text not null",
        "path": "text not null",
        "state": "text not null default 'expanded'::text",
        "recorded_at": NOW,
        "converted_at": TIME,
        "contracted_at": TIME,
    },
    "profiles_internal.kept_json": {
        "id": NUMBER,
        "user_id": "uuid not null",
        "jsonb_column": "text not null",
        "path": "text not null",
        "value": "jsonb not null",
        "kept_at": NOW,
        "superseded_at": TIME,
    },
    "profiles_internal.active_days": {
        "user_id": "uuid not null",
        "day": "date not null",
        "sessions": "bigint not null",
    },
    "profiles_internal.stale_progress": {
        "id": NUMBER,
        "user_id": "uuid not null",
        "error_code": "text not null",
        "error_message": "text",
        "created_at": NOW,
    },
    "profiles_internal.point_awards": {
        "user_id": "uuid not null",
        "key": "text not null",
        "amount": "integer not null",
        "reason": "text not null",
        "created_at": NOW,
    },
    "profiles_internal.held_usernames": {
        "username": "text not null",
        "user_id": "uuid not null",
        "held_until": f"{TIME} not null",
    },
    "profiles_internal.erasures": {
        "user_id": "uuid not null",
        "requested_at": NOW,
        "requested_by": "text not null",
        "finished_at": TIME,
    },
    "profiles_internal.identity_links": {"external_id": "text not null", "user_id": "uuid not null"},
    "profiles_internal.migration_log": {
        "id": NUMBER,
        "revision": "text not null",
        "direction": "text not null",
        "started": f"{TIME} not null",
        "seconds": "double precision",
        "role": "text not null default CURRENT_USER",
        "package_version": "text",
        "outcome": "text not null default 'running'::text",
        "users": "bigint",
        "missing": "bigint",
    },
}

INDEXES = {
    "CREATE UNIQUE INDEX idx_user_profiles_user_id ON user_profiles (user_id)",
    "CREATE UNIQUE INDEX idx_user_profiles_username_lower ON user_profiles (lower(username))",
    "CREATE INDEX idx_user_profiles_updated_at ON user_profiles (updated_at desc)",
    "CREATE INDEX idx_user_profiles_last_analyzed ON user_profiles (last_analyzed_at)",
    "CREATE INDEX idx_user_profiles_preferences_gin ON user_profiles USING gin (preferences jsonb_path_ops)",
    "CREATE INDEX idx_user_profiles_personality_gin ON user_profiles USING gin (personality_traits jsonb_path_ops) WHERE personality_traits is not null",
    "CREATE INDEX idx_user_profiles_appearance_gin ON user_profiles USING gin (appearance_traits jsonb_path_ops) WHERE appearance_traits is not null",
    "CREATE INDEX idx_user_profiles_behavioral_gin ON user_profiles USING gin (behavioral_metrics jsonb_path_ops) WHERE behavioral_metrics is not null",
    "CREATE UNIQUE INDEX idx_user_progress_user_id ON user_progress (user_id)",
    "CREATE INDEX ix_adopted_key ON profiles_internal.adopted ((data ->> 'key'))",
    "CREATE INDEX ix_stale_progress_user_id ON profiles_internal.stale_progress (user_id)",
    "CREATE INDEX ix_held_usernames_user_id ON profiles_internal.held_usernames (user_id)",
    "CREATE INDEX ix_erasures_pending ON profiles_internal.erasures (requested_at) WHERE finished_at is null",
    "CREATE INDEX ix_kept_json_user_id ON profiles_internal.kept_json (user_id)",
    "CREATE INDEX idx_user_progress_last_activity ON user_progress (last_activity_at desc)",
    "CREATE INDEX idx_sessions_user_id ON sessions (user_id, ended_at)",
    "CREATE INDEX idx_sessions_described ON sessions (user_id, ended_at) WHERE descriptions_generated > 0",
    "CREATE INDEX idx_sessions_answered ON sessions (user_id, ended_at) WHERE qa_attempts > 0",
    "CREATE INDEX idx_sessions_practised ON sessions (user_id, ended_at) WHERE vocabulary_learned > 0",
    "CREATE UNIQUE INDEX idx_user_api_keys_user_id ON user_api_keys (user_id)",
    "CREATE UNIQUE INDEX idx_user_provider_keys_user_id ON user_provider_keys (user_id, provider, label)",
    "CREATE INDEX idx_export_history_user_id ON export_history (user_id, created_at desc)",
    "CREATE INDEX idx_export_history_status ON export_history (status)",
    "CREATE INDEX idx_export_history_created_at ON export_history (created_at desc)",
    "CREATE INDEX idx_export_history_export_type ON export_history (export_type)",
    "CREATE INDEX idx_export_history_expires_at ON export_history (expires_at) WHERE expires_at is not null",
    "CREATE INDEX idx_user_profile_audit_logs_user_id ON user_profile_audit_logs (user_id, created_at desc)",
    "CREATE INDEX idx_user_profile_audit_logs_actor ON user_profile_audit_logs (actor) WHERE actor is not null and actor is distinct from user_id",
    "CREATE INDEX idx_user_profile_audit_logs_failures ON user_profile_audit_logs (created_at desc) WHERE action in ('failed', 'skipped')",
}

FOREIGN_KEYS = {
    "fk_user_profiles_user_id_users": "CASCADE",
    "fk_identity_links_user_id_users": "CASCADE",
    "fk_erasures_user_id_users": "CASCADE",
    "fk_held_usernames_user_id_users": "CASCADE",
    "fk_kept_json_user_id_users": "CASCADE",
    "fk_active_days_user_id_users": "CASCADE",
    "fk_stale_progress_user_id_users": "CASCADE",
    "fk_point_awards_user_id_users": "CASCADE",
    "fk_user_progress_user_id_users": "CASCADE",
    "fk_sessions_user_id_users": "CASCADE",
    "fk_user_api_keys_user_id_users": "CASCADE",
    "fk_user_provider_keys_user_id_users": "CASCADE",
    "fk_export_history_user_id_users": "CASCADE",
    "fk_user_profile_audit_logs_user_id_users": "SET NULL",
}

# What a user may write as text or JSON, and the longest value of it (characters, or bytes of JSON).
WRITTEN_BY_USERS = {
    "user_profiles": {
        "display_name": 200,
        "first_name": 200,
        "last_name": 200,
        "company_name": 200,
        "phone": 40,
        "bio": 4_000,
        "target_audience": 20_000,
        "business_context": 20_000,
        "master_system_prompt": 20_000,
        "avatar_emoji": 16,
        "avatar_url": 2_048,
        "profile_picture_url": 2_048,
        "logo_url": 2_048,
        "language": 35,
        "key_metrics": 65_536,
        "preferences": 65_536,
        "notification_settings": 65_536,
    },
    "user_api_keys": {"openai_api_key": 4_096, "unsplash_api_key": 4_096, "anthropic_api_key": 4_096, "hints": 256},
    "user_provider_keys": {"provider": 63, "label": 64, "envelope": 4_096, "hint": 4},
    "export_history": {"filters": 65_536},
}

ONE_OF = {
    "ck_export_history_status_is_known": "'pending', 'processing', 'completed', 'failed', 'expired'",
    "ck_user_profile_audit_logs_action_is_known": (
        "'created', 'updated', 'failed', 'skipped', 'repaired', 'deleted',"
        " 'key_set', 'key_deleted', 'key_disabled', 'key_enabled', 'key_read'"
    ),
    "ck_user_profile_audit_logs_origin_is_known": (
        "'trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize'"
    ),
    "ck_erasures_requested_by_is_known": "'user', 'operator'",
    "ck_jobs_state_is_known": "'pending', 'running', 'paused', 'completed', 'cancelled'",
    "ck_migration_log_direction_is_known": "'upgrade', 'downgrade'",
    "ck_migration_log_outcome_is_known": "'running', 'done', 'failed'",
}


def described(column: Column) -> str:
    words = [column.type.compile(DIALECT).lower()]
    if not column.nullable:
        words.append("not null")
    if isinstance(column.server_default, Identity):
        words.append("identity")
    elif isinstance(column.server_default, DefaultClause):
        words.append(f"default {column.server_default.arg}")
    return " ".join(words)


def check_texts(table_name: str) -> dict[str, str]:
    constraints = metadata.tables[table_name].constraints
    return {str(c.name): str(c.sqltext) for c in constraints if isinstance(c, CheckConstraint)}


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    return done.stdout


def modules_after(statement: str) -> set[str]:
    return set(json.loads(run_python(f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))")))


def test_the_tables_are_those_of_the_specification():
    assert set(metadata.tables) == set(COLUMNS)


@pytest.mark.parametrize("table_name", sorted(COLUMNS))
def test_columns_are_those_of_the_specification_in_its_order(table_name):
    declared = {column.name: described(column) for column in metadata.tables[table_name].columns}
    assert declared == COLUMNS[table_name]
    assert list(declared) == list(COLUMNS[table_name])


def test_the_six_groups_of_traits_can_be_null():
    groups = ("personality_traits", "appearance_traits", "behavioral_metrics", "cultural_attributes")
    for group in (*groups, "analysis_summary", "metadata"):
        assert metadata.tables["user_profiles"].c[group].nullable
        assert check_texts("user_profiles")[f"ck_user_profiles_{group}_is_object"] == f"{group} @> '{{}}'"


def test_indexes_are_those_of_the_specification():
    declared = {str(CreateIndex(i).compile(dialect=DIALECT)) for t in metadata.tables.values() for i in t.indexes}
    assert declared == INDEXES


def test_external_id_and_referral_code_are_unique_constraints():
    constraints = [c for t in metadata.tables.values() for c in t.constraints if isinstance(c, UniqueConstraint)]
    assert {c.name for c in constraints} == {
        "uq_user_profiles_external_id", "uq_user_profiles_referral_code", "uq_identity_links_user_id"
    }  # fmt: skip


def test_every_foreign_key_leads_to_the_user():
    keys = [key for table in metadata.tables.values() for key in table.foreign_key_constraints]
    assert {key.name: key.ondelete for key in keys} == FOREIGN_KEYS
    assert {key.elements[0].target_fullname for key in keys} == {"auth.users.id"}


def test_every_constraint_and_index_has_a_name_that_postgresql_does_not_cut():
    for table in metadata.tables.values():
        for item in (*table.constraints, *table.indexes):
            assert item.name
            assert len(str(item.name).encode()) <= 63, item.name
        # SQLAlchemy writes a shortened name with a hash where it finds one too long.
        ddl = str(CreateTable(table).compile(dialect=DIALECT))
        assert [c.name for c in table.constraints if f"CONSTRAINT {c.name} " not in ddl] == []


@pytest.mark.parametrize(
    ("table_name", "column", "limit"),
    [(table, column, limit) for table, limits in WRITTEN_BY_USERS.items() for column, limit in limits.items()],
)
def test_what_a_user_writes_has_a_limit(table_name, column, limit):
    measure = f"octet_length({column}::text)" if limit == checks.JSON_LIMIT_BYTES else f"char_length({column})"
    texts = check_texts(table_name)
    if column == "hints":
        measure = f"octet_length({column}::text)"
    if column in {"avatar_emoji", "label"}:
        assert any(text.startswith(column) and f"{{0,{limit}}}$" in text for text in texts.values())
    elif column in {"provider", "hint"}:
        assert any(text.startswith(column) and text.endswith(("{0,62}$'", "{4}$'")) for text in texts.values())
    else:
        assert any(text.endswith(f"{measure} <= {limit}") for text in texts.values())


def test_urls_are_http_or_paths_of_the_same_site():
    texts = check_texts("user_profiles")
    for column in ("avatar_url", "profile_picture_url", "logo_url"):
        assert texts[f"ck_user_profiles_{column}_is_a_web_address"].startswith(
            rf"{column} ~ '^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)'"
        )


def test_lists_of_known_values_are_those_of_the_specification():
    declared = {}
    for table_name in metadata.tables:
        for name, text in check_texts(table_name).items():
            if name.endswith("_is_known"):
                declared[name] = text.partition(" in (")[2].removesuffix(")")
    assert declared == ONE_OF


def test_counters_cannot_be_negative():
    for table_name in ("user_profiles", "user_progress", "sessions", "export_history", "user_profile_audit_logs"):
        texts = list(check_texts(table_name).values())
        combined = {name for text in texts if text.startswith("least(") for name in text[6:].split(")")[0].split(", ")}
        for name, description in COLUMNS[table_name].items():
            if description == COUNT:
                assert f"{name} >= 0" in texts or name in combined, name


def test_checks_use_built_in_functions_only():
    for table_name in metadata.tables:
        for text in check_texts(table_name).values():
            assert "public." not in text
            assert "profiles_internal." not in text


def test_every_internal_table_and_column_is_documented():
    for name, table in metadata.tables.items():
        if name.startswith("profiles_internal."):
            assert table.comment
            assert [column.name for column in table.columns if not column.comment] == []


def test_every_public_table_is_documented():
    assert [name for name, table in metadata.tables.items() if table.schema is None and not table.comment] == []


def test_mappers_configure():
    configure_mappers()
    assert {mapper.local_table.fullname for mapper in Base.registry.mappers} == {
        name for name in COLUMNS if not name.startswith("profiles_internal.")
    }


def test_an_insert_leaves_what_is_absent_to_the_server():
    statement = insert(UserProfile).values(username="ada").compile(dialect=DIALECT)
    assert "(username)" in str(statement)


def test_none_in_a_json_column_is_sql_null():
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, postgresql.JSONB):
                assert column.type.none_as_null, column


def test_the_column_metadata_is_reached_as_metadata_():
    assert UserProfile(metadata_={"a": 1}).metadata_ == {"a": 1}
    assert UserProfileAuditLog.metadata_.property.columns[0].name == "metadata"
    assert UserProfile.metadata is metadata


@pytest.mark.parametrize(
    ("uploaded", "provided", "shown"),
    [
        ("https://a/1", "https://b/2", "https://a/1"),
        (None, "https://b/2", "https://b/2"),
        ("", "https://b/2", "https://b/2"),
        (None, None, None),
    ],
)
def test_an_uploaded_picture_takes_precedence(uploaded, provided, shown):
    assert UserProfile(profile_picture_url=uploaded, avatar_url=provided).picture_url == shown


@pytest.mark.parametrize(
    ("last_active_on", "days"),
    [
        (date(2024, 3, 1), 5),  # today
        (date(2024, 2, 29), 5),  # yesterday, over the end of a leap February
        (date(2024, 2, 28), 0),
        (date(2024, 3, 2), 5),  # the roll-up's clock is ahead of the reader's
        (None, 0),
    ],
)
def test_a_streak_is_over_once_a_day_was_missed(last_active_on, days):
    progress = UserProgress(last_active_on=last_active_on, current_streak_days=5)
    assert progress.streak_on(date(2024, 3, 1)) == days


def test_reprs_show_the_id_and_the_username_and_nothing_else():
    number = uuid.UUID(int=7)
    profile = UserProfile(id="7", username="ada", email="ada@example.org", phone="+4912345", bio="secret")
    assert repr(profile) == "UserProfile(id='7', username='ada')"
    assert repr(UserApiKeys(id=number, openai_api_key="sk-secret")) == f"UserApiKeys(id={number!r})"
    assert repr(AuthUser(id=number, email="ada@example.org")) == f"AuthUser(id={number!r})"
    assert repr(ExportHistory(id=number, data={"a": "secret"})) == f"ExportHistory(id={number!r})"
    assert repr(LearningSession(id=number)) == f"LearningSession(id={number!r})"


def test_a_repr_works_before_there_is_an_id():
    assert repr(UserProfile()) == "UserProfile(id=None, username=None)"


def test_importing_the_package_imports_no_sqlalchemy():
    loaded = modules_after("import profiles_schema; profiles_schema.__version__")
    assert {name for name in loaded if name.startswith("profiles_schema")} == {
        "profiles_schema",
        "profiles_schema._version",
    }
    assert "sqlalchemy" not in loaded


def test_importing_a_model_imports_sqlalchemy_and_nothing_else():
    limit = modules_after("import sqlalchemy.orm, sqlalchemy.dialects.postgresql")
    ours = modules_after("from profiles_schema import UserProfile")
    assert {name for name in ours - limit if not name.startswith("profiles_schema")} == set()
    assert {name.partition(".")[0] for name in ours}.isdisjoint(
        {"psycopg2", "psycopg", "asyncpg", "alembic", "click", "pydantic", "rich"}
    )


def test_pydantic_is_loaded_with_the_first_group_that_is_read():
    program = """
import sys
from profiles_schema import UserProfile
profile = UserProfile(personality_traits={"bigFive": {"openness": 71}})
assert "pydantic" not in sys.modules
assert profile.personality.big_five.openness == 71
print("pydantic" in sys.modules)
"""
    assert run_python(program).strip() == "True"


def test_importing_a_model_configures_no_mapper():
    program = "from profiles_schema import UserProfile; print(UserProfile.__mapper__.configured)"
    assert run_python(program).strip() == "False"


def test_star_import_gives_every_public_name():
    program = "from profiles_schema import *; import profiles_schema; print(set(profiles_schema.__all__) <= set(dir()))"
    assert run_python(program).strip() == "True"


def test_dir_lists_public_names_before_they_are_loaded():
    program = "import sys, profiles_schema; print(*dir(profiles_schema)); assert 'sqlalchemy' not in sys.modules"
    assert set(profiles_schema.__all__) <= set(run_python(program).split())


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'profiles_schema' has no attribute 'UserProfil'"):
        _ = profiles_schema.UserProfil
    with pytest.raises(ImportError, match="UserProfil"):
        exec("from profiles_schema import UserProfil")
