-- What the steps of adoption need to know about one table, gathered once:
--   table, found (its name today), target (its name afterwards), by (the revision that takes it over),
--   columns (adoption_columns, as an array), by_name (the same, by the name afterwards),
--   own (users are made by us), makes_users (a user is made for every row),
--   owner (the column that says whose row it is), user (the user's id by it, over t, before and after columns are
--   renamed),
--   conflicts (rows whose user_id is another user than that),
--   asks (where no value leads to a user: the columns that could say it, and what each leads to).
create or replace function profiles_internal.adoption_context(p_table text, p_found regclass)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_context$
declare
  columns jsonb;
  by_name jsonb;
  own constant boolean := to_regclass('auth.users') is null
    or coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%';
  owners jsonb := '[]';
  answered text;
  asks jsonb;
  owner text;
  user_id text;
  conflicts bigint := 0;
begin
  select jsonb_agg(to_jsonb(c) order by c.found_position, c.name), jsonb_object_agg(c.name, to_jsonb(c))
  into columns, by_name
  from profiles_internal.adoption_columns(p_table, p_found) as c;

  if p_table <> 'user_profiles' then
    owner := by_name -> 'user_id' ->> 'found_name';
    user_id := replace(coalesce(by_name -> 'user_id' ->> 'source', '{column}'), '{column}', 't.' || quote_ident(owner));
  else
    select coalesce(jsonb_agg(to_jsonb(o)), '[]') into owners
    from profiles_internal.adoption_owners(p_found, columns, own) as o;
    if (owners -> 0 ->> 'total')::bigint > 0 and (owners -> 0 ->> 'matches')::bigint = 0 then
      answered := profiles_internal.answer('key:public.' || p_table);
      select jsonb_object_agg(o.value ->> 'column_name',
        format('this column says whose row it is, and %s of %s rows go to quarantine',
        (o.value ->> 'total')::bigint - (o.value ->> 'matches')::bigint, o.value ->> 'total')) into asks
      from jsonb_array_elements(owners) as o;
      select jsonb_agg(o.value) into owners from jsonb_array_elements(owners) as o
        where o.value ->> 'column_name' = answered;
    end if;
    -- The id of an outside system: of a user whom we make.
    if by_name -> 'external_id' ->> 'found_name' = 'user_id'
      and (own or asks is not null or owners = '[]' or owners -> 0 ->> 'total' = '0') then
      owners := '[]';
      asks := null;
    end if;
    owner := owners -> 0 ->> 'column_name';
    user_id := owners -> 0 ->> 'expression';
    if owner <> 'user_id' and by_name -> 'user_id' ->> 'found_name' is not null then
      execute format('select count(*) from %s as t where t.user_id is not null and t.user_id::text is distinct from '
        '(%s)::text', p_found, user_id)
      into conflicts;
    end if;
    -- What a sign-up gives, and what fill_missing_profile_id gives: another value would be no user.
    if owner = 'id' and by_name -> 'id' ->> 'wanted_type' = 'uuid' then
      by_name := jsonb_set(by_name, '{id,wanted_default}', 'null');
      select jsonb_agg(case when c.value ->> 'name' = 'id' then by_name -> 'id' else c.value end
        order by c.ordinality) into columns
      from jsonb_array_elements(columns) with ordinality as c;
    end if;
  end if;
  return jsonb_build_object(
    'table', p_table,
    'found', p_found::text,
    'target', 'public.' || p_table,
    'by', (select r.revision from profiles_internal.adopting_revisions() as r where r.table_name = p_table),
    'columns', columns,
    'by_name', by_name,
    'own', own,
    'makes_users', p_table = 'user_profiles' and owner is null and asks is null
      and by_name -> 'external_id' ->> 'found_name' is not null,
    'owner', owner,
    'user', user_id,
    'asks', asks,
    'conflicts', conflicts,
    -- The revision has begun: others wait, and the few changes since the whole plan was made raise no
    -- question.
    'locked', exists (select from pg_locks as l where l.relation = p_found and l.pid = pg_backend_pid()
      and l.mode = 'AccessExclusiveLock')
  );
end
$adoption_context$;

revoke all on function profiles_internal.adoption_context(text, regclass) from public, anon, authenticated,
  service_role;
