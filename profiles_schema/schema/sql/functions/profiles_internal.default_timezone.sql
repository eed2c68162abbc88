-- The timezone of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_timezone()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_timezone$
begin
  return 'UTC'::text;
end
$default_timezone$;

revoke all on function profiles_internal.default_timezone() from public, anon, authenticated, service_role;
