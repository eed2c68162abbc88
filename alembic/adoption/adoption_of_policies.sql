-- What becomes of the policies of one table when ours come, and the questions about those that show or give others'
-- rows away. If one goes, objects that read the table with the rights of their caller find less: each is a question
-- too.
create or replace function profiles_internal.adoption_of_policies(p_table text, p_found regclass)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_of_policies$
declare
  target constant text := 'public.' || p_table;
  step constant jsonb := jsonb_build_object('revision', '0012_create_policies', 'lock', 'ACCESS EXCLUSIVE');
  reads constant boolean := exists (
    select from profiles_internal.adoption_policies(p_table, p_found) as p where p.command in ('r', '*')
      and p.id is not null
  );
  -- What users may write in our tables, by our rights.
  writable constant text := case p_table
    when 'user_profiles'
      then 'names, bio, texts, pictures, emoji, visibility, metrics, preferences, notifications, time zone and language'
    when 'user_progress' then 'the counts of words'
    when 'user_api_keys' then 'the keys'
    when 'export_history' then 'filters'
    else 'nothing' end;
  added text;
  sensitive constant text[] := array[
    'email', 'phone', 'first_name', 'last_name', 'role', 'last_login', 'external_id', 'referral_code', 'preferences',
      'metadata', 'personality_traits'
  ];
  -- Steps of an upgrade that has begun may have changed how its policies read.
  has_changed boolean := false;
  unread text;
  readers text;
  policy record;
begin
  if to_regclass('profiles_internal.adopted') is not null then
    has_changed := exists (
      select from profiles_internal.adopted as a
        where a.data ->> 'kind' in ('rename_table', 'rename_column', 'retype_columns')
    );
  end if;
  if reads then
    -- What is personal comes first. The second line is for the file of answers alone.
    select format('%s columns that the upgrade adds, too%s%s', count(*),
      ': ' || string_agg(c.name, ', ' order by c.place) filter (where c.place <= 8),
      case when count(*) > 8
        then format(E', and %s more\nAll of them: %s', count(*) - 8, string_agg(c.name, ', ' order by c.name)) end)
    into added
    from (
      select c.name, row_number() over (order by array_position(sensitive, c.name), c.name) as place
      from profiles_internal.adoption_columns(p_table, profiles_internal.table_to_adopt(p_table)) as c
      where c.found_name is null and c.wanted_type is not null
    ) as c;
    -- Ours give a right to the whole table: a user reads their own row.
    select string_agg(quote_ident(c.found_name), ', ' order by c.found_position)
    into unread
    from profiles_internal.adoption_columns(p_table, profiles_internal.table_to_adopt(p_table)) as c
    join pg_roles as r on r.rolname = 'authenticated'
    where c.found_name is not null and c.wanted_type is not null and has_any_column_privilege(r.oid, p_found, 'select')
      and not has_column_privilege(r.oid, p_found, c.found_position::smallint, 'select');
    select string_agg(r.name, ', ' order by r.name) into readers from profiles_internal.table_readers(p_found) as r
      where not r.as_owner;
  end if;

  for policy in
    select p.*, coalesce((
        -- PostgreSQL takes it for a recursion as soon as ours, which have sub-selects, are there too.
        select concat(y.polqual::text, y.polwithcheck::text) ~ format('[:]relid %s ', p_found::oid) from pg_policy as y
          where y.oid = p.policy
      ), false) as reads_itself,
      case p.command when 'r' then 'read' when 'a' then 'insert' when 'w' then 'change' when 'd' then 'delete'
        else 'read and write' end as verb,
      coalesce((
        select string_agg(case when m.role = 0 then 'everybody' else pg_get_userbyid(m.role) end, ', ' order by m.role)
        from pg_policy as y cross join lateral unnest(y.polroles) as m (role) where y.oid = p.policy
      ), 'everybody with rights') as who,
      (
        select regexp_replace(concat_ws(' with check ', pg_get_expr(y.polqual, y.polrelid),
          pg_get_expr(y.polwithcheck, y.polrelid)), '\s+', ' ', 'g')
        from pg_policy as y where y.oid = p.policy
      ) as says
    from profiles_internal.adoption_policies(p_table, p_found) as p
    -- Until ours are there (the triggers come right after them), one that has one of our names is theirs, too.
    where not ((p.name like 'Owners can %' or p.name = 'Service role can do what its grants allow')
      and to_regproc('profiles_internal.keep_updated_at') is not null)
    order by p.name
  loop
    if policy.id is not null then
      return next step || jsonb_build_object('phase', 'ask', 'kind', 'ask', 'action', 'question', 'id', policy.id,
        'object', target,
        'found', case when policy.policy is null
          then 'no row level security: everybody with rights on it reads and writes every row'
          else format('policy "%s" lets %s %s rows: %s', policy.name, policy.who, policy.verb, policy.says) end,
        'evidence', case when not has_changed then concat_ws(' ', policy.who, policy.verb, policy.says) end,
        'answers', jsonb_strip_nulls(jsonb_build_object(
          'keep', case when not policy.reads_itself and p_table <> 'user_api_keys'
            and policy.name not like 'Owners can %' and policy.name <> 'Service role can do what its grants allow'
            then concat_ws('; ',
            case when policy.policy is null
              then 'row level security is on, with a policy that lets everybody read every row, and users write their '
              'own' else 'it stays' end,
            case when policy.is_narrower
              then 'but ours also let users do the same with their own row without its further condition' end,
            case when policy.command in ('w', '*')
              then format('its users could change, in every row that it shows, what users may write: %s',
              writable) end,
            case when policy.command in ('a', '*') then 'rows are inserted only by whom our rights let do so' end,
            case when policy.command in ('r', '*') then case when unread is null then ''
              else format('everybody for whom it is reads %s, which users cannot read today; ', unread) end
              || 'everybody for whom it is reads the ' || added end
          ) end,
          'restrict', case when not policy.reads_itself and policy.is_narrower
            then 'it becomes restrictive, with the same condition: users do this with their own row only where its '
            'condition is true, as today' end,
          'replace', concat_ws('; ', case when policy.policy is null then 'row level security is on'
            else 'it is set aside' end,
            'users ' || case when policy.command in ('r', '*') then 'read their own rows'
              || case p_table when 'user_profiles' then ', and of others what get_public_profile gives' else '' end
              else 'write their own rows alone' end
              || case when policy.is_narrower
                then ', without its further condition: in them, every column that they have a right to' else '' end,
            case when policy.reads_itself
              then 'it cannot stay, because it reads its own table in a sub-select (with ours, 42P17): to keep it, '
              'move that into a function that is SECURITY DEFINER' end,
            case when policy.command in ('r', '*') and readers is not null
              then 'then these find less, and each is a question: ' || readers end)
        )));
    end if;

    if policy.fate = 'stays' and policy.id is null and policy.reads_itself then
      return next step || jsonb_build_object('phase', 'refuse', 'kind', 'refuse', 'action', 'stop',
        'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'reads its own table in a sub-select', 'wanted', 'no recursion',
        'remedy', 'With ours, which have sub-selects, every statement that it is for would fail (42P17). Move the '
          'sub-select into a function that is SECURITY DEFINER.');
    elsif policy.fate = 'stays' then
      return next step || jsonb_build_object('phase', 'replace_objects', 'kind', 'keep_policy', 'action', 'keep',
        'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'one of the application', 'wanted', case when policy.id is null then 'stays: it only takes away'
          else 'stays, as answered' end,
        -- For health.
        'statement', case when policy.id is not null then format(
          'insert into profiles_internal.settings as s (key, value) values (''accepted_policies'', '
            'jsonb_build_array(%L)) on conflict (key) do update set value = s.value || excluded.value',
          format('%s.%s', target, policy.name)) end,
        'undo', case when policy.id is not null then
          format('update profiles_internal.settings set value = value - %L where key = ''accepted_policies''',
            format('%s.%s', target, policy.name)) end);
    elsif policy.fate = 'restrict' then
      return next step || jsonb_build_object('phase', 'replace_objects', 'kind', 'restrict_policy', 'action', 'convert',
        'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'permissive', 'wanted', 'restrictive, as answered',
        'statement', format('drop policy %I on %s; %s', policy.name, p_found,
          profiles_internal.policy_text(policy.policy, null, true)),
        'undo', format('drop policy if exists %I on %s; %s', policy.name, p_found,
          profiles_internal.policy_text(policy.policy)));
    elsif policy.policy is not null then
      return next step || jsonb_build_object('phase', 'replace_objects', 'kind', 'drop_policy', 'action', 'set aside',
        'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'one of the application', 'wanted', 'ours',
        'statement', format('drop policy %I on %s', policy.name, p_found),
        'undo', profiles_internal.policy_text(policy.policy),
        'remedy', case when policy.fate = 'unused' or p_table <> 'user_api_keys' and policy.command in ('d', '*')
          and policy.who ~ 'everybody|authenticated'
          then format('It lets %s %s rows; the roles of the API have no right to that afterwards.', policy.who,
            case policy.command when '*' then 'delete' else policy.verb end) end);
    end if;
  end loop;

  if exists (
    select from profiles_internal.adoption_policies(p_table, p_found) as p where p.command in ('r', '*')
      and p.answer = 'replace'
  ) then
    return query
    select step || jsonb_build_object('phase', 'ask_about_readers', 'kind', 'ask', 'action', 'question',
      'id', 'reads:' || r.name, 'object', r.name, 'evidence', profiles_internal.reader_text(r.object, r.name),
      'found', format('reads %s with the rights of its caller', target),
      'answers', jsonb_build_object('accept',
        format('it finds in %s only the row of its caller, where today an open policy shows it others'' rows; look '
        'at what it decides by that', target)))
    from profiles_internal.table_readers(p_found) as r
    where not r.as_owner;
  end if;
end
$adoption_of_policies$;

revoke all on function profiles_internal.adoption_of_policies(text, regclass) from public, anon, authenticated,
  service_role;
