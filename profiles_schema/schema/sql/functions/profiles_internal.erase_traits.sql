-- Empties the wide columns of one profile, recorded or not.
create or replace function profiles_internal.erase_traits(p_user_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $erase_traits$
declare
  columns text;
begin
  select string_agg(format('%I = null', a.attname), ', ')
  into columns
  from profiles_internal.known_traits() as k
  join pg_attribute as a
    on a.attrelid = 'public.user_profiles'::regclass and a.attname in (k.column_name, 'restoring_' || k.column_name)
    and not a.attisdropped and not a.attnotnull and a.attgenerated = '';
  if columns is not null then
    execute format('update public.user_profiles set %s where user_id = $1', columns) using p_user_id;
  end if;
end
$erase_traits$;

revoke all on function profiles_internal.erase_traits(uuid) from public, anon, authenticated, service_role;
