-- delete_my_account('ada'): ends the caller's account; p_confirm is their username. From then on they read and write nothing,
-- whatever token they hold, and nobody sees their profile. `profiles-schema users erase --pending` erases what is theirs.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one; 22023 another username.
create or replace function public.delete_my_account(p_confirm text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $delete_my_account$
  select profiles_internal.delete_my_account(p_confirm)
$delete_my_account$;

revoke all on function public.delete_my_account(text) from public, anon, authenticated, service_role;
grant execute on function public.delete_my_account(text) to authenticated;
comment on function public.delete_my_account(text) is 'Ends the caller''s account; p_confirm is their username';
