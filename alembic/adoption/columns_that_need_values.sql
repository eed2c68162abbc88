-- The application's own columns that a sign-up cannot fill: NOT NULL, and nothing gives them a value. Whether they may
-- be null from then on is a question (required:TABLE.COLUMN).
create or replace function profiles_internal.columns_that_need_values(p_context jsonb)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $columns_that_need_values$
  select array(
    select c.value ->> 'found_name'
    from jsonb_array_elements(p_context -> 'columns') as c
    where p_context ->> 'table' in ('user_profiles', 'user_progress') and c.value ->> 'wanted_type' is null
      and (c.value ->> 'found_not_null')::boolean and c.value ->> 'found_default' is null
        and not (c.value ->> 'found_generated')::boolean
      and c.value ->> 'found_name' is distinct from p_context ->> 'owner'
    order by c.value ->> 'found_name' collate "C"
  )
$columns_that_need_values$;

revoke all on function profiles_internal.columns_that_need_values(jsonb) from public, anon, authenticated, service_role;
