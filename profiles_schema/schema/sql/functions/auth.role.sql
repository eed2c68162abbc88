-- auth.role(): the claim "role" of the request; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.role()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $role$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
  )
$role$;

revoke all on function auth.role() from public, anon, authenticated, service_role;
grant execute on function auth.role() to anon, authenticated, service_role;
