-- get_my_profile_v2(): the caller's own row of user_profiles, made if it is missing.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_profile_v2()
returns public.user_profiles
language plpgsql
set search_path = pg_catalog, pg_temp
as $get_my_profile_v2$
declare
  profile public.user_profiles;
begin
  select p.* into profile from public.user_profiles as p where p.user_id = auth.uid();
  if not found then
    perform profiles_internal.ensure_profile(auth.uid());
    select p.* into profile from public.user_profiles as p where p.user_id = auth.uid();
  end if;
  return profile;
end
$get_my_profile_v2$;

revoke all on function public.get_my_profile_v2() from public, anon, authenticated, service_role;
grant execute on function public.get_my_profile_v2() to authenticated;
comment on function public.get_my_profile_v2() is 'The caller''s own row of user_profiles, made if it is missing';
