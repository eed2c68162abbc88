-- The work of ensure_user_profile: the profile of a user, made if it is missing. What the caller gives is used only then, and
-- goes by the rules for metadata, so that nothing in it can fail.
-- With p_follow, a profile that exists is brought up to date with its user row, as a sign-in does: for what a trigger has missed.
-- Definer: reads auth.users and makes rows that no API role may make; it authorises the caller itself.
-- Errors: 42501 the caller may not act for this user, or is erased or inactive; P0002 no such user, or a deleted one.
create or replace function profiles_internal.ensure_profile(p_user_id uuid, p_given jsonb default null, p_follow boolean default false)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $ensure_profile$
declare
  profile jsonb;
  user_row jsonb;
  last_known jsonb;
begin
  if p_user_id is null or not profiles_internal.may_act_for(p_user_id) then
    raise exception 'not allowed to act for this user'
      using errcode = 'insufficient_privilege', hint = 'Sign in as that user, or call with service_role.';
  end if;

  perform profiles_internal.require_active_caller();

  select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
  if profile is not null and not p_follow then
    return profile;
  end if;

  user_row := (profiles_internal.living_users(array[p_user_id]))[1];
  if user_row is null then
    raise exception 'there is no user %', p_user_id
      using errcode = 'no_data_found', hint = 'The id must be that of a row in auth.users that is not deleted.';
  end if;

  if profile is not null then
    -- The user is locked first, then the profile, and read in a later statement, as in repair_profile.
    perform from public.user_profiles as p where p.user_id = p_user_id for no key update;
    select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
    -- As if the last sign-in happened now, unless the profile has it already.
    last_known := user_row;
    if (profile ->> 'last_login')::timestamptz is distinct from (user_row ->> 'last_sign_in_at')::timestamptz then
      last_known := last_known - 'last_sign_in_at';
    end if;
    perform set_config('profiles_internal.origin', 'sync', true);
    perform profiles_internal.follow_user(last_known, user_row);
    perform set_config('profiles_internal.origin', '', true);
    select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
    return profile;
  end if;

  user_row := user_row || jsonb_build_object('raw_user_meta_data',
    case when jsonb_typeof(user_row -> 'raw_user_meta_data') = 'object' then user_row -> 'raw_user_meta_data' else '{}' end
    || coalesce((
      select jsonb_object_agg(g.key, g.value) from jsonb_each_text(p_given) as g
      where g.key in ('first_name', 'last_name', 'phone', 'language') and g.value <> ''
    ), '{}'));
  perform set_config('profiles_internal.origin', 'registration', true);
  if profiles_internal.create_profiles(array[user_row]) = 1 then
    perform profiles_internal.record_events(array[p_user_id], 'repaired', 'registration');
  end if;
  perform set_config('profiles_internal.origin', '', true);

  select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
  return profile;
end
$ensure_profile$;

revoke all on function profiles_internal.ensure_profile(uuid, jsonb, boolean) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.ensure_profile(uuid, jsonb, boolean) to authenticated, service_role;
