-- export_my_data(): queues an export of everything that the caller has here, and returns its id. While one is waiting or being
-- written, it is that one.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.export_my_data()
returns uuid
language sql
set search_path = pg_catalog, pg_temp
as $export_my_data$
  select profiles_internal.export_my_data()
$export_my_data$;

revoke all on function public.export_my_data() from public, anon, authenticated, service_role;
grant execute on function public.export_my_data() to authenticated;
comment on function public.export_my_data() is 'Queues an export of everything that the caller has here, and returns its id';
