-- get_user_profile_stats(): counts for a dashboard, as JSON. The keys stand in profiles_internal.profile_stats.
create or replace function public.get_user_profile_stats()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $get_user_profile_stats$
  select profiles_internal.profile_stats()
$get_user_profile_stats$;

revoke all on function public.get_user_profile_stats() from public, anon, authenticated, service_role;
grant execute on function public.get_user_profile_stats() to service_role;
comment on function public.get_user_profile_stats() is 'Counts for a dashboard, as JSON';
