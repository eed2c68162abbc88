-- The work of export_my_data. Definer: it makes a missing profile; it acts for the signed-in user only.
-- The profile row is locked, so that two requests at once give one export.
create or replace function profiles_internal.export_my_data()
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $export_my_data$
declare
  caller constant uuid := auth.uid();
  export_id uuid;
begin
  perform profiles_internal.ensure_profile(caller);
  perform from public.user_profiles as p where p.user_id = caller for no key update;
  select e.id into export_id
  from public.export_history as e
  where e.user_id = caller and e.export_type = 'everything' and e.status in ('pending', 'processing')
  order by e.created_at
  limit 1;
  if export_id is null then
    insert into public.export_history (user_id, export_type, export_format) values (caller, 'everything', 'json')
    returning id into export_id;
  end if;
  return export_id;
end
$export_my_data$;

revoke all on function profiles_internal.export_my_data() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.export_my_data() to authenticated;
