-- After a user has changed (every sign-in does that): the profile follows, and a missing one is made.
--
-- Guarantees: the sign-in commits, even if this fails. A failure is recorded as at sign-up.
-- Cheap when nothing that concerns a profile has changed: one index probe.
-- Two transactions on one user: the one that creates a profile holds the user's row as a foreign key does (FOR KEY SHARE) until it
-- commits. An erasure, and a change that finds no profile and makes none, lock the row FOR UPDATE: they wait for a profile
-- that is being made, and the next one is made from what they leave (see living_users). A change that makes the profile
-- itself takes no such lock: the unique index lets one of the two in, and the other one then follows.
-- A plain AFTER UPDATE that compares in its body: UPDATE OF and WHEN would make the trigger depend on columns of
-- auth.users and so block the auth server's own migrations.
-- Definer: the auth server's own role has no rights in public.
create or replace function profiles_internal.on_auth_user_updated()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_auth_user_updated$
declare
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  one_snapshot constant boolean := current_setting('transaction_isolation') in ('repeatable read', 'serializable');
  before jsonb;
  after jsonb;
  lost jsonb := '{}';
  signed_in boolean;
  profile_exists boolean := true;
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  if gave_up <> '' then
    -- This transaction has waited for a lock and did not get it. The profile misses this change: it is recorded, unless
    -- the record cannot be written either.
    begin
      before := to_jsonb(old) - 'updated_at';
      after := to_jsonb(new) - 'updated_at';
      if gave_up = 'yes' and before <> after then
        lost := case when before ->> 'deleted_at' is not null and after ->> 'deleted_at' is null then '{"undeleted": true}' else '{}' end;
        perform profiles_internal.record_events(
          array[new.id], 'skipped', 'trigger', '55P03', 'an earlier statement of this transaction waited for a lock and did not get it', lost
        );
      end if;
    exception when query_canceled or assert_failure or others then
      perform set_config('profiles_internal.gave_up', 'mute', true);
      raise warning 'profiles-schema: a profile did not follow its user, and no record of it (SQLSTATE %)', sqlstate
        using hint = 'Run: profiles-schema backfill';
    end;
    return null;
  end if;

  begin
    before := to_jsonb(old);
    after := to_jsonb(new);
    lost := case when before ->> 'deleted_at' is not null and after ->> 'deleted_at' is null then '{"undeleted": true}' else '{}' end;

    if after ->> 'deleted_at' is not null then
      if before ->> 'deleted_at' is null then
        -- Where the wait is too long, what can be seen is erased all the same, and the rest is on record for backfill.
        begin
          perform from auth.users as u where u.id = new.id for update;
          error_code := case when one_snapshot then '40001' end;
        exception when lock_not_available or deadlock_detected then
          error_code := sqlstate;
        end;
        perform profiles_internal.erase_profile(new.id);
        if error_code is not null then
          perform profiles_internal.record_events(array[new.id], 'failed', 'trigger', error_code, 'auth.users');
        end if;
      end if;
      return null;
    end if;

    signed_in := after ->> 'last_sign_in_at' is not null and before -> 'last_sign_in_at' is distinct from after -> 'last_sign_in_at';
    if before -> 'email' is distinct from after -> 'email'
      or before -> 'phone' is distinct from after -> 'phone'
      or before -> 'deleted_at' is distinct from after -> 'deleted_at'
      or before -> 'raw_user_meta_data' is distinct from after -> 'raw_user_meta_data'
      or before #> '{raw_app_meta_data,identity_username}' is distinct from after #> '{raw_app_meta_data,identity_username}'
    then
      profile_exists := profiles_internal.follow_user(before, after);
    elsif signed_in
      or before -> 'email_confirmed_at' is distinct from after -> 'email_confirmed_at'
      or before -> 'is_anonymous' is distinct from after -> 'is_anonymous'
    then
      -- A sign-in, or a confirmation. What follows always is set again: an earlier change may have failed to. A profile that
      -- missed a change of the address follows in full, with its username; so does one that is inactive, perhaps because an
      -- undelete was lost.
      update public.user_profiles as p
      set
        last_login = case when signed_in then (after ->> 'last_sign_in_at')::timestamptz else p.last_login end,
        login_count = p.login_count + signed_in::integer,
        email_verified = nullif(after ->> 'email', '') is not null and after ->> 'email_confirmed_at' is not null,
        is_anonymous = coalesce((after ->> 'is_anonymous')::boolean, false)
      where p.user_id = new.id and p.is_active
        and coalesce(nullif(after ->> 'email', ''), p.email) is not distinct from p.email;
      profile_exists := found or profiles_internal.follow_user(before, after);
    else
      profile_exists := (select 1 from public.user_profiles as p where p.user_id = new.id) is not null;
    end if;

    if profile_exists then
      return null;
    end if;
    if (select s.value from profiles_internal.settings as s where s.key = 'auto_create_profiles') is distinct from 'false' then
      if profiles_internal.create_profiles(array[after]) = 1 then
        perform profiles_internal.record_events(array[new.id], 'repaired', 'trigger');
        return null;
      end if;
      -- Another transaction has just made it, from the row as it was before this change.
      profile_exists := profiles_internal.follow_user(before, after);
    else
      perform from auth.users as u where u.id = new.id for update;
      -- In a transaction with one snapshot, a profile made since then cannot be seen.
      profile_exists := profiles_internal.follow_user(before, after) or not one_snapshot;
    end if;
    if not profile_exists then
      raise exception 'the profile is being made or deleted at this moment' using errcode = 'serialization_failure';
    end if;
    return null;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
  end;

  begin
    if error_code in ('55P03', '40P01', '57014') then
      perform set_config('profiles_internal.gave_up', 'yes', true);
    end if;
    perform profiles_internal.record_events(
      array[new.id], 'failed', 'trigger', error_code,
      profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context), lost
    );
  exception when query_canceled or assert_failure or others then
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: a profile did not follow its user (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
  return null;
end
$on_auth_user_updated$;

revoke all on function profiles_internal.on_auth_user_updated() from public, anon, authenticated, service_role;

create or replace trigger profiles_on_auth_user_updated
  after update on auth.users
  for each row
  execute function profiles_internal.on_auth_user_updated();
