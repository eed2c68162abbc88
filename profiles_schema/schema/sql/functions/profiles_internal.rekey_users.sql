-- Rows of the application's table got other keys: their users stay who they are. A user's id cannot change where others
-- refer to it, so for uuid keys a row with the new id takes over everything that refers to the old one.
create or replace function profiles_internal.rekey_users(p_old text[], p_new text[], p_by_uuid boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rekey_users$
declare
  ids uuid[] := array(
    select (select k.user_id from profiles_internal.identity_links as k where k.external_id = o.key)
    from unnest(p_old) with ordinality as o (key, place)
    order by o.place
  );
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  reference record;
begin
  delete from profiles_internal.identity_links as k where k.external_id = any (p_old);
  -- Another user who still has a new key has lost the row, and the triggers missed it.
  perform profiles_internal.release_users(p_new);
  if not p_by_uuid then
    update public.user_profiles as p set external_id = null where p.user_id = any (ids) and p.external_id is not null;
  else
    for i in 1 .. cardinality(ids) loop
      continue when ids[i] is null;
      -- No profile for this row: it gets that of the old one.
      perform set_config('profiles_internal.gave_up', 'mute', true);
      insert into auth.users
      select (jsonb_populate_record(u, jsonb_build_object('id', p_new[i]))).* from auth.users as u where u.id = ids[i];
      perform set_config('profiles_internal.gave_up', gave_up, true);
      for reference in
        select c.conrelid::regclass as relation, a.attname
        from pg_constraint as c
        join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.confrelid = 'auth.users'::regclass and c.contype = 'f' and cardinality(c.conkey) = 1
      loop
        execute format('update %s set %2$I = $1 where %2$I = $2', reference.relation, reference.attname)
        using p_new[i]::uuid, ids[i];
      end loop;
      update public.user_profiles as p set id = profiles_internal.key_of(p_new[i]::uuid, p.id)
      where p.user_id = p_new[i]::uuid and p.id::text = ids[i]::text;
      delete from auth.users as u where u.id = ids[i];
      ids[i] := p_new[i]::uuid;
    end loop;
  end if;
  insert into profiles_internal.identity_links (external_id, user_id)
  select n.key, n.user_id from unnest(p_new, ids) as n (key, user_id) where n.user_id is not null;
  if not p_by_uuid then
    update public.user_profiles as p
    set external_id = k.external_id
    from profiles_internal.identity_links as k
    where k.external_id = any (p_new) and p.user_id = k.user_id and p.is_active;
  end if;
end
$rekey_users$;

revoke all on function profiles_internal.rekey_users(text[], text[], boolean) from public, anon, authenticated, service_role;
