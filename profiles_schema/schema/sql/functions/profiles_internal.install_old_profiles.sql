-- Where user_profiles was found with an outside id as its user_id: schema profiles_compat, with a view of the old shape that
-- statements written for that table read and write unchanged, once the search path leads there first. Returns the view's
-- name; null where none is needed. Can run again at any time; contract_traits does, before it drops the wide columns
-- (p_from_json), because a view hangs on the columns that it names.
--
-- The view is written by a trigger, whose body is made here for the columns that are there. It runs as its owner: a
-- role that may write the view needs no right on the objects behind it. INSERT creates a user; DELETE deletes the user.
-- No two statements lose each other's changes: the row of today is locked first, and only what a statement changes is set.
--
-- No role may create objects in the schema, not even its owner: CREATE TABLE IF NOT EXISTS of an old program looks only
-- there, and would create an empty table in front of the one that holds the rows.
create or replace function profiles_internal.install_old_profiles(p_from_json boolean default false)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_old_profiles$
declare
  found_as text;
  found jsonb;
  view_name text;
  outside_id text;
  shown text;
  taken text;
  stored text;
  given record;
  is_new boolean;
begin
  select a.data ->> 'found_as', a.data -> 'columns' into found_as, found
  from profiles_internal.adopted as a
  where a.object_type = 'table' and a.object_name = 'public.user_profiles'
  order by a.id desc limit 1;
  select c.value ->> 'name' into outside_id
  from jsonb_array_elements(found) as c
  where c.value ->> 'name' = 'user_id' and c.value ->> 'now' = 'external_id';
  if outside_id is null then
    return null;
  end if;
  view_name := 'profiles_compat.' || quote_ident((parse_ident(found_as))[2]);
  is_new := to_regclass(view_name) is null;

  if to_regnamespace('profiles_compat') is null then
    create schema profiles_compat;
    comment on schema profiles_compat is 'profiles-schema: user_profiles in the shape it had before';
  end if;
  execute format('grant create on schema profiles_compat to %I', current_user);

  select
    string_agg(format('%s as %I', c.reads, c.name), ', ' order by c.place),
    string_agg(format(
      E'\n  if tg_op = ''INSERT'' or row(new.%1$I)::record *<> row(old.%1$I)::record then\n    %2$s\n  end if;', c.name, c.writes
    ), '' order by c.place) filter (where c.writes is not null)
  into shown, taken
  from profiles_internal.old_profile_columns(p_from_json) as c;
  select string_agg(format('%1$I = kept.%1$I', h.holds), ', ' order by h.holds) into stored
  from (select distinct c.holds from profiles_internal.old_profile_columns(p_from_json) as c where c.writes is not null) as h;

  execute format('create or replace view %s as select %s from public.user_profiles as p', view_name, shown);
  for given in
    select c.name, c.default_value from profiles_internal.old_profile_columns(p_from_json) as c where c.default_value <> 'identity'
  loop
    execute format('alter view %s alter column %I set default %s', view_name, given.name, given.default_value);
  end loop;

  execute format(
$function$
create or replace function profiles_compat.write_user_profile()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $write_user_profile$
#variable_conflict use_variable
-- Written by profiles_internal.install_old_profiles, which says by which rules.
-- A plan that was made for a small table must not read all of it once it has grown: 1,500 rows in one statement took 120 s.
declare
  kept public.user_profiles;
  made uuid;
  broken text;
begin
  if tg_op = 'DELETE' then
    delete from auth.users as u using public.user_profiles as p where p.external_id = old.user_id and u.id = p.user_id;
    if not found then
      return null;
    end if;
    return old;
  end if;
  if new.user_id is null then
    raise exception 'null value in column "user_id" of relation "%1$s" violates not-null constraint'
      using errcode = 'not_null_violation', schema = 'profiles_compat', table = tg_table_name, column = 'user_id';
  end if;

  if tg_op = 'INSERT' then
    -- The lock that make_user takes, so that of two the second finds the first.
    perform pg_advisory_xact_lock(hashtextextended('profiles_internal.make_user ' || new.user_id, 0));
    if exists (select from public.user_profiles as p where p.external_id = new.user_id) then
      raise exception 'duplicate key value violates unique constraint "uq_user_profiles_external_id"'
        using errcode = 'unique_violation', schema = 'public', table = 'user_profiles', constraint = 'uq_user_profiles_external_id',
          hint = 'ON CONFLICT does not work on this view. Update first; insert what was not there.';
    end if;
    made := profiles_internal.make_user(null, null, new.user_id, null, '{}');
    select p.* into kept from public.user_profiles as p where p.user_id = made;
  else
    select p.* into kept from public.user_profiles as p where p.external_id = old.user_id for update;
    if not found then
      return null;
    end if;
  end if;
%2$s

  for attempt in 1 .. 3 loop
    begin
      update public.user_profiles as p set %3$s where p.user_id = kept.user_id;
      exit;
    exception when unique_violation then
      get stacked diagnostics broken = constraint_name;
      if broken is distinct from 'idx_user_profiles_username_lower' or attempt = 3 then
        raise;
      end if;
      -- Another transaction took the name meanwhile.
      kept.username := profiles_internal.fit_username(kept.username, kept.user_id);
    end;
  end loop;
  select v.* into new from %1$s as v where v.user_id = kept.external_id;
  return new;
end
$write_user_profile$
$function$,
    view_name, taken, stored
  );
  revoke all on function profiles_compat.write_user_profile() from public, anon, authenticated, service_role;

  if is_new then
    execute format(
      'create trigger write_user_profile instead of insert or update or delete on %s for each row execute function profiles_compat.write_user_profile()',
      view_name
    );
    execute format('comment on view %s is %L', view_name, 'profiles-schema: user_profiles in the shape it had before');
    execute format('revoke all on table %s from public, anon, authenticated, service_role', view_name);
    for given in select r.* from profiles_internal.old_name_rights(found) as r loop
      execute format('grant usage on schema profiles_compat to %s', given.who);
      execute format('grant %s on table %s to %s', given.rights, view_name, given.who);
    end loop;
  end if;
  execute format('revoke create on schema profiles_compat from %I', current_user);
  return view_name;
end
$install_old_profiles$;

revoke all on function profiles_internal.install_old_profiles(boolean) from public, anon, authenticated, service_role;
