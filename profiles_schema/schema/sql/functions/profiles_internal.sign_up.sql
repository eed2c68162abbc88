-- Gives new users their profiles, and never raises: what fails is rescued row by row, and recorded.
-- The guard stands here and not around the whole import, so that one bad row costs its thousand a second try, no more.
-- Plain OTHERS would let a cancelled statement and a failed ASSERT through.
create or replace function profiles_internal.sign_up(p_users jsonb[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $sign_up$
declare
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  begin
    perform profiles_internal.create_profiles(p_users);
    return;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
  end;

  begin
    perform profiles_internal.rescue_sign_ups(
      p_users, error_code,
      profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
    );
  exception when query_canceled or assert_failure or others then
    -- Not even the record could be written. The server's log is all that is left; backfill still finds the user.
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: no profile for a new user (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
end
$sign_up$;

revoke all on function profiles_internal.sign_up(jsonb[]) from public, anon, authenticated, service_role;
