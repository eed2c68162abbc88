-- What becomes of the columns of a table that is taken over, and of the values in them.
-- In this order: names, new columns, their values, types, values that break a rule, usernames, defaults and NOT NULL.
-- Undone in the opposite one. A value that does not come back by itself is kept in profiles_internal.adopted.
create or replace function profiles_internal.adoption_fields(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_fields$
declare
  target constant text := p_context ->> 'target';
  revision constant text := p_context ->> 'by';
  columns constant jsonb := p_context -> 'columns';
  by_name constant jsonb := p_context -> 'by_name';
  makes_users constant boolean := p_context ->> 'makes_users';
  staying constant bigint := (p_counts ->> 'total')::bigint - (p_counts ->> 'aside')::bigint;
  bytes constant bigint := p_counts ->> 'bytes';
  user_now constant text := coalesce(p_context ->> 'user', 't.user_id');
  fresh jsonb;
  fills text;
  fits constant jsonb := p_counts -> 'fits';
  -- What the auth server knows of the user. Where policies of the application show rows to others, it waits for ours.
  of_users constant text[] := array(
    select c.key from jsonb_each(by_name) as c
    where c.key in ('email', 'phone', 'email_verified', 'is_anonymous', 'last_login')
      and c.value ->> 'found_name' is null
      and p_context ->> 'table' = 'user_profiles' and not makes_users
  );
  is_open constant boolean := exists (
    select from pg_class as t cross join lateral aclexplode(t.relacl) as a
    where t.oid = (p_context ->> 'found')::regclass and a.privilege_type = 'SELECT'
      and (a.grantee = 0 or pg_get_userbyid(a.grantee) in ('anon', 'authenticated'))
      and exists (select from pg_policy as y where y.polrelid = t.oid)
  );
begin
  return query
  select jsonb_build_object('phase', 'rename_columns', 'kind', 'rename_column', 'action', 'rename',
    'object', format('%s.%s', target, c.value ->> 'found_name'),
    'found', c.value ->> 'found_type', 'wanted', c.value ->> 'name', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('alter table %s rename column %I to %I', target, c.value ->> 'found_name', c.value ->> 'name'),
    'undo', format('alter table %s rename column %I to %I', target, c.value ->> 'name', c.value ->> 'found_name'))
  from jsonb_array_elements(columns) as c
  where c.value ->> 'found_name' <> c.value ->> 'name';

  -- New columns: those that get a value of their own in every row, and those that get the default.
  select jsonb_agg(to_jsonb(n) order by n.name) into fresh
  from (
    select c.key as name, c.value ->> 'wanted_type' as type, c.value ->> 'wanted_default' as default_value,
      (c.value ->> 'wanted_not_null')::boolean as not_null,
      case
        when c.key = 'user_id' then coalesce(p_context ->> 'user', 'gen_random_uuid()')
        when c.key = 'id' and p_context ->> 'table' <> 'user_profiles' then 'gen_random_uuid()'
        when c.key = 'id' and by_name ? 'legacy_id' then 't.legacy_id::text'
        when c.key = 'id' then user_now || '::text'
        -- As for values that are not known (adoption_rules).
        when p_context ->> 'table' = 'user_profile_audit_logs' and c.key = 'action' then '''skipped'''
        when p_context ->> 'table' = 'user_profile_audit_logs' and c.key = 'origin' then '''manual'''
        when p_context ->> 'table' <> 'user_profiles' then null
        -- No one has agreed to be shown.
        when c.key = 'profile_visibility' then '''private'''
        when c.key in ('first_seen_at', 'last_interaction_at') and t.moment is not null
          then format('extract(epoch from case when isfinite(%1$s) then %1$s else now() end)::bigint', t.moment)
        when c.key = any (of_users) and not is_open then 'v.' || c.key
      end as fill
    from jsonb_each(by_name) as c
    left join lateral (
      select replace(coalesce(x.value ->> 'source', '{column}'), '{column}', 't.' || quote_ident(x.key)) as moment
      from jsonb_each(by_name) as x
      where x.key = case c.key when 'first_seen_at' then 'created_at' when 'last_interaction_at' then 'updated_at' end
        and x.value ->> 'found_name' is not null
    ) as t on true
    where c.value ->> 'found_name' is null
  ) as n;

  return query
  select jsonb_build_object('phase', 'add_columns', 'kind', 'add_columns', 'action', 'add', 'object', target,
    'found', null,
    'wanted', string_agg(n.value ->> 'name', ', '), 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('alter table %s %s', target, string_agg(
      format('add column %I %s', n.value ->> 'name', n.value ->> 'type')
        || case when n.value ->> 'fill' is null and n.value ->> 'default_value' is not null then ' default '
          || (n.value ->> 'default_value') else '' end
        || case when n.value ->> 'fill' is null and (n.value ->> 'not_null')::boolean
          and n.value ->> 'default_value' is not null then ' not null' else '' end,
      ', ')),
    'undo', format('alter table %s %s', target, string_agg(format('drop column %I', n.value ->> 'name'), ', ')))
  from jsonb_array_elements(fresh) as n
  having count(*) > 0;

  -- Users for the rows, where no auth server makes them.
  if (p_context ->> 'own')::boolean and p_context ->> 'table' <> 'user_profile_audit_logs' and staying > 0 then
    return next jsonb_build_object('phase', case when makes_users then 'make_users_of_new_ids' else 'make_users' end,
      'kind', 'make_users', 'action', 'create', 'object', 'auth.users',
      'found', format('rows of %s', target), 'wanted', 'a user for each', 'rows', staying,
      'seconds', staying * 0.000005,
      'statement', format(
        'insert into auth.users (id%1$s) select distinct on (%2$s) %2$s%3$s from %4$s as t where not exists (select '
          'from auth.users as u where u.id = %2$s)',
        (select string_agg(', ' || x.key, '' order by x.key) from jsonb_each(by_name) as x
          where p_context ->> 'table' = 'user_profiles' and x.key in ('email', 'phone', 'created_at')
            and x.value ->> 'found_name' is not null),
        user_now,
        (select string_agg(', '
          || replace(coalesce(x.value ->> 'source', '{column}'), '{column}', 't.' || quote_ident(x.key)),
          '' order by x.key)
          from jsonb_each(by_name) as x
          where p_context ->> 'table' = 'user_profiles' and x.key in ('email', 'phone', 'created_at')
            and x.value ->> 'found_name' is not null),
        target),
      -- Made for rows that will have lost their user's id again.
      'undo', case when makes_users
        then format('delete from auth.users as u using %s as t where u.id = t.user_id', target) end);
  end if;

  select string_agg(format('%I = %s', n.value ->> 'name', n.value ->> 'fill'), ', ') into fills
  from jsonb_array_elements(fresh) as n where n.value ->> 'fill' is not null;
  if fills is not null then
    return next jsonb_build_object('phase', 'fill_columns', 'kind', 'fill_columns', 'action', 'convert',
      'object', target, 'found', 'new columns, empty',
      'wanted', (select string_agg(n.value ->> 'name', ', ') from jsonb_array_elements(fresh) as n
        where n.value ->> 'fill' is not null),
      'lock', 'ACCESS EXCLUSIVE', 'rows', staying, 'seconds', staying * 0.000015 + bytes * 0.000000015,
      'statement', format('update %s as t set %s', target, fills) || case when fills like '%= v.%'
        then format(' from auth.users as u cross join lateral profiles_internal.profile_values(array[to_jsonb(u.*)]) '
          'as v where u.id = %s', user_now)
        else '' end);
  end if;

  return query select profiles_internal.adoption_owner_steps(p_context);

  if is_open and of_users <> '{}' then
    return next jsonb_build_object('phase', 'fill_columns', 'kind', 'fill_later', 'action', 'note', 'object', target,
      'found', 'new columns, empty',
      'wanted', array_to_string(of_users, ', '),
      'remedy', 'Filled together with our policies: until then others may read the rows.',
      'statement', format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''fill'', %L, '
          '%L)',
        revision, target, to_jsonb(of_users)));
  end if;

  return query
  select jsonb_build_object('phase', 'retype_columns', 'kind', 'retype_columns', 'action', 'convert', 'object', target,
    'found', string_agg(format('%s %s', c.value ->> 'name', c.value ->> 'found_type'), ', '),
    'wanted', string_agg(c.value ->> 'wanted_type', ', '), 'lock', 'ACCESS EXCLUSIVE', 'rows', staying,
    'seconds', staying * 0.000015 + bytes * 0.000000015,
    'statement',
      string_agg(format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %1$L, ''found value'', %2$L, jsonb_build_object(''key'', t.id::text, ''old'', t.%3$I::text, ''new'', '
          '(%4$s)::text) from %5$s as t '
        'where (%4$s)::text is distinct from t.%3$I::text; ',
        revision, target || '.' || (c.value ->> 'name'), c.value ->> 'name',
        replace(c.value ->> 'back', '{column}',
          '(' || replace(c.value ->> 'source', '{column}', 't.' || quote_ident(c.value ->> 'name')) || ')'), target
      ), '')
      || format('alter table %s %s', target, string_agg(
        format('alter column %1$I drop default, alter column %1$I type %2$s using %3$s', c.value ->> 'name',
          c.value ->> 'wanted_type',
          replace(c.value ->> 'source', '{column}', quote_ident(c.value ->> 'name'))), ', ')),
    'undo',
      format('alter table %s %s', target, string_agg(
        format('alter column %1$I drop default, alter column %1$I type %2$s using %3$s', c.value ->> 'name',
          c.value ->> 'found_type',
          replace(c.value ->> 'back', '{column}', quote_ident(c.value ->> 'name'))), ', '))
      || coalesce('; ' || string_agg(format('alter table %s alter column %I set default %s', target, c.value ->> 'name',
        c.value ->> 'found_default'), '; ')
        filter (where c.value ->> 'found_default' is not null), '')
      || format('; select profiles_internal.restore_values(%L, %L, ''found value'')', revision, target))
  from jsonb_array_elements(columns) as c
  where c.value ->> 'source' is not null
  having count(*) > 0;

  -- NOT NULL that ours are not, before values that break a rule become null; and that which a sign-up cannot keep.
  return query
  select jsonb_build_object('phase', 'allow_nulls', 'kind', 'drop_not_null', 'action', 'relax',
    'object', format('%s.%s', target, c.value ->> 'name'), 'found', 'not null',
    'wanted', 'nullable', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('alter table %s alter column %I drop not null', target, c.value ->> 'name'),
    'undo', format('select profiles_internal.require_values(%L, %L)', target, c.value ->> 'name'))
  from jsonb_array_elements(columns) as c
  where (c.value ->> 'found_not_null')::boolean and (
    not (c.value ->> 'wanted_not_null')::boolean
      or c.value ->> 'found_name' = any (profiles_internal.columns_that_need_values(p_context))
  );

  -- Values that break a rule: all of a row at once. One line per rule says what happens; the last one does it.
  if fits <> '[]' then
    return query
    select jsonb_build_object('phase', 'fit_values', 'kind', 'fit_value', 'action', 'fit',
      'object', format('%s.%s', target, f.value ->> 'column_name'),
      'found', split_part(f.value ->> 'rule', ': ', 1), 'wanted', split_part(f.value ->> 'rule', ': ', 2),
      'rows', f.value -> 'hits',
      -- Few are an accident; many are what the application writes.
      'remedy', case when (f.value ->> 'hits')::bigint > least(10, staying / 100) then format(
        'Of %s rows, %s change. The old values are kept in profiles_internal.adopted. A statement that writes such a '
          'value fails from then on.',
        staying, f.value ->> 'hits') end)
    from jsonb_array_elements(fits) as f;
    return query
    with rule as (
      select f.value ->> 'column_name' as name, replace(f.value ->> 'wrong', '{table}', target) as wrong,
        f.value ->> 'fitted' as fitted,
        f.ordinality as place, (f.value ->> 'hits')::bigint as hits
      from jsonb_array_elements(fits) with ordinality as f
    ),
    by_column as (
      select r.name, string_agg(format('when %s then %s', r.wrong, r.fitted), ' ' order by r.place) as cases,
        string_agg('(' || r.wrong || ')', ' or ' order by r.place) as wrong
      from rule as r
      group by r.name
    )
    select jsonb_build_object('phase', 'fit_values', 'kind', 'fit_values', 'action', 'fit', 'object', target,
      'found', 'values that break a rule', 'wanted', 'as said above',
      'lock', 'ACCESS EXCLUSIVE', 'rows', (select max(r.hits) from rule as r),
      'seconds', staying * 0.000005 + (select sum(r.hits) from rule as r) * 0.000015,
      'statement', format(
        -- Of a row, only what is wrong in it: the rest may be large.
        'with was as materialized (select id as row_key, (select jsonb_object_agg(x.name, x.value) from (values %1$s) '
          'as x (name, value, wrong) where x.wrong) as old from %2$s where %3$s), '
        'now as (update %2$s as t set %4$s from was where t.id = was.row_key returning t.id::text as row_key, was.old, '
        '(select jsonb_object_agg(x.name, x.value) from (values %5$s) as x (name, value) where was.old ? x.name) as '
          'new) '
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %6$L, ''value'', %2$L || ''.'' || e.key, jsonb_build_object(''key'', n.row_key, ''old'', e.value, '
          '''new'', n.new -> e.key) '
        'from now as n cross join lateral jsonb_each(n.old) as e where e.value is distinct from n.new -> e.key',
        string_agg(format('(%1$L, case when %2$s then %1$I::text end, %2$s)', b.name, b.wrong), ', ' order by b.name),
        target,
        string_agg(b.wrong, ' or ' order by b.name),
        string_agg(format('%1$I = case when not was.old ? %1$L then t.%1$I %2$s end', b.name, b.cases),
          ', ' order by b.name),
        string_agg(format('(%1$L, case when was.old ? %1$L then t.%1$I::text end)', b.name), ', ' order by b.name),
        revision
      ),
      'undo', format('select profiles_internal.restore_values(%L, %L, ''value'')', revision, target))
    from by_column as b;
  end if;

  if (p_counts ->> 'names')::bigint > 0 then
    return next jsonb_build_object('phase', 'fit_usernames', 'kind', 'fit_usernames', 'action', 'fit',
      'object', target || '.username',
      'found', case when by_name -> 'username' ->> 'found_name' is null then 'missing'
        else 'of another form, or not alone' end,
      'wanted', 'a username by the rule of sign-up', 'lock', 'ACCESS EXCLUSIVE', 'rows', p_counts -> 'names',
      'seconds', staying * 0.000005 + (p_counts ->> 'names')::bigint * 0.00003,
      'statement', format('select profiles_internal.fit_usernames(%L)', revision),
      'undo', case when by_name -> 'username' ->> 'found_name' is null
        then format('delete from profiles_internal.adopted where revision = %L and object_type = ''value'' and '
          'object_name = %L', revision, target || '.username')
        else format('select profiles_internal.restore_values(%L, %L, ''value'')', revision, target) end);
  end if;

  -- Defaults and NOT NULL as ours are.
  return query
  with changed as (
    select c.value ->> 'name' as name, string_agg(x.statement, ', ') as statement, string_agg(x.undo, '; ') as undo,
      string_agg(x.found, ', ') as found, string_agg(x.wanted, ', ') as wanted
    from jsonb_array_elements(columns) as c
    left join jsonb_array_elements(fresh) as n on n.value ->> 'name' = c.value ->> 'name'
    cross join lateral (
      select format('alter column %I ', c.value ->> 'name') as alter_column,
        format('alter table %s ', target) as alter_table,
        c.value ->> 'found_name' is not null as was_there,
        c.value ->> 'source' is not null as retyped,
        case when n.value is not null and n.value ->> 'fill' is null then c.value ->> 'wanted_default'
          when c.value ->> 'source' is not null then null else c.value ->> 'found_default' end as default_now,
        case when n.value is not null then n.value ->> 'fill' is null and (n.value ->> 'not_null')::boolean
          and n.value ->> 'default_value' is not null
          else (c.value ->> 'found_not_null')::boolean end as not_null_now
    ) as a
    cross join lateral (
      select a.alter_column || coalesce('set default ' || (c.value ->> 'wanted_default'), 'drop default') as statement,
        case when a.was_there then a.alter_table || a.alter_column || case when a.retyped then 'drop default'
          else coalesce('set default ' || (c.value ->> 'found_default'), 'drop default') end end as undo,
        coalesce('default ' || (c.value ->> 'found_default'), 'no default') as found,
        coalesce('default ' || (c.value ->> 'wanted_default'), 'no default') as wanted
      where c.value ->> 'wanted_type' is not null and a.default_now is distinct from c.value ->> 'wanted_default'
        and a.default_now is distinct from 'identity'
      union all
      select a.alter_column || 'set not null',
        case when a.was_there then a.alter_table || a.alter_column || 'drop not null' end, 'nullable', 'not null'
      where (c.value ->> 'wanted_not_null')::boolean and not a.not_null_now and c.value ->> 'name' <> 'id'
    ) as x
    group by c.value ->> 'name'
  )
  select jsonb_build_object('phase', 'set_defaults', 'kind', 'set_default', 'action', 'convert',
    'object', format('%s.%s', target, d.name), 'found', d.found, 'wanted', d.wanted, 'undo', d.undo)
  from changed as d
  union all
  select jsonb_build_object('phase', 'set_defaults', 'kind', 'set_defaults', 'action', 'convert', 'object', target,
    'found', 'defaults and NOT NULL of theirs', 'wanted', 'as said above',
    'lock', 'ACCESS EXCLUSIVE', 'seconds', staying * 0.000001,
      'statement', format('alter table %s %s', target, string_agg(d.statement, ', ' order by d.name)))
  from changed as d
  having count(*) > 0;
end
$adoption_fields$;

revoke all on function profiles_internal.adoption_fields(jsonb, jsonb) from public, anon, authenticated, service_role;
