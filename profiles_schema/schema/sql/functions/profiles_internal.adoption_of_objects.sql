-- What acts beside ours, and is set aside when ours come: functions of our names, policies on our tables, triggers that
-- write our tables, and counters that sessions say better.
create or replace function profiles_internal.adoption_of_objects()
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
begin
  -- Triggers on auth.users: empty from the moment the tables change, dropped when ours are there.
  return query
  select jsonb_strip_nulls(s.step)
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  cross join lateral (
    select
      pg_has_role(f.proowner, 'usage') as may_change,
      exists (select from pg_trigger as o where o.tgfoid = f.oid and o.tgrelid <> t.tgrelid) as is_shared,
      profiles_internal.written_tables(f.oid, false) as others,
      pg_has_role((select c.relowner from pg_class as c where c.oid = t.tgrelid), 'usage') as may_drop,
      (select count(*) from pg_trigger as o where o.tgfoid = f.oid) as uses
  ) as a
  cross join lateral (
    select jsonb_build_object('revision', '0003_create_user_profiles', 'seq', 1, 'action', 'stop', 'object', format('trigger %s on auth.users', t.tgname),
      'found', 'calls ' || f.oid::regprocedure, 'wanted', 'ours', 'remedy', case
        when not a.may_change then format('It would act beside ours, and its function belongs to %I. Run the upgrade as that role, or drop the trigger.', pg_get_userbyid(f.proowner))
        when a.is_shared then 'It would act beside ours, and its function serves other tables, too. Give it a function of its own, or drop the trigger.'
        else format('It would act beside ours, but it also writes %s. Move that into a trigger function of its own, which then stays.', array_to_string(a.others, ', '))
      end) as step
    where not a.may_change or a.is_shared or cardinality(a.others) > 0
    union all
    select jsonb_build_object('revision', '0003_create_user_profiles', 'seq', 5, 'action', 'set aside', 'object', 'function ' || f.oid::regprocedure,
      'found', format('trigger %s on auth.users', t.tgname), 'wanted', 'does nothing; who signs up gets a profile at the end',
      'lock', 'SHARE ROW EXCLUSIVE on auth.users',
      'statement', format('create or replace function %s returns trigger language plpgsql as %L', f.oid::regprocedure,
        E'begin\n  /* profiles_schema: set aside */\n  return coalesce(new, old);\nend'),
      'undo', profiles_internal.function_text(f.oid))
    where a.may_change and not a.is_shared and cardinality(a.others) = 0 and f.prosrc not like '%profiles_schema: set aside%'
    union all
    select jsonb_build_object('revision', '0011_create_sign_up_triggers', 'seq', 10, 'action', 'set aside', 'object', format('trigger %s on auth.users', t.tgname),
      'found', 'calls ' || f.oid::regprocedure, 'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE on auth.users',
      'statement', case when a.may_drop then format('drop trigger if exists %I on auth.users; ', t.tgname) else '' end
        || case when a.uses = 1 or not a.may_drop then format('drop function if exists %s%s', f.oid::regprocedure, case when a.may_drop then '' else ' cascade' end) else '' end,
      'undo', profiles_internal.function_text(f.oid) || '; ' || profiles_internal.trigger_text(t.oid))
    where a.may_change and not a.is_shared and cardinality(a.others) = 0
  ) as s
  where t.tgrelid = to_regclass('auth.users') and not t.tgisinternal
    and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
    and (cardinality(profiles_internal.written_tables(f.oid, true)) > 0 or f.prosrc like '%profiles_schema: set aside%');

  -- Functions of our names.
  return query
  select jsonb_build_object('revision', '0008_create_functions', 'seq', case when u.used_by is null then 10 else 1 end,
    'action', case when u.used_by is null then 'set aside' else 'stop' end,
    'object', 'function ' || f.oid::regprocedure, 'found', 'one of the application', 'wanted', 'ours',
    'statement', case when u.used_by is null then format('drop routine %s', f.oid::regprocedure) end, 'undo', profiles_internal.function_text(f.oid),
    'remedy', coalesce(u.used_by || ' use it. Drop them, and create them again after the upgrade.',
      'Its callers find ours of that name: the same arguments, its own rights and result.'))
  from pg_proc as f
  cross join lateral (
    select case
      when not pg_has_role(f.proowner, 'usage') then format('It belongs to role %I, and', pg_get_userbyid(f.proowner))
      else (
        select string_agg(distinct pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
        from pg_depend as d
        where d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid and d.deptype in ('n', 'a')
      )
    end as used_by
  ) as u
  where f.pronamespace = 'public'::regnamespace and f.prokind <> 'a'
    and f.proname in (
      'create_user', 'ensure_user_profile', 'gen_available_username', 'get_my_profile_v2', 'get_public_profile',
      'get_user_profile_stats', 'update_my_profile_v2'
    )
    -- Ours, once they are there.
    and (to_regproc('profiles_internal.ensure_profile') is null or 'search_path=pg_catalog, pg_temp' <> all (coalesce(f.proconfig, '{}')));

  -- Policies.
  return query
  select jsonb_build_object('revision', '0009_create_policies', 'seq', 10, 'action', 'set aside',
    'object', format('policy "%s" on %s', y.polname, y.polrelid::regclass), 'found', 'one of the application', 'wanted', 'ours',
    'lock', 'ACCESS EXCLUSIVE', 'statement', format('drop policy %I on %s', y.polname, y.polrelid::regclass),
    'undo', profiles_internal.policy_text(y.oid))
  from pg_policy as y
  where y.polrelid = any (our_tables) and (
    -- Ours, once they are there.
    to_regproc('profiles_internal.keep_updated_at') is null
    or y.polname not like 'Owners can %' and y.polname <> 'Service role can do what its grants allow'
  );

  -- Triggers on sessions that count progress.
  return query
  select jsonb_build_object('revision', '0010_create_table_triggers', 'seq', 10, 'action', 'set aside',
    'object', format('trigger %s on public.sessions', t.tgname), 'found', 'calls ' || t.tgfoid::regprocedure, 'wanted', 'ours',
    'lock', 'ACCESS EXCLUSIVE', 'statement', format('drop trigger %I on public.sessions', t.tgname), 'undo', profiles_internal.trigger_text(t.oid))
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  where t.tgrelid = to_regclass('public.sessions') and not t.tgisinternal
    and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
    and 'user_progress' = any (profiles_internal.written_tables(f.oid, true));
end
$adoption_of_objects$;

revoke all on function profiles_internal.adoption_of_objects() from public, anon, authenticated, service_role;
