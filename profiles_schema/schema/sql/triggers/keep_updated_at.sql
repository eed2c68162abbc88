-- Before an update that changes something: updated_at becomes the time of the change.
-- A change of a profile's activity alone (last_login, login_count, message_count, last_interaction_at) does not count:
-- updated_at is indexed, and moving it at every sign-in would cost three times the write.
-- The clock, not now(): two changes of one transaction are two changes (record_profile_change relies on it).
-- Neither does the conversion of wide columns to JSON: it moves values, and means nothing. It says so by the setting
-- profiles_internal.normalizing, which counts from a role that owns the table only; anybody can set it.
-- Nor does the rotation of API keys (another envelope of the same key), or that a key was used.
-- Rows are compared by their image (*<>), because an application may add columns of a type that has no equality.
create or replace function profiles_internal.keep_updated_at()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_updated_at$
begin
  new.updated_at := old.updated_at;
  if new *= old then
    return new;
  end if;
  new.updated_at := clock_timestamp();
  return new;
end
$keep_updated_at$;

create or replace function profiles_internal.keep_profile_updated_at()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_profile_updated_at$
declare
  besides_activity public.user_profiles := new;
begin
  besides_activity.updated_at := old.updated_at;
  besides_activity.last_login := old.last_login;
  besides_activity.login_count := old.login_count;
  besides_activity.message_count := old.message_count;
  besides_activity.last_interaction_at := old.last_interaction_at;
  if besides_activity *= old then
    new.updated_at := old.updated_at;
  elsif coalesce(current_setting('profiles_internal.normalizing', true), '') <> ''
    and pg_has_role(current_user, (select c.relowner from pg_class as c where c.oid = tg_relid), 'member')
  then
    new.updated_at := old.updated_at;
  else
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$keep_profile_updated_at$;

revoke all on function profiles_internal.keep_updated_at() from public, anon, authenticated, service_role;
revoke all on function profiles_internal.keep_profile_updated_at() from public, anon, authenticated, service_role;

create or replace trigger keep_updated_at
  before update on public.user_profiles
  for each row
  execute function profiles_internal.keep_profile_updated_at();

create or replace trigger keep_updated_at
  before update on public.user_progress
  for each row
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.user_api_keys
  for each row
  when (current_setting('profiles_internal.api_keys', true) is distinct from 'rotated')
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.user_provider_keys
  for each row
  when (
    current_setting('profiles_internal.api_keys', true) is distinct from 'rotated'
    and (old.last_used_at is not distinct from new.last_used_at or old.envelope is distinct from new.envelope)
  )
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.export_history
  for each row
  execute function profiles_internal.keep_updated_at();
