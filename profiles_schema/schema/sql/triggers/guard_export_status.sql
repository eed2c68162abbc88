-- Before an export is inserted or changed: its status goes the way of an export, from every role.
--   pending -> processing, failed, expired      processing -> completed, failed, pending (retry)
--   completed -> expired                        failed -> pending (retry)
-- The clock is kept here too: started_at, completed_at, processing_time_seconds, and retry_count on a retry.
-- Filters are settled once the export is no longer pending; taking them away (erasure) is always allowed.
create or replace function profiles_internal.guard_export_status()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $guard_export_status$
begin
  if tg_op = 'INSERT' then
    if new.status is distinct from 'pending' then
      raise exception 'an export starts as pending, not as %', new.status
        using errcode = 'check_violation', schema = 'public', table = 'export_history', column = 'status';
    end if;
    return new;
  end if;

  if new.filters is distinct from old.filters and new.filters is not null and old.status <> 'pending' then
    raise exception 'the filters of an export can change only while it is pending; this one is %', old.status
      using errcode = 'check_violation', schema = 'public', table = 'export_history', column = 'filters';
  end if;

  if new.status is not distinct from old.status then
    return new;
  end if;
  if (old.status || '>' || coalesce(new.status, '')) <> all (array[
    'pending>processing', 'pending>failed', 'pending>expired',
    'processing>completed', 'processing>failed', 'processing>pending',
    'completed>expired', 'failed>pending'
  ]) then
    raise exception 'an export cannot go from % to %', old.status, coalesce(new.status, 'null')
      using errcode = 'check_violation', schema = 'public', table = 'export_history', column = 'status',
        hint = 'pending > processing > completed > expired; failed or processing > pending is a retry.';
  end if;

  if new.status = 'processing' then
    if new.started_at is not distinct from old.started_at then
      new.started_at := clock_timestamp();
    end if;
  elsif new.status = 'pending' then
    new.retry_count := old.retry_count + 1;
    new.started_at := null;
    new.completed_at := null;
    new.processing_time_seconds := null;
  elsif new.status in ('completed', 'failed') then
    if new.completed_at is not distinct from old.completed_at then
      new.completed_at := clock_timestamp();
    end if;
    if new.started_at is not null then
      new.processing_time_seconds := greatest(0, round(extract(epoch from new.completed_at - new.started_at)))::integer;
    end if;
  end if;
  return new;
end
$guard_export_status$;

revoke all on function profiles_internal.guard_export_status() from public, anon, authenticated, service_role;

create or replace trigger guard_export_status
  before insert or update on public.export_history
  for each row
  execute function profiles_internal.guard_export_status();
