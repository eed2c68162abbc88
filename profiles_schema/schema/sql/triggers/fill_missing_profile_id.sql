-- Before a profile is inserted with an explicit NULL id: some object mappers send one for "not set", which a column
-- default never sees, and an id that came as uuid may have no default. It becomes the user's, as at sign-up.
create or replace function profiles_internal.fill_missing_profile_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $fill_missing_profile_id$
begin
  new.id := coalesce(new.user_id, gen_random_uuid());
  return new;
end
$fill_missing_profile_id$;

revoke all on function profiles_internal.fill_missing_profile_id() from public, anon, authenticated, service_role;

create or replace trigger fill_missing_profile_id
  before insert on public.user_profiles
  for each row
  when (new.id is null)
  execute function profiles_internal.fill_missing_profile_id();
