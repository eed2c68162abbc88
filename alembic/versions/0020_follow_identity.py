"""An application's own table of users is followed, where one was chosen.

Why: not every application signs its users up in auth.users; then its own table leads, and auth.users follows.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for a foreign key; with -x identity that table in the same mode: writers wait for milliseconds, readers not at all.
Compatible with: any code; users that come before this commits are found by the next revision.
Back: drops the triggers, with ACCESS EXCLUSIVE on the table for milliseconds; users and profiles stay, and so does the choice.
"""

from alembic import op

revision = "0020_follow_identity"
down_revision = "0019_contract_traits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
create table if not exists profiles_internal.identity_links (
  external_id text not null,
  user_id uuid not null,
  constraint pk_identity_links primary key (external_id),
  constraint uq_identity_links_user_id unique (user_id),
  constraint fk_identity_links_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

comment on table profiles_internal.identity_links is 'Rows of the application''s own table of users, where one was chosen, and the users they became';
comment on column profiles_internal.identity_links.external_id is 'Key of the row, as text';
comment on column profiles_internal.identity_links.user_id is 'Whose row it is';

revoke all on table profiles_internal.identity_links from public, anon, authenticated, service_role;

-- The choice, for the functions that follow: they are here only where one was made. It stays when they go.
insert into profiles_internal.settings (key, value)
select 'identity', to_jsonb(format('%I.%I', (parse_ident(i.asked))[1], (parse_ident(i.asked))[2]))
from (select nullif(current_setting('profiles_schema.identity', true), '') as asked) as i
where i.asked is not null
on conflict (key) do nothing;
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if not (exists (select from profiles_internal.settings as s where s.key = 'identity')) then
    return;
  end if;
  execute $frozen$
-- Raises where -x identity=SCHEMA.TABLE names a table that cannot be followed; changes nothing. Without the option: nothing
-- to say. Its body also runs before the first revision, where none of our functions exists yet: so it calls none.
create or replace function profiles_internal.refuse_identity()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse_identity$
declare
  asked constant text := nullif(current_setting('profiles_schema.identity', true), '');
  unchanged constant text := 'Nothing was changed. ';
  parts text[];
  wanted text;
  chosen text;
  relation regclass;
  kind "char";
  key_columns integer;
  key_name text;
  key_type oid;
begin
  if asked is null then
    return;
  end if;
  begin
    parts := parse_ident(asked);
  exception when others then
    parts := null;
  end;
  if cardinality(parts) is distinct from 2 then
    raise exception '-x identity takes SCHEMA.TABLE, not %', asked
      using hint = unchanged || 'For example: -x identity=public.users';
  end if;
  wanted := format('%I.%I', parts[1], parts[2]);

  if to_regclass('profiles_internal.settings') is not null then
    execute 'select s.value #>> ''{}'' from profiles_internal.settings as s where s.key = ''identity''' into chosen;
    if chosen <> wanted then
      raise exception 'the users of this database come from % already, not from %', chosen, wanted
        using hint = unchanged || format('Leave the option away, or give: -x identity=%s', chosen);
    end if;
  end if;
  if to_regclass('auth.users') is not null and coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') not like 'profiles-schema:%' then
    raise exception 'auth.users belongs to an auth server here: it is the identity, and % cannot be', wanted
      using hint = unchanged || 'Run the upgrade without -x identity.';
  end if;

  relation := to_regclass(wanted);
  if relation is null then
    raise exception 'there is no table %', wanted
      using hint = unchanged || 'Create it first, or correct -x identity.';
  end if;
  if parts[1] in ('auth', 'profiles_internal') or wanted in (
    'public.user_profiles', 'public.user_progress', 'public.user_api_keys', 'public.user_provider_keys',
    'public.export_history', 'public.user_profile_audit_logs', 'public.sessions'
  ) then
    raise exception '% is a table of this package, not one of the application''s users', wanted
      using hint = unchanged || 'Name the application''s own table of users.';
  end if;
  select case when c.relispartition or c.relhassubclass then 'p' else c.relkind end into kind from pg_class as c where c.oid = relation;
  if kind <> 'r' or exists (select from pg_inherits as i where i.inhrelid = relation) then
    raise exception '% is no ordinary table: a view, or one with partitions or heirs', wanted
      using hint = unchanged || 'Users can be followed in an ordinary table only.';
  end if;
  select cardinality(k.conkey), a.attname, coalesce(nullif(t.typbasetype, 0), t.oid)
  into key_columns, key_name, key_type
  from pg_constraint as k
  join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
  join pg_type as t on t.oid = a.atttypid
  where k.conrelid = relation and k.contype = 'p';
  if key_columns is distinct from 1 then
    raise exception '% has no primary key of one column', wanted
      using hint = unchanged || format('Give it one, for example: alter table %s add primary key (id);', wanted);
  end if;
  if key_type <> all (array['uuid', 'int2', 'int4', 'int8', 'text', 'varchar']::regtype[]::oid[]) then
    raise exception 'the primary key %.% is of type %, which cannot be followed', wanted, key_name, format_type(key_type, null)
      using hint = unchanged || 'Types that can: uuid, smallint, integer, bigint, text, varchar.';
  end if;
  if not (has_table_privilege(relation, 'select') and has_table_privilege(relation, 'trigger')) then
    raise exception 'role % may not read % and put triggers on it', current_user, wanted
      using errcode = 'insufficient_privilege',
        hint = unchanged || format('An administrator runs: grant select, trigger on %s to %I;', wanted, current_user);
  end if;
  if row_security_active(relation) then
    raise exception 'role % does not see all rows of %: row level security hides them', current_user, wanted
      using errcode = 'insufficient_privilege',
        hint = unchanged || format('An administrator runs: alter role %I bypassrls;', current_user);
  end if;
end
$refuse_identity$;

revoke all on function profiles_internal.refuse_identity() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The application's own table of users, where one was chosen with -x identity and still exists: the table, its qualified
-- name, its key, the key's type, and whether that is uuid. A table that was renamed is known by our triggers.
create or replace function profiles_internal.identity_table()
returns table (relation regclass, table_name text, key_name text, key_type text, by_uuid boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $identity_table$
declare
  chosen constant text := (select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'identity');
begin
  if chosen is null then
    return;
  end if;
  return query
    select k.conrelid::regclass, k.conrelid::regclass::text, a.attname::text, format_type(a.atttypid, null), coalesce(nullif(t.typbasetype, 0), t.oid) = 'uuid'::regtype
    from pg_constraint as k
    join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
    join pg_type as t on t.oid = a.atttypid
    where k.contype = 'p' and cardinality(k.conkey) = 1
      and k.conrelid = coalesce(
        to_regclass(chosen),
        (select g.tgrelid from pg_trigger as g where g.tgfoid = to_regproc('profiles_internal.on_identity_changed') order by g.oid limit 1)
      );
end
$identity_table$;

revoke all on function profiles_internal.identity_table() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- A point in time, as an application may write it: a timestamp (without a zone: UTC), or seconds or milliseconds since 1970.
-- Zero, false and values that cannot be read are null.
create or replace function profiles_internal.read_time(p_value jsonb)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $read_time$
declare
  written constant text := p_value #>> '{}';
  seconds numeric;
begin
  if jsonb_typeof(p_value) = 'number' or written ~ '^[0-9]{9,16}$' then
    seconds := written::numeric;
    seconds := case when seconds > 100000000000 then seconds / 1000 else seconds end;
    return case when seconds between 1 and 100000000000 then to_timestamp(seconds) end;
  elsif written ~ '^[0-9]{4,6}-[0-9]{2}-[0-9]{2}' then
    return written::timestamptz;
  end if;
  return null;
exception when data_exception then
  return null;
end
$read_time$;

revoke all on function profiles_internal.read_time(jsonb) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- What rows of an application's own table of users say: one row per row, in their order. The rule stands here alone.
--
-- A row comes as JSON and its columns are known by name, so that one which this table does not have reads as null, and the
-- application may add, drop and retype columns as it likes. Nothing but the key can fail, and nothing decides authority.
-- Who is soft-deleted leaves nothing personal.
create or replace function profiles_internal.identity_users(p_rows jsonb[], p_key text)
returns table (
  place integer,
  external_id text,
  source jsonb,
  email text,
  phone text,
  email_confirmed_at timestamptz,
  last_sign_in_at timestamptz,
  created_at timestamptz,
  deleted_at timestamptz,
  user_metadata jsonb,
  app_metadata jsonb
)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $identity_users$
declare
  person jsonb;
begin
  place := 0;
  foreach source in array p_rows loop
    place := place + 1;
    external_id := source ->> p_key;
    if external_id is null then
      raise exception 'a user without a key' using errcode = 'not_null_violation', column = p_key;
    end if;
    created_at := profiles_internal.read_time(coalesce(source -> 'created_at', source -> 'date_joined'));
    deleted_at := case
      when source ->> 'deleted_at' is null or source ->> 'deleted_at' in ('0', 'false', '') then null
      else coalesce(profiles_internal.read_time(source -> 'deleted_at'), created_at, to_timestamp(0))
    end;
    last_sign_in_at := profiles_internal.read_time(
      coalesce(source -> 'last_sign_in_at', source -> 'last_login_at', source -> 'last_login')
    );
    if deleted_at is not null then
      email := null;
      phone := null;
      email_confirmed_at := null;
      user_metadata := '{}';
      app_metadata := '{"provider": "identity"}';
      return next;
      continue;
    end if;

    email := nullif(btrim(source ->> 'email'), '');
    phone := nullif(btrim(coalesce(source ->> 'phone', source ->> 'phone_number')), '');
    email_confirmed_at := coalesce(
      profiles_internal.read_time(coalesce(source -> 'email_confirmed_at', source -> 'email_verified_at')),
      profiles_internal.read_time(source -> 'email_verified'),
      case when source -> 'email_verified' = 'true' then coalesce(created_at, to_timestamp(0)) end
    );
    person := source;
    if jsonb_typeof(source -> 'metadata') = 'object' then
      person := (source -> 'metadata') || jsonb_strip_nulls(source - 'metadata');
    end if;
    user_metadata := jsonb_strip_nulls(jsonb_build_object(
      'full_name', coalesce(person ->> 'full_name', person ->> 'display_name', person ->> 'name'),
      'first_name', person ->> 'first_name',
      'last_name', person ->> 'last_name',
      'user_name', source ->> 'username',
      'avatar_url', coalesce(person ->> 'avatar_url', person ->> 'picture'),
      'timezone', person ->> 'timezone',
      'language', coalesce(person ->> 'language', person ->> 'locale')
    ));
    app_metadata := jsonb_strip_nulls(
      jsonb_build_object('provider', 'identity', 'identity_username', nullif(btrim(source ->> 'username'), ''))
    );
    return next;
  end loop;
end
$identity_users$;

revoke all on function profiles_internal.identity_users(jsonb[], text) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Rows of the application's table of users, compared with our users: for each row the user it is (null where there is none yet),
-- what that user's row is to hold, and whether it differs from what it holds. A column that the application's table does
-- not have is left as it is. Names that are no longer sent stay, as at any other provider.
create or replace function profiles_internal.identity_wanted(p_rows jsonb[], p_key text, p_by_uuid boolean)
returns table (
  place integer,
  external_id text,
  user_id uuid,
  email text,
  phone text,
  email_confirmed_at timestamptz,
  last_sign_in_at timestamptz,
  created_at timestamptz,
  deleted_at timestamptz,
  user_metadata jsonb,
  app_metadata jsonb,
  differs boolean
)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $identity_wanted$
begin
  return query
    select
      v.place, v.external_id, u.id, w.email, w.phone, w.email_confirmed_at, w.last_sign_in_at, w.created_at, v.deleted_at,
      w.user_metadata, w.app_metadata,
      u.id is null
        or (u.email, u.phone, u.email_confirmed_at, u.last_sign_in_at, u.created_at, u.deleted_at, u.raw_user_meta_data, u.raw_app_meta_data)
          is distinct from
          (w.email, w.phone, w.email_confirmed_at, w.last_sign_in_at, w.created_at, v.deleted_at, w.user_metadata, w.app_metadata)
        or (not p_by_uuid and (
          select 1 from public.user_profiles as p
          where p.user_id = u.id and p.is_active and p.external_id is distinct from v.external_id
        ) is not null)
    from profiles_internal.identity_users(p_rows, p_key) as v
    left join profiles_internal.identity_links as k on k.external_id = v.external_id
    left join auth.users as u on u.id = k.user_id
    cross join lateral (
      select
        case when v.source ? 'email' or v.deleted_at is not null then v.email else u.email end as email,
        case when v.source ?| array['phone', 'phone_number'] or v.deleted_at is not null then v.phone else u.phone end as phone,
        case when v.source ?| array['email_confirmed_at', 'email_verified_at', 'email_verified'] or v.deleted_at is not null
          then v.email_confirmed_at else u.email_confirmed_at end as email_confirmed_at,
        coalesce(v.last_sign_in_at, u.last_sign_in_at) as last_sign_in_at,
        coalesce(v.created_at, u.created_at) as created_at,
        case when v.deleted_at is not null then v.user_metadata
          else coalesce(u.raw_user_meta_data, '{}') || v.user_metadata end as user_metadata,
        case when v.deleted_at is not null then v.app_metadata
          else (coalesce(u.raw_app_meta_data, '{}') - 'identity_username') || v.app_metadata end as app_metadata
    ) as w;
end
$identity_wanted$;

revoke all on function profiles_internal.identity_wanted(jsonb[], text, boolean) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Makes our users be as rows of the application's table say, and returns how many were made or changed. Sign-up and sign-in
-- triggers of auth.users do the rest. The key of a row and its user are a row in identity_links: a uuid is the user's id,
-- any other key gets a new one and is the profile's external_id.
-- A user who already has this external_id (create_user) or this uuid is adopted unchanged.
-- Errors are the caller's business.
create or replace function profiles_internal.take_users(p_rows jsonb[], p_key text, p_by_uuid boolean)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $take_users$
declare
  made integer;
  changed integer;
begin
  if not p_by_uuid then
    insert into profiles_internal.identity_links (external_id, user_id)
    select p.external_id, p.user_id
    from unnest(p_rows) as r (source)
    join public.user_profiles as p on p.external_id = r.source ->> p_key
    where (select 1 from profiles_internal.identity_links as k where k.external_id = p.external_id) is null
    on conflict do nothing;
  end if;

  with person as materialized (
    select v.*, case when p_by_uuid then v.external_id::uuid else gen_random_uuid() end as user_id
    from profiles_internal.identity_users(p_rows, p_key) as v
    where (select 1 from profiles_internal.identity_links as k where k.external_id = v.external_id) is null
  ),
  mapped as (
    insert into profiles_internal.identity_links (external_id, user_id)
    select p.external_id, p.user_id from person as p order by p.external_id
    on conflict do nothing
    returning identity_links.user_id
  )
  insert into auth.users (
    id, email, phone, email_confirmed_at, last_sign_in_at, created_at, deleted_at, raw_user_meta_data, raw_app_meta_data
  )
  select
    p.user_id, p.email, p.phone, p.email_confirmed_at, p.last_sign_in_at, coalesce(p.created_at, now()), p.deleted_at,
    p.user_metadata, p.app_metadata
  from person as p
  join mapped as m on m.user_id = p.user_id
  on conflict (id) do nothing;
  get diagnostics made = row_count;
  if made = cardinality(p_rows) then
    return made;
  end if;

  update auth.users as u
  set
    email = w.email, phone = w.phone, email_confirmed_at = w.email_confirmed_at, last_sign_in_at = w.last_sign_in_at,
    created_at = w.created_at, deleted_at = w.deleted_at, raw_user_meta_data = w.user_metadata,
    raw_app_meta_data = w.app_metadata, updated_at = now()
  from profiles_internal.identity_wanted(p_rows, p_key, p_by_uuid) as w
  where u.id = w.user_id and w.differs;
  get diagnostics changed = row_count;
  if not p_by_uuid then
    update public.user_profiles as p
    set external_id = k.external_id
    from profiles_internal.identity_links as k
    where k.external_id = any (array(select r.source ->> p_key from unnest(p_rows) as r (source)))
      and p.user_id = k.user_id and p.is_active and p.external_id is distinct from k.external_id;
  end if;
  return made + changed;
end
$take_users$;

revoke all on function profiles_internal.take_users(jsonb[], text, boolean) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Users whose rows in the application's table are gone go with their profiles; returns how many.
create or replace function profiles_internal.release_users(p_keys text[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $release_users$
declare
  released integer;
begin
  delete from auth.users as u
  where u.id = any (array(select k.user_id from profiles_internal.identity_links as k where k.external_id = any (p_keys)));
  get diagnostics released = row_count;
  return released;
end
$release_users$;

revoke all on function profiles_internal.release_users(text[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
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
$frozen$;
  execute $frozen$
-- Follows one event in the application's table of users, for some rows: their keys before it and the rows after it, place by
-- place. Errors are the caller's business.
create or replace function profiles_internal.apply_identity(p_event text, p_old text[], p_new jsonb[], p_key text, p_by_uuid boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $apply_identity$
declare
  old_keys text[];
  new_keys text[];
begin
  if p_event = 'delete' then
    perform profiles_internal.release_users(p_old);
    return;
  elsif p_event = 'insert' then
    -- A known key belonged to another user, whose deletion the triggers missed.
    perform profiles_internal.release_users(array(select n.source ->> p_key from unnest(p_new) as n (source)));
  else
    select array_agg(c.old_key), array_agg(c.new_key)
    into old_keys, new_keys
    from (select o.key as old_key, o.source ->> p_key as new_key from unnest(p_old, p_new) as o (key, source)) as c
    where c.old_key <> c.new_key;
    if old_keys is not null then
      perform profiles_internal.rekey_users(old_keys, new_keys, p_by_uuid);
    end if;
  end if;
  perform profiles_internal.take_users(p_new, p_key, p_by_uuid);
end
$apply_identity$;

revoke all on function profiles_internal.apply_identity(text, text[], jsonb[], text, boolean) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Follows one event in the application's table of users, and never raises: what fails is tried row by row, and recorded.
-- A lock that cannot be had, or a cancel, ends it: the rest of this transaction no longer tries (`profiles_internal.gave_up`).
-- On record is how many rows of which event, never a key or a value; `profiles-schema health` finds the users, and
-- `profiles-schema backfill` repairs them.
create or replace function profiles_internal.follow_identity(p_event text, p_old text[], p_new jsonb[], p_key text, p_by_uuid boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow_identity$
declare
  giving_up constant text[] := array['55P03', '40P01', '40001', '57014'];
  row_count constant integer := coalesce(cardinality(p_new), cardinality(p_old));
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  if gave_up = '' then
    begin
      perform profiles_internal.apply_identity(p_event, p_old, p_new, p_key, p_by_uuid);
      return;
    exception when query_canceled or assert_failure or others then
      get stacked diagnostics
        error_code = returned_sqlstate, failed_table = table_name,
        failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
    end;
  end if;

  begin
    if gave_up <> '' then
      if gave_up = 'yes' then
        perform profiles_internal.record_events(
          array[null::uuid], 'skipped', 'trigger', '55P03', 'an earlier statement of this transaction waited for a lock and did not get it',
          jsonb_build_object('identity', p_event, 'rows', row_count)
        );
      end if;
    elsif error_code = any (giving_up) or row_count = 1 then
      if error_code = any (giving_up) then
        perform set_config('profiles_internal.gave_up', 'yes', true);
      end if;
      perform profiles_internal.record_events(
        array[null::uuid], 'failed', 'trigger', error_code,
        profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context),
        jsonb_build_object('identity', p_event, 'rows', row_count)
      );
    else
      for i in 1 .. row_count loop
        perform profiles_internal.follow_identity(p_event, p_old[i:i], p_new[i:i], p_key, p_by_uuid);
        if i < row_count and coalesce(current_setting('profiles_internal.gave_up', true), '') <> '' then
          perform profiles_internal.follow_identity(p_event, p_old[i + 1:], p_new[i + 1:], p_key, p_by_uuid);
          exit;
        end if;
      end loop;
    end if;
  exception when query_canceled or assert_failure or others then
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: users were not followed (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
end
$follow_identity$;

revoke all on function profiles_internal.follow_identity(text, text[], jsonb[], text, boolean) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- After rows came, changed or went in the application's own table of users (-x identity): auth.users follows, and by its
-- triggers the profiles.
--
-- Guarantees: the application's statement commits, even if this fails. A failure is recorded; health finds it, and
-- backfill repairs it. Never waits longer for a lock than 250 ms at a time.
-- Definer: a role that may write that table needs no right on our objects. It reads only what the statement wrote, so row
-- level security there does not affect it.
-- Statement-level, a thousand rows at a time. No column is named in the trigger's definition: the application's own
-- migrations are not blocked. The arguments are the name of the key and whether it is a uuid.
-- Old and new rows of an update come in the same order, which is how a changed key is told.
create or replace function profiles_internal.on_identity_changed()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_identity_changed$
declare
  batch_rows constant integer := 1000;
  read_columns constant text[] := array[
    'email', 'phone', 'phone_number', 'email_confirmed_at', 'email_verified_at', 'email_verified', 'last_sign_in_at',
    'last_login_at', 'last_login', 'created_at', 'date_joined', 'deleted_at', 'username', 'full_name', 'display_name', 'name',
    'first_name', 'last_name', 'avatar_url', 'picture', 'timezone', 'language', 'locale', 'metadata'
  ];
  key_name constant text := tg_argv[0];
  by_uuid constant boolean := tg_argv[1] = 'uuid';
  batch record;
  error_code text;
begin
  begin
    if tg_op = 'INSERT' then
      for batch in
        select array_agg(n.source) as sources
        from (select to_jsonb(r) as source, (row_number() over () - 1) / batch_rows as number from new_rows as r) as n
        group by n.number
        order by n.number
      loop
        perform profiles_internal.follow_identity('insert', null, batch.sources, key_name, by_uuid);
      end loop;
    elsif tg_op = 'UPDATE' then
      for batch in
        select array_agg(o.source ->> key_name order by o.place) as keys, array_agg(n.source order by o.place) as sources
        from (select to_jsonb(r) as source, row_number() over () as place from old_rows as r) as o
        join (select to_jsonb(r) as source, row_number() over () as place from new_rows as r) as n on n.place = o.place
        where o.source -> key_name <> n.source -> key_name
          or exists (select from unnest(read_columns) as c (name) where o.source -> c.name is distinct from n.source -> c.name)
          or (select 1 from profiles_internal.identity_links as k where k.external_id = n.source ->> key_name) is null
        group by (o.place - 1) / batch_rows
        order by min(o.place)
      loop
        perform profiles_internal.follow_identity('update', batch.keys, batch.sources, key_name, by_uuid);
      end loop;
    elsif tg_op = 'DELETE' then
      for batch in
        select array_agg(o.key) as keys
        from (select to_jsonb(r) ->> key_name as key, (row_number() over () - 1) / batch_rows as number from old_rows as r) as o
        group by o.number
        order by o.number
      loop
        perform profiles_internal.follow_identity('delete', batch.keys, null, key_name, by_uuid);
      end loop;
    else
      for batch in
        select array_agg(k.external_id) as keys
        from (select i.external_id, (row_number() over () - 1) / batch_rows as number from profiles_internal.identity_links as i) as k
        group by k.number
        order by k.number
      loop
        perform profiles_internal.follow_identity('delete', batch.keys, null, key_name, by_uuid);
      end loop;
    end if;
    return null;
  exception when query_canceled or assert_failure or others then
    error_code := sqlstate;
  end;

  begin
    perform profiles_internal.record_events(
      array[null::uuid], 'failed', 'trigger', error_code, 'the table of users', jsonb_build_object('identity', lower(tg_op))
    );
  exception when query_canceled or assert_failure or others then
    raise warning 'profiles-schema: users were not followed (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
  return null;
end
$on_identity_changed$;

revoke all on function profiles_internal.on_identity_changed() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Before any insert of a profile for a user from the application's own table: the profile gets the key of that row.
-- The trigger is on user_profiles only if such a table was chosen and its keys are no uuids.
create or replace function profiles_internal.fill_external_id()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fill_external_id$
begin
  new.external_id := (select k.external_id from profiles_internal.identity_links as k where k.user_id = new.user_id);
  return new;
end
$fill_external_id$;

revoke all on function profiles_internal.fill_external_id() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The triggers that following the application's own table takes: where, name, the statement that makes each, and its state:
-- INSTALLED, MISSING, CHANGED or DISABLED. No rows where no such table was chosen, or it is gone.
create or replace function profiles_internal.identity_triggers()
returns table (relation regclass, table_name text, trigger_name text, definition text, state text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $identity_triggers$
  select
    w.relation, w.relation::text, w.trigger_name, w.definition,
    case
      when t.oid is null then 'MISSING'
      when t.tgenabled not in ('O', 'A') then 'DISABLED'
      when pg_get_triggerdef(t.oid) <> w.definition then 'CHANGED'
      else 'INSTALLED'
    end
  from profiles_internal.identity_table() as i
  cross join lateral (
    select
      i.relation, 'profiles_identity_' || e.happened,
      format(
        'CREATE TRIGGER %s AFTER %s ON %s %sFOR EACH STATEMENT EXECUTE FUNCTION profiles_internal.on_identity_changed(%L, %L)',
        'profiles_identity_' || e.happened, e.event, i.relation, e.referencing, i.key_name,
        case when i.by_uuid then 'uuid' else 'other' end
      )
    from (values
      ('inserted', 'INSERT', 'REFERENCING NEW TABLE AS new_rows '),
      ('updated', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '),
      ('deleted', 'DELETE', 'REFERENCING OLD TABLE AS old_rows '),
      ('truncated', 'TRUNCATE', '')
    ) as e (happened, event, referencing)
    union all
    select
      to_regclass('public.user_profiles'), 'fill_external_id',
      'CREATE TRIGGER fill_external_id BEFORE INSERT ON public.user_profiles FOR EACH ROW WHEN ((new.external_id IS NULL))'
        ' EXECUTE FUNCTION profiles_internal.fill_external_id()'
    where not i.by_uuid
  ) as w (relation, trigger_name, definition)
  left join pg_trigger as t on t.tgrelid = w.relation and t.tgname = w.trigger_name and not t.tgisinternal
$identity_triggers$;

revoke all on function profiles_internal.identity_triggers() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Drops the triggers on the application's own table of users, and the one on user_profiles that belongs to them.
create or replace function profiles_internal.remove_identity()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $remove_identity$
declare
  ours record;
begin
  for ours in
    select t.tgname, t.tgrelid::regclass as relation
    from pg_trigger as t
    where t.tgfoid in ('profiles_internal.on_identity_changed'::regproc, 'profiles_internal.fill_external_id'::regproc)
    order by t.tgrelid, t.tgname
  loop
    execute format('drop trigger %I on %s', ours.tgname, ours.relation);
  end loop;
end
$remove_identity$;

revoke all on function profiles_internal.remove_identity() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Puts the triggers of identity_triggers in place where they are not, and takes them from any other table (one that was
-- exchanged for a new one, say). A table that was renamed is remembered by its new name. Returns the names of those it put in
-- place. Locks the application's table of users in
-- SHARE ROW EXCLUSIVE mode for milliseconds, only if there is something to do.
create or replace function profiles_internal.install_identity()
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_identity$
declare
  wanted record;
  installed text[] := '{}';
begin
  for wanted in
    select t.tgname as trigger_name, t.tgrelid::regclass as relation
    from pg_trigger as t
    where t.tgfoid in ('profiles_internal.on_identity_changed'::regproc, 'profiles_internal.fill_external_id'::regproc)
      and exists (select from profiles_internal.identity_triggers())
      and not exists (
        select from profiles_internal.identity_triggers() as i where i.relation = t.tgrelid and i.trigger_name = t.tgname
      )
  loop
    execute format('drop trigger %I on %s', wanted.trigger_name, wanted.relation);
  end loop;
  for wanted in select i.* from profiles_internal.identity_triggers() as i where i.state <> 'INSTALLED' loop
    execute replace(wanted.definition, 'CREATE TRIGGER', 'create or replace trigger');
    if wanted.state = 'DISABLED' then
      execute format('alter table %s enable trigger %I', wanted.relation, wanted.trigger_name);
    end if;
    installed := installed || format('%s.%s', wanted.relation, wanted.trigger_name);
  end loop;
  update profiles_internal.settings as s
  set value = to_jsonb(i.table_name), updated_at = now()
  from profiles_internal.identity_table() as i
  where s.key = 'identity' and s.value <> to_jsonb(i.table_name);
  return installed;
end
$install_identity$;

revoke all on function profiles_internal.install_identity() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Follows the table that was chosen with -x identity (setting "identity"), if it can be. Returns its name.
create or replace function profiles_internal.choose_identity()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $choose_identity$
begin
  perform profiles_internal.refuse_identity();
  perform profiles_internal.install_identity();
  return (select i.table_name from profiles_internal.identity_table() as i);
end
$choose_identity$;

revoke all on function profiles_internal.choose_identity() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The keys behind p_after of rows in the application's table whose user is missing or differs: at most p_most of them, from
-- the next p_window rows; how far the look reached (null: to the end), and how many rows it saw. Without a chosen table: nothing.
create or replace function profiles_internal.identity_window(
  p_after text,
  p_most integer,
  p_window integer,
  out keys text[],
  out reached text,
  out looked_at integer
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $identity_window$
declare
  identity record;
  sources jsonb[];
begin
  keys := '{}';
  looked_at := 0;
  select i.* into identity from profiles_internal.identity_table() as i;
  if not found then
    return;
  end if;
  if row_security_active(identity.relation) then
    raise exception 'role % does not see all rows of %: row level security hides them', current_user, identity.relation
      using errcode = 'insufficient_privilege';
  end if;
  execute format(
    'select array(select to_jsonb(t) from %s as t where $1 is null or t.%2$I > $1::%s order by t.%2$I limit $2)',
    identity.relation, identity.key_name, identity.key_type
  )
  into sources
  using p_after, p_window;
  looked_at := cardinality(sources);
  keys := array(
    select w.external_id
    from profiles_internal.identity_wanted(sources, identity.key_name, identity.by_uuid) as w
    where w.differs
    order by w.place
    limit p_most
  );
  if cardinality(keys) = p_most then
    reached := keys[p_most];
  elsif looked_at = p_window then
    reached := sources[looked_at] ->> identity.key_name;
  end if;
end
$identity_window$;

revoke all on function profiles_internal.identity_window(text, integer, integer) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Makes our users be as the rows of the application's table with these keys say; returns how many were made or changed.
create or replace function profiles_internal.take_identities(p_keys text[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $take_identities$
declare
  identity record;
  sources jsonb[];
begin
  select i.* into identity from profiles_internal.identity_table() as i;
  execute format(
    'select array(select to_jsonb(t) from %s as t where t.%2$I = any ($1::%s[]) order by t.%2$I)',
    identity.relation, identity.key_name, identity.key_type
  )
  into sources
  using p_keys;
  return profiles_internal.take_users(sources, identity.key_name, identity.by_uuid);
end
$take_identities$;

revoke all on function profiles_internal.take_identities(text[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Keys of users whose row in the application's table is gone, among the next p_window known keys behind p_after; how far the
-- look reached (null: to the end), and how many it saw. Without a chosen table, or where that is gone: nothing.
create or replace function profiles_internal.gone_identities(
  p_after text,
  p_window integer,
  out keys text[],
  out reached text,
  out looked_at integer
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $gone_identities$
declare
  identity record;
  known text[];
begin
  keys := '{}';
  looked_at := 0;
  select i.* into identity from profiles_internal.identity_table() as i;
  if not found then
    return;
  end if;
  -- Who does not see a row must not take it for gone.
  if row_security_active(identity.relation) then
    raise exception 'role % does not see all rows of %: row level security hides them', current_user, identity.relation
      using errcode = 'insufficient_privilege';
  end if;
  known := array(
    select k.external_id
    from profiles_internal.identity_links as k
    where p_after is null or k.external_id > p_after
    order by k.external_id
    limit p_window
  );
  looked_at := cardinality(known);
  execute format(
    'select array(select k.key from unnest($1) as k (key) where (select 1 from %s as t where t.%I = k.key::%s) is null)',
    identity.relation, identity.key_name, identity.key_type
  )
  into keys
  using known;
  if looked_at = p_window then
    reached := known[looked_at];
  end if;
end
$gone_identities$;

revoke all on function profiles_internal.gone_identities(text, integer) from public, anon, authenticated, service_role;
$frozen$;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $choose$
declare
  chosen text;
begin
  if to_regproc('profiles_internal.choose_identity') is null then
    return;
  end if;
  chosen := profiles_internal.choose_identity();
  if chosen is not null then
    raise notice 'users come from % from here on', chosen;
  end if;
end
$choose$;
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $release$
begin
  if to_regproc('profiles_internal.remove_identity') is not null then
    perform profiles_internal.remove_identity();
  end if;
end
$release$;
"""
    )
    op.execute(
        r"""
drop function if exists profiles_internal.gone_identities(text, integer);
drop function if exists profiles_internal.take_identities(text[]);
drop function if exists profiles_internal.identity_window(text, integer, integer);
drop function if exists profiles_internal.choose_identity();
drop function if exists profiles_internal.install_identity();
drop function if exists profiles_internal.remove_identity();
drop function if exists profiles_internal.identity_triggers();
drop function if exists profiles_internal.fill_external_id();
drop function if exists profiles_internal.on_identity_changed();
drop function if exists profiles_internal.follow_identity(text, text[], jsonb[], text, boolean);
drop function if exists profiles_internal.apply_identity(text, text[], jsonb[], text, boolean);
drop function if exists profiles_internal.rekey_users(text[], text[], boolean);
drop function if exists profiles_internal.release_users(text[]);
drop function if exists profiles_internal.take_users(jsonb[], text, boolean);
drop function if exists profiles_internal.identity_wanted(jsonb[], text, boolean);
drop function if exists profiles_internal.identity_users(jsonb[], text);
drop function if exists profiles_internal.read_time(jsonb);
drop function if exists profiles_internal.identity_table();
drop function if exists profiles_internal.refuse_identity();
drop table profiles_internal.identity_links;
"""
    )
