-- Objects that do the same as ours, and are set aside when ours are created: functions of our names, policies on our
-- tables, triggers that write our tables, and triggers that count sessions. Policies take long to look through: they
-- are left out if the steps of one revision are asked for, and it is not the revision that creates ours.
create or replace function profiles_internal.adoption_of_objects(p_revision text)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_of_objects$
declare
  our_tables constant regclass[] := array_remove(array[
    to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.user_api_keys'),
    to_regclass('public.export_history'), to_regclass('public.user_profile_audit_logs'),
    to_regclass('public.' || quote_ident(nullif(current_setting('profiles_schema.adopt_table', true), '')))
  ], null);
  names constant text := concat_ws('|', 'user_profiles', 'user_progress', 'user_api_keys', 'export_history',
    'user_profile_audit_logs',
    nullif(regexp_replace(current_setting('profiles_schema.adopt_table', true), '(\W)', '\\\1', 'g'), ''));
  -- Columns that will have another name or type.
  changing constant text := coalesce((
    select string_agg(distinct c.found_name, '|')
    from profiles_internal.wanted_shape() as w
    cross join lateral profiles_internal.adoption_columns(w.name, profiles_internal.table_to_adopt(w.name)) as c
    where w.kind = 'comment' and c.found_name is not null and (c.found_name <> c.name or c.source is not null)
  ), '$^');
begin
  -- Triggers on auth.users: empty from the moment the tables change, dropped when ours are there. One whose text leaves
  -- in doubt what else it does, or would fail from then on, stands against it: a sign-up would pay for it.
  return query
  select jsonb_strip_nulls(s.step)
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  cross join lateral (
    select
      pg_has_role(f.proowner, 'usage') as may_change,
      exists (select from pg_trigger as o where o.tgfoid = f.oid and o.tgrelid <> t.tgrelid) as is_shared,
      profiles_internal.tables_written_by(f.oid, true) as ours,
      profiles_internal.tables_written_by(f.oid, false) as others,
      f.prosrc like '%profiles_schema: set aside%' as is_empty,
      pg_has_role((select c.relowner from pg_class as c where c.oid = t.tgrelid), 'usage') as may_drop,
      (select count(*) from pg_trigger as o where o.tgfoid = f.oid) as uses,
      (select string_agg(r.body, ' ') from profiles_internal.functions_called_by(f.oid) as r) as body
  ) as a
  cross join lateral (
    select
      cardinality(a.ours) > 0 or a.is_empty as acts,
      a.body ~* ('\m(' || names || ')\M') as names_ours,
      a.body ~* '\mexecute\M' as is_dynamic,
      -- It stays, and does not write our tables; but what it reads of them changes, or a trigger of a table that it
      -- writes does.
      (
        select min(q.what)
        from (
          select 'reads columns that change' as what
          where a.body ~* ('\m(' || names || ')\M')
            and regexp_replace(a.body, '\m(new|old)\M"?\s*\.\s*"?\w+', '', 'gi') ~* ('\m(' || changing || ')\M')
          union all
          select format('writes %s, whose trigger %s writes ours', o.tgrelid::regclass, o.tgname)
          from pg_trigger as o
          where not o.tgisinternal and o.tgrelid <> t.tgrelid and o.tgrelid <> all (our_tables)
            and lower(regexp_replace(replace(o.tgrelid::regclass::text, '"', ''), '^public\.', '')) = any (a.others)
            and cardinality(profiles_internal.tables_written_by(o.tgfoid, true)) > 0
        ) as q
      ) as stumbles,
      -- It writes rows that refer to a profile.
      exists (
        select from pg_constraint as k
        where k.contype = 'f' and k.confrelid = any (our_tables)
          and lower(regexp_replace(replace(k.conrelid::regclass::text, '"', ''), '^public\.', '')) = any (a.others)
      ) as refers
  ) as b
  cross join lateral (
    select case
      when b.acts and not a.may_change
        then format('It does the same as ours, and its function belongs to %I. Run the upgrade as that role, or drop '
        'the trigger.', pg_get_userbyid(f.proowner))
      when b.acts and a.is_shared
        then 'It does the same as ours, and its function serves other tables, too. Give it a function of its own, or '
        'drop the trigger.'
      when b.acts and cardinality(a.others) > 0
        then format('It does the same as ours, but it also writes %s. Move that into a trigger function of its own, '
        'which then stays.', array_to_string(a.others, ', '))
      when b.acts and a.body ~* '\m(pg_notify|notify)\M'
        then 'It does the same as ours, but it also notifies. Move that into a trigger function of its own, which then '
        'stays.'
      when b.acts and t.tgtype & 2 <> 0 and a.body ~* '\mnew"?\s*\.\s*"?\w+"?\s*:?='
        then 'It does the same as ours, but it also changes the row of the user. Move that into a trigger function of '
        'its own, which then stays.'
      when b.names_ours and b.is_dynamic
        then 'It names our tables and puts statements together as it runs, so what it does cannot be seen. Write the '
        'statements out, or drop the trigger.'
      when not b.acts and b.stumbles is not null
        then format('It %s: sign-ups would fail. Drop it, and create it again, adapted, after the upgrade.', b.stumbles)
    end as remedy
  ) as d
  cross join lateral (
    -- What the application has put in its place since stays.
    select format('do $put_back$ begin if coalesce((select g.prosrc from pg_proc as g where g.oid = '
      'to_regprocedure(%1$L)), ''set aside'') like ''%%set aside%%'' '
      'then execute %2$L; else raise warning ''function %% has changed since it was set aside; it stays as it is'', '
        '%1$L; end if; end $put_back$',
      f.oid::regprocedure, profiles_internal.function_text(f.oid)) as undo
  ) as p
  cross join lateral (
    select jsonb_build_object('revision', '0005_create_sign_up_functions', 'phase', 'refuse', 'kind', 'refuse',
      'action', 'stop', 'object', format('trigger %s on auth.users', t.tgname),
      'found', 'calls ' || f.oid::regprocedure, 'wanted', 'ours', 'remedy', d.remedy) as step
    where d.remedy is not null
    union all
    -- What needs the profile finds it: ours runs first. While the upgrade runs there is none.
    select jsonb_build_object('revision', '0005_create_sign_up_functions', 'phase', 'ask', 'kind', 'ask',
      'action', 'question', 'id', 'trigger:auth.users:' || t.tgname,
      'object', format('trigger %s on auth.users', t.tgname), 'evidence', a.body,
      'found', format('calls %s, which %s', f.oid::regprocedure,
        case when b.refers then 'writes rows that refer to a profile' else 'names our tables' end),
      'answers', jsonb_build_object('accept',
        'it stays, and runs after ours, so it finds the profile. From 0005 to 0014 there is none: if it fails '
        'without one, so do the sign-ups of that time; allow no sign-ups while the upgrade runs'))
    where not b.acts and d.remedy is null and t.tgtype & 5 = 5 and t.tgtype & 66 = 0 and t.tgenabled <> 'D'
      and (b.names_ours or b.refers)
    union all
    -- What it puts into columns that ours leaves alone is lost to new users.
    select jsonb_build_object('revision', '0005_create_sign_up_functions', 'phase', 'ask', 'kind', 'ask',
      'action', 'question', 'id', 'trigger:auth.users:' || t.tgname,
      'object', format('trigger %s on auth.users', t.tgname), 'evidence', a.body,
      'found', format('calls %s, which fills columns that our sign-up leaves at their default', f.oid::regprocedure),
      'answers', jsonb_build_object('drop',
        format('it goes, and a new user has only the default there: %s. To keep what it does, give the '
        'columns a default before the upgrade, or fill them in a BEFORE INSERT trigger of the table itself, which '
          'stays',
        array_to_string(u.columns, ', '))))
    from (select profiles_internal.columns_left_unfilled(f.oid) as columns) as u
    where b.acts and d.remedy is null and not a.is_empty and t.tgtype & 4 <> 0 and t.tgenabled <> 'D'
      and u.columns <> '{}'
    union all
    select jsonb_build_object('revision', '0005_create_sign_up_functions', 'phase', 'replace_objects',
      'kind', 'empty_function', 'action', 'set aside', 'object', 'function ' || f.oid::regprocedure,
      'found', format('trigger %s on auth.users', t.tgname),
      'wanted', 'does nothing; new users get a profile at the end',
      'lock', 'SHARE ROW EXCLUSIVE on auth.users',
      'statement', format('create or replace function %s returns trigger language plpgsql as %L', f.oid::regprocedure,
        E'begin\n  /* profiles_schema: set aside */\n  return coalesce(new, old);\nend'),
      'undo', p.undo)
    where b.acts and d.remedy is null and not a.is_empty
    union all
    select jsonb_build_object('revision', '0014_create_sign_up_triggers', 'phase', 'replace_objects',
      'kind', 'drop_trigger', 'action', 'set aside', 'object', format('trigger %s on auth.users', t.tgname),
      'found', 'calls ' || f.oid::regprocedure, 'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE on auth.users',
      'statement', case when a.may_drop then format('drop trigger if exists %I on auth.users; ', t.tgname) else '' end
        || case when a.uses = 1 or not a.may_drop
          then format('drop function if exists %s%s', f.oid::regprocedure,
          case when a.may_drop then '' else ' cascade' end) else '' end,
      'undo', p.undo || '; ' || profiles_internal.trigger_text(t.oid))
    -- What only the owner of auth.users could give back (disabled, or with a comment) stays, emptied.
    where b.acts and d.remedy is null and (a.may_drop or not exists (
      select from pg_trigger as o where o.tgfoid = f.oid
        and (o.tgenabled <> 'O' or obj_description(o.oid, 'pg_trigger') is not null)
    ))
  ) as s
  where t.tgrelid = to_regclass('auth.users') and not t.tgisinternal
    and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
    and (b.acts or b.names_ours or b.refers or b.stumbles is not null);

  -- Functions that ours replace, or may be taken for.
  return query
  select s.step
  from profiles_internal.functions_we_replace() as o
  join pg_proc as f on f.oid = o.function_id
  cross join lateral (
    select case
      when f.prokind = 'a' then 'It is an aggregate, and nothing puts it back. Programs'
      when not pg_has_role(f.proowner, 'usage') then format('It belongs to role %I, and', pg_get_userbyid(f.proowner))
      else (
        select string_agg(distinct pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
        from pg_depend as d
        where d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid and d.deptype in ('n', 'a')
      )
    end as used_by
  ) as u
  cross join lateral (
    select jsonb_build_object('revision', '0011_create_functions', 'phase', 'ask', 'kind', 'ask', 'action', 'question',
      'id', 'function:' || f.oid::regprocedure,
      'object', 'function ' || f.oid::regprocedure,
      -- A body that is stored parsed reads otherwise after a rename.
      'evidence', case when f.prokind <> 'a' and f.prosqlbody is null then pg_get_functiondef(f.oid) end,
      'found', format('has one of our names; %s%s',
        case when f.prokind = 'p' then 'a procedure' else 'returns ' || pg_get_function_result(f.oid) end,
        case when f.prosecdef then ', with the rights of its owner' else '' end
          || coalesce('; may be called by ' || (
            select string_agg(r.rolname, ', ' order by r.rolname) from pg_roles as r
            where r.rolname in ('anon', 'authenticated', 'service_role')
              and has_function_privilege(r.oid, f.oid, 'execute')
          ), '')),
      'answers', jsonb_strip_nulls(jsonb_build_object('keep', case when not o.is_same then
        'both exist, because ours takes other types: a call in SQL that leaves the types open (a literal) may find '
          'either, so name them there' end,
        'replace', format('it is set aside, and its callers find ours, which returns %s and may be called by %s; a '
          'downgrade '
        'brings it back. To keep it, rename it before the upgrade, here and where it is called: alter routine %s '
          'rename to ...',
        o.result, o.callers, f.oid::regprocedure)))) as step
    -- Ours, where only the internal schema was lost.
    where (u.used_by is null or not o.is_same)
      and 'search_path=pg_catalog, pg_temp' <> all (coalesce(f.proconfig, '{}'))
    union all
    select jsonb_build_object('revision', '0011_create_functions',
      'phase', case when u.used_by is null then 'replace_objects' else 'refuse' end,
      'kind', case when u.used_by is null then 'drop_function' else 'refuse' end,
      'action', case when u.used_by is null then 'set aside' else 'stop' end,
      'object', 'function ' || f.oid::regprocedure, 'found', 'one of the application', 'wanted', 'ours',
      'statement', case when u.used_by is null then format('drop routine %s', f.oid::regprocedure) end,
      'undo', case when f.prokind <> 'a' then profiles_internal.function_text(f.oid) end,
      'remedy', u.used_by || ' use it. Drop them, and create them again after the upgrade.')
    where o.is_same or profiles_internal.answer('function:' || f.oid::regprocedure) = 'replace'
  ) as s
  where
    -- Ours, once they are there.
    to_regproc('profiles_internal.ensure_profile') is null
      or 'search_path=pg_catalog, pg_temp' <> all (coalesce(f.proconfig, '{}'));

  return query
  select p.step
  from profiles_internal.adopting_revisions() as r
  cross join lateral (
    select coalesce(profiles_internal.table_to_adopt(r.table_name), to_regclass('public.' || r.table_name)) as oid
  ) as t
  cross join lateral profiles_internal.adoption_of_policies(r.table_name, t.oid) as p (step)
  where t.oid is not null and coalesce(p_revision, '0012_create_policies') = '0012_create_policies';

  -- What waited for our policies. The application's triggers are off meanwhile: this is not an edit.
  if to_regclass('profiles_internal.adopted') is not null and to_regclass('auth.users') is not null then
    return query
    select jsonb_build_object('revision', '0012_create_policies', 'phase', 'fill_columns', 'kind', 'fill_columns',
      'action', 'convert', 'object', a.object_name,
      'found', 'new columns, empty', 'wanted', w.listed, 'lock', 'ACCESS EXCLUSIVE',
      'rows', (select c.reltuples::bigint from pg_class as c where c.oid = to_regclass(a.object_name)),
      'statement', format(
        'alter table %1$s disable trigger user; '
        'update %1$s as t set %2$s from auth.users as u cross join lateral '
          'profiles_internal.profile_values(array[to_jsonb(u.*)]) as v where u.id = t.user_id; '
        'set constraints all immediate; %3$s',
        a.object_name, w.assigned, coalesce(x.states, '')))
    from profiles_internal.adopted as a
    cross join lateral (
      select string_agg(c.name, ', ') as listed, string_agg(format('%1$I = v.%1$I', c.name), ', ') as assigned
      from jsonb_array_elements_text(a.data) as c (name)
    ) as w
    cross join lateral (
      select string_agg(
        format('alter table %s %s trigger %I', a.object_name,
          case t.tgenabled when 'O' then 'enable' when 'D' then 'disable' when 'A' then 'enable always'
            else 'enable replica' end, t.tgname),
        '; ' order by t.tgname) as states
      from pg_trigger as t where t.tgrelid = to_regclass(a.object_name) and not t.tgisinternal
    ) as x
    where a.object_type = 'fill' and to_regproc('profiles_internal.keep_updated_at') is null;
  end if;

  -- Triggers on sessions that count progress.
  return query
  select jsonb_strip_nulls(jsonb_build_object('revision', '0013_create_table_triggers',
    'phase', case when a.remedy is null then 'replace_objects' else 'refuse' end,
    'kind', case when a.remedy is null then 'drop_trigger' else 'refuse' end,
    'action', case when a.remedy is null then 'set aside' else 'stop' end,
    'object', format('trigger %s on public.sessions', t.tgname), 'found', 'calls ' || t.tgfoid::regprocedure,
    'wanted', 'ours',
    'lock', 'ACCESS EXCLUSIVE', 'statement', format('drop trigger %I on public.sessions', t.tgname),
    'undo', profiles_internal.trigger_text(t.oid),
    'remedy', a.remedy))
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  cross join lateral (select profiles_internal.tables_written_by(f.oid, false) as others) as w
  cross join lateral (
    select case
      when cardinality(w.others) > 0
        then format('It counts the same as ours, but it also writes %s. Move that into a trigger function of its own, '
        'which then stays.', array_to_string(w.others, ', '))
      when not pg_has_role((select c.relowner from pg_class as c where c.oid = t.tgrelid), 'usage')
        then 'It counts the same as ours, and the table belongs to another role, which can drop it.'
    end as remedy
  ) as a
  where t.tgrelid = to_regclass('public.sessions') and not t.tgisinternal
    and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
    and 'user_progress' = any (profiles_internal.tables_written_by(f.oid, true));
end
$adoption_of_objects$;

revoke all on function profiles_internal.adoption_of_objects(text) from public, anon, authenticated, service_role;
