-- Before any insert of a profile for a user from the application's own table: the profile gets the key of that row.
-- The trigger is on user_profiles only if such a table was chosen and its keys are no uuids.
create or replace function profiles_internal.fill_external_id()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fill_external_id$
begin
  new.external_id := (select k.external_id from profiles_internal.identity_links as k where k.user_id = new.user_id);
  return new;
end
$fill_external_id$;

revoke all on function profiles_internal.fill_external_id() from public, anon, authenticated, service_role;
