-- The wide columns that are recorded and (still) in the table, with the attribute that holds each: while columns come back, they
-- stand under a name of their own until all of them are filled.
create or replace function profiles_internal.traits_in_place()
returns table (column_name text, attribute text, data_type text, jsonb_column text, path text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $traits_in_place$
  select
    l.column_name,
    a.attname::text,
    l.data_type,
    l.jsonb_column,
    string_to_array(l.path, '.')
  from profiles_internal.legacy_columns as l
  join pg_attribute as a
    on a.attrelid = to_regclass('public.user_profiles') and not a.attisdropped
    and a.attname = case l.state when 'restoring' then 'restoring_' || l.column_name else l.column_name end
  where l.table_name = 'user_profiles' and l.state <> 'contracted'
  order by l.jsonb_column, l.path
$traits_in_place$;

revoke all on function profiles_internal.traits_in_place() from public, anon, authenticated, service_role;
