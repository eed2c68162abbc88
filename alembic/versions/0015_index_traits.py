"""Searches in preferences and in three of the JSON groups get their indexes.

Why: questions such as personality_traits @> '{"attachmentStyle": "secure"}' would read every profile.
Locks: nothing that readers or writers would notice: the indexes are built concurrently.
Beside it: any code.
Back: drops the indexes, concurrently.
"""

from alembic import op

revision = "0015_index_traits"
down_revision = "0014_convert_traits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            r"""
create index concurrently if not exists idx_user_profiles_preferences_gin on public.user_profiles using gin (preferences jsonb_path_ops);
"""
        )
        op.execute(
            r"""
create index concurrently if not exists idx_user_profiles_personality_gin on public.user_profiles using gin (personality_traits jsonb_path_ops);
"""
        )
        op.execute(
            r"""
create index concurrently if not exists idx_user_profiles_appearance_gin on public.user_profiles using gin (appearance_traits jsonb_path_ops);
"""
        )
        op.execute(
            r"""
create index concurrently if not exists idx_user_profiles_behavioral_gin on public.user_profiles using gin (behavioral_metrics jsonb_path_ops);
"""
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("drop index concurrently if exists public.idx_user_profiles_preferences_gin")
        op.execute("drop index concurrently if exists public.idx_user_profiles_personality_gin")
        op.execute("drop index concurrently if exists public.idx_user_profiles_appearance_gin")
        op.execute("drop index concurrently if exists public.idx_user_profiles_behavioral_gin")
