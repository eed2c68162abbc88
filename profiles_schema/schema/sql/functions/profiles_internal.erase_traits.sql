-- Empties the wide columns of one profile, where there are any, and what was kept of it beside the table.
create or replace function profiles_internal.erase_traits(p_user_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $erase_traits$
declare
  columns text;
begin
  select string_agg(format('%I = null', t.attribute), ', ') into columns from profiles_internal.traits_in_place() as t;
  if columns is not null then
    execute format('update public.user_profiles set %s where user_id = $1', columns) using p_user_id;
  end if;
  delete from profiles_internal.kept_json where user_id = p_user_id;
end
$erase_traits$;

revoke all on function profiles_internal.erase_traits(uuid) from public, anon, authenticated, service_role;
