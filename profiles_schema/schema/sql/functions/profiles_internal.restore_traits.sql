-- Fills the wide columns of some users' profiles from the JSON while they come back; returns how many rows were changed.
-- updated_at stays.
create or replace function profiles_internal.restore_traits(p_users uuid[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $restore_traits$
declare
  comparison record;
  changed integer;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return 0;
  end if;
  perform set_config('profiles_internal.normalizing', 'skip', true);
  -- Of the row as it is when the update reaches it: the documents are read in the update's own row.
  execute format(
    'update public.user_profiles as p set (%s) = (select %s from (select %s offset 0) as d cross join lateral (select %s offset 0) as o)'
    ' where p.user_id = any ($1) and exists (select from (select %s offset 0) as d cross join lateral (select %s offset 0) as o where %s)',
    (select string_agg(substr(v, 3), ', ' order by n) from unnest(comparison.column_values) with ordinality as c (v, n)),
    array_to_string(comparison.held_values, ', '),
    comparison.documents, comparison.objects, comparison.documents, comparison.objects,
    array_to_string(comparison.differ, ' or ')
  )
  using p_users;
  get diagnostics changed = row_count;
  perform set_config('profiles_internal.normalizing', '', true);
  return changed;
end
$restore_traits$;

revoke all on function profiles_internal.restore_traits(uuid[]) from public, anon, authenticated, service_role;
