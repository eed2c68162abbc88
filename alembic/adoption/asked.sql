-- The fingerprint of what was asked when the answer to a question was written: as the file of answers says, else as the
-- upgrade began with. Null where neither says any.
create or replace function profiles_internal.asked(p_id text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $asked$
declare
  kept text;
begin
  if to_regclass('profiles_internal.adopted') is not null then
    select a.data #>> '{}' into kept
    from profiles_internal.adopted as a where a.object_type = 'asked' and a.object_name = p_id;
  end if;
  return coalesce(nullif(current_setting('profiles_schema.asked', true), '')::jsonb ->> p_id, kept);
end
$asked$;

revoke all on function profiles_internal.asked(text) from public, anon, authenticated, service_role;
