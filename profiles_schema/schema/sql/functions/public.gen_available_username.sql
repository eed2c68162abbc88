-- gen_available_username('ada@example.org'): a username that is free at this moment.
create or replace function public.gen_available_username(p_email text)
returns text
language sql
set search_path = pg_catalog, pg_temp
as $gen_available_username$
  select profiles_internal.available_username(p_email)
$gen_available_username$;

revoke all on function public.gen_available_username(text) from public, anon, authenticated, service_role;
grant execute on function public.gen_available_username(text) to authenticated, service_role;
comment on function public.gen_available_username(text) is 'A username that is free at this moment';
