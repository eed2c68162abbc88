-- The statements that make a policy as it is, on the table of another name if one is given, and as a restrictive one if
-- wanted: then not for all, but for the roles that ours are for.
create or replace function profiles_internal.policy_text(p_policy oid, p_table text default null,
  p_restricts boolean default false)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $policy_text$
  select concat_ws(' ',
    format('create policy %I on %s as %s for %s to %s', y.polname, coalesce(p_table, y.polrelid::regclass::text),
      case when y.polpermissive and not p_restricts then 'permissive' else 'restrictive' end,
      case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
        else 'all' end,
      (select string_agg(case when r.role = 0 then case when p_restricts then 'anon, authenticated' else 'public' end
        else quote_ident(pg_get_userbyid(r.role)) end, ', ') from unnest(y.polroles) as r (role))
    ),
    'using (' || pg_get_expr(y.polqual, y.polrelid) || ')',
    'with check (' || pg_get_expr(y.polwithcheck, y.polrelid) || ')'
  )
    || coalesce('; comment on policy ' || quote_ident(y.polname) || ' on '
      || coalesce(p_table, y.polrelid::regclass::text)
      || ' is ' || quote_literal(obj_description(y.oid, 'pg_policy')), '')
  from pg_policy as y
  where y.oid = p_policy
$policy_text$;

revoke all on function profiles_internal.policy_text(oid, text, boolean) from public, anon, authenticated, service_role;
