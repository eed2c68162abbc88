"""Searches in preferences and in three of the JSON groups get their indexes.

Why: questions such as personality_traits @> '{"attachmentStyle": "secure"}' would read every profile.
Locks: nothing: a new table has them already; where they are missing they are built concurrently.
Compatible with: any code.
Back: nothing to do: they belong to the table, and go with it.
"""

from alembic import op

revision = "0018_index_traits"
down_revision = "0017_convert_traits"
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
create index concurrently if not exists idx_user_profiles_personality_gin on public.user_profiles using gin (personality_traits jsonb_path_ops) where personality_traits is not null;
"""
        )
        op.execute(
            r"""
create index concurrently if not exists idx_user_profiles_appearance_gin on public.user_profiles using gin (appearance_traits jsonb_path_ops) where appearance_traits is not null;
"""
        )
        op.execute(
            r"""
create index concurrently if not exists idx_user_profiles_behavioral_gin on public.user_profiles using gin (behavioral_metrics jsonb_path_ops) where behavioral_metrics is not null;
"""
        )


def downgrade() -> None:
    # They belong to the table, and go with it.
    pass
