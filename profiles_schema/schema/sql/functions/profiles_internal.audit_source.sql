-- Who acts in this transaction, from where, and what the application says of the request (acting_as): for a row of the
-- audit log.
create or replace function profiles_internal.audit_source(out actor uuid, out origin text, out context jsonb)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $audit_source$
declare
  known_origins constant text[] := array['trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize'];
begin
  origin := nullif(current_setting('profiles_internal.origin', true), '');
  if origin is null or origin <> all (known_origins) then
    origin := case when pg_trigger_depth() > 1 then 'trigger' else 'manual' end;
  end if;

  -- Kept as it is said, if it is short.
  context := '{}';
  begin
    if octet_length(current_setting('profiles_schema.context', true)) between 3 and 2000 then
      context := jsonb_build_object('context', current_setting('profiles_schema.context', true)::jsonb);
    end if;
  exception when others then
    null;
  end;

  -- The token of a service may name a subject that is no user.
  begin
    actor := auth.uid();
  exception when others then
    actor := null;
  end;
end
$audit_source$;

revoke all on function profiles_internal.audit_source() from public, anon, authenticated, service_role;
