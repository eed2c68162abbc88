-- After a profile was deleted: what adoption had kept of its old values goes, too. It was kept for a way back, which this
-- row no longer takes.
-- Never fails or holds up the deletion: values that could not be deleted are a warning in the server's log.
-- Definer: a role that deletes a profile has no rights in profiles_internal.
create or replace function profiles_internal.forget_adopted_values()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $forget_adopted_values$
begin
  delete from profiles_internal.adopted as a
  where a.data ->> 'key' = old.id::text and a.object_type in ('value', 'found value', 'kept value') and a.object_name like 'public.user\_profiles.%';
  return null;
exception when query_canceled or assert_failure or others then
  raise warning 'profiles-schema: old values of a deleted profile stay in profiles_internal.adopted (SQLSTATE %)', sqlstate;
  return null;
end
$forget_adopted_values$;

revoke all on function profiles_internal.forget_adopted_values() from public, anon, authenticated, service_role;

create or replace trigger forget_adopted_values
  after delete on public.user_profiles
  for each row
  execute function profiles_internal.forget_adopted_values();
