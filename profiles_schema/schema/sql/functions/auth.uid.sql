-- auth.uid(): the user the request acts for; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.uid()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $uid$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid
$uid$;

revoke all on function auth.uid() from public, anon, authenticated, service_role;
grant execute on function auth.uid() to anon, authenticated, service_role;
