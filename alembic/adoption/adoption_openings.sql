-- What users could not do with their own row of one table that is taken over, and can afterwards: each is a question.
--   columns:TABLE  columns of the application that users could not read; our policies show a person their whole row
--   writes:TABLE   columns of ours that were here, with values, and that users could not write
--   one:TABLE      several rows of a user, which a key of the table allows: ours has one row per user
--   rows:OBJECT    a view or function that reads whole rows with the rights of its owner, and that the API roles may use: it
--                  shows the columns that are added, too. Of a function with a text body, its text is all there is to go by
--   active:TABLE   an is_active that is not true by itself; ours decides whether somebody may read and write at all
-- Users could do something if a right allowed it, and a policy where row level security is on.
-- Where users are made by us, and nobody has given the API roles anything, nobody signs in as one of them yet.
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
  -- The commands that a policy lets users do.
  commands constant text[] := array(
    select k.letter
    from unnest(array['r', 'a', 'w', 'd']) as k (letter)
    where not guarded or exists (
      select from pg_policy as y
      where y.polrelid = relation and y.polpermissive and y.polcmd::text in (k.letter, '*') and y.polroles && array[0::oid, users]
    )
  );
  -- What our rights let users write (schema/sql/policies).
  ours constant text[] := case p_context ->> 'table'
    when 'user_profiles' then array[
      'username', 'display_name', 'first_name', 'last_name', 'phone', 'bio', 'company_name', 'target_audience', 'business_context',
      'master_system_prompt', 'avatar_emoji', 'profile_picture_url', 'logo_url', 'profile_visibility', 'key_metrics', 'preferences',
      'notification_settings', 'timezone', 'language'
    ]
    when 'user_progress' then array['total_points', 'mastered_words_count', 'learning_words_count', 'new_words_count']
    when 'user_api_keys' then array['openai_api_key', 'unsplash_api_key', 'anthropic_api_key']
    when 'export_history' then array['filters']
    else '{}'
  end;
  hidden text;
  closed text;
  wrote_nothing boolean;
  active jsonb := p_context -> 'by_name' -> 'is_active';
  moment text;
  inactive bigint;
  unknown bigint;
begin
  if users is null or (p_context ->> 'own')::boolean and not guarded
    and not has_any_column_privilege(users, relation, 'select, insert, update')
  then
    return;
  end if;

  select
    string_agg(quote_ident(c.value ->> 'found_name'), ', ' order by p.place) filter (
      where c.value ->> 'wanted_type' is null and c.value ->> 'found_name' is distinct from p_context ->> 'owner'
        and not ('r' = any (commands) and has_column_privilege(users, relation, p.place, 'select'))),
    string_agg(quote_ident(c.value ->> 'found_name'), ', ' order by p.place) filter (
      where c.value ->> 'name' = any (ours) and not ('w' = any (commands) and has_column_privilege(users, relation, p.place, 'update'))),
    coalesce(bool_and(not ('w' = any (commands) and has_column_privilege(users, relation, p.place, 'update'))), true)
  into hidden, closed, wrote_nothing
  from jsonb_array_elements(p_context -> 'columns') as c
  cross join lateral (select (c.value ->> 'found_position')::smallint as place) as p
  where c.value ->> 'found_name' is not null;

  if hidden is not null then
    return next jsonb_build_object('seq', 2, 'action', 'question', 'id', 'columns:' || target, 'object', target,
      'found', 'users cannot read these columns: ' || hidden,
      'answers', jsonb_build_object('accept',
        'a user reads them in the own row, and in every row that a policy shows. To keep them hidden, move them to a table of their own before the upgrade'));
  end if;

  return query
  select jsonb_build_object('seq', 2, 'action', 'question', 'id', 'rows:' || r.name, 'object', r.name,
    'found', format('shows whole rows of %s with the rights of its owner', relation),
    'answers', jsonb_build_object('accept', format('it shows these columns, too: %s. To keep them hidden, let it name the columns that it means', (
      select string_agg(c.key, ', ' order by c.key) from jsonb_each(p_context -> 'by_name') as c where c.value ->> 'found_name' is null
    ))))
  from profiles_internal.table_readers(relation) as r
  cross join (select t.reltype from pg_class as t where t.oid = relation) as t
  left join pg_class as v on r.name like 'view %' and v.oid = r.object
  left join pg_proc as f on r.name like 'function %' and f.oid = r.object
  where r.as_owner and exists (select from jsonb_each(p_context -> 'by_name') as c where c.value ->> 'found_name' is null)
    and case
      when v.oid is not null then exists (
        select from pg_roles as o where o.rolname in ('anon', 'authenticated') and has_any_column_privilege(o.oid, v.oid, 'select')
      ) and exists (
        select from pg_rewrite as w where w.ev_class = v.oid and w.ev_action::text ~ format('[:]varattno 0 [:]vartype %s ', t.reltype)
      )
      when f.oid is not null and f.prorettype <> 'trigger'::regtype then exists (
        select from pg_roles as o where o.rolname in ('anon', 'authenticated') and has_function_privilege(o.oid, f.oid, 'execute')
      ) and (
        f.prorettype = t.reltype or f.prosqlbody::text ~ format('[:]varattno 0 [:]vartype %s ', t.reltype)
        or f.prosrc ~* '\mselect\s+([\w"]+\s*\.\s*)?\*|\m(to_jsonb?|row_to_json|jsonb?_agg|array_agg|hstore)\s*\('
      )
    end;

  if p_context ->> 'table' in ('user_profiles', 'user_progress', 'user_api_keys') then
    return query
    select jsonb_build_object('seq', 2, 'action', 'question', 'id', 'one:' || target, 'object', target,
      'found', 'unique: ' || string_agg(k.columns, '; ' order by k.columns),
      'answers', jsonb_build_object('accept', 'a user has one row from then on: a second INSERT fails (23505), and so does an ON CONFLICT over '
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
    return next jsonb_build_object('seq', 2, 'action', 'question', 'id', 'writes:' || target, 'object', target,
      'found', 'users cannot write these columns: ' || closed,
      'answers', jsonb_strip_nulls(jsonb_build_object(
        'accept', 'a user writes them in the own row from then on',
        'keep', case when wrote_nothing then 'a restrictive policy lets users change nothing, as today; update_my_profile_v2 refuses' end)));
    if wrote_nothing and profiles_internal.answer('writes:' || target) = 'keep' then
      return next jsonb_build_object('seq', 987, 'action', 'create', 'object', format('policy "Users change nothing, as before" on %s', target),
        'found', null, 'wanted', 'users go on changing nothing', 'lock', 'ACCESS EXCLUSIVE',
        'statement', format(
          'create policy "Users change nothing, as before" on %s as restrictive for update to anon, authenticated using (false)', target),
        'undo', format('drop policy if exists "Users change nothing, as before" on %s', target));
    end if;
  end if;

  if p_context ->> 'table' = 'user_profiles' and active ->> 'found_name' is not null then
    moment := replace(coalesce(active ->> 'source', '{column}'), '{column}', 't.' || quote_ident(active ->> 'found_name'));
    execute format('select count(*) filter (where not %1$s), count(*) filter (where %1$s is null) from %2$s as t', moment, relation)
    into inactive, unknown;
    if lower(coalesce(active ->> 'found_default', 'null')) not in ('true', '1') or unknown > 0 then
      return next jsonb_build_object('seq', 2, 'action', 'question', 'id', 'active:' || target, 'object', target || '.is_active',
        'found', format('%s, false in %s rows and null in %s', coalesce('default ' || (active ->> 'found_default'), 'no default'), inactive, unknown),
        'answers', jsonb_build_object('accept', format(
          'ours says who may use the account: whoever has false (%s) reads and writes nothing; null becomes true; a new user gets true. '
          'If it means something else, rename it before the upgrade: alter table %s rename column %I to ...', inactive, relation, active ->> 'found_name')));
    elsif inactive > 0 then
      return next jsonb_build_object('seq', 11, 'action', 'note', 'object', target || '.is_active', 'found', format('false in %s rows', inactive),
        'wanted', 'inactive users', 'remedy', 'These users read and write nothing of ours, whatever token they hold.');
    end if;
  end if;
end
$adoption_openings$;

revoke all on function profiles_internal.adoption_openings(jsonb) from public, anon, authenticated, service_role;
