-- Lets a policy of the application stay beside ours: health accepts it (setting accepted_policies), and anon goes on reading
-- the columns that it could read. Without a policy anon reads no row there, but a statement that looks does not fail.
-- What is granted is on record, for whatever takes rights away to give them again.
create or replace function profiles_internal.keep_policy(p_table text, p_policy text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_policy$
declare
  relation constant regclass := 'public.' || p_table;
  columns jsonb;
begin
  insert into profiles_internal.settings as s (key, value)
  select 'accepted_policies', jsonb_build_array(format('public.%s.%s', p_table, p_policy)) where p_policy is not null
  on conflict (key) do update set value = s.value || excluded.value;

  select jsonb_agg(a.attname order by a.attnum) into columns
  from pg_attribute as a
  join pg_roles as r on r.rolname = 'anon' and not r.rolbypassrls
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and (p_policy is null or exists (
      select from pg_policy as y
      where y.polrelid = relation and y.polname = p_policy and y.polcmd in ('r', '*') and y.polroles && array[0::oid, r.oid]
    ))
    and has_column_privilege(r.oid, relation, a.attnum, 'select')
    and exists (
      select from profiles_internal.adopted as t cross join lateral jsonb_array_elements(t.data -> 'columns') as c
      where t.object_type = 'table' and t.object_name = 'public.' || p_table and c ->> 'now' = a.attname
    );
  insert into profiles_internal.adopted (revision, object_type, object_name, data)
  values ('0009_create_policies', 'kept policy', 'public.' || p_table, jsonb_build_object('policy', p_policy, 'anon reads', coalesce(columns, '[]')));
end
$keep_policy$;

revoke all on function profiles_internal.keep_policy(text, text) from public, anon, authenticated, service_role;
