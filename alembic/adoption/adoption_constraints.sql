-- What becomes of the constraints and indexes of a table that is taken over, and of the foreign keys that point to it.
-- A constraint with the same definition as ours is renamed to our name. One over our columns with another definition is
-- set aside: it could refuse what we write. The application's other constraints stay, and so does a key on the user, or
-- one that a foreign key refers to. A primary key of that kind becomes a unique constraint.
-- Definitions are compared as they read after the columns were renamed.
create or replace function profiles_internal.adoption_constraints(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_constraints$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  aside constant bigint := p_counts ->> 'aside';
  names_in_use text[] := '{}';
  owner constant text := coalesce(p_context ->> 'owner', 'user_id');
  primary_key_stays boolean := false;
  dropped text[] := '{}';
  theirs record;
  our_name text;
  left_behind bigint;
  changes bigint;
  legacy boolean := false;
begin
  for theirs in
    select
      k.conname::text as name, k.contype as kind, pg_get_constraintdef(k.oid) as definition, c.columns,
      case
        when k.contype in ('p', 'u')
          then regexp_replace(pg_get_constraintdef(k.oid), '\([^)]*\)', '(' || c.listed || ')')
        when k.contype = 'f'
          then regexp_replace(pg_get_constraintdef(k.oid), '^FOREIGN KEY \([^)]*\)', 'FOREIGN KEY (' || c.listed || ')')
        else pg_get_constraintdef(k.oid)
      end as afterwards,
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'wanted_type' is not null
      ) as touches_ours,
      -- A CHECK on columns that only the application writes refuses nothing that we write.
      k.contype = 'c' and p_context ->> 'table' = 'user_profiles' and not exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'wanted_type' is not null
          and not (x.value ->> 'is_theirs')::boolean
      ) as is_theirs,
      not exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'wanted_type' is null
      ) as ours_alone,
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'source' is not null
      ) as retyped,
      k.contype in ('c', 'f') and not k.convalidated as unproved,
      k.contype in ('p', 'u')
        and exists (select from pg_constraint as r where r.contype = 'f' and r.confrelid = relation
        and r.conindid = k.conindid) as is_needed,
      -- A sign-up would fail for it, or the deletion of a user.
      k.contype = 'f' and (k.confrelid is distinct from to_regclass('auth.users') or k.confdeltype <> 'c') as is_strange
    from pg_constraint as k
    cross join lateral (
      select
        coalesce(array_agg(x.value ->> 'name' order by n.place), '{}') as columns,
        string_agg(quote_ident(x.value ->> 'name'), ', ' order by n.place) as listed
      from unnest(k.conkey) with ordinality as n (attnum, place)
      join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = n.attnum
      join jsonb_array_elements(p_context -> 'columns') as x on x.value ->> 'found_name' = a.attname
    ) as c
    where k.conrelid = relation and k.contype in ('p', 'u', 'c', 'f', 'x')
    order by k.conname collate "C"
  loop
    select w.name into our_name
    from profiles_internal.wanted_shape() as w
    where w.table_name = p_context ->> 'table' and w.kind in ('primary key', 'unique', 'check', 'foreign key')
      and w.definition = theirs.afterwards and w.name <> all (names_in_use)
      and (w.name = theirs.name
        or not exists (select from pg_constraint as k where k.conrelid = relation and k.conname = w.name));
    if found and not (theirs.kind = 'f' and theirs.retyped) then
      names_in_use := names_in_use || our_name;
      if our_name <> theirs.name then
        return next jsonb_build_object('phase', 'rename_constraints', 'kind', 'rename_constraint', 'action', 'rename',
          'object', format('%s.%s', target, theirs.name),
          'found', theirs.definition, 'wanted', our_name, 'lock', 'ACCESS EXCLUSIVE',
          'statement', format('alter table %s rename constraint %I to %I', target, theirs.name, our_name),
          'undo', format('alter table %s rename constraint %I to %I', target, our_name, theirs.name));
      end if;
    elsif theirs.kind = 'p' and theirs.columns <@ array['id', 'user_id', owner]
      and theirs.name <> 'pk_' || (p_context ->> 'table') then
      primary_key_stays := true;
    elsif theirs.kind = 'u' and theirs.is_needed then
      if theirs.columns <> '{username}' and theirs.ours_alone then
        return next jsonb_build_object('phase', 'warn', 'kind', 'tell', 'action', 'note',
          'object', format('%s.%s', target, theirs.name), 'found', theirs.definition,
          'wanted', 'stays: foreign keys refer to it',
          'remedy', 'A new user with a value that another user has there gets no profile, and a change that it '
          'refuses does not reach the profile: profiles-schema health names both.');
      end if;
    elsif theirs.kind = 'p'
      or theirs.kind = 'u' and theirs.ours_alone and theirs.columns <> '{id}' and theirs.columns <> '{user_id}'
      or theirs.kind in ('c', 'x') and theirs.touches_ours and not theirs.is_theirs
      or theirs.kind = 'f'
        and (theirs.columns = '{user_id}' or theirs.retyped or theirs.columns = array[owner] and theirs.is_strange)
      -- A row that comes out of quarantine may be one that it was never asked about.
      or theirs.unproved and aside > 0
    then
      dropped := dropped || theirs.name;
      return query
      select jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('%s.%s', target, theirs.name), 'found', 'used by view ' || w.ev_class::regclass,
        'wanted', 'ours', 'remedy', format('%s groups by this key and reads other columns too. Drop it, and '
          'create it again after the upgrade.', w.ev_class::regclass))
      from pg_depend as d
      join pg_constraint as k on k.oid = d.refobjid and k.conrelid = relation and k.conname = theirs.name
      join pg_rewrite as w on w.oid = d.objid
      where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_constraint'::regclass;
      return next jsonb_build_object('phase', case theirs.kind when 'f' then 'drop_foreign_keys'
        else 'drop_constraints' end, 'kind', case theirs.kind when 'f' then 'drop_foreign_key'
        when 'p' then 'drop_primary_key' else 'drop_constraint' end,
        'action', case when theirs.kind in ('p', 'f') then 'replace' else 'set aside' end,
        'object', format('%s.%s', target, theirs.name), 'found', theirs.definition, 'wanted', 'ours',
        'lock', 'ACCESS EXCLUSIVE',
        'statement', format('alter table %s drop constraint %I', target, theirs.name),
        'undo', format('alter table %s add constraint %I %s', target, theirs.name, theirs.definition),
        'remedy', case when theirs.is_strange
          then 'From now on the deletion of a user deletes their rows in this table.' end);
      if theirs.is_needed and theirs.columns <> '{legacy_id}' then
        return next jsonb_build_object('phase', 'create_referenced_constraints', 'kind', 'create_constraint',
          'action', 'create', 'object', format('%s.%s', target, theirs.name), 'found', 'foreign keys refer to it',
          'wanted', replace(theirs.afterwards, 'PRIMARY KEY', 'UNIQUE'), 'lock', 'ACCESS EXCLUSIVE',
          'statement', format('alter table %s add constraint %I %s', target, theirs.name,
            replace(theirs.afterwards, 'PRIMARY KEY', 'UNIQUE')),
          'undo', format('alter table %s drop constraint if exists %I', target, theirs.name));
      end if;
      if theirs.unproved and not theirs.touches_ours and not theirs.is_strange then
        return next jsonb_build_object('phase', 'create_foreign_keys', 'kind', 'create_constraint', 'action', 'create',
          'object', format('%s.%s', target, theirs.name), 'found', 'set aside above',
          'wanted', theirs.definition, 'lock', 'ACCESS EXCLUSIVE',
          'statement', format('alter table %s add constraint %I %s', target, theirs.name, theirs.definition),
          'undo', format('alter table %s drop constraint if exists %I', target, theirs.name));
      end if;
    elsif exists (
      select from profiles_internal.wanted_shape() as w
      where w.table_name = p_context ->> 'table' and w.kind in ('primary key', 'unique', 'check', 'foreign key')
        and w.name = theirs.name
    ) then
      return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('%s.%s', target, theirs.name), 'found', theirs.definition,
        'wanted', 'that name, for ours', 'remedy', 'Rename it: that name is needed.');
    end if;
  end loop;

  for theirs in
    select
      i.relname::text as name, x.indisunique as is_unique,
      replace(pg_get_indexdef(i.oid), ' ON ' || relation || ' ', ' ON ' || target || ' ') as definition,
      not exists (
        select from jsonb_array_elements(p_context -> 'columns') as c
        join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
        where c.value ->> 'wanted_type' is null
          and (a.attnum = any (x.indkey) or exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = i.oid and d.refclassid = 'pg_class'::regclass
              and d.refobjid = relation and d.refobjsubid = a.attnum
          ))
      ) as ours_alone,
      -- What ours is on is another column afterwards.
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as c
        join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
        join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = i.oid
          and d.refclassid = 'pg_class'::regclass
          and d.refobjid = relation and d.refobjsubid = a.attnum
        where c.value ->> 'found_name' <> c.value ->> 'name'
      ) as is_renamed,
      exists (select from pg_constraint as r where r.contype = 'f' and r.confrelid = relation and r.conindid = i.oid)
        as is_needed,
      -- It would not survive another type under it: an expression, a condition, or a way to compare that goes with the
      -- type.
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as c
        join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
        where c.value ->> 'source' is not null and (
          exists (
            select from unnest(x.indkey) with ordinality as n (attnum, place)
            join unnest(x.indclass) with ordinality as o (opclass, place) on o.place = n.place
            join pg_opclass as oc on oc.oid = o.opclass
            where n.attnum = a.attnum and not oc.opcdefault
          )
          or (x.indexprs is not null or x.indpred is not null) and exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = i.oid and d.refclassid = 'pg_class'::regclass
              and d.refobjid = relation and d.refobjsubid = a.attnum
          )
        )
      ) as trips,
      x.indexprs is null and x.indnkeyatts = 1 and exists (
        select from pg_attribute as a
        where a.attrelid = relation and a.attnum = x.indkey[0] and a.attname in ('id', 'user_id')
      ) as on_an_id
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    where x.indrelid = relation
      and not exists (select from pg_constraint as k where k.conindid = i.oid and k.conrelid = relation)
    order by i.relname collate "C"
  loop
    select w.name into our_name
    from profiles_internal.wanted_shape() as w
    where w.table_name = p_context ->> 'table' and w.kind = 'index' and w.name <> all (names_in_use)
      and not theirs.is_renamed
      and regexp_replace(w.definition, ' INDEX \S+ ON ', ' INDEX ON ') = regexp_replace(theirs.definition,
        ' INDEX \S+ ON ', ' INDEX ON ')
      and (w.name = theirs.name or not exists (
        select from pg_index as x join pg_class as i on i.oid = x.indexrelid where x.indrelid = relation
          and i.relname = w.name
      ));
    if found then
      names_in_use := names_in_use || our_name;
      if our_name <> theirs.name then
        return next jsonb_build_object('phase', 'rename_indexes', 'kind', 'rename_index', 'action', 'rename',
          'object', 'public.' || theirs.name, 'found', theirs.definition,
          'wanted', our_name, 'lock', 'SHARE UPDATE EXCLUSIVE',
          'statement', format('alter index public.%I rename to %I', theirs.name, our_name),
          'undo', format('alter index if exists public.%I rename to %I', our_name, theirs.name));
      end if;
    elsif theirs.is_unique and theirs.ours_alone and not theirs.on_an_id and not theirs.is_needed or theirs.trips
      or exists (
      select from profiles_internal.wanted_shape() as w
      where w.table_name = p_context ->> 'table' and w.kind in ('index', 'unique') and w.name = theirs.name
    ) then
      dropped := dropped || theirs.name;
      return next jsonb_build_object('phase', 'drop_indexes', 'kind', 'drop_index', 'action', 'set aside',
        'object', 'public.' || theirs.name, 'found', theirs.definition,
        'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE',
        'statement', format('drop index public.%I', theirs.name), 'undo', theirs.definition);
    end if;
  end loop;

  -- Ours, where they are missing; all CHECKs in one statement, which reads the table once.
  return query
  select jsonb_build_object('phase', case w.kind when 'primary key' then 'create_primary_key' when 'foreign key'
    then 'create_foreign_keys' else 'create_unique_constraints' end,
    'kind', case w.kind when 'primary key' then 'create_primary_key' when 'foreign key' then 'create_foreign_key'
    else 'create_constraint' end, 'action', 'create',
    'object', format('%s.%s', target, w.name), 'found', null, 'wanted', d.definition,
    'lock', case w.kind when 'foreign key' then 'SHARE ROW EXCLUSIVE on auth.users, too' else 'ACCESS EXCLUSIVE' end,
    'seconds', (p_counts ->> 'total')::bigint * 0.0000015,
    'statement', case when w.kind = 'primary key' then format('alter table %s alter column id set not null; ', target)
      else '' end
      || format('alter table %s add constraint %I %s', target, w.name, d.definition),
    'undo', format('alter table %s drop constraint %I', target, w.name)
      || case when w.kind = 'primary key' and not (p_context -> 'by_name' -> 'id' ->> 'found_not_null')::boolean
        then format('; alter table %s alter column id drop not null', target) else '' end)
  from profiles_internal.wanted_shape() as w
  -- A table has one primary key.
  cross join lateral (
    select case when w.kind = 'primary key' and primary_key_stays then replace(w.definition, 'PRIMARY KEY', 'UNIQUE')
      else w.definition end as definition
  ) as d
  where w.table_name = p_context ->> 'table' and w.kind in ('primary key', 'unique', 'foreign key')
    and w.name <> all (names_in_use);
  return query
  select jsonb_build_object('phase', 'create_checks', 'kind', 'create_checks', 'action', 'create', 'object', target,
    'found', null,
    'wanted', format('%s CHECK constraints', count(*)), 'lock', 'ACCESS EXCLUSIVE',
    'seconds', (p_counts ->> 'total')::bigint * 0.000005,
    'statement', format('alter table %s %s', target,
      string_agg(format('add constraint %I %s', w.name, w.definition), ', ')),
    'undo', format('alter table %s %s', target, string_agg(format('drop constraint %I', w.name), ', ')))
  from profiles_internal.wanted_shape() as w
  where w.table_name = p_context ->> 'table' and w.kind = 'check' and w.name <> all (names_in_use)
  having count(*) > 0;
  return query
  select jsonb_build_object('phase', 'create_indexes', 'kind', 'create_index', 'action', 'create',
    'object', 'public.' || w.name, 'found', null, 'wanted', w.definition,
    'lock', 'ACCESS EXCLUSIVE', 'seconds', (p_counts ->> 'total')::bigint * 0.00000125, 'statement', w.definition,
    'undo', format('drop index if exists public.%I', w.name))
  from profiles_internal.wanted_shape() as w
  where w.table_name = p_context ->> 'table' and w.kind = 'index' and w.name <> all (names_in_use);

  -- The comment on a constraint or an index is dropped with it, and restored with it.
  return query
  with comment as (
    select k.conrelid <> relation as is_others,
      format('do $comment$ begin if exists (select from pg_catalog.pg_constraint as k where k.conrelid = '
        '%1$L::regclass and k.conname = %2$L) '
        'then comment on constraint %2$I on %1$s is %3$L; end if; end $comment$',
        case when k.conrelid = relation then target else k.conrelid::regclass::text end, k.conname, d.description)
          as statement
    from pg_constraint as k
    join pg_description as d on d.classoid = 'pg_constraint'::regclass and d.objoid = k.oid
    where k.conrelid = relation or k.contype = 'f' and k.confrelid = relation
    union all
    select false, format('do $comment$ begin if to_regclass(%1$L) is not null then comment on index %1$s is %2$L; end '
      'if; end $comment$',
      format('%I.%I', n.nspname, i.relname), d.description)
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    join pg_namespace as n on n.oid = i.relnamespace
    join pg_description as d on d.classoid = 'pg_class'::regclass and d.objoid = i.oid and d.objsubid = 0
    where x.indrelid = relation
  )
  select s.step
  from (
    select string_agg(c.statement, '; ' order by c.statement) as all_of_them,
      string_agg(c.statement, '; ' order by c.statement) filter (where c.is_others) as of_others
    from comment as c
  ) as a
  cross join lateral (values
    (a.all_of_them, jsonb_build_object('phase', 'keep_comments', 'kind', 'keep_comments', 'action', 'note',
      'object', target, 'found', 'comments on constraints and indexes', 'wanted', 'kept',
      'undo', a.all_of_them)),
    (a.of_others, jsonb_build_object('phase', 'restore_comments', 'kind', 'restore_comments', 'action', 'note',
      'object', target, 'found', 'comments on foreign keys of other tables',
      'wanted', 'as they were', 'statement', a.of_others))
  ) as s (statement, step)
  where s.statement is not null;

  -- Foreign keys of other tables, where the key they point to is made anew, or rows behind them go.
  for theirs in
    select
      k.conname::text as name, c.refers_to, c.matches,
        pg_has_role((select o.relowner from pg_class as o where o.oid = k.conrelid), 'usage') as may_change,
        k.conrelid::regclass::text as found_name,
      case when k.conrelid = relation then target else k.conrelid::regclass::text end as table_name,
      pg_get_constraintdef(k.oid) as definition,
      case when k.conrelid = relation
        then regexp_replace(pg_get_constraintdef(k.oid), '^FOREIGN KEY \([^)]*\)', 'FOREIGN KEY (' || c.refers_from
          || ')')
        else pg_get_constraintdef(k.oid) end as afterwards,
      exists (select from pg_class as i where i.oid = k.conindid and i.relname = any (dropped)) as constraint_goes,
        c.refers_columns
    from pg_constraint as k
    cross join lateral (
      select
        string_agg(quote_ident(x.value ->> 'name'), ', ' order by n.place) as refers_to,
        array_agg(x.value ->> 'name') as refers_columns,
        string_agg(quote_ident(coalesce(y.value ->> 'name', b.attname)), ', ' order by n.place) as refers_from,
        string_agg(format('r.%I = x.%I', a.attname, b.attname), ' and ' order by n.place) as matches
      from unnest(k.confkey, k.conkey) with ordinality as n (attnum, other_attnum, place)
      join pg_attribute as a on a.attrelid = k.confrelid and a.attnum = n.attnum
      join pg_attribute as b on b.attrelid = k.conrelid and b.attnum = n.other_attnum
      join jsonb_array_elements(p_context -> 'columns') as x on x.value ->> 'found_name' = a.attname
      left join jsonb_array_elements(p_context -> 'columns') as y on k.conrelid = relation
        and y.value ->> 'found_name' = b.attname
    ) as c
    where k.contype = 'f' and k.confrelid = relation and k.conparentid = 0
    order by k.conrelid::regclass::text collate "C", k.conname collate "C"
  loop
    -- What it refers to would have another value.
    select coalesce(sum((f.value ->> 'hits')::bigint), 0) into changes
    from jsonb_array_elements(p_counts -> 'fits') as f where f.value ->> 'column_name' = any (theirs.refers_columns);
    if 'username' = any (theirs.refers_columns) then
      execute format('select $1 + count(*) from (select n.name, row_number() over (partition by lower(n.name) order by '
        'n.name collate "C" desc) as nth '
        'from (select %I::text as name from %s) as n where n.name is not null) as x where x.name !~ %L or x.nth > 1',
        p_context -> 'by_name' -> 'username' ->> 'found_name', relation, '^[a-z0-9_.-]{3,32}$') into changes
          using changes;
    end if;
    if changes > 0 then
      return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('%s.%s', theirs.table_name, theirs.name),
        'found', format('refers to %s; values there that break our rules: %s', theirs.refers_to, changes),
        'rows', changes, 'wanted', 'values that stay',
        'remedy', format('Change these values of %s first (docs/reference/adoption-rules.md, Values), '
          'or drop this foreign key and create it again after the upgrade.', relation));
      continue;
    end if;
    left_behind := 0;
    if aside > 0 and theirs.may_change then
      execute format(
        'select count(*) from %s as x where exists (select from %s as r join (%s) as m on m.row_id = r.ctid where '
          'm.reason is not null and %s)',
        theirs.found_name, relation, replace(p_counts ->> 'misplaced', '{table}', relation::text), theirs.matches
      ) into left_behind;
    end if;
    continue when not theirs.constraint_goes and left_behind = 0 and (theirs.may_change or aside = 0);
    if not theirs.may_change then
      return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('%s.%s', theirs.table_name, theirs.name), 'found', 'a table of another role refers to it',
        'wanted', 'one that may be changed',
          'remedy', 'Let its owner drop this foreign key, and create it again after the upgrade.');
      continue;
    end if;
    legacy := legacy or theirs.refers_to = 'legacy_id';
    return next jsonb_build_object('phase', 'drop_foreign_keys_of_others', 'kind', 'drop_foreign_key',
      'action', 'replace', 'object', format('%s.%s', theirs.table_name, theirs.name),
      'found', theirs.definition, 'wanted', 'made anew below', 'lock', 'ACCESS EXCLUSIVE on both tables',
      'statement', format('alter table %s drop constraint %I', theirs.table_name, theirs.name),
      'undo', format('alter table if exists %s add constraint %I %s', theirs.table_name, theirs.name,
        regexp_replace(theirs.definition, 'REFERENCES [^(]+\(', 'REFERENCES ' || target || '(')));
    theirs.afterwards := regexp_replace(theirs.afterwards, 'REFERENCES [^(]+\([^)]*\)',
      format('REFERENCES %s(%s)', target, theirs.refers_to));
    if left_behind > 0 and theirs.afterwards !~ 'NOT VALID$' then
      theirs.afterwards := theirs.afterwards || ' NOT VALID';
    end if;
    return next jsonb_build_object('phase', 'create_foreign_keys_of_others', 'kind', 'create_foreign_key',
      'action', 'replace', 'object', format('%s.%s', theirs.table_name, theirs.name),
      'found', case when left_behind > 0 then left_behind || ' rows refer to quarantined ones' end,
      'wanted', theirs.afterwards,
      'lock', 'SHARE ROW EXCLUSIVE on both tables', 'rows', nullif(left_behind, 0),
      'statement', format('alter table %s add constraint %I %s', theirs.table_name, theirs.name, theirs.afterwards),
      'undo', format('alter table if exists %s drop constraint if exists %I', theirs.table_name, theirs.name));
  end loop;
  if legacy then
    return next jsonb_build_object('phase', 'create_referenced_constraints', 'kind', 'create_constraint',
      'action', 'create', 'object', target || '.legacy_id', 'found', 'referred to', 'wanted', 'unique',
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s add constraint %I unique (legacy_id)', target,
        (p_context ->> 'table') || '_legacy_id_key'),
      'undo', format('alter table %s drop constraint %I', target, (p_context ->> 'table') || '_legacy_id_key'));
  end if;
end
$adoption_constraints$;

revoke all on function profiles_internal.adoption_constraints(jsonb, jsonb) from public, anon, authenticated,
  service_role;
