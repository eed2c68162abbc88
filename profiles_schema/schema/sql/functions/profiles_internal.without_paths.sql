-- A JSON document without some paths, which are given as the texts of text arrays. A path that is not there, or leads
-- through something that is no object, takes nothing away.
create or replace function profiles_internal.without_paths(p_document jsonb, p_paths text[])
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $without_paths$
declare
  path text;
begin
  foreach path in array p_paths loop
    if jsonb_typeof(p_document #> (path::text[])[1 : cardinality(path::text[]) - 1]) = 'object' then
      p_document := p_document #- path::text[];
    end if;
  end loop;
  return p_document;
end
$without_paths$;

revoke all on function profiles_internal.without_paths(jsonb, text[]) from public, anon, authenticated, service_role;
