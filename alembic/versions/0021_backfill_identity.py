"""Rows that the application's own table of users held before become users with profiles.

Why: triggers see only what comes after them.
Locks: rows that it inserts or updates; one batch at a time, committed each.
Compatible with: any code; a statement on a row that a batch is taking waits for that batch, 250 ms at the most.
Back: nothing to do: the users stay, and go with auth.users.
"""

from pathlib import Path

from alembic import op

revision = "0021_backfill_identity"
down_revision = "0020_follow_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(run_batches())
        op.execute(
            r"""
do $backfill$
declare
  mode constant text := coalesce(nullif(current_setting('profiles_schema.backfill', true), ''), 'auto');
  inline_limit constant bigint := 100000;
  chosen text;
  waiting bigint;
  taken bigint;
  failed bigint;
begin
  if to_regproc('profiles_internal.identity_table') is null then
    return;
  end if;
  chosen := (select i.table_name from profiles_internal.identity_table() as i);
  if chosen is null then
    return;
  end if;
  execute format('select count(*) from (select from %s limit $1) as t', chosen) into waiting using inline_limit + 1;
  if mode = 'defer' or (mode = 'auto' and waiting > inline_limit) then
    if waiting > 0 and not exists (select from profiles_internal.jobs as j where j.kind = 'identity' and j.state in ('pending', 'running', 'paused')) then
      insert into profiles_internal.jobs (kind, rows_total) values ('identity', nullif(waiting, inline_limit + 1));
    end if;
    raise notice '% rows of % wait to become users; do it with: profiles-schema backfill',
      case when waiting > inline_limit then 'more than ' || inline_limit else waiting::text end, chosen;
    return;
  end if;

  perform set_config('profiles_internal.origin', 'backfill', false);
  call profiles_internal.run_batches(
    'select w.keys, w.reached from profiles_internal.identity_window($1, $2, $2) as w',
    'select profiles_internal.take_identities($1)',
    $skip$
    select profiles_internal.record_events(
      array[null::uuid], 'failed', 'backfill', $2, 'the table of users', '{"identity": "take", "rows": 1}'
    )
    $skip$,
    taken,
    failed
  );
  perform set_config('profiles_internal.origin', '', false);
  if failed > 0 then
    raise warning '% rows of % could not become users; see: profiles-schema health', failed, chosen;
  elsif taken > 0 then
    raise notice '% rows of % became users', taken, chosen;
  end if;
end
$backfill$;
"""
        )
        op.execute("drop procedure profiles_internal.run_batches")


def downgrade() -> None:
    # What is left of a deferred job has nothing to do any more.
    op.execute(
        r"""
update profiles_internal.jobs
set state = 'cancelled', finished_at = now()
where kind = 'identity' and state in ('pending', 'running', 'paused');
"""
    )


def run_batches() -> str:
    """The procedure that works in batches."""
    return (Path(__file__).parents[1] / "run_batches.sql").read_text(encoding="utf-8")
