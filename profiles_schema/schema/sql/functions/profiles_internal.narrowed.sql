-- A value that a narrower type may not hold: as it is if it does, else the default, else the first of an enumeration.
create or replace function profiles_internal.narrowed(p_value text, p_type text, p_default text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $narrowed$
begin
  execute format('select $1::%s', p_type) using p_value;
  return p_value;
exception when data_exception or integrity_constraint_violation then
  return coalesce(p_default, (
    select e.enumlabel from pg_enum as e where e.enumtypid = to_regtype(p_type) order by e.enumsortorder limit 1
  ));
end
$narrowed$;

revoke all on function profiles_internal.narrowed(text, text, text) from public, anon, authenticated, service_role;
