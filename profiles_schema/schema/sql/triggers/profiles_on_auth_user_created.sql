-- After users have signed up (one, or a whole import): every one of them gets a profile and a progress row.
--
-- Guarantees: the sign-up commits, whatever goes wrong in here. What went wrong is a row in
-- user_profile_audit_logs; the next sign-in and `profiles-schema backfill` repair it.
-- Never: waits longer for a lock than 250 ms at a time, reads metadata for anything that grants a right, or assumes a
-- column that not every auth server has.
-- Definer: the auth server's own role has no rights in public.
-- Statement-level: costs a single sign-up no more than a row-level trigger, and an import half.
-- Plain OTHERS would let a cancelled statement and a failed ASSERT through.
create or replace function profiles_internal.on_auth_user_created()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_auth_user_created$
declare
  gave_up text := current_setting('profiles_internal.gave_up', true);
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  begin
    if (select s.value from profiles_internal.settings as s where s.key = 'auto_create_profiles') = 'false' then
      return null;
    end if;
    if coalesce(gave_up, '') = '' then
      perform profiles_internal.create_profiles(array(select to_jsonb(n) from new_users as n));
      return null;
    end if;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
  end;

  begin
    if error_code is not null then
      perform profiles_internal.rescue_sign_ups(
        array(select to_jsonb(n) from new_users as n), error_code,
        profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
      );
    elsif gave_up = 'yes' then
      perform profiles_internal.record_events(
        array(select n.id from new_users as n), 'skipped', 'trigger', '55P03',
        'an earlier statement of this transaction waited for a lock in vain'
      );
    end if;
  exception when query_canceled or assert_failure or others then
    -- Not even the record could be written. The server's log is all that is left; backfill still finds the user.
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: no profile for a new user (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
  return null;
end
$on_auth_user_created$;

revoke all on function profiles_internal.on_auth_user_created() from public, anon, authenticated, service_role;

create or replace trigger profiles_on_auth_user_created
  after insert on auth.users
  referencing new table as new_users
  for each statement
  execute function profiles_internal.on_auth_user_created();
