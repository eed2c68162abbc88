-- The users behind one up to another in whose profiles column and JSON disagree, in order; the first p_most of them. For a
-- conversion: a row is left at its first difference, and none is spelled out, as trait_differences does.
create or replace function profiles_internal.differing_profiles(p_after uuid, p_up_to uuid, p_most integer)
returns setof uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $differing_profiles$
declare
  comparison record;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return;
  end if;
  return query execute format(
$differing$
select p.user_id
from public.user_profiles as p
cross join lateral (select %s offset 0) as d
cross join lateral (select %s offset 0) as o
where p.user_id > $1 and p.user_id <= $2 and (%s)
order by p.user_id
limit $3
$differing$,
    comparison.documents, comparison.objects, array_to_string(comparison.differ, E'\n    or ')
  )
  using p_after, p_up_to, p_most;
end
$differing_profiles$;

revoke all on function profiles_internal.differing_profiles(uuid, uuid, integer) from public, anon, authenticated, service_role;
