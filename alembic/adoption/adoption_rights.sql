-- What the roles of the API go on doing with one table that is taken over, by name, when ours come (0012):
--   columns of the application's own are inserted and updated by whom they are today: a right allows it, and a policy
--   that is true for every user, or that stays;
--   anon reads the columns of today. Row level security shows it no row without a policy, but no statement fails;
--   users write avatar_url, which is a picture of theirs; an UPDATE may name updated_at (a trigger sets it) and the
--   column that says whose row it is (policies keep it);
--   users insert their own row, if a policy lets them today ("inserts": policies/user_profiles.sql);
--   total_points is written by whom it is today where the question about it is answered with keep.
-- It is recorded, so that code that revokes rights can grant them again.
create or replace function profiles_internal.adoption_rights(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_rights$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  authenticated constant oid := (select r.oid from pg_roles as r where r.rolname = 'authenticated');
  guarded constant boolean := (select c.relrowsecurity from pg_class as c where c.oid = relation);
  allowed jsonb;
  rights jsonb;
  points jsonb;
  inserts boolean;
  kept jsonb;
begin
  -- The policies that let users do something, as all of them or as some of them who stay.
  select coalesce(jsonb_agg(jsonb_build_object('command', p.command, 'roles', array(
    select r.rolname from pg_roles as r where r.rolname in ('anon', 'authenticated')
      and y.polroles && array[0::oid, r.oid]
  ))), '[]')
  into allowed
  from profiles_internal.adoption_policies(p_context ->> 'table', relation) as p join pg_policy as y on y.oid = p.policy
  where guarded and y.polpermissive and (p.reach = 'all' or p.reach = 'some' and p.fate = 'stays');
  select jsonb_agg(jsonb_build_object('role', r.rolname, 'right', k.name, 'column', c.value ->> 'name', 'ours',
    o.is_ours)
    order by r.rolname, (c.value ->> 'found_position')::integer, k.name)
  into rights
  from jsonb_array_elements(p_context -> 'columns') as c
  cross join lateral (select c.value ->> 'wanted_type' is not null as is_ours) as o
  join pg_roles as r on r.rolname in ('anon', 'authenticated') and not r.rolbypassrls
  cross join unnest(array['select', 'insert', 'update']) as k (name)
  where c.value ->> 'found_name' is not null
    and has_column_privilege(r.oid, relation, (c.value ->> 'found_position')::smallint, k.name)
    and (k.name = 'select' or not guarded or exists (
      select from jsonb_array_elements(allowed) as y
      where y -> 'roles' @> to_jsonb(r.rolname)
        and y ->> 'command' in ('*', case k.name when 'insert' then 'a' else 'w' end)
    ))
    and case
      when k.name = 'select' then r.rolname = 'anon'
      when o.is_ours then r.oid = authenticated and (
        c.value ->> 'name' = 'avatar_url' or k.name = 'update'
          and (c.value ->> 'name' = 'updated_at' or p_context ->> 'table' = 'user_profiles'
          and c.value ->> 'found_name' = p_context ->> 'owner'))
      else true
    end;
  inserts := p_context ->> 'table' = 'user_profiles' and exists (
    select
    from pg_class as c
    where c.oid = relation and has_any_column_privilege(authenticated, c.oid, 'insert')
      and (not c.relrowsecurity or exists (
      select
      from profiles_internal.adoption_policies('user_profiles', relation) as p join pg_policy as y on y.oid = p.policy
      where y.polpermissive and p.command in ('a', '*') and y.polroles && array[0::oid, authenticated]
        and p.fate <> 'unused' and p.reach <> 'none'
    ))
  );
  -- Points that are written directly can be forged: only award_points writes ours. The owner of the table
  -- may go on.
  select jsonb_agg(jsonb_build_object('role', r.rolname, 'right', k.name, 'column', 'total_points', 'ours', true)
    order by r.rolname, k.name)
  into points
  from pg_roles as r
  cross join unnest(array['insert', 'update']) as k (name)
  where p_context ->> 'table' = 'user_progress' and r.rolname in ('authenticated', 'service_role')
    and p_context #>> '{by_name,total_points,found_name}' is not null
    and has_column_privilege(r.oid, relation, (p_context #>> '{by_name,total_points,found_position}')::smallint, k.name)
    and (not guarded or r.rolbypassrls or exists (
      select from jsonb_array_elements(allowed) as y
      where y -> 'roles' @> to_jsonb(r.rolname)
        and y ->> 'command' in ('*', case k.name when 'insert' then 'a' else 'w' end)
    ));
  if points is not null then
    return query
    select jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'points:' || target,
      'object', target, 'found', format('%s may write total_points', string_agg(distinct p ->> 'role', ' and ')),
      'answers', jsonb_build_object(
        'accept', 'from then on award_points alone writes it, once per key; a direct write by these roles fails '
          '(42501). The points of today are where its ledger begins',
        'keep', 'they go on writing it, and so anybody who has their rights gives points at will; award_points adds '
          'to what is there'))
    from jsonb_array_elements(points) as p;
    if profiles_internal.answer('points:' || target) = 'keep' then
      rights := coalesce(rights, '[]') || points;
    end if;
  end if;
  kept := jsonb_build_object('inserts', inserts, 'rights', coalesce(rights, '[]'));
  return query
  select jsonb_build_object('phase', 'record', 'kind', 'keep_rights', 'data', kept, 'action', 'note', 'object', target,
    'found', 'rights of users', 'wanted', 'kept by name',
    'statement', format('insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, '
      '''rights'', %L, %L)',
      p_context ->> 'by', target, kept),
    'remedy', nullif(concat_ws(' ',
      'Users go on writing these columns: ' || string_agg(distinct quote_ident(x.name), ', ')
        filter (where x.who = 'authenticated' and (not x.is_ours or x.name = 'avatar_url')) || '.',
      case when inserts then 'They go on inserting their own row.' end), ''))
  from (select 1) as one
  left join lateral (
    select r ->> 'role' as who, r ->> 'column' as name, (r ->> 'ours')::boolean as is_ours
      from jsonb_array_elements(rights) as r
  ) as x on true;
  if has_table_privilege(authenticated, relation, 'delete') and p_context ->> 'table' <> 'user_api_keys' then
    -- A policy for this very purpose is no accident.
    return query
    select jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'delete:' || target,
      'object', target,
      'found', format('policy "%s" lets users delete rows', min(y.polname)),
      'answers', jsonb_build_object('refuse',
        'a DELETE by users fails (42501): let a server delete the user, with whom the row goes, or the row'))
    from pg_policy as y
    where y.polrelid = relation and y.polcmd = 'd' and y.polpermissive and y.polroles && array[0::oid, authenticated]
      and (select c.relrowsecurity from pg_class as c where c.oid = relation)
    having count(*) > 0;
    return next jsonb_build_object('phase', 'record', 'kind', 'tell', 'action', 'note', 'object', target,
      'found', 'users have the right to delete rows', 'wanted', 'refused',
      'remedy', 'A DELETE by users fails (42501). Delete the user, or let a server delete the row.');
  end if;
  if exists (select from jsonb_array_elements(rights) as r where r ->> 'role' = 'anon') then
    return next jsonb_build_object('phase', 'record', 'kind', 'tell', 'action', 'note', 'object', target,
      'found', 'rights of anon', 'wanted', 'on the columns of today',
      'remedy', format('anon (no account) keeps its rights on the columns of today by name: it reads the rows that a '
        'policy shows to it. '
        'Its other statements on %s fail (42501), select * too.', target));
  end if;
end
$adoption_rights$;

revoke all on function profiles_internal.adoption_rights(jsonb) from public, anon, authenticated, service_role;
