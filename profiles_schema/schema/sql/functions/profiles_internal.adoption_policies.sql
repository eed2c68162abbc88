-- The policies of the application on one table that is taken over, and what becomes of each ("fate"):
--   stays    it only takes away (restrictive), or the operator keeps it;
--   goes     ours say the same of the person's own rows, or only service_role or an owner is meant;
--   unused   it allows what no role of the API has the right to do afterwards;
--   open     it shows or gives others' rows away, and whether it stays is a question (id);
-- Without row level security everything is open: the same question, of a policy that is not there yet (null).
-- The table's own revision makes it, and turns row level security on.
create or replace function profiles_internal.adoption_policies(p_table text, p_found regclass)
returns table (policy oid, name text, command "char", fate text, id text, answer text)
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
  ),
  found as (
    select y.oid, y.polname::text as name, y.polcmd, case y.polname when 'Everybody reads, as before' then 'rls:public.' || p_table else format('policy:public.%s:%s', p_table, y.polname) end as id,
      case
        when not y.polpermissive then 'stays'
        when not exists (
          select from unnest(y.polroles) as m (role) left join pg_roles as r on r.oid = m.role
          where r.oid is null or not (r.rolname = 'service_role' or r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, c.relowner, 'usage'))
        ) then 'goes'
        when not exists (
          select
          from (values (y.polqual, y.polcmd <> 'a'), (y.polwithcheck, y.polcmd = 'a')) as x (expression, is_needed)
          cross join lateral (
            -- (select auth.uid()) = id, auth.uid() = id, id::text = auth.uid()::text and the like.
            select replace(regexp_replace(lower(pg_get_expr(x.expression, y.polrelid)), '::(text|uuid|character varying)|[\s()]|\mas uid\M', '', 'g'), 'select', '') as plain
          ) as e
          where (x.is_needed or x.expression is not null)
            and (e.plain is null or not exists (select from person as n where e.plain in ('auth.uid=' || lower(n.name), lower(n.name) || '=auth.uid')))
        ) then 'goes'
        when y.polroles <@ (select array_agg(r.oid) || 0::oid from pg_roles as r where r.rolname in ('anon', 'authenticated')) and (
          y.polcmd = 'd' and p_table <> 'user_api_keys'
          or y.polcmd = 'a' and p_table in ('user_profiles', 'user_profile_audit_logs') and c.relname = p_table
            and not exists (
              select from pg_class as v where v.relkind = 'v' and obj_description(v.oid, 'pg_class') = 'profiles-schema: user_profiles under its old name'
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
      where r.rolname in ('anon', 'authenticated') and has_any_column_privilege(r.oid, c.oid, 'select') and not r.rolbypassrls
    )
  )
  select f.oid, f.name, f.polcmd, case when f.fate = 'open' and profiles_internal.answer(f.id) = 'keep' then 'stays' else f.fate end,
    case f.fate when 'open' then f.id end, case f.fate when 'open' then profiles_internal.answer(f.id) end
  from found as f
$adoption_policies$;

revoke all on function profiles_internal.adoption_policies(text, regclass) from public, anon, authenticated, service_role;
