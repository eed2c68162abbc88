"""Deleted users who still have personal data: an erasure that was lost, or something written afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.operations.sample import sampled_users

RECENT_ROWS = 1_000

# What profiles_internal.erase_profile empties. Its random name is 32 hex digits.
_EMPTY = (
    "external_id", "display_name", "first_name", "last_name", "email", "phone", "bio", "company_name", "target_audience",
    "business_context", "master_system_prompt", "avatar_url", "profile_picture_url", "logo_url", "referral_code", "last_login",
    "personality_traits", "appearance_traits", "behavioral_metrics", "cultural_attributes", "analysis_summary", "metadata",
)  # fmt: skip
PERSONAL = (
    "(exists (select from public.user_profiles as p where p.user_id = u.id and (p.is_active or p.username !~ '^[0-9a-f]{32}$'"
    f" or num_nonnulls({', '.join(f'p.{column}' for column in _EMPTY)}) > 0"
    " or p.preferences <> '{}' or p.notification_settings <> '{}' or p.key_metrics <> '[]'))"
    " or exists (select from public.user_api_keys as k where k.user_id = u.id)"
    " or exists (select from public.user_provider_keys as k where k.user_id = u.id)"
    " or exists (select from public.export_history as e where e.user_id = u.id"
    "  and num_nonnulls(e.data, e.filters, e.file_url, e.error_message) > 0))"
)
"""Whether a user ``u`` has personal data in profile, API keys or exports."""

FOUND_DELETED = (
    "coalesce((to_jsonb(u) ->> 'deleted_at')::timestamptz < (select max((a.data ->> 'at')::timestamptz)"
    " from profiles_internal.adopted as a where a.object_type = 'table'), false)"
)
"""Whether a user ``u`` was deleted before tables were taken over. What is theirs there is erased only when somebody says so."""

ERASE: Final = "profiles-schema backfill --erase-deleted"
PENDING: Final = "profiles-schema users erase --pending"
_DELETED = "to_jsonb(u) ->> 'deleted_at' is not null"


def examine_erasure(connection: Connection, *, full: bool) -> Iterator[Finding]:
    """Deleted users who still have personal data, and erasures that nobody has done.

    Not ``full``: a window of users from a random point of the primary key, its ends, and whoever was written lately.
    """
    users = "auth.users as u"
    if not full:
        users = sampled_users(
            f"(select p.user_id from public.user_profiles as p order by p.updated_at desc limit {RECENT_ROWS})",
            f"(select e.user_id from public.export_history as e order by e.created_at desc limit {RECENT_ROWS})",
        )
    count, found = connection.execute(
        text(
            f"select count(*) filter (where not {FOUND_DELETED}), count(*) filter (where {FOUND_DELETED})"
            f" from {users} where {_DELETED} and {PERSONAL}"
        )
    ).one()
    if found:
        yield notice(
            "found_deleted",
            f"{found} {'user who was' if found == 1 else 'users who were'} deleted before the tables were taken over still"
            f" {'has' if found == 1 else 'have'} personal data in them. Only an explicit command erases it, and that cannot be undone.",
            ERASE,
            found,
        )
    if count:
        yield problem(
            "not_erased",
            f"{count} deleted {'user still has' if count == 1 else 'users still have'} personal data.",
            "profiles-schema backfill",
            count,
        )
    if connection.scalar(text("select to_regclass('profiles_internal.erasures') is null")):
        return
    waiting = connection.scalar(
        text(
            "select count(*) from profiles_internal.erasures"
            " where finished_at is null and requested_at < now() - interval '1 day'"
        )
    )
    if waiting:
        yield problem(
            "erasure_pending",
            f"{waiting} {'user has' if waiting == 1 else 'users have'} waited for their erasure for more than a day.",
            PENDING,
            waiting,
        )
