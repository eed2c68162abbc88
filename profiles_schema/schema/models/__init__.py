"""The tables as typed SQLAlchemy 2 models, one file per table; importing this package registers all of them."""

from profiles_schema.schema.models.auth_users import AuthUser
from profiles_schema.schema.models.base import Base, metadata
from profiles_schema.schema.models.export_history import ExportHistory
from profiles_schema.schema.models.internal import INTERNAL_SCHEMA
from profiles_schema.schema.models.sessions import LearningSession
from profiles_schema.schema.models.user_api_keys import UserApiKeys
from profiles_schema.schema.models.user_profile_audit_logs import UserProfileAuditLog
from profiles_schema.schema.models.user_profiles import UserProfile
from profiles_schema.schema.models.user_progress import UserProgress
from profiles_schema.schema.models.user_provider_keys import UserProviderKey

__all__ = [
    "INTERNAL_SCHEMA",
    "AuthUser",
    "Base",
    "ExportHistory",
    "LearningSession",
    "UserApiKeys",
    "UserProfile",
    "UserProfileAuditLog",
    "UserProgress",
    "UserProviderKey",
    "metadata",
]
