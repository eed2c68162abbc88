-- Drops what install_old_profiles made. Fails where something of the application's own hangs on the view, or stands in the
-- schema: that is not ours to drop.
create or replace function profiles_internal.remove_old_profiles()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $remove_old_profiles$
declare
  ours record;
begin
  for ours in
    select c.oid::regclass as name
    from pg_class as c
    join pg_trigger as t on t.tgrelid = c.oid and t.tgname = 'write_user_profile'
    where c.relnamespace = to_regnamespace('profiles_compat') and c.relkind = 'v'
  loop
    execute format('drop view %s', ours.name);
  end loop;
  drop function if exists profiles_compat.write_user_profile();
  if obj_description(to_regnamespace('profiles_compat'), 'pg_namespace') like 'profiles-schema:%' then
    drop schema profiles_compat;
  end if;
end
$remove_old_profiles$;

revoke all on function profiles_internal.remove_old_profiles() from public, anon, authenticated, service_role;
