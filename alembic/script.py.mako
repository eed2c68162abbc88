<%!
    import re
    import textwrap

    def flush_sql(code):
        """SQL stands flush left, as it does in its file: alembic indents what it renders."""
        return re.sub(
            r'r"""\n(.*?)\n *"""', lambda m: 'r"""\n' + textwrap.dedent(m[1]) + '\n"""', code, flags=re.DOTALL
        )
%>"""${message}

Why: say what this is for.
Locks: say which live tables it locks, in which mode, for how long. One live table per revision.
Compatible with: say which versions of the application may run while and after it runs.
Back: say what the downgrade does, and what it refuses to lose.
"""

# Rules of a revision:
# - It imports the standard library, alembic and sqlalchemy only: history does not change with the package.
# - SQL stands in op.execute(r"""…"""); write \: for a colon directly before a word that is no ::cast.
# - The runner retries it as a whole when a lock cannot be had within lock_timeout, so it takes its lock first.
# - Inside `with op.get_context().autocommit_block():` every statement can run twice (IF NOT EXISTS, OR REPLACE).
#   CREATE INDEX CONCURRENTLY belongs there; the runner drops an invalid leftover first and checks the result.
# - Data work is SQL in batches that commit (run_batches.sql, as in 0015_backfill_profiles), never a loop in Python.
# - downgrade() keeps data. Name the tables that it drops in `downgrade_drops`: they are counted before anything starts.

from alembic import op
% if "sa." in (upgrades or "") + (downgrades or ""):
import sqlalchemy as sa
% endif
% if imports:
${imports}
% endif

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
downgrade_drops = ()


def upgrade() -> None:
    ${flush_sql(upgrades) if upgrades else "pass"}


def downgrade() -> None:
    ${flush_sql(downgrades) if downgrades else "pass"}
