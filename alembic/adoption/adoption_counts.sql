-- What the rows of a table need, counted in as few passes as there are kinds of rules:
--   total; fits (rule and hits, for columns that were found); names (usernames that break the rule or are not alone);
--   reasons (why rows cannot stay, and how many); aside (their sum); misplaced (an SQL query of row_id and reason);
--   broken (columns whose values do not convert, with the SQLSTATE); plain_keys.
create or replace function profiles_internal.adoption_counts(p_context jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_counts$
declare
  relation constant regclass := p_context ->> 'found';
  table_name constant text := p_context ->> 'table';
  by_name constant jsonb := p_context -> 'by_name';
  user_id constant text := p_context ->> 'user';
  as_wanted constant text := (
    select string_agg(
      format('%s as %I',
        case
          when c.value ->> 'found_name' is null and c.value ->> 'name' = 'id' then 'ctid::text'
          when c.value ->> 'found_name' is null then 'null::' || (c.value ->> 'wanted_type')
          else replace(coalesce(c.value ->> 'source', '{column}'), '{column}', quote_ident(c.value ->> 'found_name'))
        end,
        c.value ->> 'name'),
      ', ')
    from jsonb_array_elements(p_context -> 'columns') as c
  );
  rules jsonb;
  hits bigint[];
  reasons text;
  misplaced text;
  aside jsonb;
  broken jsonb := '[]';
  names bigint;
  plain_keys bigint;
  tested record;
  -- An id that nothing keeps unique.
  id_column constant text := (
    select column_of_id ->> 'found_name'
    from (values (by_name -> 'id')) as v (column_of_id)
    where column_of_id ->> 'found_name' is not null and not exists (
      select from pg_index as x
      join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
      where x.indrelid = relation and x.indisunique and x.indisvalid and x.indimmediate and x.indpred is null
        and x.indnkeyatts = 1
        and a.attname = column_of_id ->> 'found_name'
          and (a.attnotnull or p_context ->> 'table' = 'user_profile_audit_logs')
    )
  );
begin
  select coalesce(jsonb_agg(to_jsonb(r) order by r.column_name, r.place), '[]') into rules
  from (
    select u.place, u.column_name, u.wrong, u.fitted, u.rule
    from profiles_internal.adoption_rules() as u
    where u.table_name = p_context ->> 'table' and by_name -> u.column_name ->> 'found_name' is not null
      and (u.column_name <> 'user_id' or to_regclass('auth.users') is not null)
      -- A key that cannot be null is text to encrypt, blank or not.
      and not (u.table_name = 'user_api_keys' and u.fitted = 'null::text'
        and (by_name -> u.column_name ->> 'found_not_null')::boolean)
    union all
    select 1000, c.key, format('%I is null', c.key), c.value ->> 'wanted_default',
      'null: ' || (c.value ->> 'wanted_default')
    from jsonb_each(by_name) as c
    where (c.value ->> 'wanted_not_null')::boolean and c.value ->> 'wanted_default' is not null
      and c.value ->> 'found_name' is not null and c.key not in ('id', 'profile_visibility')
  ) as r;

  begin
    execute format(
      'with s as (select %s from %s) select array[count(*)%s%s] from s', as_wanted, relation,
      (
        select string_agg(format(', count(*) filter (where %s)', replace(r.value ->> 'wrong', '{table}', 's')),
          '' order by r.ordinality)
        from jsonb_array_elements(rules) with ordinality as r
      ),
      -- A column that is not selected would not be converted at all.
      (
        select string_agg(format(', count(%I)', c.value ->> 'name'), '')
        from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'source' is not null
      )
    ) into hits;
  exception when data_exception or cannot_coerce or datatype_mismatch or undefined_function then
    -- Some column does not convert: which one, is found one by one.
    for tested in
      select c.value ->> 'name' as name,
        replace(c.value ->> 'source', '{column}', quote_ident(c.value ->> 'found_name')) as source
      from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'source' is not null
    loop
      begin
        execute format('select count(%s) from %s', tested.source, relation);
      exception when others then
        broken := broken || jsonb_build_object('column', tested.name, 'code', sqlstate);
      end;
    end loop;
    if broken = '[]' then
      raise;
    end if;
    return jsonb_build_object('broken', broken);
  end;

  if by_name -> 'username' ->> 'found_name' is not null then
    execute format(
      'with s as (select %s from %s) select count(*) from (select username ~ ''^[a-z0-9_.-]{3,32}$'' as fits, '
        || 'row_number() over (partition by lower(username) order by username collate "C" desc) as nth from s) as n '
          'where fits is not true or nth > 1',
      as_wanted, relation
    ) into names;
  elsif table_name = 'user_profiles' then
    names := hits[1];
  end if;

  if table_name = 'user_api_keys' then
    execute format(
      'with s as (select %s from %s) select count(*) from s where least(%s) = false', as_wanted, relation,
      (
        select string_agg(format(
          case when (by_name -> k.name ->> 'found_not_null')::boolean then $kept$%I ~ %L$kept$
            else $blank$nullif(btrim(%I, e' \t\n\r\f\x0b'), '') ~ %L$blank$ end,
          k.name, '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$'), ', ')
        from unnest(array['openai_api_key', 'unsplash_api_key', 'anthropic_api_key']) as k (name)
      )
    ) into plain_keys;
  end if;

  -- Rows that cannot stay. The log keeps its rows and forgets the user.
  if table_name <> 'user_profile_audit_logs' then
    reasons := concat_ws(' ',
      case when user_id is not null then 'when "adopted user" is null then ''no user_id''' end,
      case when user_id is not null and not (p_context ->> 'own')::boolean
        then 'when not exists (select from auth.users as x where x.id = "adopted user") then ''no user in '
          'auth.users''' end,
      case when user_id is not null and table_name <> 'export_history'
        then 'when "adopted nth" > 1 then ''second row of the same user''' end,
      case when id_column is not null
        then format('when r.%I is null then ''no id'' when "adopted nth id" > 1 then ''second row of the same id''',
        id_column) end,
      (
        select string_agg(
          format('when r.%I is null then %L', c.value ->> 'found_name', 'no ' || c.key), ' '
        )
        from jsonb_each(by_name) as c
        where (c.value ->> 'wanted_not_null')::boolean and c.value ->> 'wanted_default' is null
          and c.value ->> 'found_name' is not null and not (c.value ->> 'found_not_null')::boolean
          and c.key not in ('id', 'user_id', 'username')
      )
    );
  end if;
  if reasons <> '' then
    misplaced := format(
      'select r.ctid as row_id, case %s end as reason from (select t.ctid, t.*, %s as "adopted user", row_number() '
        'over (partition by %s order by %s t.ctid) as "adopted nth", '
        '%s as "adopted nth id" from {table} as t) as r',
      reasons, coalesce(user_id, 'null::uuid'), coalesce(user_id, 't.ctid'),
      (
        select string_agg(format('t.%I, ', c.value ->> 'found_name'), '' order by c.key)
        from jsonb_each(by_name) as c where c.key in ('created_at', 'id') and c.value ->> 'found_name' is not null
      ),
      case when id_column is null then '1'
        else format('row_number() over (partition by t.%I order by t.ctid)', id_column) end
    );
    execute format(
      'select coalesce(jsonb_agg(to_jsonb(g)), ''[]'') from (select m.reason, count(*) as hits from (%s) as m where '
        'm.reason is not null group by m.reason order by m.reason) as g',
      replace(misplaced, '{table}', relation::text)
    ) into aside;
  end if;

  return jsonb_build_object(
    'total', hits[1],
    'bytes', pg_relation_size(relation),
    'fits', (
      select coalesce(jsonb_agg(r.value || jsonb_build_object('hits', hits[1 + r.ordinality]) order by r.ordinality),
        '[]')
      from jsonb_array_elements(rules) with ordinality as r where hits[1 + r.ordinality] > 0
    ),
    'names', coalesce(names, 0),
    'plain_keys', coalesce(plain_keys, 0),
    'reasons', coalesce(aside, '[]'),
    'aside', (select coalesce(sum((g.value ->> 'hits')::bigint), 0) from jsonb_array_elements(aside) as g),
    'misplaced', misplaced,
    'broken', broken
  );
end
$adoption_counts$;

revoke all on function profiles_internal.adoption_counts(jsonb) from public, anon, authenticated, service_role;
