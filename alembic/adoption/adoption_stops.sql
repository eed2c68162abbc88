-- Why a table cannot be taken over as it is: what the catalog alone can say. One step of action 'stop' each.
create or replace function profiles_internal.adoption_stops(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_stops$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  defaults text[] := '{}';
  tested record;
  refuses boolean;
begin
  return query
  select jsonb_build_object('phase', 'look', 'kind', 'refuse', 'action', 'stop', 'object', target, 'found', s.found,
    'wanted', s.wanted, 'remedy', s.remedy)
  from pg_class as c
  cross join lateral (values
    (c.relkind <> 'r', 'no ordinary table', 'an ordinary table',
      format('Rename %s, or move it to another schema.', relation)),
    (exists (select from pg_inherits as i where c.oid in (i.inhrelid, i.inhparent)), 'part of an inheritance',
      'a table of its own', format('Take %s out of the inheritance.', relation)),
    (not pg_has_role(c.relowner, 'usage'), 'owned by ' || pg_get_userbyid(c.relowner), 'owned by ' || current_user,
      format('Run the upgrade as %I, or as that role: alter table %s owner to %I;', pg_get_userbyid(c.relowner),
        relation, current_user)),
    (c.relkind = 'r' and exists (select from pg_rewrite as w where w.ev_class = c.oid), 'rewrite rules', 'none',
      format('Drop the rules of %s: they act instead of what is written.', relation)),
    (c.relkind = 'r' and p_context ->> 'user' is null and p_context ->> 'asks' is null
      and not (p_context ->> 'makes_users')::boolean, 'no column user_id', 'user_id uuid',
      format('Say whose rows they are: alter table %s add column user_id uuid;', relation)),
    -- What cannot be seen would be taken for what is not there.
    (pg_has_role(c.relowner, 'usage') and row_security_active(c.oid), 'row level security hides rows from '
      || current_user, 'all rows seen',
      format('Let the owner see them: alter table %s no force row level security;', relation)),
    (row_security_active(to_regclass('auth.users')), 'row level security hides auth.users from ' || current_user,
      'all users seen',
      format('An administrator runs: alter role %I bypassrls;', current_user))
  ) as s (applies, found, wanted, remedy)
  where c.oid = relation and s.applies;

  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
    'object', target || '.' || (c.value ->> 'name'),
    'found', c.value ->> 'found_type', 'wanted', c.value ->> 'wanted_type', 'remedy', s.remedy)
  from jsonb_array_elements(p_context -> 'columns') as c
  cross join lateral (
    select profiles_internal.column_readers(relation, c.value ->> 'found_name') as readers
    where c.value ->> 'found_name' is not null and c.value ->> 'wanted_type' is not null
  ) as r
  cross join lateral (values
    (c.value ->> 'source' is not null and c.value ->> 'found_default' = 'identity',
      format('alter table %s alter column %I drop identity;', relation, c.value ->> 'found_name')),
    ((c.value ->> 'found_generated')::boolean,
      format('alter table %s alter column %I drop expression;', relation, c.value ->> 'found_name')),
    (c.value ->> 'source' is not null and cardinality(r.readers) > 0,
      'Its type has to change, and these hang on it: ' || array_to_string(r.readers, ', ')
        || '. Drop them, and create them again after the upgrade.'),
    (c.value ->> 'source' is not null and c.value ->> 'back' is null,
      format('There is no way back from %s. Change it yourself, or rename the column.', c.value ->> 'wanted_type'))
  ) as s (applies, remedy)
  where s.applies;

  -- What would not survive other columns.
  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop', 'object', target,
    'found', format('%s.%s holds its rows as values', b.attrelid::regclass, b.attname),
    'wanted', 'a table of its own',
      'remedy', format('Drop %s.%I, and create it again after the upgrade.', b.attrelid::regclass, b.attname))
  from pg_class as c
  join pg_type as y on y.oid = c.reltype
  join pg_attribute as b on b.atttypid in (y.oid, y.typarray) and b.attnum > 0 and not b.attisdropped
  join pg_class as o on o.oid = b.attrelid and o.relkind in ('r', 'm', 'p', 'f')
  where c.oid = relation;

  -- What takes or returns rows of a table that a view will stand for has other columns than the view.
  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
    'object', 'function ' || f.oid::regprocedure, 'found', 'takes or returns rows of ' || relation,
    'wanted', 'columns of its own',
    'remedy', 'After the upgrade a view has this name, and its rows have other columns than those of the table. '
      'Declare the columns (returns table (...)), or drop the function, and create it again after the upgrade.')
  from pg_class as c
  join pg_type as y on y.oid = c.reltype
  join pg_proc as f on array[f.prorettype] || f.proargtypes::oid[] && array[y.oid, y.typarray]
  where c.oid = relation and relation::text <> target;

  -- Rights that we could not take from the roles of the API: only who gave them can.
  return query
  select distinct jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop', 'object', target,
    'found', format('rights given by %s', pg_get_userbyid(a.grantor)),
    'wanted', 'rights given by the owner', 'remedy',
    format('They would outlast ours. Take them back: set role %I; revoke all on %s from %s; reset role;',
      pg_get_userbyid(a.grantor), relation,
      case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end))
  from pg_class as c
  cross join lateral (
    select x.grantor, x.grantee from aclexplode(c.relacl) as x
    union all
    select x.grantor, x.grantee from pg_attribute as b cross join lateral aclexplode(b.attacl) as x
    where b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped
  ) as a
  where c.oid = relation and a.grantor <> c.relowner
    and (a.grantee = 0 or pg_get_userbyid(a.grantee) in ('anon', 'authenticated', 'service_role'));
  return query
  select distinct jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop', 'object', target,
    'found', format('%s has the rights of %s', m.rolname, pg_get_userbyid(a.grantee)),
    'wanted', 'rights of its own', 'remedy',
    format('It could write columns that are not for users to write. Take one of the two away: revoke %1$I from %2$I; '
      'or: revoke insert, update, delete on %3$s from %1$I;',
      pg_get_userbyid(a.grantee), m.rolname, relation))
  from pg_class as c
  cross join lateral (
    select x.grantee, x.privilege_type from aclexplode(c.relacl) as x
    union all
    select x.grantee, x.privilege_type from pg_attribute as b cross join lateral aclexplode(b.attacl) as x
    where b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped
  ) as a
  join pg_roles as m on m.rolname in ('anon', 'authenticated')
  where c.oid = relation and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
    and pg_get_userbyid(a.grantee) not in ('anon', 'authenticated', 'service_role')
    and a.grantee not in (0, c.relowner) and pg_has_role(m.oid, a.grantee, 'usage');

  -- One of our names that another object has.
  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop', 'object', 'public.' || w.name,
    'found', coalesce('an index of ' || x.indrelid::regclass, 'a relation of that name'),
    'wanted', 'free, for ' || target,
    'remedy', 'Rename it: that name is needed.')
  from profiles_internal.wanted_shape() as w
  join pg_class as i on i.relname = w.name and i.relnamespace = 'public'::regnamespace
  left join pg_index as x on x.indexrelid = i.oid
  where w.table_name = p_context ->> 'table' and w.kind in ('index', 'unique', 'primary key')
    and x.indrelid is distinct from relation;

  -- Triggers that stay must not stumble over what changes.
  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
    'object', format('trigger %s on %s', t.tgname, target),
    'found', format('reads %s', c.value ->> 'found_name'), 'wanted', 'nothing that changes',
    'remedy', format('%s reads a column whose name or type changes. Drop the trigger, and create it again, adapted, '
      'after the upgrade.', t.tgfoid::regprocedure))
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  join jsonb_array_elements(p_context -> 'columns') as c
    on (c.value ->> 'found_name' <> c.value ->> 'name' or c.value ->> 'source' is not null)
    and exists (
      select from profiles_internal.functions_called_by(f.oid) as r
      where r.body ~* ('\m(new|old)"?\s*\.\s*"?' || (c.value ->> 'found_name') || '\M')
    )
  where t.tgrelid = relation and not t.tgisinternal and not profiles_internal.does_what_ours_do(t.tgfoid);

  -- Triggers that go must do nothing that ours do not do.
  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
    'object', format('trigger %s on %s', t.tgname, target),
    'found', 'calls ' || t.tgfoid::regprocedure, 'wanted', 'ours',
    'remedy', format('It does the same as ours, but it also writes %s. Move that into a trigger function of its own, '
      'which then stays.', array_to_string(w.others, ', ')))
  from pg_trigger as t
  cross join lateral (
    select profiles_internal.tables_written_by(t.tgfoid, false) || array(
      select distinct format('%s.%s', target, c.value ->> 'found_name')
      from jsonb_array_elements(p_context -> 'columns') as c
      join profiles_internal.functions_called_by(t.tgfoid) as r
        on r.body ~* ('\m' || regexp_replace(c.value ->> 'found_name', '(\W)', '\\\1', 'g') || '\M')
      where c.value ->> 'wanted_type' is null
    ) as others
  ) as w
  where t.tgrelid = relation and not t.tgisinternal and profiles_internal.does_what_ours_do(t.tgfoid)
    and cardinality(w.others) > 0;

  -- Roles that read the table without row level security today, and would not tomorrow.
  return query
  select jsonb_build_object('phase', 'warn', 'kind', 'tell', 'action', 'note', 'object', format('role %s', r.rolname),
    'found', format('uses %s', relation),
    'wanted', 'row level security',
    'remedy', format('From now on row level security hides the rows of %s from %I. To let it act as service_role: '
      'grant service_role to %I;', target, r.rolname, r.rolname))
  from pg_class as c
  join pg_roles as r on exists (select from aclexplode(c.relacl) as a where a.grantee = r.oid)
  where c.oid = relation and not c.relrowsecurity and not r.rolsuper and not r.rolbypassrls
    and not pg_has_role(r.oid, c.relowner, 'usage') and r.rolname not in ('anon', 'authenticated', 'service_role');
  -- Without an auth server only the application creates users.
  if p_context ->> 'table' = 'user_profiles' and (p_context ->> 'own')::boolean and p_context ->> 'owner' is not null
    then
    return next jsonb_build_object('phase', 'warn', 'kind', 'tell', 'action', 'note', 'object', target,
      'found', 'profiles without users', 'wanted', 'a user for every profile',
      'remedy', format('From now on an INSERT into %s fails for a person who is not in auth.users (SQLSTATE 23502 or '
        '23503). To make a profile, call '
        'public.create_user(email => …), which makes the user and the profile and returns the id; then update the '
          'profile.', relation));
  end if;
  -- A profile made at sign-up leaves the application's own columns at their defaults. If a rule refuses this, the user
  -- gets no profile.
  for tested in
    select a.attname, a.attnotnull, d.adbin is not null as has_default, format_type(a.atttypid, a.atttypmod) as type,
      coalesce(pg_get_expr(d.adbin, d.adrelid), 'null') as default_value
    from jsonb_array_elements(p_context -> 'columns') as c
    join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.value ->> 'wanted_type' is null and a.attgenerated = '' and a.attidentity = ''
  loop
    continue when tested.default_value ~ '\mnextval\(';
    defaults := defaults || format('(%s)::%s as %I', tested.default_value, tested.type, tested.attname);
    begin
      execute format('select ((%s)::%s)::text is null', tested.default_value, tested.type) into refuses;
      -- Without a default, NOT NULL is relaxed.
      if refuses and tested.attnotnull and tested.has_default
        and p_context ->> 'table' in ('user_profiles', 'user_progress') then
        return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
          'object', format('%s.%s', target, tested.attname),
          'found', 'not null, default ' || tested.default_value,
          'wanted', 'a default that is not null when no user is signed in',
          'remedy', format('At a sign-up there are no claims, and the default is null: no new user would have a '
            'profile. '
            'Give it another default, or: alter table %s alter column %I drop not null;', relation, tested.attname));
      end if;
    exception when integrity_constraint_violation then
      return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('%s.%s', target, tested.attname), 'found', tested.type,
        'wanted', 'a default that it allows',
          'remedy', 'A sign-up leaves it at its default, which its type refuses. Give it another default, or another '
          'type.');
    when others then
      null; -- Trial sign-ups show it, see try_sign_ups.
    end;
  end loop;
  for tested in
    select k.conname, pg_get_constraintdef(k.oid) as definition, pg_get_expr(k.conbin, k.conrelid) as expression
    from pg_constraint as k
    where k.conrelid = relation and k.contype = 'c' and not exists (
      select from jsonb_array_elements(p_context -> 'columns') as c
      join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
        and a.attnum = any (k.conkey)
      where c.value ->> 'wanted_type' is not null
    )
  loop
    begin
      execute format('select (%s) is false from (select %s) as t', tested.expression,
        array_to_string(defaults, ', ')) into refuses;
    exception when others then
      -- It asks for what only a row has.
      refuses := false;
    end;
    if refuses then
      return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('%s.%s', target, tested.conname), 'found', tested.definition,
        'wanted', 'one that the defaults keep',
          'remedy', 'A sign-up leaves these columns at their defaults, which this refuses. Give them other defaults, '
          'or drop it.');
    end if;
  end loop;
  return query
  select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
    'object', format('%s.%s', target, i.relname), 'found', pg_get_indexdef(i.oid),
    'wanted', 'room for more than one profile',
      'remedy', 'Every sign-up leaves these columns at the same default. Drop the default, or make the index one that '
      'allows it.')
  from pg_index as x
  join pg_class as i on i.oid = x.indexrelid
  cross join lateral (
    select
      bool_and(c.value ->> 'wanted_type' is null and a.attgenerated = '' and a.attidentity = '') as own,
      bool_and(d.adbin is not null and d.expression !~ '\w\(' or d.adbin is null and x.indnullsnotdistinct) as same
    from unnest(x.indkey) with ordinality as n (attnum, place)
    left join pg_attribute as a on a.attrelid = relation and a.attnum = n.attnum
    left join jsonb_array_elements(p_context -> 'columns') as c on c.value ->> 'found_name' = a.attname
    left join lateral (
      select f.adbin, regexp_replace(pg_get_expr(f.adbin, f.adrelid), '::[a-z ]+\([0-9, ]+\)', '', 'g') as expression
      from pg_attrdef as f where f.adrelid = a.attrelid and f.adnum = a.attnum
    ) as d on true
    where n.place <= x.indnkeyatts
  ) as k
  where x.indrelid = relation and x.indisunique and x.indexprs is null and x.indpred is null and k.own and k.same;
  return query
  select jsonb_build_object('phase', 'warn', 'kind', 'tell', 'action', 'note',
    'object', format('trigger %s on %s', t.tgname, target), 'found', 'calls ' || t.tgfoid::regprocedure,
    'wanted', 'stays', 'remedy', 'It runs at every sign-up, too. What it refuses costs that user the profile until it '
      'is mended: see profiles-schema health.')
  from pg_trigger as t
  where t.tgrelid = relation and not t.tgisinternal and t.tgtype & 4 <> 0
    and p_context ->> 'table' in ('user_profiles', 'user_progress')
    and not profiles_internal.does_what_ours_do(t.tgfoid);
end
$adoption_stops$;

revoke all on function profiles_internal.adoption_stops(jsonb) from public, anon, authenticated, service_role;
