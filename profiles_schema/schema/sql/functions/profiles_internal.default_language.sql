-- The language of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
-- Without settings of its own, so that its caller holds the constant.
create or replace function profiles_internal.default_language()
returns text
language sql
immutable
as $default_language$
  select 'en'::text
$default_language$;

revoke all on function profiles_internal.default_language() from public, anon, authenticated, service_role;
