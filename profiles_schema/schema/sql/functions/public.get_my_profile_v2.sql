-- get_my_profile_v2(): the caller's own row of user_profiles, made if it is missing.
-- Columns of the application that users may not read are null in it.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_profile_v2()
returns public.user_profiles
language plpgsql
set search_path = pg_catalog, pg_temp
as $get_my_profile_v2$
declare
  profile public.user_profiles;
begin
  for attempt in 1 .. 2 loop
    if has_table_privilege('public.user_profiles', 'select') then
      select p.* into profile from public.user_profiles as p where p.user_id = auth.uid();
    else
      execute (
        select format('select %s from public.user_profiles as p where p.user_id = auth.uid()', string_agg(
          case when has_column_privilege(a.attrelid, a.attnum, 'select') then 'p.' || quote_ident(a.attname) else 'null' end, ', ' order by a.attnum))
        from pg_attribute as a
        where a.attrelid = 'public.user_profiles'::regclass and a.attnum > 0 and not a.attisdropped
      ) into profile;
    end if;
    exit when profile.user_id is not null or attempt = 2;
    perform profiles_internal.ensure_profile(auth.uid());
  end loop;
  return profile;
end
$get_my_profile_v2$;

revoke all on function public.get_my_profile_v2() from public, anon, authenticated, service_role;
grant execute on function public.get_my_profile_v2() to authenticated;
comment on function public.get_my_profile_v2() is 'The caller''s own row of user_profiles, made if it is missing';
