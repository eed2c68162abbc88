-- After users have signed up (one, or a whole import): each of them gets a profile and a progress row.
--
-- Guarantees: the sign-up commits, even if this fails. A failure is a row in user_profile_audit_logs; the next sign-in
-- and `profiles-schema backfill` repair it.
-- Never: waits longer for a lock than 250 ms at a time, reads metadata for anything that grants a right, or assumes a
-- column that not every auth server has.
-- Definer: the auth server's own role has no rights in public.
-- Statement-level: costs a single sign-up no more than a row-level trigger, and an import half.
-- An import is served a thousand users at a time, so that it need not fit into memory.
-- Users who are inserted as deleted ones (a restore, a move from another server) get none.
-- Row triggers run before statement triggers. So where the application has one on auth.users, which may need the profile,
-- the same function also serves a row trigger, 00_profiles_on_auth_user_created, that runs before the application's; the
-- statement trigger then has nothing left to do.
create or replace function profiles_internal.on_auth_user_created()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_auth_user_created$
declare
  batch_users constant integer := 1000;
  lost_wait constant text := 'an earlier statement of this transaction waited for a lock and did not get it';
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  signing_up text := set_config('profiles_internal.signing_up', 'yes', true);
  served text := coalesce(current_setting('profiles_internal.served', true), '');
  off boolean := false;
  users jsonb[];
  error_code text;
begin
  -- A setting that cannot be read counts as its default.
  begin
    off := (select s.value from profiles_internal.settings as s where s.key = 'auto_create_profiles') = 'false';
  exception when query_canceled or assert_failure or others then
    error_code := sqlstate;
  end;
  if off then
    return null;
  end if;

  if tg_level = 'ROW' then
    begin
      if to_jsonb(new) ->> 'deleted_at' is null and gave_up = '' then
        perform profiles_internal.sign_up(array[to_jsonb(new)]);
      elsif to_jsonb(new) ->> 'deleted_at' is null and gave_up = 'yes' then
        perform profiles_internal.record_events(array[new.id], 'skipped', 'trigger', '55P03', lost_wait);
      end if;
      served := set_config('profiles_internal.served', 'yes', true);
    exception when query_canceled or assert_failure or others then
      -- The statement trigger tries again, and records what fails.
      served := set_config('profiles_internal.served', '', true);
    end;
    signing_up := set_config('profiles_internal.signing_up', '', true);
    return null;
  elsif served = 'yes' then
    served := set_config('profiles_internal.served', '', true);
    signing_up := set_config('profiles_internal.signing_up', '', true);
    return null;
  end if;

  begin
    if gave_up = '' then
      users := array(select to_jsonb(n) from new_users as n where to_jsonb(n) ->> 'deleted_at' is null limit batch_users + 1);
      if cardinality(users) <= batch_users then
        perform profiles_internal.sign_up(users);
      else
        for users in
          select array_agg(numbered.user_row)
          from (
            select to_jsonb(n) as user_row, (row_number() over () - 1) / batch_users as batch
            from new_users as n
            where to_jsonb(n) ->> 'deleted_at' is null
          ) as numbered
          group by numbered.batch
          order by numbered.batch
        loop
          perform profiles_internal.sign_up(users);
        end loop;
      end if;
    elsif gave_up = 'yes' then
      perform profiles_internal.record_events(
        array(select n.id from new_users as n where to_jsonb(n) ->> 'deleted_at' is null), 'skipped', 'trigger', '55P03', lost_wait
      );
    end if;
    signing_up := set_config('profiles_internal.signing_up', '', true);
    return null;
  exception when query_canceled or assert_failure or others then
    error_code := sqlstate;
  end;

  -- Only a user row that cannot be read leads here: record by id, which any table of users has.
  begin
    perform profiles_internal.record_events(array(select n.id from new_users as n), 'failed', 'trigger', error_code, 'auth.users');
  exception when query_canceled or assert_failure or others then
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
