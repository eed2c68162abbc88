"""The values of wide columns are copied to the JSON groups.

Why: rows that nobody touches would never be converted.
Locks: rows that it updates; one batch at a time, committed each.
Beside it: code that uses the columns, and code that uses the groups.
Back: nothing to do: both hold the same.
"""

from alembic import op

revision = "0017_convert_traits"
down_revision = "0016_expand_traits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(
            r"""
do $convert$
declare
  batch_rows integer := 50;
  started timestamp with time zone;
  batch uuid[];
  last_id uuid := '00000000-0000-0000-0000-000000000000';
  attempts integer := 0;
  mode constant text := coalesce(nullif(current_setting('profiles_schema.backfill', true), ''), 'auto');
  inline_limit constant bigint := 100000;
  waiting bigint;
  failed bigint := 0;
  different bigint;
begin
  if to_regproc('profiles_internal.expand_traits') is null then
    return;
  end if;
  -- Again, for a downgrade that was given up half-way.
  perform profiles_internal.expand_traits();
  if not exists (select from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles' and l.state = 'expanded') then
    return;
  end if;
  select count(*) into waiting from (select from public.user_profiles limit inline_limit + 1) as p;
  if current_setting('profiles_schema.contract', true) is distinct from 'now'
    and (mode = 'defer' or (mode = 'auto' and waiting > inline_limit))
  then
    if not exists (select from profiles_internal.jobs as j where j.kind = 'normalize' and j.state in ('pending', 'running', 'paused')) then
      insert into profiles_internal.jobs (kind, rows_total) values ('normalize', nullif(waiting, inline_limit + 1));
    end if;
    raise notice 'the wide columns of % profiles wait to be converted; do it with: profiles-schema normalize run',
      case when waiting > inline_limit then 'more than ' || inline_limit else waiting::text end;
    return;
  end if;

  loop
    -- One block per batch: a lock that cannot be had costs one batch, which is tried again.
    begin
      started := clock_timestamp();
      batch := array(select p.user_id from public.user_profiles as p where p.user_id > last_id order by p.user_id limit batch_rows);
      if cardinality(batch) > 0 then
        perform profiles_internal.convert_traits(batch);
        last_id := batch[cardinality(batch)];
      end if;
      attempts := 0;
      -- A sign-up waits 250 ms for a row.
      batch_rows := case
        when clock_timestamp() - started > interval '100 ms' then greatest(batch_rows / 2, 1)
        when clock_timestamp() - started < interval '50 ms' then least(batch_rows * 2, 500)
        else batch_rows
      end;
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
        for i in 1 .. cardinality(batch) loop
          begin
            perform profiles_internal.convert_traits(batch[i:i]);
          exception
            when lock_not_available or deadlock_detected then
              raise;
            when others then
              failed := failed + 1;
              perform profiles_internal.record_events(batch[i:i], 'failed', 'normalize', sqlstate);
          end;
        end loop;
        last_id := batch[cardinality(batch)];
    end;
    commit;
    exit when cardinality(batch) = 0 and attempts = 0;
    if attempts > 0 then
      perform pg_sleep(least(0.05 * attempts, 1));
    end if;
  end loop;

  select count(*) into different from profiles_internal.trait_differences(p_most => 1000);
  if different > 0 then
    raise warning '% rows could not be converted, % values differ; see them with: profiles-schema normalize verify',
      failed, case when different < 1000 then different::text else '1000 or more' end;
    return;
  end if;
  perform profiles_internal.finish_conversion();
end
$convert$;
"""
        )


def downgrade() -> None:
    # Both hold the same; what is left of a deferred conversion has nothing to do any more.
    op.execute(
        r"""
update profiles_internal.jobs
set state = 'cancelled', finished_at = now()
where kind = 'normalize' and state in ('pending', 'running', 'paused');
"""
    )
