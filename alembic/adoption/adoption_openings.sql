-- What users could not do with their own row of one table that is taken over, and can afterwards: each is a question.
--   columns:TABLE  columns of the application that users could not read; our policies show a person their whole row
--   writes:TABLE   columns that were here, with values, and that users could not write: ours, and those of the
--                  application where a policy that stays lets only some users do so (administrators)
--   one:TABLE      several rows of a user, which a key of the table allows: ours has one row per user
--   rows:OBJECT    a view or function that reads whole rows with the rights of its owner, and that the API roles may
--                  use: it shows the columns that are added, too. Of a function with a text body, its text is all there
--                  is to go by
--   active:TABLE   an is_active that is not true by itself; ours decides whether a user may read and write at all
--   visible:TABLE  a profile_visibility that is public where no one reads others' rows; ours shows it to anon, too
-- Users could do something if a right allowed it, and a policy where row level security is on that is true for every
-- user.
-- If this package creates the users, and the API roles have no rights yet, no one signs in as one of them yet.
create or replace function profiles_internal.adoption_openings(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_openings$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  users constant oid := (select r.oid from pg_roles as r where r.rolname = 'authenticated');
  guarded constant boolean := (select c.relrowsecurity from pg_class as c where c.oid = relation);
  -- The commands that a policy lets every user do.
  commands text[];
  -- The policies that let only some users read or change rows, and stay; and all that let only some read.
  readers text[];
  writers text[];
  conditions text;
  verbs text;
  -- What our rights let users write (schema/sql/policies).
  ours constant text[] := profiles_internal.writable_columns(p_context ->> 'table', 'update');
  hidden text[];
  can_hide boolean;
  closed text;
  wrote_nothing boolean;
  active jsonb := p_context -> 'by_name' -> 'is_active';
  moment text;
  inactive bigint;
  visibility jsonb := p_context -> 'by_name' -> 'profile_visibility';
  shown bigint;
  unknown bigint;
begin
  if users is null or (p_context ->> 'own')::boolean and not guarded
    and not has_any_column_privilege(users, relation, 'select, insert, update')
  then
    return;
  end if;

  select coalesce(array_agg(k.letter) filter (where k.by_all), '{}'), max(k.some) filter (where k.letter = 'r'),
    max(k.some) filter (where k.letter = 'w'), max(k.conditional) filter (where k.letter = 'r')
  into commands, readers, writers, conditions
  from (
    select l.letter, not guarded or coalesce(bool_or(p.reach = 'all'), false) as by_all,
      coalesce(array_agg(p.name order by p.name) filter (where p.reach = 'some' and p.fate = 'stays'), '{}') as some,
      string_agg(p.name, ', ' order by p.name) filter (where p.reach = 'some') as conditional
    from unnest(array['r', 'a', 'w', 'd']) as l (letter)
    left join (
      profiles_internal.adoption_policies(p_context ->> 'table', relation) as p
      join pg_policy as y on y.oid = p.policy and y.polpermissive and y.polroles && array[0::oid, users]
    ) on p.command::text in (l.letter, '*')
    group by l.letter
  ) as k;

  select
    array_agg(c.value ->> 'found_name' order by p.place) filter (where is_own and not reads_own),
    -- A right can hide these, and no one misses it.
    coalesce(bool_and(cardinality(readers) = 0 or not p.reads) filter (where is_own and not reads_own), false)
      -- A view of the old name reads all columns.
      and p_context ->> 'found' = target
        and p_context #>> '{by_name,external_id,found_name}' is distinct from 'user_id',
    string_agg(quote_ident(c.value ->> 'found_name'), ', ' order by p.place) filter (
      where c.value ->> 'name' = any (ours) and not (by_all_write and p.writes) or is_own and p.writes
        and not by_all_write and cardinality(writers) > 0),
    coalesce(not bool_or(by_all_write and p.writes), true)
  into hidden, can_hide, closed, wrote_nothing
  from jsonb_array_elements(p_context -> 'columns') as c
  cross join lateral (
    select (c.value ->> 'found_position')::smallint as place,
      has_column_privilege(users, relation, (c.value ->> 'found_position')::smallint, 'select') as reads,
      has_column_privilege(users, relation, (c.value ->> 'found_position')::smallint, 'update') as writes
  ) as p
  cross join lateral (
    select c.value ->> 'wanted_type' is null
      and c.value ->> 'found_name' is distinct from p_context ->> 'owner' as is_own,
      'w' = any (commands) as by_all_write,
      -- What they write in their own row is no secret, with any further condition of the policy that shows it.
      p.reads and ('r' = any (commands) or 'w' = any (commands) and p.writes) as reads_own
  ) as o
  where c.value ->> 'found_name' is not null;

  if hidden is not null then
    return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'columns:' || target,
      'object', target,
      'found', case when conditions is null then 'users cannot read these columns: '
        else format('users cannot read these columns, or only those for whom a policy is true (%s): ', conditions) end
        || (select string_agg(quote_ident(h.name), ', ') from unnest(hidden) as h (name)),
      'answers', jsonb_strip_nulls(jsonb_build_object(
        'accept', 'a user reads them in their own row, and in every row that a policy shows',
        'keep', case when can_hide
          then 'they stay hidden: users read the other columns by name, and select * fails (42501)' end)));
    if can_hide and profiles_internal.answer('columns:' || target) = 'keep' then
      return next jsonb_build_object('phase', 'record', 'kind', 'hide_columns', 'action', 'note', 'object', target,
        'found', 'users cannot read these columns: '
          || (select string_agg(quote_ident(h.name), ', ') from unnest(hidden) as h (name)),
        'wanted', 'hidden from users, as today',
        'remedy', 'Users read the other columns by name; select * by authenticated fails (42501).',
        'statement', format('insert into profiles_internal.adopted (revision, object_type, object_name, data) values '
          '(%L, ''hidden columns'', %L, %L)',
          p_context ->> 'by', target, to_jsonb(hidden)));
    end if;
  end if;

  return query
  select jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'rows:' || r.name,
    'object', r.name, 'evidence', profiles_internal.reader_text(r.object, r.name),
    'found', format('shows whole rows of %s with the rights of its owner', relation),
    'answers', jsonb_build_object('accept',
      format('it shows these columns, too: %s. To keep them hidden, let it name the columns that it means', (
      select string_agg(c.key, ', ' order by c.key) from jsonb_each(p_context -> 'by_name') as c
        where c.value ->> 'found_name' is null
    ))))
  from profiles_internal.table_readers(relation) as r
  cross join (select t.reltype from pg_class as t where t.oid = relation) as t
  left join pg_class as v on r.name like 'view %' and v.oid = r.object
  left join pg_proc as f on r.name like 'function %' and f.oid = r.object
  where r.as_owner and exists (select from jsonb_each(p_context -> 'by_name') as c
    where c.value ->> 'found_name' is null)
    and case
      when v.oid is not null then exists (
        select from pg_roles as o where o.rolname in ('anon', 'authenticated')
          and has_any_column_privilege(o.oid, v.oid, 'select')
      ) and exists (
        select from pg_rewrite as w where w.ev_class = v.oid
          and w.ev_action::text ~ format('[:]varattno 0 [:]vartype %s ', t.reltype)
      )
      when f.oid is not null and f.prorettype <> 'trigger'::regtype then exists (
        select from pg_roles as o where o.rolname in ('anon', 'authenticated')
          and has_function_privilege(o.oid, f.oid, 'execute')
      ) and (
        f.prorettype = t.reltype or f.prosqlbody::text ~ format('[:]varattno 0 [:]vartype %s ', t.reltype)
        or f.prosrc ~* '\mselect\s+([\w"]+\s*\.\s*)?\*|\m(to_jsonb?|row_to_json|jsonb?_agg|array_agg|hstore)\s*\('
      )
    end;

  if p_context ->> 'table' in ('user_profiles', 'user_progress', 'user_api_keys') then
    return query
    select jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'one:' || target,
      'object', target,
      'found', 'unique: ' || string_agg(k.columns, '; ' order by k.columns),
      'answers', jsonb_build_object('accept',
        'a user has one row from then on: a second INSERT fails (23505), and so does an ON CONFLICT over '
        'these columns (42P10). To keep several, give the table another name before the upgrade'))
    from (
      select format('(%s)', string_agg(quote_ident(a.attname), ', ' order by c.place)) as columns,
        bool_or(a.attname in ('user_id', p_context ->> 'owner')) as has_owner, count(*) as number
      from pg_index as x
      cross join lateral unnest(x.indkey::smallint[]) with ordinality as c (attnum, place)
      join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = c.attnum
      where x.indrelid = relation and x.indisunique and x.indpred is null and c.place <= x.indnkeyatts
      group by x.indexrelid
    ) as k
    where k.has_owner and k.number > 1
    having count(*) > 0;
  end if;

  if closed is not null then
    return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'writes:' || target,
      'object', target,
      'found', case when cardinality(writers) > 0
        then format('only users for whom a policy is true (%s) can write these columns: ',
        array_to_string(writers, ', '))
        else 'users cannot write these columns: ' end || closed,
      'answers', jsonb_strip_nulls(jsonb_build_object(
        'accept', 'a user writes them in their own row from then on',
        'keep', case when wrote_nothing then case when cardinality(writers) > 0
          then 'a restrictive policy lets only those users change rows for whom these policies are true, as today; for '
            'all others update_my_profile_v2 refuses'
          else 'a restrictive policy lets users change nothing, as today; update_my_profile_v2 refuses' end end)));
    if wrote_nothing and profiles_internal.answer('writes:' || target) = 'keep' then
      return next jsonb_build_object('phase', 'create_policies', 'kind', 'create_policy', 'action', 'create',
        'object', format('policy "Users change nothing, as before" on %s', target),
        'found', null, 'wanted', 'users go on changing nothing', 'lock', 'ACCESS EXCLUSIVE',
        -- What those who may are, is read when types and names have changed.
        'statement', format(
          'do $policy$ begin execute (select format(''create policy "Users change nothing, as before" on %1$s as '
            'restrictive for update to anon, authenticated using (%%s) with check (%%s)'', '
          'coalesce(string_agg(coalesce(pg_get_expr(y.polqual, y.polrelid), ''true''), '' or ''), ''false''), '
          'coalesce(string_agg(coalesce(pg_get_expr(coalesce(y.polwithcheck, y.polqual), y.polrelid), ''true''), '' or '
            '''), ''false'')) '
          'from pg_policy as y where y.polrelid = %1$L::regclass and y.polname = any (%2$L)); end $policy$', target,
            writers),
        'undo', format('drop policy if exists "Users change nothing, as before" on %s', target));
    end if;
  end if;

  verbs := concat_ws(' and ',
    case when p_context ->> 'table' in ('user_api_keys', 'export_history')
      and not ('a' = any (commands) and has_any_column_privilege(users, relation, 'insert')) then 'insert' end,
    case when p_context ->> 'table' = 'user_api_keys'
      and not ('d' = any (commands) and has_table_privilege(users, relation, 'delete')) then 'delete' end);
  if verbs <> '' then
    return next jsonb_build_object('phase', 'record', 'kind', 'tell', 'action', 'note', 'object', target,
      'found', format('users cannot %s rows', verbs), 'wanted', 'they can',
      'remedy', format('Ours let users %s rows of their own. A restrictive policy that you make before the upgrade '
        'stays, and can refuse it.', verbs));
  end if;

  if p_context ->> 'table' = 'user_profiles' and active ->> 'found_name' is not null then
    moment := replace(coalesce(active ->> 'source', '{column}'), '{column}',
      't.' || quote_ident(active ->> 'found_name'));
    execute format('select count(*) filter (where not %1$s), count(*) filter (where %1$s is null) from %2$s as t',
      moment, relation)
    into inactive, unknown;
    if lower(coalesce(active ->> 'found_default', 'null')) not in ('true', '1') or unknown > 0 then
      return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'active:' || target,
        'object', target || '.is_active',
        'found', format('%s, false in %s rows and null in %s',
          coalesce('default ' || (active ->> 'found_default'), 'no default'), inactive, unknown),
        'answers', jsonb_build_object('accept', format(
          'ours says who may use the account: users with false (%s) read and write nothing; null becomes true; a '
            'new user gets true. '
          'If it means something else, rename it before the upgrade: alter table %s rename column %I to ...', inactive,
            relation, active ->> 'found_name')));
    elsif inactive > 0 then
      return next jsonb_build_object('phase', 'record', 'kind', 'tell', 'action', 'note',
        'object', target || '.is_active', 'found', format('false in %s rows', inactive),
        'wanted', 'inactive users', 'remedy', 'These users read and write nothing of ours, with any token.');
    end if;
  end if;

  if p_context ->> 'table' = 'user_profiles' and visibility ->> 'found_name' is not null and not exists (
    select from profiles_internal.adoption_policies('user_profiles', relation) as p where p.command in ('r', '*')
      and p.id is not null
  ) then
    execute format('select count(*) from %2$s as t where t.%1$I::text = ''public''', visibility ->> 'found_name',
      relation) into shown;
    if shown > 0 or visibility ->> 'wanted_default' ~ '^''public''' then
      return next jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', 'visible:' || target,
        'object', target || '.profile_visibility',
        'found', format('%s, public in %s rows, and no one reads rows of others',
          coalesce('default ' || (visibility ->> 'found_default'), 'no default'), shown),
        'answers', jsonb_build_object('accept', format(
          'get_public_profile shows the id, names, pictures and bio of these users to everybody, without an account, '
            'too%s. '
          'If it means something else, rename it before the upgrade: alter table %s rename column %I to ...',
          case when visibility ->> 'wanted_default' ~ '^''public''' then ', and those of every new user' else '' end,
            relation, visibility ->> 'found_name')));
    end if;
  end if;
end
$adoption_openings$;

revoke all on function profiles_internal.adoption_openings(jsonb) from public, anon, authenticated, service_role;
