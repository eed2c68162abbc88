-- Which roles of the application's own have rights on user_profiles, and which these are on a view of it whose columns bear
-- their old names (p_columns, as an adopted table keeps them). The owner of the table has all. The roles of the API are
-- left out: what they may do is ours to say.
create or replace function profiles_internal.old_name_rights(p_columns jsonb)
returns table (who text, rights text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $old_name_rights$
  with given as (
    select t.relowner as grantee, k.kind
    from pg_class as t cross join unnest(array['select', 'insert', 'update', 'delete']) as k (kind)
    where t.oid = to_regclass('public.user_profiles')
    union
    select e.grantee, lower(e.privilege_type)
    from pg_class as t cross join lateral aclexplode(t.relacl) as e
    where t.oid = to_regclass('public.user_profiles')
    union
    select e.grantee, format('%s (%I)', lower(e.privilege_type), c.value ->> 'name')
    from pg_attribute as a
    cross join lateral aclexplode(a.attacl) as e
    join jsonb_array_elements(p_columns) as c on c.value ->> 'now' = a.attname
    where a.attrelid = to_regclass('public.user_profiles') and not a.attisdropped
  )
  select quote_ident(r.rolname), string_agg(g.kind, ', ' order by g.kind)
  from given as g
  join pg_roles as r on r.oid = g.grantee
  where g.kind ~ '^(select|insert|update|delete)' and r.rolname not in ('anon', 'authenticated', 'service_role', current_user)
  group by r.rolname
$old_name_rights$;

revoke all on function profiles_internal.old_name_rights(jsonb) from public, anon, authenticated, service_role;
