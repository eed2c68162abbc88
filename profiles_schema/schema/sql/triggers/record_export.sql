-- After an export was requested, failed or expired, or its file was removed, by whatever road: an audit row says which
-- export, its status, and who acted. What has expired counts as deleted. Where the setting audit_level is 'failures',
-- only what failed.
-- Never fails the change itself: a record that cannot be written is a warning in the server's log.
-- Definer: users, who may request an export, may not write the log.
create or replace function profiles_internal.record_export()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_export$
declare
  source record;
begin
  if new.status::text <> 'failed'
    and (select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'audit_level') = 'failures'
  then
    return null;
  end if;
  select s.* into source from profiles_internal.audit_source() as s;
  insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata, created_at)
  values (
    new.user_id,
    case
      when tg_op = 'INSERT' then 'created'
      when new.status = 'expired' or new.file_size_bytes is null and old.file_size_bytes is not null then 'deleted'
      else 'updated'
    end,
    source.origin,
    source.actor,
    source.context || jsonb_build_object('export', new.id, 'status', new.status),
    clock_timestamp()
  );
  return null;
exception when query_canceled or assert_failure or others then
  raise warning 'profiles-schema: an export was not recorded in the audit log (SQLSTATE %)', sqlstate;
  return null;
end
$record_export$;

revoke all on function profiles_internal.record_export() from public, anon, authenticated, service_role;

create or replace trigger record_export_request
  after insert on public.export_history
  for each row
  execute function profiles_internal.record_export();

create or replace trigger record_export_end
  after update on public.export_history
  for each row
  when (
    old.status is distinct from new.status and new.status::text in ('failed', 'expired') -- ::text, or a restored dump reads it back differently
    or old.file_size_bytes is not null and new.file_size_bytes is null
  )
  execute function profiles_internal.record_export();
