-- The SQL that builds one group's JSON document from the columns of a row: only the keys whose columns hold something,
-- NULL where none does. A JSON null in a jsonb column is a value and stays one.
create or replace function profiles_internal.trait_document(p_jsonb_column text, p_row text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $trait_document$
  with trait as (
    select
      t.path,
      format('%s.%I', p_row, t.attribute) as value,
      profiles_internal.trait_to_json(t.data_type, format('%s.%I', p_row, t.attribute)) as json
    from profiles_internal.traits_in_place() as t
    where t.jsonb_column = p_jsonb_column
  ),
  member as (
    select t.path[1] as key, t.json, format('num_nulls(%s) = 1', t.value) as is_empty
    from trait as t
    where cardinality(t.path) = 1
    union all
    -- An object one level below, made the same way. num_nulls, because a composite's IS NULL is another question.
    select
      t.path[1],
      format(
        'jsonb_build_object(%s) - array[%s]',
        string_agg(format('%L, %s', t.path[2], t.json), ', ' order by t.path),
        string_agg(format('case when num_nulls(%s) = 1 then %L end', t.value, t.path[2]), ', ' order by t.path)
      ),
      format('num_nonnulls(%s) = 0', string_agg(t.value, ', '))
    from trait as t
    where cardinality(t.path) = 2
    group by t.path[1]
  )
  select format(
    'nullif(jsonb_build_object(%s) - array[%s], ''{}'')',
    string_agg(format('%L, %s', m.key, m.json), ', ' order by m.key),
    string_agg(format('case when %s then %L end', m.is_empty, m.key), ', ' order by m.key)
  )
  from member as m
$trait_document$;

revoke all on function profiles_internal.trait_document(text, text) from public, anon, authenticated, service_role;
