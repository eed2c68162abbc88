-- Whether so many rows of a table would go to quarantine that a person has to agree: more than ten, or more than one in
-- a hundred. The evidence are their number, the reasons, and the keys of up to three rows; nothing else of a row is
-- shown.
create or replace function profiles_internal.adoption_quarantine(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_quarantine$
declare
  target constant text := p_context ->> 'target';
  total constant bigint := p_counts ->> 'total';
  aside constant bigint := p_counts ->> 'aside';
  id_column constant text := (
    select c.value ->> 'found_name'
    from jsonb_array_elements(p_context -> 'columns') as c
    where c.value ->> 'found_name' in ('id', 'user_id', p_context ->> 'owner')
      and c.value ->> 'found_type' in ('uuid', 'bigint', 'integer')
    order by c.value ->> 'found_name' limit 1
  );
  examples text;
  -- The application goes on until the lock, and a row more must not stop the upgrade half-way.
  slack constant integer := case when (p_context ->> 'locked')::boolean then 10 else 1 end;
begin
  if aside is null or aside <= 10 * slack and aside * 100 <= total * slack then
    return;
  end if;
  if id_column is not null then
    execute format(
      'select string_agg(e.key, '', '' order by e.key) from (select t.%1$I::text as key from %2$s as t join (%3$s) as '
        'm on m.row_id = t.ctid '
      'where m.reason is not null and t.%1$I is not null order by 1 limit 3) as e',
      id_column, p_context ->> 'found', replace(p_counts ->> 'misplaced', '{table}', p_context ->> 'found')
    ) into examples;
  end if;
  return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'quarantine:' || target,
    'object', target, 'rows', aside,
    'found', concat_ws('; ',
      format('%s of %s rows cannot stay: %s', aside, total, (
        select string_agg(format('%s (%s)', g.value ->> 'reason', g.value ->> 'hits'),
          ', ' order by (g.value ->> 'hits')::bigint desc, g.value ->> 'reason')
        from jsonb_array_elements(p_counts -> 'reasons') as g
      )),
      'for example ' || id_column || ' ' || examples),
    'answers', jsonb_build_object('quarantine',
      format('these rows are moved to profiles_internal.quarantine: the application no longer finds them in %s, and a '
        'downgrade brings them back', target)));
end
$adoption_quarantine$;

revoke all on function profiles_internal.adoption_quarantine(jsonb, jsonb) from public, anon, authenticated,
  service_role;
