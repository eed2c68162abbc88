"""Rows that the application's own table of users held before become users with profiles.

Why: triggers see only what comes after them.
Locks: rows that it inserts or updates; one batch at a time, committed each.
Beside it: any code may run; a statement on a row that a batch is taking waits for that batch, 250 ms at the most.
Back: nothing to do: the users stay, and go with auth.users.
"""

from alembic import op

revision = "0021_backfill_identity"
down_revision = "0020_follow_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(
            r"""
do $backfill$
declare
  mode constant text := coalesce(nullif(current_setting('profiles_schema.backfill', true), ''), 'auto');
  inline_limit constant bigint := 100000;
  batch_rows constant integer := 500;
  chosen text;
  waiting bigint;
  batch record;
  last_key text;
  attempts integer := 0;
  taken bigint := 0;
  failed bigint := 0;
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
  loop
    -- One block per batch: a lock that cannot be had costs one batch, which is tried again.
    begin
      batch := null;
      batch := profiles_internal.identity_window(last_key, batch_rows, batch_rows);
      if cardinality(batch.keys) > 0 then
        taken := taken + profiles_internal.take_identities(batch.keys);
      end if;
      attempts := 0;
    exception
      when lock_not_available or deadlock_detected then
        attempts := attempts + 1;
        if attempts > 200 then
          raise;
        end if;
      when others then
        if batch is null then
          raise;
        end if;
        -- One bad row must not keep the others back.
        for i in 1 .. cardinality(batch.keys) loop
          begin
            taken := taken + profiles_internal.take_identities(batch.keys[i:i]);
          exception when others then
            failed := failed + 1;
            perform profiles_internal.record_events(
              array[null::uuid], 'failed', 'backfill', sqlstate, 'the table of users', '{"identity": "take", "rows": 1}'
            );
          end;
        end loop;
        attempts := 0;
    end;
    commit;
    if attempts > 0 then
      perform pg_sleep(least(0.05 * attempts, 1));
    else
      exit when batch.reached is null;
      last_key := batch.reached;
    end if;
  end loop;
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


def downgrade() -> None:
    # What is left of a deferred job has nothing to do any more.
    op.execute(
        r"""
update profiles_internal.jobs
set state = 'cancelled', finished_at = now()
where kind = 'identity' and state in ('pending', 'running', 'paused');
"""
    )
