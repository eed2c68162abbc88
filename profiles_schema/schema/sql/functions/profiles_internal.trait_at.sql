-- The SQL that reads a path of a JSON document: doc -> 'bigFive' -> 'openness'.
create or replace function profiles_internal.trait_at(p_document text, p_path text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $trait_at$
  select '(' || p_document || string_agg(format(' -> %L', k.key), '' order by k.place) || ')'
  from unnest(p_path) with ordinality as k (key, place)
$trait_at$;

revoke all on function profiles_internal.trait_at(text, text[]) from public, anon, authenticated, service_role;
