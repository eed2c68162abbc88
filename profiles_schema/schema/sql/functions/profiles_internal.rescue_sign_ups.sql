-- What the sign-up trigger does once creating the profiles of a statement has failed: save every profile that can be
-- saved, record the others, and let the sign-up commit in any case.
--
--   A lock (55P03, 40P01; 40001 in a transaction with one snapshot): either another transaction is taking the same name, and none
--   waits for the second name; or the table itself is locked, and a further wait would delay the sign-up. So: one more
--   short wait, with the second name. If that fails too, the rest of this transaction no longer tries (`profiles_internal.gave_up`): the
--   auth server follows its INSERT with two UPDATEs, and an import may have a statement per user.
--   A cancel (57014): the statement has to end. Nothing more is tried.
--   Anything else: row by row, so that one bad row costs one profile and not the batch.
--
-- What is recorded here is found by `profiles-schema health` and repaired by the next sign-in or by `backfill`.
create or replace function profiles_internal.rescue_sign_ups(p_users jsonb[], p_error_code text, p_error_message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $rescue_sign_ups$
declare
  lock_errors constant text[] := array['55P03', '40P01', '40001'];
  ids uuid[] := array(select (u.user_row ->> 'id')::uuid from unnest(p_users) as u (user_row));
  first_choice integer := case when cardinality(p_users) = 1 and p_error_code = any (lock_errors) then 2 else 1 end;
  lock_failures integer := 0;
  user_row jsonb;
  i integer := 0;
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  if p_error_code = '57014' then
    perform profiles_internal.record_events(ids, 'failed', 'trigger', p_error_code, p_error_message);
    return;
  end if;

  foreach user_row in array p_users loop
    i := i + 1;
    for choice in first_choice .. 2 loop
      error_code := null;
      begin
        perform profiles_internal.create_profiles(array[user_row], choice);
      exception when query_canceled or assert_failure or others then
        get stacked diagnostics
          error_code = returned_sqlstate, failed_table = table_name,
          failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
      end;
      exit when error_code is null or error_code <> all (lock_errors);
      lock_failures := lock_failures + 1;
    end loop;

    if error_code = any (lock_errors || '57014'::text) then
      perform set_config('profiles_internal.gave_up', 'yes', true);
      perform profiles_internal.record_events(ids[i:], 'failed', 'trigger', error_code, 'waited for a lock and did not get it');
      return;
    elsif error_code is not null then
      perform profiles_internal.record_events(
        ids[i:i], 'failed', 'trigger', error_code, profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
      );
    end if;

    -- After three names that other transactions were taking, the rest of the batch no longer competes for any.
    if lock_failures >= 3 then
      first_choice := 2;
    end if;
  end loop;
end
$rescue_sign_ups$;

revoke all on function profiles_internal.rescue_sign_ups(jsonb[], text, text) from public, anon, authenticated, service_role;
