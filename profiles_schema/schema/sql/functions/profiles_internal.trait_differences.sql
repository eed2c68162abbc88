-- Every path in which a wide column and the JSON disagree: the user, the column, the old value (of the column) and the new one (of the
-- JSON), cut to 80 characters. Reads
-- all profiles, or those behind one user up to another; stops after p_most differences. Locks nothing.
-- A JSON value that the column cannot hold is no difference if the column is NULL.
create or replace function profiles_internal.trait_differences(
  p_after uuid default null,
  p_up_to uuid default null,
  p_most integer default null
)
returns table (user_id uuid, column_name text, old_value text, new_value text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $trait_differences$
declare
  comparison record;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return;
  end if;
  return query execute format(
$differences$
select p.user_id, i.column_name, left(i.old_value, 80), left(i.new_value, 80)
from public.user_profiles as p
cross join lateral (select %1$s offset 0) as d
cross join lateral (select %2$s offset 0) as o
cross join lateral (
  values %3$s
) as i (column_name, old_value, new_value, differs)
where ($1 is null or p.user_id > $1) and ($2 is null or p.user_id <= $2)
  and (%4$s)
  and i.differs
limit $3
$differences$,
    comparison.documents,
    comparison.objects,
    (
      select string_agg(format('(%L, %s::text, (%s)::text, %s)', c.name, c.value, c.json, c.differs), E',\n    ')
      from unnest(comparison.column_names, comparison.column_values, comparison.json_values, comparison.differ)
        as c (name, value, json, differs)
    ),
    array_to_string(comparison.differ, E'\n    or ')
  )
  using p_after, p_up_to, p_most;
end
$trait_differences$;

revoke all on function profiles_internal.trait_differences(uuid, uuid, integer) from public, anon, authenticated, service_role;
