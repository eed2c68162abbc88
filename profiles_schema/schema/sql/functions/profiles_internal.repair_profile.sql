-- Brings the profile of a user whose change or erasure was lost up to date, and records that. An erasure takes the keys and
-- exports of a user without a profile as well; otherwise such a user is left to create_profiles.
-- The user is locked first, then the profile, and both are read in later statements: a change that is under way is waited for,
-- and one that begins now follows afterwards.
create or replace function profiles_internal.repair_profile(p_user_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $repair_profile$
declare
  followed_sign_in timestamptz;
  has_profile boolean;
  before jsonb;
  after jsonb;
begin
  if has_any_column_privilege('auth.users', 'update') then -- which a row lock needs
    perform from auth.users as u where u.id = p_user_id for share;
  end if;
  select p.last_login into followed_sign_in from public.user_profiles as p where p.user_id = p_user_id for no key update;
  has_profile := found;
  select to_jsonb(u) into after from auth.users as u where u.id = p_user_id;
  if after ->> 'deleted_at' is not null then
    perform profiles_internal.erase_profile(p_user_id);
  elsif after is null or not has_profile then
    return;
  else
    before := after;
    -- As if the last sign-in happened now, unless the profile has it already.
    if followed_sign_in is distinct from (after ->> 'last_sign_in_at')::timestamptz then
      before := before - 'last_sign_in_at';
    end if;
    perform profiles_internal.follow_user(before, after);
  end if;
  perform profiles_internal.record_events(array[p_user_id], 'repaired', 'backfill');
end
$repair_profile$;

revoke all on function profiles_internal.repair_profile(uuid) from public, anon, authenticated, service_role;
