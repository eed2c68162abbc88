"""Create posts."""

import sqlalchemy as sa
from alembic import op

revision = "app_0001_create_posts"
down_revision = None
branch_labels = ("app",)
# The revision of profiles-schema that must be there first: the one the application was written for.
depends_on = "0015_backfill_profiles"


def upgrade() -> None:
    op.create_table(
        "posts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("author_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["author_id"], ["user_profiles.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_posts_author_id", "posts", ["author_id"])


def downgrade() -> None:
    op.drop_table("posts")
