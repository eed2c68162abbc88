-- auth.email(): the claim "email" of the request; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.email()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $email$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
  )
$email$;

revoke all on function auth.email() from public, anon, authenticated, service_role;
grant execute on function auth.email() to anon, authenticated, service_role;
