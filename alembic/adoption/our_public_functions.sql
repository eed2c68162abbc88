-- The names of our functions in schema public. One of the application that bears such a name is set aside.
create or replace function profiles_internal.our_public_functions()
returns name[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $our_public_functions$
  select array[
    'create_user', 'ensure_user_profile', 'gen_available_username', 'get_my_profile_v2', 'get_public_profile',
    'get_user_profile_stats', 'update_my_profile_v2'
  ]::name[]
$our_public_functions$;

revoke all on function profiles_internal.our_public_functions() from public, anon, authenticated, service_role;
