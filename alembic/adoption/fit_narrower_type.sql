-- A value that a narrower type may not hold, on its way back: as it is if it fits, else what is given instead.
create or replace function profiles_internal.fit_narrower_type(p_value text, p_type text, p_instead text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $fit_narrower_type$
begin
  execute format('select $1::%s', p_type) using p_value;
  return p_value;
exception when data_exception or integrity_constraint_violation then
  return p_instead;
end
$fit_narrower_type$;

revoke all on function profiles_internal.fit_narrower_type(text, text, text) from public, anon, authenticated,
  service_role;
