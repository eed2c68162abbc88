-- Drops the dual-write trigger of user_profiles and its function.
create or replace function profiles_internal.remove_dual_write()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $remove_dual_write$
  drop trigger if exists zz_dual_write on public.user_profiles;
  drop function if exists profiles_internal.dual_write_traits()
$remove_dual_write$;

revoke all on function profiles_internal.remove_dual_write() from public, anon, authenticated, service_role;
