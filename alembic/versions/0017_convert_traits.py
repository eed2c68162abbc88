"""The values of wide columns are copied to the JSON groups.

Why: rows that nobody touches would never be converted.
Locks: rows that it updates; one batch at a time, committed each.
Compatible with: code that uses the columns, and code that uses the groups.
Back: nothing to do: both hold the same.
"""

from pathlib import Path

from alembic import op

revision = "0017_convert_traits"
down_revision = "0016_expand_traits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(run_batches())
        op.execute(
            r"""
do $convert$
declare
  mode constant text := coalesce(nullif(current_setting('profiles_schema.backfill', true), ''), 'auto');
  inline_limit constant bigint := 100000;
  waiting bigint;
  converted bigint;
  failed bigint;
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

  call profiles_internal.run_batches(
    null,
    'select profiles_internal.convert_traits($1::uuid[])',
    $skip$select profiles_internal.record_events(array[$1::uuid], 'failed', 'normalize', $2)$skip$,
    converted,
    failed
  );

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
        op.execute("drop procedure profiles_internal.run_batches")


def downgrade() -> None:
    # Both hold the same; what is left of a deferred conversion has nothing to do any more.
    op.execute(
        r"""
update profiles_internal.jobs
set state = 'cancelled', finished_at = now()
where kind = 'normalize' and state in ('pending', 'running', 'paused');
"""
    )


def run_batches() -> str:
    """The procedure that works in batches."""
    return (Path(__file__).parents[1] / "run_batches.sql").read_text(encoding="utf-8")
