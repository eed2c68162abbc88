"""Triggers on our own tables: ids, time zones, updated_at, audit, export states, roll-up.

Why: rules that no road to the table may go round.
Locks: our own tables in SHARE ROW EXCLUSIVE mode for milliseconds.
Compatible with: any code.
Back: drops them.
"""

from alembic import op

revision = "0013_create_table_triggers"
down_revision = "0012_create_policies"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
-- Triggers that were here before and count progress are set aside in the transaction that brings ours.
select profiles_internal.adopt('0013_create_table_triggers');
"""
    )
    op.execute(
        r"""
-- Before a profile is inserted with an explicit NULL id: some object mappers send one for "not set", which a column
-- default never sees, and an id that came as uuid may have no default. It becomes the user's, as at sign-up.
create or replace function profiles_internal.fill_missing_profile_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $fill_missing_profile_id$
begin
  new.id := coalesce(new.user_id, gen_random_uuid());
  return new;
end
$fill_missing_profile_id$;

revoke all on function profiles_internal.fill_missing_profile_id() from public, anon, authenticated, service_role;

create or replace trigger fill_missing_profile_id
  before insert on public.user_profiles
  for each row
  when (new.id is null)
  execute function profiles_internal.fill_missing_profile_id();
"""
    )
    op.execute(
        r"""
-- Before a profile gets a time zone: it must be a name in pg_timezone_names. A CHECK cannot ask that, and
-- AT TIME ZONE accepts inventions such as 'FOO+5'.
-- The view walks a directory of a thousand files, so the names are in a table of this package; the view is asked only for
-- a name that the table does not know (the server's zone data may be newer).
-- Definer: a role that updates the profile has no rights in profiles_internal.
create or replace function profiles_internal.require_known_timezone()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $require_known_timezone$
begin
  if tg_op = 'UPDATE' and new.timezone is not distinct from old.timezone then
    return new;
  end if;
  if (select 1 from profiles_internal.timezones as z where z.name = new.timezone) is null
    and not exists (select from pg_timezone_names as z where z.name = new.timezone)
  then
    raise exception 'time zone "%" is not known', left(new.timezone, 100)
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = 'timezone',
        hint = 'Use a name from pg_timezone_names, such as Europe/Berlin.';
  end if;
  return new;
end
$require_known_timezone$;

revoke all on function profiles_internal.require_known_timezone() from public, anon, authenticated, service_role;

create or replace trigger require_known_timezone
  before insert or update on public.user_profiles
  for each row
  when (new.timezone <> 'UTC')
  execute function profiles_internal.require_known_timezone();
"""
    )
    op.execute(
        r"""
-- Before a person takes another username: not one that suggests authority. The list is that of sign-up
-- (profile_values makes another name of a reserved one); service_role may hand such names out.
-- Definer: a person may not call profile_values.
create or replace function profiles_internal.refuse_reserved_username()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $refuse_reserved_username$
declare
  acting_role constant text := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  -- A role of the application may be a member of authenticated, and act without SET ROLE.
  if (
    acting_role in ('anon', 'authenticated')
    or pg_has_role(acting_role, 'authenticated', 'member')
      and not pg_has_role(acting_role, 'service_role', 'member') and not pg_has_role(acting_role, current_user, 'member')
  ) and new.username ~ '^[a-z0-9_.-]{3,32}$' and (
    select v.first_username
    from profiles_internal.profile_values(array[jsonb_build_object('id', new.user_id, 'email', new.username || '@')]) as v
  ) <> new.username then
    raise exception 'the username "%" is reserved', new.username
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = 'username';
  end if;
  return new;
end
$refuse_reserved_username$;

revoke all on function profiles_internal.refuse_reserved_username() from public, anon, authenticated, service_role;

create or replace trigger refuse_reserved_username
  before update on public.user_profiles
  for each row
  when (new.username is distinct from old.username)
  execute function profiles_internal.refuse_reserved_username();
"""
    )
    op.execute(
        r"""
-- After a profile has taken another username: the old one is held for its former owner, as long as the setting
-- username_hold_days says (90), and get_public_profile answers it with the new one. Nobody else can take it meanwhile, not even
-- service_role: 23505, as for a name that is taken.
-- After the change and not before: whoever had to wait for the former owner's commit sees here what is held since.
-- A user holds three names at most, the latest. A name that the profile had in the transaction that made it is not held, nor
-- that of an account that ends.
-- Definer: users have no right on the table.
create or replace function profiles_internal.hold_username()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $hold_username$
declare
  days integer;
begin
  if exists (
    select from profiles_internal.held_usernames as h
    where h.username = lower(new.username) and h.user_id <> new.user_id and h.held_until > now()
  ) then
    raise exception 'the username "%" is held for its former owner', new.username
      using errcode = 'unique_violation', schema = 'public', table = 'user_profiles', column = 'username';
  end if;
  if tg_op = 'INSERT' then
    return null;
  end if;
  delete from profiles_internal.held_usernames as h where h.username = lower(new.username);
  if not new.is_active or old.created_at = now() or lower(old.username) = lower(new.username) then
    return null;
  end if;
  days := coalesce(
    (
      select s.value::text::integer from profiles_internal.settings as s
      where s.key = 'username_hold_days' and s.value::text ~ '^[0-9]{1,4}$'
    ), 90
  );
  if days > 0 then
    insert into profiles_internal.held_usernames as h (username, user_id, held_until)
    values (lower(old.username), old.user_id, clock_timestamp() + make_interval(days => days))
    on conflict (username) do update set user_id = excluded.user_id, held_until = excluded.held_until;
    delete from profiles_internal.held_usernames as h
    where h.username in (
      select o.username from profiles_internal.held_usernames as o
      where o.user_id = new.user_id order by o.held_until desc offset 3
    );
  end if;
  return null;
end
$hold_username$;

revoke all on function profiles_internal.hold_username() from public, anon, authenticated, service_role;

create or replace trigger hold_username
  after update on public.user_profiles
  for each row
  when (new.username is distinct from old.username)
  execute function profiles_internal.hold_username();

-- create_profiles asks by itself.
create or replace trigger hold_username_on_insert
  after insert on public.user_profiles
  for each row
  when (current_setting('profiles_internal.creating', true) is distinct from 'yes')
  execute function profiles_internal.hold_username();
"""
    )
    op.execute(
        r"""
-- Before API keys are stored: refuses one that is not encrypted, and a hint that is more than its last four characters,
-- in an error that does not quote it. The CHECKs of the tables say the same, and they remain the law; but their error
-- quotes the whole row, in the server's log too. The trigger names the columns of envelopes, the column of hints last.
create or replace function profiles_internal.refuse_plain_api_keys()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse_plain_api_keys$
declare
  envelope constant text := '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$';
  longest constant integer := 4096;
  stored constant jsonb := to_jsonb(new);
  hints_column constant text := tg_argv[tg_nargs - 1];
  place integer;
  column_name text;
begin
  for place in 0 .. tg_nargs - 2 loop
    column_name := tg_argv[place];
    if not (stored ->> column_name ~ envelope and char_length(stored ->> column_name) <= longest) then
      raise exception '% must be encrypted: an envelope psk1.KEYID.DATA of up to % characters, or null', column_name, longest
        using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, column = column_name,
          constraint = format('ck_%s_%s_is_encrypted', tg_table_name, column_name),
          hint = 'Encrypt the key in the application, with profiles_schema.encryption.KeyRing; store null where there is no key.';
    end if;
  end loop;
  if stored -> hints_column @? '$.** ? (@.type() != "object" && @.type() != "null" && (@.type() != "string" || !(@ like_regex "^[!-~]{4}$")))' then
    raise exception '% holds more than the last four characters of a key', hints_column
      using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, column = hints_column,
        constraint = format('ck_%s_%s_four_characters', tg_table_name, hints_column),
        hint = 'Store null where the key is too short to show a part of it.';
  end if;
  return new;
end
$refuse_plain_api_keys$;

revoke all on function profiles_internal.refuse_plain_api_keys() from public, anon, authenticated, service_role;

create or replace trigger refuse_plain_api_keys
  before insert or update on public.user_api_keys
  for each row
  execute function profiles_internal.refuse_plain_api_keys('openai_api_key', 'unsplash_api_key', 'anthropic_api_key', 'hints');

create or replace trigger refuse_plain_api_keys
  before insert or update on public.user_provider_keys
  for each row
  execute function profiles_internal.refuse_plain_api_keys('envelope', 'hint');
"""
    )
    op.execute(
        r"""
-- Before an API key is replaced: what was known of the old one (its hint, its validation, that it was disabled, its last
-- use) is not true of the new one and goes, except what the same statement sets.
-- A writer says by the setting profiles_internal.api_keys what it does: 'hinted' (the hint belongs to the new key, also
-- where it reads like the old one) or 'rotated' (another envelope of the same key, and nothing changes).
create or replace function profiles_internal.reset_replaced_key()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $reset_replaced_key$
declare
  hinted constant boolean := coalesce(current_setting('profiles_internal.api_keys', true), '') = 'hinted';
  provider text;
begin
  if tg_table_name = 'user_provider_keys' then
    if new.envelope is not distinct from old.envelope then
      return new;
    end if;
    new.hint := case when hinted or new.hint is distinct from old.hint then new.hint end;
    new.validation := case when new.validation is distinct from old.validation then new.validation else '{}' end;
    new.is_active := new.is_active or new.is_active is not distinct from old.is_active;
    new.last_used_at := case when new.last_used_at is distinct from old.last_used_at then new.last_used_at end;
    return new;
  end if;

  foreach provider in array array['openai', 'unsplash', 'anthropic'] loop
    continue when to_jsonb(new) -> (provider || '_api_key') is not distinct from to_jsonb(old) -> (provider || '_api_key');
    if to_jsonb(new) ->> (provider || '_api_key') is null
      or not hinted and new.hints -> provider is not distinct from old.hints -> provider
    then
      new.hints := new.hints - provider;
    end if;
    if new.validation -> provider is not distinct from old.validation -> provider then
      new.validation := new.validation - provider;
    end if;
  end loop;
  return new;
end
$reset_replaced_key$;

revoke all on function profiles_internal.reset_replaced_key() from public, anon, authenticated, service_role;

create or replace trigger reset_replaced_key
  before update on public.user_api_keys
  for each row
  when (current_setting('profiles_internal.api_keys', true) is distinct from 'rotated')
  execute function profiles_internal.reset_replaced_key();

create or replace trigger reset_replaced_key
  before update on public.user_provider_keys
  for each row
  when (current_setting('profiles_internal.api_keys', true) is distinct from 'rotated')
  execute function profiles_internal.reset_replaced_key();
"""
    )
    op.execute(
        r"""
-- Before an update that changes something: updated_at becomes the time of the change.
-- A change of a profile's activity alone (last_login, login_count, message_count, last_interaction_at) does not count:
-- updated_at is indexed, and moving it at every sign-in would cost three times the write.
-- The clock, not now(): two changes of one transaction are two changes (record_profile_change relies on it).
-- Neither does the conversion of wide columns to JSON: it moves values, and means nothing. It says so by the setting
-- profiles_internal.normalizing, which counts from a role that owns the table only; anybody can set it.
-- Nor does the rotation of API keys (another envelope of the same key), or that a key was used.
-- Rows are compared by their image (*<>), because an application may add columns of a type that has no equality.
create or replace function profiles_internal.keep_updated_at()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_updated_at$
begin
  new.updated_at := old.updated_at;
  if new *= old then
    return new;
  end if;
  new.updated_at := clock_timestamp();
  return new;
end
$keep_updated_at$;

create or replace function profiles_internal.keep_profile_updated_at()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_profile_updated_at$
declare
  besides_activity public.user_profiles := new;
begin
  besides_activity.updated_at := old.updated_at;
  besides_activity.last_login := old.last_login;
  besides_activity.login_count := old.login_count;
  besides_activity.message_count := old.message_count;
  besides_activity.last_interaction_at := old.last_interaction_at;
  if besides_activity *= old then
    new.updated_at := old.updated_at;
  elsif coalesce(current_setting('profiles_internal.normalizing', true), '') <> ''
    and pg_has_role(current_user, (select c.relowner from pg_class as c where c.oid = tg_relid), 'member')
  then
    new.updated_at := old.updated_at;
  else
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$keep_profile_updated_at$;

revoke all on function profiles_internal.keep_updated_at() from public, anon, authenticated, service_role;
revoke all on function profiles_internal.keep_profile_updated_at() from public, anon, authenticated, service_role;

create or replace trigger keep_updated_at
  before update on public.user_profiles
  for each row
  execute function profiles_internal.keep_profile_updated_at();

create or replace trigger keep_updated_at
  before update on public.user_progress
  for each row
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.user_api_keys
  for each row
  when (current_setting('profiles_internal.api_keys', true) is distinct from 'rotated')
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.user_provider_keys
  for each row
  when (
    current_setting('profiles_internal.api_keys', true) is distinct from 'rotated'
    and (old.last_used_at is not distinct from new.last_used_at or old.envelope is distinct from new.envelope)
  )
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.export_history
  for each row
  execute function profiles_internal.keep_updated_at();
"""
    )
    op.execute(
        r"""
-- After any insert, change or deletion of a profile: an audit row says who, from where, and which columns; never a
-- value. The setting audit_level decides: 'failures' nothing of this, 'changes' (the default) updates
-- and deletions, 'all' insertions too. Activity alone is no change: WHEN looks at updated_at, which keep_updated_at
-- moves only for more than that.
-- Never fails or holds up the change itself: a record that cannot be written is a warning in the server's log.
-- Definer: a role that changes a profile may not write the log.
create or replace function profiles_internal.record_profile_change()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_profile_change$
declare
  audit_level text;
  source record;
begin
  audit_level := coalesce((select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'audit_level'), 'changes');
  if audit_level = 'failures' or (tg_op = 'INSERT' and audit_level <> 'all') then
    return null;
  end if;
  select s.* into source from profiles_internal.audit_source() as s;

  if tg_op = 'INSERT' then
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values (new.user_id, 'created', source.origin, source.actor, source.context);
  elsif tg_op = 'UPDATE' then
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata, changed)
    select
      new.user_id, 'updated', source.origin, source.actor, source.context,
      array(
        select n.key
        from jsonb_each(to_jsonb(new)) as n
        -- Side by side: looking each key up in to_jsonb(old) would make that document anew for every column.
        join jsonb_each(to_jsonb(old)) as o on o.key = n.key
        where n.value is distinct from o.value and n.key <> 'updated_at'
        order by n.key
      );
  else
    -- If the profile is deleted with its user, the user no longer exists; then the row names no user.
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values ((select u.id from auth.users as u where u.id = old.user_id), 'deleted', source.origin, source.actor, source.context);
  end if;
  return null;
exception when query_canceled or assert_failure or others then
  raise warning 'profiles-schema: a change of a profile was not recorded (SQLSTATE %)', sqlstate;
  return null;
end
$record_profile_change$;

revoke all on function profiles_internal.record_profile_change() from public, anon, authenticated, service_role;

-- create_profiles records what it creates itself.
create or replace trigger record_profile_creation
  after insert on public.user_profiles
  for each row
  when (current_setting('profiles_internal.creating', true) is distinct from 'yes')
  execute function profiles_internal.record_profile_change();

create or replace trigger record_profile_change
  after update on public.user_profiles
  for each row
  when (old.updated_at is distinct from new.updated_at)
  execute function profiles_internal.record_profile_change();

create or replace trigger record_profile_deletion
  after delete on public.user_profiles
  for each row
  execute function profiles_internal.record_profile_change();
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if exists (select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_profiles') then
    execute $frozen$
-- After a profile was deleted: what adoption had kept of its old values goes, too. It was kept for a way back, which this
-- row no longer takes.
-- Never fails or holds up the deletion: values that could not be deleted are a warning in the server's log.
-- Definer: a role that deletes a profile has no rights in profiles_internal.
create or replace function profiles_internal.forget_adopted_values()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $forget_adopted_values$
begin
  delete from profiles_internal.adopted as a
  where a.data ->> 'key' = old.id::text and a.object_type in ('value', 'found value', 'kept value') and a.object_name like 'public.user\_profiles.%';
  return null;
exception when query_canceled or assert_failure or others then
  raise warning 'profiles-schema: old values of a deleted profile stay in profiles_internal.adopted (SQLSTATE %)', sqlstate;
  return null;
end
$forget_adopted_values$;

revoke all on function profiles_internal.forget_adopted_values() from public, anon, authenticated, service_role;

create or replace trigger forget_adopted_values
  after delete on public.user_profiles
  for each row
  execute function profiles_internal.forget_adopted_values();
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
-- After an API key was set, deleted, disabled or enabled, by any statement: an audit row says who, from where, and which
-- provider; never the key, its hint or its label. Nothing where the setting audit_level is 'failures'.
-- A rotation (another envelope of the same key) leaves no row. It says so by the setting profiles_internal.api_keys, which
-- counts from a member of the role that owns the table only; anybody can set it.
-- Never fails the change itself: a record that cannot be written is a warning in the server's log.
-- Definer: users, who may change their keys, may not write the log.
create or replace function profiles_internal.record_key_change()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_key_change$
declare
  before constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  after constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  user_id constant uuid := coalesce(after, before) ->> 'user_id';
  source record;
  change record;
begin
  if (select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'audit_level') = 'failures' then
    return null;
  end if;
  if current_setting('profiles_internal.api_keys', true) = 'rotated'
    and pg_has_role(coalesce(nullif(current_setting('role', true), 'none'), session_user), current_user, 'member')
  then
    return null;
  end if;
  -- The keys of a user who goes with them are nobody's any more.
  if tg_op = 'DELETE' and not exists (select from auth.users as u where u.id = user_id) then
    return null;
  end if;
  select s.* into source from profiles_internal.audit_source() as s;

  for change in
    select
      k.provider,
      case
        when k.now is null then 'key_deleted'
        when k.now is distinct from k.was then 'key_set'
        when k.active_now then 'key_enabled'
        else 'key_disabled'
      end as action
    from (
      select
        p.provider, before ->> p.column_name as was, after ->> p.column_name as now,
        before ->> 'is_active' = 'true' and before #>> array['validation', p.provider, 'disabled'] is distinct from 'true' as active_before,
        after ->> 'is_active' = 'true' and after #>> array['validation', p.provider, 'disabled'] is distinct from 'true' as active_now
      from (
        values
          (coalesce(after, before) ->> 'provider', 'envelope'),
          ('openai', 'openai_api_key'), ('unsplash', 'unsplash_api_key'), ('anthropic', 'anthropic_api_key')
      ) as p (provider, column_name)
      where coalesce(after, before) ? p.column_name
    ) as k
    where k.now is distinct from k.was or k.now is not null and k.active_now is distinct from k.active_before
  loop
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values (user_id, change.action, source.origin, source.actor,
      source.context || jsonb_build_object('provider', change.provider));
  end loop;
  return null;
exception when query_canceled or assert_failure or others then
  raise warning 'profiles-schema: a change of an API key was not recorded (SQLSTATE %)', sqlstate;
  return null;
end
$record_key_change$;

revoke all on function profiles_internal.record_key_change() from public, anon, authenticated, service_role;

create or replace trigger record_key_change
  after insert or update or delete on public.user_api_keys
  for each row
  execute function profiles_internal.record_key_change();

create or replace trigger record_key_change
  after insert or update or delete on public.user_provider_keys
  for each row
  execute function profiles_internal.record_key_change();
"""
    )
    op.execute(
        r"""
-- Before an export is inserted or changed: its status goes the way of an export, from every role.
--   pending -> processing, failed, expired      processing -> completed, failed, pending (retry)
--   completed -> expired                        failed -> pending (retry)
-- The clock is kept here too: started_at, completed_at, processing_time_seconds, and retry_count on a retry.
-- Filters are settled once the export is no longer pending; taking them away (erasure) is always allowed.
create or replace function profiles_internal.guard_export_status()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $guard_export_status$
begin
  if tg_op = 'INSERT' then
    if new.status is distinct from 'pending' then
      raise exception 'an export starts as pending, not as %', new.status
        using errcode = 'check_violation', schema = 'public', table = 'export_history', column = 'status';
    end if;
    return new;
  end if;

  if new.filters is distinct from old.filters and new.filters is not null and old.status <> 'pending' then
    raise exception 'the filters of an export can change only while it is pending; this one is %', old.status
      using errcode = 'check_violation', schema = 'public', table = 'export_history', column = 'filters';
  end if;

  if new.status is not distinct from old.status then
    return new;
  end if;
  if (old.status || '>' || coalesce(new.status, '')) <> all (array[
    'pending>processing', 'pending>failed', 'pending>expired',
    'processing>completed', 'processing>failed', 'processing>pending',
    'completed>expired', 'failed>pending'
  ]) then
    raise exception 'an export cannot go from % to %', old.status, coalesce(new.status, 'null')
      using errcode = 'check_violation', schema = 'public', table = 'export_history', column = 'status',
        hint = 'pending > processing > completed > expired; failed or processing > pending is a retry.';
  end if;

  if new.status = 'processing' then
    if new.started_at is not distinct from old.started_at then
      new.started_at := clock_timestamp();
    end if;
  elsif new.status = 'pending' then
    new.retry_count := old.retry_count + 1;
    new.started_at := null;
    new.completed_at := null;
    new.processing_time_seconds := null;
  elsif new.status in ('completed', 'failed') then
    if new.completed_at is not distinct from old.completed_at then
      new.completed_at := clock_timestamp();
    end if;
    if new.started_at is not null then
      new.processing_time_seconds := greatest(0, round(extract(epoch from new.completed_at - new.started_at)))::integer;
    end if;
  end if;
  return new;
end
$guard_export_status$;

revoke all on function profiles_internal.guard_export_status() from public, anon, authenticated, service_role;

create or replace trigger guard_export_status
  before insert or update on public.export_history
  for each row
  execute function profiles_internal.guard_export_status();
"""
    )
    op.execute(
        r"""
-- After an export was requested, failed or expired, or its file was removed, by whatever road: an audit row says which
-- export, its status, and who acted. What has expired counts as deleted. Where the setting audit_level is 'failures',
-- only what failed.
-- Never fails the change itself: a record that cannot be written is a warning in the server's log.
-- Definer: users, who may request an export, may not write the log.
create or replace function profiles_internal.record_export()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_export$
declare
  source record;
begin
  if new.status::text <> 'failed'
    and (select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'audit_level') = 'failures'
  then
    return null;
  end if;
  select s.* into source from profiles_internal.audit_source() as s;
  insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata, created_at)
  values (
    new.user_id,
    case
      when tg_op = 'INSERT' then 'created'
      when new.status = 'expired' or new.file_size_bytes is null and old.file_size_bytes is not null then 'deleted'
      else 'updated'
    end,
    source.origin,
    source.actor,
    source.context || jsonb_build_object('export', new.id, 'status', new.status),
    clock_timestamp()
  );
  return null;
exception when query_canceled or assert_failure or others then
  raise warning 'profiles-schema: an export was not recorded in the audit log (SQLSTATE %)', sqlstate;
  return null;
end
$record_export$;

revoke all on function profiles_internal.record_export() from public, anon, authenticated, service_role;

create or replace trigger record_export_request
  after insert on public.export_history
  for each row
  execute function profiles_internal.record_export();

create or replace trigger record_export_end
  after update on public.export_history
  for each row
  when (
    old.status is distinct from new.status and new.status::text in ('failed', 'expired') -- ::text, or a restored dump reads it back differently
    or old.file_size_bytes is not null and new.file_size_bytes is null
  )
  execute function profiles_internal.record_export();
"""
    )
    op.execute(
        r"""
-- After a progress row is made: its points are the sum of the ledger. A role that may delete the row and make it again would
-- set the points to 0 otherwise, while the keys of old awards stay used.
-- Definer: nobody else may read the ledger or write the points.
create or replace function profiles_internal.restore_points()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $restore_points$
begin
  update public.user_progress as p
  set total_points = a.points
  from (select sum(a.amount) as points from profiles_internal.point_awards as a where a.user_id = new.user_id) as a
  where p.user_id = new.user_id and p.total_points <> a.points;
  return null;
end
$restore_points$;

revoke all on function profiles_internal.restore_points() from public, anon, authenticated, service_role;

create or replace trigger restore_points
  after insert on public.user_progress
  for each row
  when (current_setting('profiles_internal.signing_up', true) is distinct from 'yes')
  execute function profiles_internal.restore_points();
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if (select count(*) from pg_catalog.pg_attribute as a where a.attrelid = pg_catalog.to_regclass('public.sessions') and not a.attisdropped and a.attname in ('id', 'user_id', 'started_at', 'ended_at', 'duration_minutes', 'descriptions_generated', 'images_processed', 'qa_attempts', 'vocabulary_learned') and (a.attname <> 'user_id' or a.atttypid = 'pg_catalog.uuid'::pg_catalog.regtype) and (a.attname not in ('started_at', 'ended_at') or a.atttypid = 'pg_catalog.timestamptz'::pg_catalog.regtype)) = 9 then
    execute $frozen$
-- After a statement on sessions: the progress of the users concerned moves by the difference that the statement makes, so
-- that its cost does not depend on how many sessions they had. Statement-level, with transition tables: ten thousand sessions
-- ended at once are one update. A session has ended when ended_at is a time: infinity is none.
--
--   Sums: what was added less what was removed. Differences commute; the progress rows are locked in order first, and read in
--   the next statement, which sees what the lock had to wait for.
--   Latest times: move forward by comparison; looked up (idx_sessions_user_id and its partial sisters) when the session that
--   set one has changed.
--   Streaks: from profiles_internal.active_days. A day behind all others continues the streak or begins one; a day that appears
--   or vanishes elsewhere makes that user's days be walked through.
--   A sum at the limit of its type has lost its difference, and a day with fewer sessions than none is wrong: such users are
--   counted anew, and so are users with a mark in stale_progress.
--
-- One query may fire several of these triggers (an upsert, MERGE, WITH), and a trigger of the application may write sessions
-- before they fire. Sums bear any order. A count anew has seen what is still to come: in the same command of the client,
-- everything after it is counted anew as well. Latest times are looked up after a write from within a trigger.
--
-- It never fails the statement. What goes wrong (a lock, a deadlock, a cancel) leaves a mark in profiles_internal.stale_progress:
-- the next statement on that user's sessions counts anew, `profiles-schema progress recount` does, and `health` tells. A user
-- whose progress row is missing gets a mark, too: the transaction that makes the row may not see these sessions.
-- Another time zone, and a progress row that is made when there are sessions already, count anew, too.
-- Definer: no other role may write the counted columns. Generic plans: planning would cost more than the work.
do $session_change$
begin
  -- What counts of a session: rows of the application may be wide.
  if to_regtype('profiles_internal.session_change') is null then
    create type profiles_internal.session_change as (
      sign integer, user_id uuid, ended_at timestamptz, minutes bigint, descriptions bigint, images bigint, questions bigint,
      correct bigint, answer_seconds bigint, vocabulary bigint, described boolean, answered boolean, practised boolean
    );
  end if;
end
$session_change$;

create or replace function profiles_internal.roll_up_sessions()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $roll_up_sessions$
declare
  most constant bigint := 2147483647;
  command constant text := extract(epoch from statement_timestamp())::text;
  depth constant integer := pg_trigger_depth();
  changes profiles_internal.session_change[] := '{}';
  written_below boolean;
  users uuid[];
  recounted uuid[];
  wrong uuid[];
  emptied uuid[];
  walked uuid[];
  appended jsonb;
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  begin
    if tg_level = 'ROW' then
      if to_regclass('public.sessions') is null then
        return null;
      end if;
      if (select 1 from public.sessions as s where s.user_id = new.user_id and isfinite(s.ended_at) limit 1) is null then
        return null;
      end if;
      recounted := array[new.user_id];
    elsif tg_op = 'TRUNCATE' then
      recounted := array(select distinct d.user_id from profiles_internal.active_days as d);
    end if;

    if tg_op in ('INSERT', 'UPDATE') and tg_level = 'STATEMENT' then
      changes := array(
        select row(
          1, s.user_id, s.ended_at,
          greatest(0, coalesce(s.duration_minutes, case when isfinite(s.started_at) then floor(extract(epoch from s.ended_at - s.started_at) / 60) end, 0)),
          s.descriptions_generated, s.images_processed, s.qa_attempts, q.correct, q.seconds, s.vocabulary_learned,
          s.descriptions_generated > 0, s.qa_attempts > 0, s.vocabulary_learned > 0
        )::profiles_internal.session_change
        from new_sessions as s
        -- A name that the inner table lacks is looked for outside: an older table may have no such columns.
        cross join lateral (
          select (select qa_correct from (select s.*) as own)::bigint as correct, (select qa_seconds from (select s.*) as own)::bigint as seconds
          from (select 0 as qa_correct, 0 as qa_seconds) as absent
        ) as q
        where isfinite(s.ended_at) and s.user_id is not null
      );
    end if;
    if tg_op in ('DELETE', 'UPDATE') and tg_level = 'STATEMENT' then
      changes := changes || array(
        select row(
          -1, s.user_id, s.ended_at,
          greatest(0, coalesce(s.duration_minutes, case when isfinite(s.started_at) then floor(extract(epoch from s.ended_at - s.started_at) / 60) end, 0)),
          s.descriptions_generated, s.images_processed, s.qa_attempts, q.correct, q.seconds, s.vocabulary_learned,
          s.descriptions_generated > 0, s.qa_attempts > 0, s.vocabulary_learned > 0
        )::profiles_internal.session_change
        from old_sessions as s
        cross join lateral (
          select (select qa_correct from (select s.*) as own)::bigint as correct, (select qa_seconds from (select s.*) as own)::bigint as seconds
          from (select 0 as qa_correct, 0 as qa_seconds) as absent
        ) as q
        where isfinite(s.ended_at) and s.user_id is not null
      );
    end if;
    if tg_op = 'UPDATE' and (changes[1]).sign > 0 and (changes[cardinality(changes)]).sign < 0 then
      -- What counts in no other way than before is no change.
      changes := array(
        select row(
          sum(c.sign), c.user_id, c.ended_at, c.minutes, c.descriptions, c.images, c.questions, c.correct, c.answer_seconds,
          c.vocabulary, c.described, c.answered, c.practised
        )::profiles_internal.session_change
        from unnest(changes) as c
        group by c.user_id, c.ended_at, c.minutes, c.descriptions, c.images, c.questions, c.correct, c.answer_seconds,
          c.vocabulary, c.described, c.answered, c.practised
        having sum(c.sign) <> 0
      );
    end if;
    if recounted is null and cardinality(changes) = 0 then
      return null;
    end if;

    if recounted is null then
      -- A user without a row is counted when it is made. One with a mark is counted anew.
      select array_agg(p.user_id) filter (where not p.is_stale), coalesce(array_agg(p.user_id) filter (where p.is_stale), '{}')
      into users, recounted
      from (
        select p.user_id,
          current_setting('profiles_internal.counted_anew', true) is not distinct from command
            or exists (select from profiles_internal.stale_progress as s where s.user_id = p.user_id) as is_stale
        from public.user_progress as p
        where p.user_id = any (array(select c.user_id from unnest(changes) as c))
        order by p.user_id
        for no key update of p
      ) as p;
      if (select count(distinct c.user_id) from unnest(changes) as c) > coalesce(cardinality(users), 0) + cardinality(recounted) then
        insert into profiles_internal.stale_progress (user_id, error_code, error_message)
        select u.id, '02000', 'user_progress'
        from auth.users as u
        where u.id = any (array(select c.user_id from unnest(changes) as c)) and u.id <> all (users || recounted)
          and not exists (select from profiles_internal.stale_progress as s where s.user_id = u.id);
      end if;
      written_below := split_part(current_setting('profiles_internal.wrote_sessions', true), ' ', 1) = command
        and split_part(current_setting('profiles_internal.wrote_sessions', true), ' ', 2)::integer > depth;
      if depth > 1 and written_below is not true then
        perform set_config('profiles_internal.wrote_sessions', command || ' ' || depth, true);
      end if;
    end if;
    if users is not null then
      with difference as (
        select c.user_id, (c.ended_at at time zone coalesce(profile.timezone, 'UTC'))::date as day, sum(c.sign) as sessions
        from unnest(changes) as c
        left join public.user_profiles as profile on profile.user_id = c.user_id
        where c.user_id = any (users)
        group by 1, 2
        having sum(c.sign) <> 0
      ),
      written as (
        insert into profiles_internal.active_days as d (user_id, day, sessions)
        select f.user_id, f.day, f.sessions from difference as f order by f.user_id, f.day
        on conflict (user_id, day) do update set sessions = d.sessions + excluded.sessions
        returning d.user_id, d.day, d.sessions
      ),
      -- What the day had before.
      shift as (
        select w.user_id,
          array_agg(w.day) filter (where w.sessions = f.sessions) as appeared,
          bool_or(w.sessions = 0) as vanished, bool_or(least(w.sessions, w.sessions - f.sessions) < 0) as is_wrong
        from written as w
        join difference as f on f.user_id = w.user_id and f.day = w.day
        group by w.user_id
      ),
      -- The snapshot of this statement has none of the days that it writes.
      latest as (
        select s.*, (select max(d.day) from profiles_internal.active_days as d where d.user_id = s.user_id) as last_day
        from shift as s
      )
      select
        array_agg(l.user_id) filter (where l.is_wrong),
        array_agg(l.user_id) filter (where l.vanished),
        array_agg(l.user_id) filter (where l.vanished or cardinality(l.appeared) > 1 or l.appeared[1] < l.last_day),
        jsonb_object_agg(l.user_id, l.appeared[1] = l.last_day + 1)
          filter (where not l.vanished and cardinality(l.appeared) = 1 and coalesce(l.appeared[1] > l.last_day, true))
      into wrong, emptied, walked, appended
      from latest as l;

      if emptied is not null then
        delete from profiles_internal.active_days as d where d.user_id = any (emptied) and d.sessions = 0;
      end if;

      with difference as (
        select
          c.user_id,
          sum(c.sign) as sessions,
          sum(c.sign * c.minutes) as minutes,
          coalesce(sum(c.sign * c.descriptions), 0) as descriptions,
          coalesce(sum(c.sign * c.images), 0) as images,
          coalesce(sum(c.sign * c.questions), 0) as questions,
          coalesce(sum(c.sign * c.correct), 0) as correct,
          coalesce(sum(c.sign * c.answer_seconds), 0) as answer_seconds,
          coalesce(sum(c.sign * c.vocabulary), 0) as vocabulary,
          max(c.ended_at) filter (where c.sign > 0) as ended_at,
          max(c.ended_at) filter (where c.sign > 0 and c.described) as described_at,
          max(c.ended_at) filter (where c.sign > 0 and c.answered) as answered_at,
          max(c.ended_at) filter (where c.sign > 0 and c.practised) as practised_at,
          case when written_below then 'infinity' else max(c.ended_at) filter (where c.sign < 0) end as lost_at
        from unnest(changes) as c
        where c.user_id = any (users)
        group by c.user_id
      ),
      moved as (
        update public.user_progress as p
        set
          total_sessions = least(v.sessions, most),
          total_descriptions = least(v.descriptions, most),
          total_images = least(v.images, most),
          total_questions_answered = least(v.questions, most),
          total_correct_answers = least(v.correct, most),
          total_vocabulary_learned = least(v.vocabulary, most),
          total_answer_seconds = least(v.answer_seconds, most),
          total_time_spent_minutes = least(v.minutes, most),
          average_accuracy = case when v.questions > 0 then least(round(100.0 * v.correct / v.questions, 2), 999.99) else 0 end,
          average_completion_time_seconds = case when v.questions > 0 then least(round(v.answer_seconds::numeric / v.questions), most) else 0 end,
          last_activity_at = v.last_activity_at,
          last_active_on = (v.last_activity_at at time zone v.timezone)::date,
          last_description_at = v.last_description_at,
          last_qa_session_at = v.last_qa_session_at,
          last_vocabulary_practice_at = v.last_vocabulary_practice_at,
          current_streak_days = v.current_days,
          longest_streak_days = greatest(p.longest_streak_days, v.current_days)
        from (
          select
            o.user_id, coalesce(profile.timezone, 'UTC') as timezone,
            o.total_sessions + d.sessions as sessions,
            o.total_descriptions + d.descriptions as descriptions,
            o.total_images + d.images as images,
            o.total_questions_answered + d.questions as questions,
            o.total_correct_answers + d.correct as correct,
            o.total_vocabulary_learned + d.vocabulary as vocabulary,
            o.total_answer_seconds + d.answer_seconds as answer_seconds,
            o.total_time_spent_minutes + d.minutes as minutes,
            greatest(
              o.total_sessions, o.total_descriptions, o.total_images, o.total_questions_answered, o.total_correct_answers,
              o.total_vocabulary_learned, o.total_answer_seconds, o.total_time_spent_minutes
            ) = most as was_full,
            case when d.lost_at >= coalesce(o.last_activity_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity'
            ) else greatest(o.last_activity_at, d.ended_at) end as last_activity_at,
            case when d.lost_at >= coalesce(o.last_description_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity' and s.descriptions_generated > 0
            ) else greatest(o.last_description_at, d.described_at) end as last_description_at,
            case when d.lost_at >= coalesce(o.last_qa_session_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity' and s.qa_attempts > 0
            ) else greatest(o.last_qa_session_at, d.answered_at) end as last_qa_session_at,
            case when d.lost_at >= coalesce(o.last_vocabulary_practice_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity' and s.vocabulary_learned > 0
            ) else greatest(o.last_vocabulary_practice_at, d.practised_at) end as last_vocabulary_practice_at,
            case
              when (appended -> o.user_id::text) = 'true' then o.current_streak_days + 1
              when appended ? o.user_id::text then 1
              else o.current_streak_days
            end as current_days
          from difference as d
          join public.user_progress as o on o.user_id = d.user_id
          left join public.user_profiles as profile on profile.user_id = d.user_id
        ) as v
        where p.user_id = v.user_id
        returning p.user_id, v.was_full or greatest(
          p.total_sessions, p.total_descriptions, p.total_images, p.total_questions_answered, p.total_correct_answers,
          p.total_vocabulary_learned, p.total_answer_seconds, p.total_time_spent_minutes
        ) = most as is_full
      )
      select recounted || wrong || array_agg(m.user_id) into recounted from moved as m where m.is_full;
    end if;
    if walked is not null then
      with run as (
        select d.user_id, max(d.day) as last_day, count(*) as days
        from (
          select a.user_id, a.day, a.day - (row_number() over (partition by a.user_id order by a.day))::integer as run
          from profiles_internal.active_days as a
          where a.user_id = any (walked)
        ) as d
        group by d.user_id, d.run
      ),
      streak as (
        select u.id as user_id, coalesce((array_agg(r.days order by r.last_day desc))[1], 0) as current_days, coalesce(max(r.days), 0) as longest_days
        from unnest(walked) as u (id)
        left join run as r on r.user_id = u.id
        group by u.id
      )
      update public.user_progress as p
      set current_streak_days = k.current_days, longest_streak_days = k.longest_days
      from streak as k
      where p.user_id = k.user_id;
    end if;
    if recounted <> '{}' then
      perform profiles_internal.recount_progress(recounted);
      perform set_config('profiles_internal.counted_anew', command, true);
    end if;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
    begin
      if tg_level = 'STATEMENT' and tg_op in ('INSERT', 'UPDATE') then
        recounted := recounted || array(select distinct s.user_id from new_sessions as s where s.ended_at is not null);
      end if;
      if tg_level = 'STATEMENT' and tg_op in ('DELETE', 'UPDATE') then
        recounted := recounted || array(select distinct s.user_id from old_sessions as s where s.ended_at is not null);
      end if;
      if tg_level = 'ROW' then
        recounted := array[new.user_id];
      end if;
      insert into profiles_internal.stale_progress (user_id, error_code, error_message)
      select u.id, error_code, profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
      from auth.users as u
      where u.id = any (recounted);
    exception
      when serialization_failure then
        raise; -- without a mark no one would know; and a client with such an isolation level retries the transaction
      when query_canceled or assert_failure or others then
        raise warning 'profiles-schema: progress was not counted (SQLSTATE %), and there is no record of it (SQLSTATE %)', error_code, sqlstate
          using hint = 'Run: profiles-schema progress recount';
    end;
  end;
  return null;
end
$roll_up_sessions$;

revoke all on function profiles_internal.roll_up_sessions() from public, anon, authenticated, service_role;

create or replace trigger roll_up_inserted_sessions
  after insert on public.sessions
  referencing new table as new_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_changed_sessions
  after update on public.sessions
  referencing old table as old_sessions new table as new_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_deleted_sessions
  after delete on public.sessions
  referencing old table as old_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_truncated_sessions
  after truncate on public.sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_in_new_timezone
  after update on public.user_profiles
  for each row
  when (old.timezone is distinct from new.timezone)
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_new_progress
  after insert on public.user_progress
  for each row
  when (current_setting('profiles_internal.signing_up', true) is distinct from 'yes')
  execute function profiles_internal.roll_up_sessions();
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
-- Sums that were kept by hand have drifted.
select profiles_internal.recount_adopted('0013_create_table_triggers');
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
drop function if exists profiles_internal.roll_up_sessions() cascade; -- with its triggers
drop type if exists profiles_internal.session_change;
-- Sessions that change from here on are not counted: a later upgrade counts these users anew at their next session.
insert into profiles_internal.stale_progress (user_id, error_code, error_message)
select p.user_id, '00000', 'downgrade' from public.user_progress as p where p.total_sessions > 0;
drop trigger restore_points on public.user_progress;
drop function profiles_internal.restore_points();
drop trigger record_export_end on public.export_history;
drop trigger record_export_request on public.export_history;
drop function profiles_internal.record_export();
drop trigger guard_export_status on public.export_history;
drop function profiles_internal.guard_export_status();
drop function if exists profiles_internal.forget_adopted_values() cascade; -- with its trigger
drop trigger record_key_change on public.user_provider_keys;
drop trigger record_key_change on public.user_api_keys;
drop function profiles_internal.record_key_change();
drop trigger record_profile_deletion on public.user_profiles;
drop trigger record_profile_change on public.user_profiles;
drop trigger record_profile_creation on public.user_profiles;
drop function profiles_internal.record_profile_change();
drop trigger keep_updated_at on public.export_history;
drop trigger keep_updated_at on public.user_provider_keys;
drop trigger keep_updated_at on public.user_api_keys;
drop trigger keep_updated_at on public.user_progress;
drop trigger keep_updated_at on public.user_profiles;
drop function profiles_internal.keep_profile_updated_at();
drop function profiles_internal.keep_updated_at();
drop trigger reset_replaced_key on public.user_provider_keys;
drop trigger reset_replaced_key on public.user_api_keys;
drop function profiles_internal.reset_replaced_key();
drop trigger refuse_plain_api_keys on public.user_provider_keys;
drop trigger refuse_plain_api_keys on public.user_api_keys;
drop function profiles_internal.refuse_plain_api_keys();
drop trigger hold_username_on_insert on public.user_profiles;
drop trigger hold_username on public.user_profiles;
drop function profiles_internal.hold_username();
drop trigger refuse_reserved_username on public.user_profiles;
drop function profiles_internal.refuse_reserved_username();
drop trigger require_known_timezone on public.user_profiles;
drop function profiles_internal.require_known_timezone();
drop trigger fill_missing_profile_id on public.user_profiles;
drop function profiles_internal.fill_missing_profile_id();

select profiles_internal.undo_adoption('0013_create_table_triggers');
"""
    )
