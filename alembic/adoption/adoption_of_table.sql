-- The steps that take one existing table over, in no particular order (their phases say it), or what stands against it.
-- Everything is asked of the catalog and of the rows; nothing is assumed about which system made the table.
create or replace function profiles_internal.adoption_of_table(p_table text, p_found regclass)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_of_table$
declare
  context constant jsonb := profiles_internal.adoption_context(p_table, p_found);
  target constant text := context ->> 'target';
  stops constant jsonb[] := array(select step from profiles_internal.adoption_stops(context) as step);
  counts jsonb;
  total bigint;
  seconds double precision;
  measured double precision;
  pace double precision;
  stopped boolean;
  unreadable boolean;
begin
  return query select step || jsonb_build_object('revision', context -> 'by') from unnest(stops) as step;
  select coalesce(bool_or(true), false), coalesce(bool_or(step ->> 'phase' = 'look'), false) into stopped, unreadable
  from unnest(stops) as step where step ->> 'action' = 'stop';
  if context ->> 'asks' is not null then
    return next jsonb_build_object('revision', context -> 'by', 'phase', 'ask', 'kind', 'ask', 'action', 'question',
      'id', 'key:' || target, 'object', target,
      'found', format('no column of %s leads to a user in auth.users', p_found), 'answers', context -> 'asks');
  end if;
  if unreadable or context ->> 'user' is null and context ->> 'asks' is not null then
    return;
  end if;

  counts := profiles_internal.adoption_counts(context);
  total := counts ->> 'total';
  -- Measured on ordinary rows, with nothing to mend (benchmarks/adopt.py), and compared with this server.
  measured := profiles_internal.adoption_pace(context, counts);
  pace := coalesce(measured, 1);
  seconds := pace * (total * 0.00005 + (counts ->> 'bytes')::bigint * 0.00000005);
  return query
  select jsonb_build_object('revision', context -> 'by', 'phase', 'refuse', 'kind', 'refuse', 'action', 'stop')
    || s.problem
  from (
    select jsonb_build_object('object', format('%s.%s', target, b.value ->> 'column'),
      'found', context -> 'by_name' -> (b.value ->> 'column') ->> 'found_type',
      'wanted', context -> 'by_name' -> (b.value ->> 'column') ->> 'wanted_type',
      'remedy', format('It holds values that do not convert (SQLSTATE %s). Mend them, or rename the column.',
        b.value ->> 'code')) as problem
    from jsonb_array_elements(counts -> 'broken') as b
    union all
    select jsonb_build_object('object', target, 'found', 'API keys in plain text', 'wanted', 'encrypted ones',
      'rows', counts -> 'plain_keys',
      'remedy', 'Encrypt them first, in the table as it is: profiles-schema keys encrypt')
    where (counts ->> 'plain_keys')::bigint > 0
    union all
    select jsonb_build_object('object', target,
      'found', format('user_id %s', context -> 'by_name' -> 'external_id' ->> 'found_type'),
      'wanted', 'user_id uuid, of auth.users', 'rows', total,
      'remedy', format('An auth server makes the users here, so none can be made for these rows. Say which user each '
        'belongs to: '
        'alter table %1$s rename column user_id to external_id; alter table %1$s add column user_id uuid;', p_found))
    where (context ->> 'makes_users')::boolean and not (context ->> 'own')::boolean and total > 0
    union all
    select jsonb_build_object('object', target || '.user_id',
      'found', format('another user than %s', context ->> 'owner'),
      'wanted', 'the user whose row it is', 'rows', context -> 'conflicts',
      'remedy', format('Rename what it is: alter table %s rename column user_id to former_user_id;', p_found))
    where (context ->> 'conflicts')::bigint > 0
    union all
    select jsonb_build_object('object', target, 'found', 'no column ' || c.key, 'wanted', c.value ->> 'wanted_type',
      'rows', total,
      'remedy', format('Its rows need a value. Say which: alter table %s add column %I %s not null default '
        '''unknown'';', p_found, c.key, c.value ->> 'wanted_type'))
    from jsonb_each(context -> 'by_name') as c
    where total > 0 and p_table in ('user_api_keys', 'export_history') and c.value ->> 'found_name' is null
      and (c.value ->> 'wanted_not_null')::boolean and c.value ->> 'wanted_default' is null
        and c.key not in ('id', 'user_id')
  ) as s;
  stopped := stopped or found;
  -- Two forecasts differ. So the dry run asks from two seconds on, the upgrade from four, and the plan allows an answer
  -- that the forecast of now does not need.
  if seconds > (case when current_setting('profiles_schema.dry_run', true) = 'yes' then 2 else 4 end) then
    return next jsonb_build_object('revision', context -> 'by', 'phase', 'ask', 'kind', 'ask', 'action', 'question',
      'id', 'lock:' || target, 'object', target,
      'found', format('%s rows, locked for about %s seconds, by a forecast that may be wrong by a factor of %s', total,
        ceil(seconds),
        case when measured is null then '6: it was not timed on this server'
          else '3: a sample of them was timed on this server' end),
      'rows', total, 'seconds', seconds, 'lock', 'ACCESS EXCLUSIVE',
      'answers', jsonb_build_object('accept', 'it is taken over; who reads or writes it meanwhile waits'));
  end if;
  return query
  select step || jsonb_build_object('revision', context -> 'by')
    from profiles_internal.adoption_quarantine(context, counts) as step;
  return query
  select step || jsonb_build_object('revision', context -> 'by')
    from profiles_internal.adoption_openings(context) as step
  where step ->> 'action' = 'question';
  return query
  select jsonb_build_object('revision', context -> 'by', 'phase', 'ask', 'kind', 'ask', 'action', 'question',
    'id', format('required:%s.%s', target, r.name),
    'object', format('%s.%I', target, r.name), 'found', 'not null, without a default: a sign-up cannot fill it',
    'wanted', 'a value for every new user',
    'answers', jsonb_build_object('relax',
      format('it may be null, and is null for every new user. To keep it filled, give it a default before the upgrade: '
      'alter table %s alter column %I set default ...', p_found, r.name)))
  from unnest(profiles_internal.columns_that_need_values(context)) as r (name);
  if stopped then
    -- All that stands against it, at once.
    if counts ? 'total' then
      return query
      select step || jsonb_build_object('revision', context -> 'by')
      from profiles_internal.adoption_constraints(context, counts) as step where step ->> 'action' = 'stop';
    end if;
    return;
  end if;

  return query
  select step || jsonb_build_object('revision', context -> 'by')
    || case when step ? 'seconds' then jsonb_build_object('seconds', (step ->> 'seconds')::double precision * pace)
      else '{}' end
  from (
    -- Kept to show what was here, and for downgrade.
    select jsonb_build_object('phase', 'record', 'kind', 'take_over',
      'data', jsonb_build_object('owner', context -> 'owner'), 'action', 'note', 'object', target,
      'found', format('%s rows', total), 'wanted', 'taken over',
      'rows', total, 'lock', 'ACCESS EXCLUSIVE',
      'seconds', total * 0.00002 + (counts ->> 'bytes')::bigint * 0.000000005,
      'statement', format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''table'', %L, '
          '%L::jsonb || jsonb_build_object(''at'', now()))', context ->> 'by', target,
        jsonb_build_object('found_as', p_found::text, 'rows', total, 'owner', context -> 'owner', 'columns', (
          select jsonb_agg(jsonb_build_object('name', c.value -> 'found_name', 'type', c.value -> 'found_type',
            'not_null', c.value -> 'found_not_null',
            'default', c.value -> 'found_default', 'position', c.value -> 'found_position', 'now', c.value -> 'name'))
          from jsonb_array_elements(context -> 'columns') as c where c.value ->> 'found_name' is not null
        -- What a view of the old shape goes by, long after the planner has gone.
        ), 'rules', (
          select jsonb_object_agg(r.column_name, r.cases)
          from (
            select f.column_name,
              string_agg(format('when %s then %s', f.wrong, f.fitted), ' ' order by f.place) as cases
            from profiles_internal.adoption_rules() as f
            where f.table_name = p_table and f.column_name not in ('external_id', 'referral_code')
            group by f.column_name
          ) as r
        ))))
    union all
    select profiles_internal.adoption_surroundings(context, counts)
    union all
    select profiles_internal.adoption_constraints(context, counts)
    union all
    select profiles_internal.adoption_fields(context, counts)
    union all
    select profiles_internal.adoption_contacts(context)
    union all
    select profiles_internal.adoption_defaults(context)
    union all
    select profiles_internal.adoption_rights(context)
    union all
    select step from profiles_internal.adoption_openings(context) as step where step ->> 'action' <> 'question'
  ) as planned (step);
end
$adoption_of_table$;

revoke all on function profiles_internal.adoption_of_table(text, regclass) from public, anon, authenticated,
  service_role;
