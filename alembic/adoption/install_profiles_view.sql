-- Where user_profiles was found under another name: a view of that name, with the columns of that table under their old
-- names, so that statements written for it go on working. It is updatable by itself, INSERT … ON CONFLICT included, and
-- runs with the rights of its caller. Returns its name; null if none is needed.
-- A table whose user_id was an outside id gets a view of another kind, from install_old_profiles.
-- Runs in the transaction that renames the table; at downgrade the view goes before the table gets its name back.
create or replace function profiles_internal.install_profiles_view()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_profiles_view$
declare
  relation constant regclass := to_regclass('public.user_profiles');
  old_name text;
  found jsonb;
  shown text;
  given record;
begin
  select a.data ->> 'found_as', a.data -> 'columns' into old_name, found
  from profiles_internal.adopted as a
  where a.object_type = 'table' and a.object_name = 'public.user_profiles'
  order by a.id desc limit 1;
  if relation is null or old_name is null or old_name = 'public.user_profiles'
    or found @> '[{"name": "user_id", "now": "external_id"}]' then
    return null;
  end if;

  select string_agg(format('p.%I as %I', a.attname, c.value ->> 'name'),
    ', ' order by (c.value ->> 'position')::integer)
  into shown
  from jsonb_array_elements(found) as c
  join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'now' and a.attnum > 0
    and not a.attisdropped;

  execute format('create view %s with (security_invoker = true) as select %s from public.user_profiles as p', old_name,
    shown);
  execute format('comment on view %s is %L', old_name, 'profiles-schema: user_profiles under its old name');
  execute format('revoke all on table %s from public, anon, authenticated, service_role', old_name);
  -- The view runs with the rights of its caller, so those on the table decide.
  execute format('grant select, insert, update on table %s to authenticated', old_name);
  execute format('grant select, insert, update, delete on table %s to service_role', old_name);
  if exists (
    select from profiles_internal.adopted as a
    where a.object_type = 'rights' and a.object_name = 'public.user_profiles'
      and a.data -> 'rights' @> '[{"role": "anon"}]'
  ) then
    execute format('grant select, insert, update on table %s to anon', old_name);
  end if;
  for given in select r.* from profiles_internal.old_name_rights(found) as r loop
    execute format('grant %s on table %s to %s', given.rights, old_name, given.who);
  end loop;
  insert into profiles_internal.adopted (revision, object_type, object_name, definition)
  values ('0006_create_user_profiles', 'view', old_name, format('drop view if exists %s', old_name));
  return old_name;
end
$install_profiles_view$;

revoke all on function profiles_internal.install_profiles_view() from public, anon, authenticated, service_role;
