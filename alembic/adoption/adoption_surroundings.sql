-- What is done around the columns and keys of a table that is taken over: its name, its triggers, who may do what, the
-- policies in the way, and the rows that cannot stay.
create or replace function profiles_internal.adoption_surroundings(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_surroundings$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  old_name constant text := (select c.relname from pg_class as c where c.oid = relation);
  aside constant bigint := p_counts ->> 'aside';
  states text;
  guarded text;
  identity text;
  by_index text;
  added text;
  published record;
begin
  if relation::text <> target then
    return next jsonb_build_object('phase', 'rename_table', 'kind', 'rename_table', 'action', 'rename',
      'object', relation, 'found', relation, 'wanted', target,
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s rename to %I', relation, p_context ->> 'table'),
      'undo', format('alter table %s rename to %I', target, old_name));
    -- Where user_id was an outside id, install_old_profiles makes another one, in schema profiles_compat.
    if p_context -> 'by_name' -> 'external_id' ->> 'found_name' is distinct from 'user_id' then
      return next jsonb_build_object('phase', 'create_view', 'kind', 'create_view', 'action', 'create',
        'object', relation, 'found', null, 'wanted', 'a view of the old name',
        'lock', 'ACCESS EXCLUSIVE', 'statement', 'select profiles_internal.install_profiles_view()');
    end if;
  end if;

  -- What only shows when it runs.
  return query
  select jsonb_build_object('phase', 'warn', 'kind', 'tell', 'action', 'note',
    'object', string_agg(r.name, ', ' order by r.name), 'found', 'reads ' || relation,
    'wanted', 'not verified',
    'remedy', 'What it says in plpgsql is looked at only when it runs: try it on a copy, or install plpgsql_check, by '
      'which the upgrade looks.')
  from profiles_internal.table_readers(relation) as r
  join pg_proc as f on f.oid = r.object
  join pg_language as l on l.oid = f.prolang and l.lanname = 'plpgsql'
  where not exists (select from pg_proc as c where c.proname = 'plpgsql_check_function_tb')
  having count(*) > 0;

  -- Triggers rest while rows are converted. Those that stay come back as they were.
  select string_agg(s.state, '; ' order by t.tgname), string_agg(
    -- The application may have dropped it since.
    format('do $states$ begin if exists (select from pg_catalog.pg_trigger as t where t.tgrelid = %L::regclass and '
      't.tgname = %L) then %s; end if; end $states$',
      target, t.tgname, s.state),
    '; ' order by t.tgname)
  into states, guarded
  from pg_trigger as t
  cross join lateral (
    select format('alter table %s %s trigger %I', target,
      case t.tgenabled when 'O' then 'enable' when 'D' then 'disable' when 'A' then 'enable always'
        else 'enable replica' end, t.tgname) as state
  ) as s
  where t.tgrelid = relation and not t.tgisinternal and not profiles_internal.does_what_ours_do(t.tgfoid);
  if states is not null then
    return next jsonb_build_object('phase', 'disable_triggers', 'kind', 'disable_triggers', 'action', 'set aside',
      'object', target, 'found', 'triggers of the application',
      'wanted', 'at rest while rows are converted', 'lock', 'SHARE ROW EXCLUSIVE',
      'statement', format('alter table %s disable trigger user', target), 'undo', guarded);
    return next jsonb_build_object('phase', 'enable_triggers', 'kind', 'enable_triggers', 'action', 'create',
      'object', target, 'found', 'triggers at rest', 'wanted', 'as they were',
      'lock', 'SHARE ROW EXCLUSIVE', 'statement', states,
        'undo', format('alter table %s disable trigger user', target));
  end if;
  return query
  select jsonb_build_object('phase', 'drop_triggers', 'kind', 'drop_trigger', 'action', 'set aside',
    'object', format('trigger %s on %s', t.tgname, target),
    'found', 'calls ' || t.tgfoid::regprocedure, 'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('drop trigger %I on %s', t.tgname, target),
      'undo', profiles_internal.trigger_text(t.oid, target))
  from pg_trigger as t
  where t.tgrelid = relation and not t.tgisinternal and profiles_internal.does_what_ours_do(t.tgfoid);

  -- What is published: the columns that are added too, and each row that changes.
  select coalesce(string_agg(c.value ->> 'name', ', '), 'none') into added
  from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'found_name' is null;
  for published in
    select p.pubname, pg_get_userbyid(p.pubowner) as owner, pg_has_role(p.pubowner, 'usage')
      and x.oid is not null as may_leave,
      x.prattrs is not null or x.prqual is not null as is_part,
      concat_ws(' ',
        (select '(' || string_agg(quote_ident(a.attname), ', ' order by n.place) || ')'
          from unnest(x.prattrs) with ordinality as n (attnum, place) join pg_attribute as a on a.attrelid = relation
            and a.attnum = n.attnum),
        'where (' || pg_get_expr(x.prqual, x.prrelid) || ')') as part,
      'publication:' || p.pubname || ':' || target as id
    from pg_publication as p
    left join pg_publication_rel as x on x.prpubid = p.oid and x.prrelid = relation
    where p.puballtables or x.oid is not null
      or exists (select from pg_publication_namespace as n where n.pnpubid = p.oid
        and n.pnnspid = (select c.relnamespace from pg_class as c where c.oid = relation))
    order by p.pubname
  loop
    identity := case (select c.relreplident from pg_class as c where c.oid = relation) when 'f' then 'full'
      when 'n' then 'nothing' else 'default' end;
    if published.is_part and not published.may_leave then
      -- While rows are converted it would refuse every change.
      return next jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop', 'object', target,
        'found', format('publication %s shows a part of it', published.pubname),
        'wanted', 'the whole table',
          'remedy', format('As role %I: alter publication %I drop table %s; and add it again, adapted, after the '
          'upgrade.', published.owner, published.pubname, relation));
      continue;
    end if;
    return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', published.id,
      'object', target,
      'found', concat_ws(' ', format('publication %s publishes it', published.pubname), nullif(published.part, '')),
      'answers', jsonb_strip_nulls(jsonb_build_object(
        'keep', case when not published.is_part then format(
          'it goes on publishing, as %s: the columns that the upgrade adds, too (%s), and each row that the upgrade '
            'changes; subscribers need these columns', target, added) end,
        'remove', case when published.may_leave
          then 'the table leaves the publication, until a downgrade or you add it again' end)));
    if profiles_internal.answer(published.id) = 'remove' then
      return next jsonb_build_object('phase', 'leave_publications', 'kind', 'leave_publication', 'action', 'set aside',
        'object', target, 'found', 'in publication ' || published.pubname, 'wanted', 'not published',
        'statement', format('alter publication %I drop table %s', published.pubname, target),
        'undo', format('alter publication %I add table %s %s', published.pubname, target, published.part));
    end if;
  end loop;

  -- A publication tells rows apart by their key, and for a moment there is none.
  select 'using index ' || quote_ident(i.relname) into by_index
  from pg_index as x join pg_class as i on i.oid = x.indexrelid
  where x.indrelid = relation and x.indisreplident
    and (select c.relreplident from pg_class as c where c.oid = relation) = 'i';
  if by_index is not null then
    return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'replica:' || target,
      'object', target, 'found', 'replica identity ' || by_index,
      'answers', jsonb_build_object('default',
        'updates and deletes are published with the primary key instead; a downgrade restores the index'));
  end if;
  if by_index is not null or identity <> 'full' then
    return next jsonb_build_object('phase', 'widen_replica_identity', 'kind', 'set_replica_identity',
      'action', 'convert', 'object', target, 'found', 'replica identity ' || coalesce(by_index, identity),
      'wanted', 'full, while rows are converted', 'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s replica identity full', target),
        'undo', format('alter table %s replica identity %s', target, coalesce(by_index, identity)));
    return next jsonb_build_object('phase', 'narrow_replica_identity', 'kind', 'set_replica_identity',
      'action', 'convert', 'object', target, 'found', 'replica identity full', 'wanted', coalesce(identity, 'default'),
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s replica identity %s', target, coalesce(identity, 'default')),
        'undo', format('alter table %s replica identity full', target));
  end if;

  -- Rights, comments and row level security. Until ours come the API roles keep what they may do, to the columns of
  -- today alone: no one may write a role or an id only because a column of that name is new.
  return query
  with give as (
    select r.who, a.is_grantable, array_agg(lower(a.privilege_type) order by a.privilege_type) as kinds,
      null::text as column_name
    from pg_class as c
    cross join lateral aclexplode(c.relacl) as a
    cross join lateral (select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
      as r (who)
    where c.oid = relation and a.grantee <> c.relowner
    group by r.who, a.is_grantable
    union all
    select r.who, b.is_grantable, array_agg(lower(b.privilege_type) order by b.privilege_type), a.attname
    from pg_attribute as a
    cross join lateral aclexplode(a.attacl) as b
    cross join lateral (select case when b.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(b.grantee)) end)
      as r (who)
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    group by r.who, b.is_grantable, a.attname
  )
  select jsonb_build_object('phase', 'set_rights_aside', 'kind', 'set_rights_aside', 'action', 'set aside',
    'object', target, 'found', 'rights and comments', 'wanted', 'ours',
    'statement', nullif(concat_ws('; ', (
      select string_agg(
        format('revoke %1$s on table %2$s from %3$s; grant %1$s (%4$s) on table %2$s to %3$s', k.kind, target, g.who,
          (select string_agg(quote_ident(c.value ->> 'found_name'), ', ')
            from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'found_name' is not null)),
        '; ')
      from give as g
      cross join unnest(array['insert', 'update']) as k (kind)
      where g.column_name is null and k.kind = any (g.kinds) and g.who in ('public', 'anon', 'authenticated')
    ), (
      select string_agg(format('comment on column %s.%I is null', target, x.value ->> 'found_name'), '; ')
      from jsonb_array_elements(p_context -> 'columns') as x
      where x.value ->> 'wanted_type' is not null
        and col_description(relation, (x.value ->> 'found_position')::integer) is not null
    )), ''),
    'undo', concat_ws('; ',
      format('revoke all on table %s from public, anon, authenticated, service_role', target),
      (
        select string_agg(format('grant %s on table %s to %s%s',
          case when g.column_name is null then array_to_string(g.kinds, ', ')
            else (select string_agg(format('%s (%I)', x.kind, g.column_name), ', ')
              from unnest(g.kinds) as x (kind)) end,
          target, g.who, case when g.is_grantable then ' with grant option' else '' end), '; ')
        from give as g
      ),
      case when not c.relrowsecurity then format('alter table %s disable row level security', target) end,
      case when c.relforcerowsecurity then format('alter table %s force row level security', target) end,
      format('comment on table %s is %s', target,
        coalesce(quote_literal(obj_description(relation, 'pg_class')), 'null')),
      (
        select string_agg(format('comment on column %s.%I is %s', target, x.value ->> 'found_name',
          coalesce(quote_literal(col_description(relation, (x.value ->> 'found_position')::integer)), 'null')), '; ')
        from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'found_name' is not null and x.value ->> 'wanted_type' is not null
      )
    ))
  from pg_class as c
  where c.oid = relation;
  if (select c.relforcerowsecurity from pg_class as c where c.oid = relation) then
    return next jsonb_build_object('phase', 'relax_row_security', 'kind', 'relax_row_security', 'action', 'relax',
      'object', target, 'found', 'row security forced on the owner', 'wanted', 'not forced',
      'lock', 'ACCESS EXCLUSIVE', 'statement', format('alter table %s no force row level security', target),
      'remedy', 'The owner of the table, and what runs with its rights, see and write every row from then on; a '
        'downgrade '
        'forces it again.');
  end if;

  return query
  select jsonb_build_object('phase', 'create_policies', 'kind', 'create_policy', 'action', 'create',
    'object', format('policy "%s" on %s', p.name, target), 'found', 'no row level security',
    'wanted', 'row level security that lets everybody read', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('create policy %I on %s for select using (true)', p.name, target),
    'undo', format('drop policy if exists %I on %s', p.name, target))
  from profiles_internal.adoption_policies(p_context ->> 'table', relation) as p
  where p.policy is null and p.fate = 'stays';

  -- Policies that a change of type would trip over. What stays is made anew; the others are replaced when ours come.
  return query
  select s.step
  from profiles_internal.adoption_policies(p_context ->> 'table', relation) as p
  join pg_policy as y on y.oid = p.policy
  cross join lateral (
    select jsonb_build_object('phase', 'drop_policies', 'kind', 'drop_policy', 'action', 'set aside',
      'object', format('policy "%s" on %s', y.polname, target),
      'found', 'reads a column that changes its type',
      'wanted', case when p.fate in ('stays', 'restrict') then 'made anew' else 'ours' end, 'lock', 'ACCESS EXCLUSIVE',
      'statement', format('drop policy %I on %s', y.polname, target),
        'undo', profiles_internal.policy_text(y.oid, target)) as step
    union all
    select jsonb_build_object('phase', 'create_policies', 'kind', 'create_policy', 'action', 'create',
      'object', format('policy "%s" on %s', y.polname, target),
      'found', 'reads a column that has changed its type', 'wanted', 'as it was', 'lock', 'ACCESS EXCLUSIVE',
      'statement', profiles_internal.policy_text(y.oid, target),
        'undo', format('drop policy if exists %I on %s', y.polname, target))
    where p.fate in ('stays', 'restrict')
  ) as s
  where exists (
    select from pg_depend as d
    join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    join jsonb_array_elements(p_context -> 'columns') as c on c.value ->> 'found_name' = a.attname
    where d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_class'::regclass
      and d.refobjid = relation
      and c.value ->> 'source' is not null
  );

  -- Rows that cannot stay.
  return query
  select jsonb_build_object('phase', 'quarantine_rows', 'kind', 'name_reason', 'action', 'quarantine', 'object', target,
    'found', g.value ->> 'reason',
    'wanted', 'profiles_internal.quarantine', 'rows', g.value -> 'hits')
  from jsonb_array_elements(p_counts -> 'reasons') as g;
  if aside > 0 then
    return query
    select jsonb_build_object('phase', 'quarantine_rows', 'kind', 'quarantine_rows', 'action', 'quarantine',
      'object', target, 'found', 'rows that cannot stay',
      'wanted', 'profiles_internal.quarantine', 'lock', 'ACCESS EXCLUSIVE', 'rows', aside, 'seconds', aside * 0.000025,
      'statement', format(
        'with gone as (delete from %1$s as t using (%2$s) as m where t.ctid = m.row_id and m.reason is not null '
          'returning to_jsonb(t.*)%4$s as row_data, m.reason) '
        'insert into profiles_internal.quarantine (table_name, row_data, reason) select %3$L, g.row_data, g.reason '
          'from gone as g',
        target, replace(p_counts ->> 'misplaced', '{table}', target), target,
        -- A JSON null and no value at all would look the same.
        ' - array_remove(array['
          || string_agg(format('case when t.%1$I is null then %2$L end', c.value ->> 'found_name',
          c.value ->> 'found_name'), ', ')
          filter (where c.value ->> 'found_type' in ('json', 'jsonb')) || ']::text[], null)'),
      'undo', format('select profiles_internal.bring_back_rows(%L, %L)', target, array_agg(c.value ->> 'found_name')))
    from jsonb_array_elements(p_context -> 'columns') as c
    where c.value ->> 'found_name' is not null and not (c.value ->> 'found_generated')::boolean;
  end if;
end
$adoption_surroundings$;

revoke all on function profiles_internal.adoption_surroundings(jsonb, jsonb) from public, anon, authenticated,
  service_role;
