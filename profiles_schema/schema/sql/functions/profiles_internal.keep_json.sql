-- Before the JSON groups of some users' profiles are emptied: keeps what no wide column can hold in
-- profiles_internal.kept_json, then empties the groups. Returns how many rows were emptied.
--   keys that belong to no column, at any depth, empty objects too
--   values that the column does not hold, or holds less precisely
create or replace function profiles_internal.keep_json(p_users uuid[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_json$
declare
  json_group record;
  emptied integer;
begin
  -- All of them first: a group that is filled while the others are kept would be emptied unseen.
  perform from public.user_profiles as p where p.user_id = any (p_users) order by p.user_id for update;
  perform set_config('profiles_internal.normalizing', 'skip', true);
  for json_group in
    select
      t.jsonb_column as name,
      string_agg(
        format(
          '(%L, %s, %s)', array_to_string(t.path, '.'), profiles_internal.trait_at('g.document', t.path),
          profiles_internal.trait_to_json(t.data_type, format('g.%I', t.attribute))
        ),
        ', '
      ) as held,
      string_agg(format(' #- %L', t.path::text), '') as taken_away,
      array_agg(distinct t.path[1]) filter (where cardinality(t.path) = 2) as parents
    from profiles_internal.traits_in_place() as t
    group by t.jsonb_column
  loop
    execute format(
$keep$
with g as materialized (
  select p.*, p.%1$I || '{}' as document
  from public.user_profiles as p
  where p.user_id = any ($1) and p.%1$I is not null
),
kept as (
  select g.user_id, h.path, h.json as value
  from g cross join lateral (values %2$s) as h (path, json, held)
  where h.json is not null and h.held is distinct from h.json
  union all
  select g.user_id, profiles_internal.join_path(l.path), l.value
  from g cross join lateral profiles_internal.json_leaves(profiles_internal.without_paths(g.document, $2)) as l
  where cardinality(l.path) > 0
    -- Not an object that is empty only because its columns hold what was in it.
    and not (l.value = '{}' and g.document #> l.path <> '{}')
)
insert into profiles_internal.kept_json (user_id, jsonb_column, path, value)
select k.user_id, %3$L, k.path, k.value
from kept as k
$keep$,
      json_group.name, json_group.held, json_group.name
    )
    using p_users, array(
      select t.path::text from profiles_internal.traits_in_place() as t where t.jsonb_column = json_group.name
    );
  end loop;

  execute (
    select format(
      'update public.user_profiles as p set %s where p.user_id = any ($1) and num_nonnulls(%s) > 0',
      string_agg(format('%I = null', g.name), ', '), string_agg(format('p.%I', g.name), ', ')
    )
    from (select distinct t.jsonb_column as name from profiles_internal.traits_in_place() as t) as g
  )
  using p_users;
  get diagnostics emptied = row_count;
  perform set_config('profiles_internal.normalizing', '', true);
  return emptied;
end
$keep_json$;

revoke all on function profiles_internal.keep_json(uuid[]) from public, anon, authenticated, service_role;
