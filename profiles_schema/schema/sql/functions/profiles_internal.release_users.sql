-- Users whose rows in the application's table are gone go with their profiles; returns how many.
create or replace function profiles_internal.release_users(p_keys text[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $release_users$
declare
  released integer;
begin
  delete from auth.users as u
  where u.id = any (array(select k.user_id from profiles_internal.identity_links as k where k.external_id = any (p_keys)));
  get diagnostics released = row_count;
  return released;
end
$release_users$;

revoke all on function profiles_internal.release_users(text[]) from public, anon, authenticated, service_role;
