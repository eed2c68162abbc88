-- One JSON document with another merged into it, by RFC 7386: objects member by member, null removes a member, anything else
-- replaces what is there. A patch nested too deep for our tables is returned as it is; their CHECKs refuse it.
create or replace function profiles_internal.merge_patch(p_target jsonb, p_patch jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $merge_patch$
begin
  if jsonb_typeof(p_patch) <> 'object' or p_patch @? '$.**{33}' then
    return p_patch;
  end if;
  if jsonb_typeof(p_target) is distinct from 'object' then
    p_target := '{}';
  end if;
  return coalesce((
    select jsonb_object_agg(m.key, m.value)
    from (
      select t.key, t.value from jsonb_each(p_target) as t where not p_patch ? t.key
      union all
      select c.key, profiles_internal.merge_patch(p_target -> c.key, c.value)
      from jsonb_each(p_patch) as c where c.value <> 'null'
    ) as m
  ), '{}');
end
$merge_patch$;

revoke all on function profiles_internal.merge_patch(jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.merge_patch(jsonb, jsonb) to authenticated;
