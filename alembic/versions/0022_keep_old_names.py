"""Statements written for a table of another shape go on working, in a schema of their own.

Why: a table whose user_id was an outside id has changed its columns; the programs that use it need not change with it.
Locks: its own new view alone; user_profiles in ACCESS SHARE mode, like any reader.
Compatible with: any code; old programs need their search path changed before they write again.
Back: drops the view and its schema; stops where something of the application's own hangs on them.
"""

from alembic import op

revision = "0022_keep_old_names"
down_revision = "0021_backfill_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
do $only_where$
begin
  if not (exists (
    select from profiles_internal.adopted as a
    where a.object_type = 'table' and a.object_name = 'public.user_profiles'
      and a.data -> 'columns' @> '[{"name": "user_id", "now": "external_id"}]'
  )) then
    return;
  end if;
  execute $frozen$
-- A username for one profile from what an old statement wrote, by the rules of adoption (fit_usernames): one that keeps our
-- rule and is free stays; another is made by the rule of sign-up, with its choices where it is taken. The profile's own name
-- does not count as taken. Null stays null.
create or replace function profiles_internal.fit_username(p_username text, p_user_id uuid)
returns text
language sql
set search_path = pg_catalog, pg_temp
as $fit_username$
  select c.name
  from profiles_internal.profile_values(array[
    jsonb_build_object('id', p_user_id, 'email', split_part(p_username, '@', 1) || '@')
  ]) as v
  cross join lateral (values
    (1, case when p_username ~ '^[a-z0-9_.-]{3,32}$' then p_username else v.first_username end),
    (2, v.second_username), (3, v.third_username), (4, replace(gen_random_uuid()::text, '-', ''))
  ) as c (place, name)
  where p_username is not null
    and coalesce((select p.user_id from public.user_profiles as p where lower(p.username) = c.name), p_user_id) = p_user_id
  order by c.place
  limit 1
$fit_username$;

revoke all on function profiles_internal.fit_username(text, uuid) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- One group of traits with one path set to a value, or without that path for null. Missing parents are made; a parent that
-- is no object would be lost, and goes to profiles_internal.kept_json, as it does when the dual write meets one.
create or replace function profiles_internal.set_trait(
  p_user_id uuid,
  p_jsonb_column text,
  p_document jsonb,
  p_path text[],
  p_value jsonb
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $set_trait$
declare
  document jsonb := coalesce(p_document, '{}');
  parent jsonb := document -> p_path[1];
begin
  if p_value is null then
    if document #> p_path is not null then
      document := document #- p_path;
    end if;
    return case when p_document is null then null else document end;
  end if;
  if cardinality(p_path) = 2 and jsonb_typeof(parent) is distinct from 'object' then
    if parent is not null then
      insert into profiles_internal.kept_json (user_id, jsonb_column, path, value)
      values (p_user_id, p_jsonb_column, p_path[1], parent);
    end if;
    document := document || jsonb_build_object(p_path[1], '{}'::jsonb);
  end if;
  return jsonb_set(document, p_path, p_value);
end
$set_trait$;

revoke all on function profiles_internal.set_trait(uuid, text, jsonb, text[], jsonb) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The columns of user_profiles as it was found, in their order, for a view of that shape: "reads" is the SQL of the old
-- value over the row p of today, "writes" the statements that take new.<column> over into the row "kept" of today (null
-- where nothing may be written), and "holds" the column of today that then changes.
-- A trait is read from its wide column while that is there, and else from the JSON at its path; with p_from_json always.
-- Types go back the way adoption brought them. What the rules of today refuse is made to fit as adoption does.
create or replace function profiles_internal.old_profile_columns(p_from_json boolean default false)
returns table (place integer, name text, reads text, writes text, holds text, default_value text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $old_profile_columns$
  with found as (
    select c.value ->> 'name' as name, c.value ->> 'now' as now, c.value ->> 'type' as type, c.value ->> 'default' as default_value,
      (c.value ->> 'position')::integer as place
    from (
      select a.data -> 'columns' as columns
      from profiles_internal.adopted as a
      where a.object_type = 'table' and a.object_name = 'public.user_profiles'
      order by a.id desc limit 1
    ) as t
    cross join lateral jsonb_array_elements(t.columns) as c
  ),
  today as (
    select
      f.*, a.attname is not null as is_there, format_type(a.atttypid, a.atttypmod) as type_now, a.attnotnull as required,
      a.attgenerated <> '' or a.attidentity = 'a' as is_made, l.data_type, l.jsonb_column, string_to_array(l.path, '.') as path,
      l.column_name is not null and (p_from_json or a.attname is null or l.state in ('contracted', 'restoring')) as in_json,
      f.type in ('smallint', 'integer', 'bigint') as whole,
      f.type ~ '^(smallint|integer|bigint|real|double precision|numeric)' as number,
      format('p.%I', f.now) as value, format('new.%I', f.name) as given, format('kept.%I', f.now) as target
    from found as f
    left join pg_attribute as a
      on a.attrelid = to_regclass('public.user_profiles') and a.attname = f.now and a.attnum > 0 and not a.attisdropped
    left join profiles_internal.legacy_columns as l on l.table_name = 'user_profiles' and l.column_name = f.name
  ),
  rule as (
    select r.key as column_name, r.value as cases
    from (
      select a.data -> 'rules' as rules
      from profiles_internal.adopted as a
      where a.object_type = 'table' and a.object_name = 'public.user_profiles'
      order by a.id desc limit 1
    ) as t
    cross join lateral jsonb_each_text(t.rules) as r
  )
  select
    t.place, t.name,
    case
      when t.in_json then format('(%s)::%s',
        profiles_internal.trait_from_json(t.data_type, profiles_internal.trait_at(format('p.%I', t.jsonb_column), t.path)), t.type)
      when t.type = t.type_now or t.type ~ '^character' and t.type_now = 'text' then t.value
      when t.type_now = 'timestamp with time zone' and t.type = 'timestamp without time zone' then format('(%s at time zone ''UTC'')', t.value)
      when t.type_now = 'timestamp with time zone' and t.type = 'date' then format('(%s at time zone ''UTC'')::date', t.value)
      -- A number that no time can hold became an infinite one, and is still on record.
      when t.type_now = 'timestamp with time zone' and t.number then format(
        'case when isfinite(%1$s) then %2$s(extract(epoch from %1$s))::%3$s when %1$s is not null then ('
        'select (k.data ->> ''old'')::%3$s from profiles_internal.adopted as k where k.object_type = ''found value'''
        ' and k.object_name = %4$L and k.data ->> ''key'' = p.id::text order by k.id desc limit 1) end',
        t.value, case when t.whole then 'floor' else '' end, t.type, 'public.user_profiles.' || t.now)
      when t.type_now = 'boolean' and t.number then format('%s::integer::%s', t.value, t.type)
      else format('%s::text::%s', t.value, t.type)
    end,
    case
      when t.is_made and not t.in_json then null
      when t.in_json then format('kept.%1$I := profiles_internal.set_trait(kept.user_id, %1$L, kept.%1$I, %2$L, %3$s);',
        t.jsonb_column, t.path::text, profiles_internal.trait_to_json(t.data_type, t.given))
      when t.now = 'username' then format(
        'kept.username := case when tg_op = ''INSERT'' and %1$s is null then kept.username else profiles_internal.fit_username(%1$s, kept.user_id) end;',
        t.given)
      else
        format('%s := ', t.target)
        || format(
          case when t.required then 'coalesce(%1$s, %2$s);' else '%1$s;' end,
          case
            -- A view knows no lock: what another statement has added meanwhile is added to.
            when t.whole and t.type = t.type_now and t.now like '%\_count'
              then format('coalesce(case when tg_op = ''UPDATE'' then %1$s + (%2$s - old.%3$I) end, %2$s)', t.target, t.given, t.name)
            when t.type = t.type_now then t.given
            when t.type_now = 'timestamp with time zone' and t.type in ('timestamp without time zone', 'date')
              then format('%s::timestamp at time zone ''UTC''', t.given)
            when t.type_now = 'timestamp with time zone' and t.number then format(
              'case when %1$s > 9224318015999 then ''infinity'' when %1$s < -210866803200 then ''-infinity'''
              ' else to_timestamp(%1$s::double precision) end', t.given)
            when t.type_now = 'boolean' and t.number then format('%s <> 0', t.given)
            when t.type_now = 'jsonb' and t.type !~ '^(text|character)' then format('to_jsonb(%s)', t.given)
            else format('%s::text::%s', t.given, t.type_now)
          end,
          t.target
        )
        || case when r.cases is null then ''
          else format(' %1$s := (select case %2$s else %3$I end from (select %1$s as %3$I) as fitted);', t.target, r.cases, t.now) end
    end,
    case when t.in_json then t.jsonb_column else t.now end,
    t.default_value
  from today as t
  left join rule as r on r.column_name = t.now
  where t.is_there or t.in_json
  order by t.place
$old_profile_columns$;

revoke all on function profiles_internal.old_profile_columns(boolean) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
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
$frozen$;
  execute $frozen$
-- Drops what install_old_profiles made. Fails where something of the application's own hangs on the view, or stands in the
-- schema: that is not ours to drop.
create or replace function profiles_internal.remove_old_profiles()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $remove_old_profiles$
declare
  ours record;
begin
  for ours in
    select c.oid::regclass as name
    from pg_class as c
    join pg_trigger as t on t.tgrelid = c.oid and t.tgname = 'write_user_profile'
    where c.relnamespace = to_regnamespace('profiles_compat') and c.relkind = 'v'
  loop
    execute format('drop view %s', ours.name);
  end loop;
  drop function if exists profiles_compat.write_user_profile();
  if obj_description(to_regnamespace('profiles_compat'), 'pg_namespace') like 'profiles-schema:%' then
    drop schema profiles_compat;
  end if;
end
$remove_old_profiles$;

revoke all on function profiles_internal.remove_old_profiles() from public, anon, authenticated, service_role;
$frozen$;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $keep_old_names$
begin
  if to_regproc('profiles_internal.install_old_profiles') is not null then
    perform profiles_internal.install_old_profiles();
  end if;
end
$keep_old_names$;
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $forget_old_names$
begin
  if to_regproc('profiles_internal.remove_old_profiles') is not null then
    perform profiles_internal.remove_old_profiles();
  end if;
end
$forget_old_names$;

drop function if exists profiles_internal.remove_old_profiles();
drop function if exists profiles_internal.install_old_profiles(boolean);
drop function if exists profiles_internal.old_profile_columns(boolean);
drop function if exists profiles_internal.set_trait(uuid, text, jsonb, text[], jsonb);
drop function if exists profiles_internal.fit_username(text, uuid);
"""
    )
