-- The leaves of a JSON document, with their paths: values that are no object, and empty objects.
create or replace function profiles_internal.json_leaves(p_document jsonb)
returns table (path text[], value jsonb)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $json_leaves$
  with recursive walk (path, value) as (
    select array[]::text[], p_document
    union all
    select w.path || e.key, e.value
    from walk as w
    cross join lateral jsonb_each(case when jsonb_typeof(w.value) = 'object' then w.value else '{}' end) as e
  )
  select w.path, w.value
  from walk as w
  where jsonb_typeof(w.value) <> 'object' or w.value = '{}'
$json_leaves$;

revoke all on function profiles_internal.json_leaves(jsonb) from public, anon, authenticated, service_role;
