-- Which columns of a table of profiles may say whose row it is, the likeliest first: how many users each one leads to
-- ("matches"), how many rows there are ("total"), and the user's id as an expression over t, the table as found.
-- One that is unique, never null and a foreign key to the users decides alone, without a look at the rows (counts are
-- null).
-- Otherwise a column that leads to more users is the likelier one; of equal ones, one with a foreign key to the users,
-- then user_id, then id. A column of texts takes part if some of them are uuids. Where users are made by us (p_own), a
-- row is its own proof: there only a foreign key to the application's users, user_id and id count, in this order.
create or replace function profiles_internal.adoption_owners(p_found regclass, p_columns jsonb, p_own boolean)
returns table (column_name text, refers_to_users boolean, matches bigint, total bigint, expression text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_owners$
declare
  users constant regclass := to_regclass('auth.users');
  identity constant regclass := to_regclass(nullif(current_setting('profiles_schema.identity', true), ''));
  names text[];
  references_of_columns boolean[];
  expressions text[];
  hits bigint[];
  deciding bigint[];
begin
  -- What stands against such a table is found elsewhere (adoption_stops).
  if not has_table_privilege(p_found, 'select') or not p_own and not has_table_privilege(users, 'select')
    or (select c.relkind from pg_class as c where c.oid = p_found) <> 'r'
  then
    return;
  end if;
  select array_agg(a.attname::text order by a.attnum), array_agg(k.refers_to_users order by a.attnum), array_agg(
    case when a.atttypid = 'uuid'::regtype then format('t.%I', a.attname)
      else format('case when octet_length(t.%1$I::text) <= 36 and t.%1$I::text ~* '
        '''^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'' then t.%1$I::text::uuid end', a.attname) end
    order by a.attnum)
  into names, references_of_columns, expressions
  from jsonb_array_elements(p_columns) as c
  join pg_attribute as a on a.attrelid = p_found and a.attname = c.value ->> 'found_name'
  cross join lateral (
    select exists (
      select from pg_constraint as f
      where f.conrelid = p_found and f.contype = 'f' and f.conkey = array[a.attnum] and f.confrelid in (users, identity)
    ) as refers_to_users
  ) as k
  where a.atttypid in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
    and c.value ->> 'name' <> 'external_id' and a.attgenerated = ''
    and (not p_own or k.refers_to_users or a.attname in ('user_id', 'id'));
  if names is null then
    return;
  end if;
  select array_agg(e.place) into deciding
  from unnest(names, references_of_columns) with ordinality as e (name, refers_to_users, place)
  where e.refers_to_users and not p_own and exists (
    select from pg_attribute as a
    join pg_index as x on x.indrelid = a.attrelid and x.indisunique and x.indisvalid and x.indpred is null
      and x.indnkeyatts = 1 and x.indkey[0] = a.attnum
    where a.attrelid = p_found and a.attname = e.name and a.attnotnull
  );
  if cardinality(deciding) = 1 then
    return query select names[deciding[1]], true, null::bigint, null::bigint, expressions[deciding[1]];
    return;
  end if;
  execute format('select array[count(*), %s] from %s as t', (
    select string_agg(
      case when p_own then format('count(%s)', e.expression)
        else format('count(distinct (select u.id from auth.users as u where u.id = %s))', e.expression) end,
      ', ' order by e.place)
    from unnest(expressions) with ordinality as e (expression, place)
  ), p_found)
  into hits;
  return query
  select x.name, x.refers_to_users, x.matches, hits[1], x.expression
  from rows from (unnest(names), unnest(references_of_columns), unnest(hits[2:]), unnest(expressions)) with ordinality
    as x (name, refers_to_users, matches, expression, place)
  where x.matches > 0 or x.refers_to_users or x.name in ('user_id', 'id')
  order by case when p_own then (x.matches > 0)::integer else x.matches end desc, x.refers_to_users desc,
    x.name = 'user_id' desc, x.name = 'id' desc, x.place;
end
$adoption_owners$;

revoke all on function profiles_internal.adoption_owners(regclass, jsonb, boolean) from public, anon, authenticated,
  service_role;
