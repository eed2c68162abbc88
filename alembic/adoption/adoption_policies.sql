-- The policies of the application on one table that is taken over, and what becomes of each ("fate"):
--   stays    it only takes away (restrictive), or the operator keeps it;
--   goes     ours say the same of the person's own rows, or only service_role or an owner is meant;
--   unused   it allows what no role of the API has the right to do afterwards;
--   open     it shows or gives others' rows away, and whether it stays is a question (id);
--   restrict the answer to one that says less of the person's own rows than ours: it becomes restrictive;
-- Without row level security everything is open: the same question, of a policy that is not there yet (null).
-- The table's own revision makes it, and turns row level security on.
-- "reach" is whom a permissive policy lets do it with their own row: every user ('all'), none ('none': only a service
-- is meant), or some, by a condition that cannot be known here ('some': administrators, members).
create or replace function profiles_internal.adoption_policies(p_table text, p_found regclass)
returns table (policy oid, name text, command "char", fate text, id text, answer text, is_narrower boolean, reach text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $adoption_policies$
  with person (name) as (
    select c.name from unnest(array['id', 'user_id']) as c (name)
    union
    select quote_ident(c.found_name)
    from profiles_internal.adoption_columns(p_table, profiles_internal.table_to_adopt(p_table)) as c
    where c.name = 'user_id' and c.found_name is not null
    union
    -- A key of another name. Looking for it reads the table, so only where a policy is not about id or user_id.
    select quote_ident(case
      when p_found = profiles_internal.table_to_adopt(p_table) and exists (
        select from pg_policy as y
        where y.polrelid = p_found
          and concat(pg_get_expr(y.polqual, p_found), pg_get_expr(y.polwithcheck, p_found)) ~ 'auth\.uid\(\)'
          and concat(pg_get_expr(y.polqual, p_found), pg_get_expr(y.polwithcheck, p_found)) !~ '\m(id|user_id)\M'
      ) then profiles_internal.adoption_context(p_table, p_found) ->> 'owner'
      else (
        select convert_from(trim(trailing '\x00'::bytea from t.tgargs), getdatabaseencoding()) from pg_trigger as t
        where t.tgrelid = p_found and t.tgname = 'carry_user_id'
      ) end)
  ),
  -- (owner = auth.uid()), as the server prints it without casts.
  own (pattern) as (
    select format('\((auth\.uid\(\) = (%1$s)|(%1$s) = auth\.uid\(\))\)',
      string_agg(regexp_replace(n.name, '([^\w])', '\\\1', 'g'), '|'))
    from person as n where n.name is not null
  ),
  -- Policies of the form "their own row, and ...": what they show is part of what ours show.
  narrower as (
    select y.oid
    from pg_policy as y
    cross join own
    cross join lateral (
      select bool_and(e.plain ~ format('^%1$s$|^\(%1$s AND | AND %1$s\)$', own.pattern)) as is_own
      from (values (y.polqual), (y.polwithcheck)) as x (expression)
      cross join lateral (
        select regexp_replace(replace(pg_get_expr(x.expression, y.polrelid), '( SELECT auth.uid() AS uid)',
          'auth.uid()'),
          '\((auth\.uid\(\)|[^() ]+)\)::(text|uuid|character varying)', '\1', 'g') as plain
      ) as e
      where x.expression is not null
    ) as p
    where y.polrelid = p_found and y.polpermissive and y.polcmd <> 'd' and p.is_own
      and y.polroles <@ (select array_agg(r.oid) || 0::oid from pg_roles as r
        where r.rolname in ('anon', 'authenticated'))
  ),
  reached as (
    select y.oid, case
        when bool_or(e.bare in ('false', 'auth.role=''service_role''', 'auth.jwt->>''role''=''service_role''',
          'current_user=''service_role''')) then 'none'
        when bool_and(e.bare in ('true', 'auth.role=''authenticated''', 'auth.jwt->>''role''=''authenticated''',
          'auth.uidisnotnull') or e.plain ~ own.pattern and e.plain !~ 'NOT \(') then 'all'
        else 'some'
      end as reach
    from pg_policy as y
    cross join own
    cross join lateral (values (y.polqual), (y.polwithcheck)) as x (expression)
    cross join lateral (
      select regexp_replace(replace(pg_get_expr(x.expression, y.polrelid), '( SELECT auth.uid() AS uid)', 'auth.uid()'),
          '\((auth\.uid\(\)|[^() ]+)\)::(text|uuid|character varying)', '\1', 'g') as plain,
        replace(regexp_replace(lower(pg_get_expr(x.expression, y.polrelid)),
          '::(text|name)|[\s()]|\mas (uid|role|jwt)\M', '', 'g'), 'select', '') as bare
    ) as e
    where y.polrelid = p_found and x.expression is not null
    group by y.oid
  ),
  found as (
    select y.oid, y.polname::text as name, y.polcmd, case when y.polname = 'Everybody reads, as before'
      and to_regclass('profiles_internal.adopted') is not null then 'rls:public.' || p_table
      else format('policy:public.%s:%s', p_table, y.polname) end as id,
      case
        when not y.polpermissive then 'stays'
        when not exists (
          select from unnest(y.polroles) as m (role) left join pg_roles as r on r.oid = m.role
          where r.oid is null
            or not (r.rolname = 'service_role' or r.rolsuper or r.rolbypassrls
            or pg_has_role(r.oid, c.relowner, 'usage'))
        ) then 'goes'
        when not exists (
          select
          from (values (y.polqual, y.polcmd <> 'a'), (y.polwithcheck, y.polcmd = 'a')) as x (expression, is_needed)
          cross join lateral (
            -- (select auth.uid()) = id, auth.uid() = id, id::text = auth.uid()::text and the like.
            select replace(regexp_replace(lower(pg_get_expr(x.expression, y.polrelid)),
              '::(text|uuid|character varying)|[\s()]|\mas uid\M', '', 'g'), 'select', '') as plain
          ) as e
          where (x.is_needed or x.expression is not null)
            and (e.plain is null
              or not exists (select from person as n
              cross join lateral (select regexp_replace(lower(n.name), '[\s()]', '', 'g')) as bare (name)
              where e.plain in ('auth.uid=' || bare.name, bare.name || '=auth.uid')))
        ) then 'goes'
        when y.oid in (select r.oid from narrower as r) then 'open'
        when y.polroles <@ (select array_agg(r.oid) || 0::oid from pg_roles as r
          where r.rolname in ('anon', 'authenticated')) and (
          y.polcmd = 'd' and p_table <> 'user_api_keys'
          or y.polcmd = 'a' and p_table in ('user_profiles', 'user_profile_audit_logs') and c.relname = p_table
            and not exists (
              select from pg_class as v where v.relkind = 'v'
                and obj_description(v.oid, 'pg_class') = 'profiles-schema: user_profiles under its old name'
            )
          or y.polcmd = 'w' and p_table = 'user_profile_audit_logs'
        ) then 'unused'
        else 'open'
      end as fate
    from pg_policy as y
    join pg_class as c on c.oid = y.polrelid
    where y.polrelid = p_found
    union all
    select null, 'Everybody reads, as before', 'r', 'rls:public.' || p_table, 'open'
    from pg_class as c
    where c.oid = p_found and c.relkind = 'r' and not c.relrowsecurity and exists (
      select from pg_roles as r
      where r.rolname in ('anon', 'authenticated') and has_any_column_privilege(r.oid, c.oid, 'select')
        and not r.rolbypassrls
    )
  )
  select f.oid, f.name, f.polcmd, case when f.fate <> 'open' then f.fate when profiles_internal.answer(f.id) = 'keep'
    then 'stays' when profiles_internal.answer(f.id) = 'restrict' then 'restrict' else 'open' end,
    case f.fate when 'open' then f.id end, case f.fate when 'open' then profiles_internal.answer(f.id) end,
      f.fate = 'open' and f.oid in (select r.oid from narrower as r),
    case when f.oid is null or f.fate = 'goes' then 'all'
      else coalesce((select r.reach from reached as r where r.oid = f.oid), 'all') end
  from found as f
$adoption_policies$;

revoke all on function profiles_internal.adoption_policies(text, regclass) from public, anon, authenticated,
  service_role;
