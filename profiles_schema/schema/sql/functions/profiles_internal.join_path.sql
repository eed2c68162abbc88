-- A path as kept_json stores it: keys separated by dots; a dot or a backslash within a key has a backslash before it.
create or replace function profiles_internal.join_path(p_path text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $join_path$
  select string_agg(replace(replace(k.key, '\', '\\'), '.', '\.'), '.' order by k.place)
  from unnest(p_path) with ordinality as k (key, place)
$join_path$;

revoke all on function profiles_internal.join_path(text[]) from public, anon, authenticated, service_role;
