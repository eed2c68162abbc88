-- Writes one audit row per user of the array: what happened, from where, and the SQLSTATE where something failed.
-- The message names objects only. The server's own message is never kept: it quotes personal values.
-- The time is that of the event, not the start of its transaction: a failure counts as repaired only by what came later.
create or replace function profiles_internal.record_events(
  p_user_ids uuid[],
  p_action text,
  p_origin text,
  p_error_code text default null,
  p_error_message text default null,
  p_metadata jsonb default '{}'
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $record_events$
begin
  insert into public.user_profile_audit_logs (user_id, action, origin, error_code, error_message, metadata, created_at)
  select u.id, p_action, p_origin, p_error_code, p_error_message, p_metadata, clock_timestamp()
  from unnest(p_user_ids) as u (id);
end
$record_events$;

revoke all on function profiles_internal.record_events(uuid[], text, text, text, text, jsonb) from public, anon, authenticated, service_role;
