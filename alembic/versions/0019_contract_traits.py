"""Wide columns whose values the JSON groups hold are dropped, if that is due.

Why: two copies cost space and every write twice; but only a proof, row by row, and a time of waiting let the first one go.
Locks: user_profiles in ACCESS EXCLUSIVE mode for milliseconds, only if columns go.
Compatible with: code that uses the groups; code that uses the columns until they go.
Back: the columns come back under their names once all of them are filled from the JSON; one batch at a time.
"""

from pathlib import Path

from alembic import op

revision = "0019_contract_traits"
down_revision = "0018_index_traits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
do $contract$
declare
  at_once constant boolean := coalesce(current_setting('profiles_schema.contract', true), '') = 'now';
  columns integer;
  unconverted integer;
  due timestamp with time zone;
  different text;
begin
  select
    count(*),
    count(*) filter (where l.state <> 'converted'),
    max(l.converted_at) + make_interval(days => coalesce(
      (select (s.value #>> '{}')::integer from profiles_internal.settings as s where s.key = 'normalize_verification_days'), 7
    ))
  into columns, unconverted, due
  from profiles_internal.legacy_columns as l
  where l.table_name = 'user_profiles' and l.state <> 'contracted';
  if columns = 0 then
    return;
  end if;

  -- A deploy never fails for what is not ripe: it says what is waiting, and how to finish it.
  if unconverted > 0 then
    raise notice '% wide columns of user_profiles stay: not all profiles are converted yet. Go on with: profiles-schema normalize run; then: profiles-schema normalize contract',
      columns;
    return;
  end if;
  if due > now() and not at_once then
    raise notice '% wide columns of user_profiles stay for the verification period, until %; then they go with: profiles-schema normalize contract',
      columns, to_char(due, 'YYYY-MM-DD HH24:MI TZ');
    return;
  end if;
  select string_agg(format('%s of user %s', d.column_name, d.user_id), ', ') into different
  from profiles_internal.trait_differences(p_most => 5) as d;
  if different is not null then
    raise warning '% wide columns of user_profiles stay: values differ from the JSON (%). See all with: profiles-schema normalize verify',
      columns, different;
    return;
  end if;
  begin
    columns := profiles_internal.contract_traits();
  exception when dependent_objects_still_exist or object_not_in_prerequisite_state then
    raise warning '% wide columns of user_profiles stay: %. Then: profiles-schema normalize contract', columns, sqlerrm;
    return;
  end;
  raise notice '% wide columns of user_profiles are dropped; the JSON groups hold their values', columns;
end
$contract$;
"""
    )


def downgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(
            r"""
do $begin_restore$
begin
  if to_regproc('profiles_internal.begin_trait_restore') is not null then
    perform profiles_internal.begin_trait_restore();
  end if;
end
$begin_restore$;
"""
        )
        op.execute(run_batches())
        op.execute(
            r"""
do $restore$
declare
  done bigint;
  failed bigint;
begin
  if not exists (select from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles' and l.state = 'restoring') then
    return;
  end if;
  call profiles_internal.run_batches(
    null, 'select profiles_internal.restore_traits($1::uuid[])', null, done, failed
  );
end
$restore$;
"""
        )
        op.execute("drop procedure profiles_internal.run_batches")
        op.execute(
            r"""
do $finish_restore$
begin
  if to_regproc('profiles_internal.finish_trait_restore') is not null then
    perform profiles_internal.finish_trait_restore();
  end if;
end
$finish_restore$;
"""
        )


def run_batches() -> str:
    """The procedure that works in batches."""
    return (Path(__file__).parents[1] / "run_batches.sql").read_text(encoding="utf-8")
