-- The language of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_language()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_language$
begin
  return 'en'::text;
end
$default_language$;

revoke all on function profiles_internal.default_language() from public, anon, authenticated, service_role;
