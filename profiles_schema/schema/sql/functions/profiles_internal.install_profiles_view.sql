-- Where user_profiles was found under another name: a view of that name, with the columns of that table under their old
-- names, so that statements written for it go on working. It is updatable by itself, INSERT … ON CONFLICT included, and
-- runs with the rights of whoever asks. Returns its name; null where none is needed.
-- A table whose user_id was an outside id gets a view of another kind, from install_old_profiles.
-- Runs in the transaction that renames the table; at downgrade the view goes before the table gets its name back.
create or replace function profiles_internal.install_profiles_view()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_profiles_view$
declare
  relation constant regclass := to_regclass('public.user_profiles');
  -- What a person may write, besides the column that says whose row it is; updated_at is taken and not kept.
  writable text[] := array[
    'user_id', 'username', 'display_name', 'first_name', 'last_name', 'phone', 'bio', 'company_name', 'target_audience', 'business_context',
    'master_system_prompt', 'avatar_emoji', 'profile_picture_url', 'logo_url', 'profile_visibility', 'key_metrics', 'preferences',
    'notification_settings', 'timezone', 'language', 'updated_at'
  ];
  old_name text;
  found jsonb;
  shown text;
  written text;
  given record;
begin
  select a.data ->> 'found_as', a.data -> 'columns' into old_name, found
  from profiles_internal.adopted as a
  where a.object_type = 'table' and a.object_name = 'public.user_profiles'
  order by a.id desc limit 1;
  writable := writable || array(
    select a.data ->> 'owner'
    from profiles_internal.adopted as a
    where a.object_type = 'table' and a.object_name = 'public.user_profiles'
  );
  if relation is null or old_name is null or old_name = 'public.user_profiles' or found @> '[{"name": "user_id", "now": "external_id"}]' then
    return null;
  end if;

  select
    string_agg(format('p.%I as %I', a.attname, c.value ->> 'name'), ', ' order by (c.value ->> 'position')::integer),
    string_agg(quote_ident(c.value ->> 'name'), ', ' order by (c.value ->> 'position')::integer) filter (
      -- The application's own columns as well: the view runs with the rights of whoever asks, so a grant on the table decides.
      where a.attname = any (writable) or a.attname not in (
        select w.name from profiles_internal.wanted_shape() as w where w.table_name = 'user_profiles' and w.kind = 'column'
      )
    )
  into shown, written
  from jsonb_array_elements(found) as c
  join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'now' and a.attnum > 0 and not a.attisdropped;

  execute format('create view %s with (security_invoker = true) as select %s from public.user_profiles as p', old_name, shown);
  execute format('comment on view %s is %L', old_name, 'profiles-schema: user_profiles under its old name');
  execute format('revoke all on table %s from public, anon, authenticated, service_role', old_name);
  execute format('grant select, insert (%2$s), update (%2$s) on table %1$s to authenticated', old_name, written);
  execute format('grant select, insert, update, delete on table %s to service_role', old_name);
  for given in
    select r.value ->> 'right' as name, string_agg(quote_ident(c.value ->> 'name'), ', ') as columns
    from profiles_internal.adopted as a
    cross join lateral jsonb_array_elements(a.data -> 'rights') as r
    join jsonb_array_elements(found) as c on c.value ->> 'now' = r.value ->> 'column'
    where a.object_type = 'rights' and a.object_name = 'public.user_profiles' and r.value ->> 'role' = 'anon'
    group by r.value ->> 'right'
  loop
    execute format('grant %s (%s) on table %s to anon', given.name, given.columns, old_name);
  end loop;
  for given in select r.* from profiles_internal.old_name_rights(found) as r loop
    execute format('grant %s on table %s to %s', given.rights, old_name, given.who);
  end loop;
  insert into profiles_internal.adopted (revision, object_type, object_name, definition)
  values ('0003_create_user_profiles', 'view', old_name, format('drop view if exists %s', old_name));
  return old_name;
end
$install_profiles_view$;

revoke all on function profiles_internal.install_profiles_view() from public, anon, authenticated, service_role;
