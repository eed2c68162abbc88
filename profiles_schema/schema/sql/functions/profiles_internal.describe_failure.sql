-- What failed, by the names of the objects involved: table, column, constraint, and the function of the innermost line
-- of the context. Never the server's own message, which quotes personal values.
create or replace function profiles_internal.describe_failure(p_table text, p_column text, p_constraint text, p_context text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $describe_failure$
begin
  return concat_ws(
    ' ', nullif(p_table, ''), nullif(p_column, ''), nullif(p_constraint, ''),
    'in ' || substring(p_context from 'function ([a-zA-Z0-9_.]+)[(]')
  );
end
$describe_failure$;

revoke all on function profiles_internal.describe_failure(text, text, text, text) from public, anon, authenticated, service_role;
