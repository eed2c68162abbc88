-- Follows one event in the application's table of users, and never raises: what fails is tried row by row, and recorded.
-- A lock that cannot be had, or a cancel, ends it: the rest of this transaction no longer tries (`profiles_internal.gave_up`).
-- On record is how many rows of which event, never a key or a value; `profiles-schema health` finds the users, and
-- `profiles-schema backfill` repairs them.
create or replace function profiles_internal.follow_identity(p_event text, p_old text[], p_new jsonb[], p_key text, p_by_uuid boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow_identity$
declare
  giving_up constant text[] := array['55P03', '40P01', '40001', '57014'];
  row_count constant integer := coalesce(cardinality(p_new), cardinality(p_old));
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  if gave_up = '' then
    begin
      perform profiles_internal.apply_identity(p_event, p_old, p_new, p_key, p_by_uuid);
      return;
    exception when query_canceled or assert_failure or others then
      get stacked diagnostics
        error_code = returned_sqlstate, failed_table = table_name,
        failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
    end;
  end if;

  begin
    if gave_up <> '' then
      if gave_up = 'yes' then
        perform profiles_internal.record_events(
          array[null::uuid], 'skipped', 'trigger', '55P03', 'an earlier statement of this transaction waited for a lock and did not get it',
          jsonb_build_object('identity', p_event, 'rows', row_count)
        );
      end if;
    elsif error_code = any (giving_up) or row_count = 1 then
      if error_code = any (giving_up) then
        perform set_config('profiles_internal.gave_up', 'yes', true);
      end if;
      perform profiles_internal.record_events(
        array[null::uuid], 'failed', 'trigger', error_code,
        profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context),
        jsonb_build_object('identity', p_event, 'rows', row_count)
      );
    else
      for i in 1 .. row_count loop
        perform profiles_internal.follow_identity(p_event, p_old[i:i], p_new[i:i], p_key, p_by_uuid);
        if i < row_count and coalesce(current_setting('profiles_internal.gave_up', true), '') <> '' then
          perform profiles_internal.follow_identity(p_event, p_old[i + 1:], p_new[i + 1:], p_key, p_by_uuid);
          exit;
        end if;
      end loop;
    end if;
  exception when query_canceled or assert_failure or others then
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: users were not followed (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
end
$follow_identity$;

revoke all on function profiles_internal.follow_identity(text, text[], jsonb[], text, boolean) from public, anon, authenticated, service_role;
