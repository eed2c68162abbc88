-- Brings the JSON of some users' profiles in step with the wide columns; returns how many rows were changed. Rows that
-- are in step already are not written. updated_at stays, and no audit row is left: nothing that means anything changes.
--
-- A group that is still NULL is built in one go from the row as it is when the update reaches it, so that a write that
-- comes in between is not lost. A group that holds something already (an application's own JSON, or what came back from
-- kept_json) is settled path by path by the dual-write triggers.
create or replace function profiles_internal.convert_traits(p_users uuid[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $convert_traits$
declare
  comparison record;
  partly uuid[];
  built integer;
  settled integer;
  differs boolean;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return 0;
  end if;

  perform set_config('profiles_internal.normalizing', 'skip', true);
  perform profiles_internal.bring_back_kept_json(p_users);
  execute format(
    'select array(select p.user_id from public.user_profiles as p where p.user_id = any ($1) and num_nonnulls(%s) > 0)',
    (select string_agg(distinct format('p.%I', t.jsonb_column), ', ') from profiles_internal.traits_in_place() as t)
  )
  into partly using p_users;
  execute (
    select format(
      'update public.user_profiles as p set %s where p.user_id = any ($1) and (%s)',
      string_agg(
        format('%1$I = case when p.%1$I is null then %2$s else p.%1$I end', g.name, profiles_internal.trait_document(g.name, 'p')), ', '
      ),
      string_agg(format('(p.%I is null and num_nonnulls(%s) > 0)', g.name, g.attributes), ' or ')
    )
    from (
      select t.jsonb_column as name, string_agg(format('p.%I', t.attribute), ', ') as attributes
      from profiles_internal.traits_in_place() as t
      group by 1
    ) as g
  )
  using p_users;
  get diagnostics built = row_count;

  perform set_config('profiles_internal.normalizing', 'touch', true);
  execute format(
    'update public.user_profiles as p set user_id = p.user_id where p.user_id = any ($1) and exists ('
    'select from (select %s offset 0) as d cross join lateral (select %s offset 0) as o where %s)',
    comparison.documents, comparison.objects, array_to_string(comparison.differ, ' or ')
  )
  using partly;
  get diagnostics settled = row_count;
  if settled > 0 then
    execute format(
      'select exists (select from public.user_profiles as p cross join lateral (select %s offset 0) as d'
      ' cross join lateral (select %s offset 0) as o where p.user_id = any ($1) and (%s))',
      comparison.documents, comparison.objects, array_to_string(comparison.differ, ' or ')
    )
    into differs
    using partly;
    if differs then
      raise exception 'a profile cannot be brought in step: something else changes it as well'
        using errcode = 'data_exception', hint = 'Look for a trigger that runs after zz_dual_write.';
    end if;
  end if;
  perform set_config('profiles_internal.normalizing', '', true);
  return greatest(built, settled);
end
$convert_traits$;

revoke all on function profiles_internal.convert_traits(uuid[]) from public, anon, authenticated, service_role;
