-- auth.jwt(): the claims of the request, as the API gateway put them into the session.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.jwt()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $jwt$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$jwt$;

revoke all on function auth.jwt() from public, anon, authenticated, service_role;
grant execute on function auth.jwt() to anon, authenticated, service_role;
