-- Makes our users be as the rows of the application's table with these keys say; returns how many were made or changed.
create or replace function profiles_internal.take_identities(p_keys text[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $take_identities$
declare
  identity record;
  sources jsonb[];
begin
  select i.* into identity from profiles_internal.identity_table() as i;
  execute format(
    'select array(select to_jsonb(t) from %s as t where t.%2$I = any ($1::%s[]) order by t.%2$I)',
    identity.relation, identity.key_name, identity.key_type
  )
  into sources
  using p_keys;
  return profiles_internal.take_users(sources, identity.key_name, identity.by_uuid);
end
$take_identities$;

revoke all on function profiles_internal.take_identities(text[]) from public, anon, authenticated, service_role;
