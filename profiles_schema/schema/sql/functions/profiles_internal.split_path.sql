-- The keys of a path that join_path joined.
create or replace function profiles_internal.split_path(p_path text)
returns text[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $split_path$
declare
  keys text[] := '{}';
  key text := '';
  sign text;
  escaped boolean := false;
begin
  foreach sign in array string_to_array(p_path, null) loop
    if escaped or sign not in ('.', '\') then
      key := key || sign;
      escaped := false;
    elsif sign = '\' then
      escaped := true;
    else
      keys := keys || key;
      key := '';
    end if;
  end loop;
  return keys || key;
end
$split_path$;

revoke all on function profiles_internal.split_path(text) from public, anon, authenticated, service_role;
