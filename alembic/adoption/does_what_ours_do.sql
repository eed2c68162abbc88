-- Whether a trigger function does what ours do: keeps updated_at and nothing else, or writes one of our tables. What
-- its text says is all there is to go by.
create or replace function profiles_internal.does_what_ours_do(p_function oid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $does_what_ours_do$
  select f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0) and (
    regexp_replace(f.prosrc, '--[^\n]*', '', 'g')
      ~* '^\s*begin\s+new\.updated_at\s*:?=[^;]+;\s*return\s+new\s*;\s*end\s*;?\s*$'
    or cardinality(profiles_internal.tables_written_by(p_function, true)) > 0
    -- What an earlier step of the same upgrade has emptied.
    or f.prosrc like '%profiles_schema: set aside%'
  )
  from pg_proc as f
  where f.oid = p_function
$does_what_ours_do$;

revoke all on function profiles_internal.does_what_ours_do(oid) from public, anon, authenticated, service_role;
