-- Follows one event in the application's table of users, for some rows: their keys before it and the rows after it, place by
-- place. Errors are the caller's business.
create or replace function profiles_internal.apply_identity(p_event text, p_old text[], p_new jsonb[], p_key text, p_by_uuid boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $apply_identity$
declare
  old_keys text[];
  new_keys text[];
begin
  if p_event = 'delete' then
    perform profiles_internal.release_users(p_old);
    return;
  elsif p_event = 'insert' then
    -- A known key belonged to another user, whose deletion the triggers missed.
    perform profiles_internal.release_users(array(select n.source ->> p_key from unnest(p_new) as n (source)));
  else
    select array_agg(c.old_key), array_agg(c.new_key)
    into old_keys, new_keys
    from (select o.key as old_key, o.source ->> p_key as new_key from unnest(p_old, p_new) as o (key, source)) as c
    where c.old_key <> c.new_key;
    if old_keys is not null then
      perform profiles_internal.rekey_users(old_keys, new_keys, p_by_uuid);
    end if;
  end if;
  perform profiles_internal.take_users(p_new, p_key, p_by_uuid);
end
$apply_identity$;

revoke all on function profiles_internal.apply_identity(text, text[], jsonb[], text, boolean) from public, anon, authenticated, service_role;
