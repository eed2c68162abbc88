"""Triggers on our own tables: ids, time zones, updated_at, audit, export states, roll-up.

Why: rules that no road to the table may go round.
Locks: our own tables in SHARE ROW EXCLUSIVE mode for milliseconds.
Beside it: any code may run.
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
-- The view walks a directory of a thousand files, so the names stand in a table of ours; the view is asked only for
-- a name that the table does not know (the server's zone data may be newer).
-- Definer: whoever updates the profile has no rights in profiles_internal.
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
-- Before a person takes another username: not one that would pass for somebody in charge. The list is that of sign-up
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
-- Before API keys are stored: refuses one that is not encrypted, in an error that does not quote it. The CHECKs of the table
-- say the same, and they remain the law; but their error quotes the whole row, in the server's log too.
create or replace function profiles_internal.refuse_plain_api_keys()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse_plain_api_keys$
declare
  envelope constant text := '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$';
  longest constant integer := 4096;
  refused constant text := case
    when not (new.openai_api_key ~ envelope and char_length(new.openai_api_key) <= longest) then 'openai_api_key'
    when not (new.unsplash_api_key ~ envelope and char_length(new.unsplash_api_key) <= longest) then 'unsplash_api_key'
    when not (new.anthropic_api_key ~ envelope and char_length(new.anthropic_api_key) <= longest) then 'anthropic_api_key'
  end;
begin
  if refused is not null then
    raise exception '% must be encrypted: an envelope psk1.KEYID.DATA of up to % characters, or null', refused, longest
      using errcode = 'check_violation', schema = 'public', table = 'user_api_keys', column = refused,
        constraint = format('ck_user_api_keys_%s_is_encrypted', refused),
        hint = 'Encrypt the key in the application, with profiles_schema.encryption.KeyRing; store null where there is no key.';
  end if;
  return new;
end
$refuse_plain_api_keys$;

revoke all on function profiles_internal.refuse_plain_api_keys() from public, anon, authenticated, service_role;

create or replace trigger refuse_plain_api_keys
  before insert or update on public.user_api_keys
  for each row
  execute function profiles_internal.refuse_plain_api_keys();
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
  execute function profiles_internal.keep_updated_at();

create or replace trigger keep_updated_at
  before update on public.export_history
  for each row
  execute function profiles_internal.keep_updated_at();
"""
    )
    op.execute(
        r"""
-- After a profile was inserted, changed or deleted, by whatever road: an audit row says who, from where, and which
-- columns; never a value. The setting audit_level decides: 'failures' nothing of this, 'changes' (the default) updates
-- and deletions, 'all' insertions too. Activity alone is no change: WHEN looks at updated_at, which keep_updated_at
-- moves only for more than that.
-- Never fails or holds up the change itself: a record that cannot be written is a warning in the server's log.
-- Definer: whoever changes a profile may not write the log.
create or replace function profiles_internal.record_profile_change()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_profile_change$
declare
  audit_level text;
  actor uuid;
  known_origins constant text[] := array['trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize'];
  origin text := nullif(current_setting('profiles_internal.origin', true), '');
  context jsonb := '{}';
begin
  audit_level := coalesce((select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'audit_level'), 'changes');
  if audit_level = 'failures' or (tg_op = 'INSERT' and audit_level <> 'all') then
    return null;
  end if;
  if origin is null or origin <> all (known_origins) then
    origin := case when pg_trigger_depth() > 1 then 'trigger' else 'manual' end;
  end if;

  -- What the application says of the request (acting_as): kept as it is said, if it is short.
  begin
    if octet_length(current_setting('profiles_schema.context', true)) between 3 and 2000 then
      context := jsonb_build_object('context', current_setting('profiles_schema.context', true)::jsonb);
    end if;
  exception when others then
    null;
  end;

  -- The token of a service may name a subject that is no user.
  begin
    actor := auth.uid();
  exception when others then
    actor := null;
  end;

  if tg_op = 'INSERT' then
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values (new.user_id, 'created', origin, actor, context);
  elsif tg_op = 'UPDATE' then
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata, changed)
    select
      new.user_id, 'updated', origin, actor, context,
      array(
        select n.key
        from jsonb_each(to_jsonb(new)) as n
        -- Side by side: looking each key up in to_jsonb(old) would make that document anew for every column.
        join jsonb_each(to_jsonb(old)) as o on o.key = n.key
        where n.value is distinct from o.value and n.key <> 'updated_at'
        order by n.key
      );
  else
    -- The user is already gone when the profile goes with them; then the row names nobody.
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values ((select u.id from auth.users as u where u.id = old.user_id), 'deleted', origin, actor, context);
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
-- Definer: whoever deletes a profile has no rights in profiles_internal.
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
do $only_where$
begin
  if (select count(*) from pg_catalog.pg_attribute as a where a.attrelid = pg_catalog.to_regclass('public.sessions') and not a.attisdropped and a.attname in ('id', 'user_id', 'started_at', 'ended_at', 'duration_minutes', 'descriptions_generated', 'images_processed', 'qa_attempts', 'vocabulary_learned') and (a.attname <> 'user_id' or a.atttypid = 'pg_catalog.uuid'::pg_catalog.regtype) and (a.attname not in ('started_at', 'ended_at') or a.atttypid = 'pg_catalog.timestamptz'::pg_catalog.regtype)) = 9 then
    execute $frozen$
-- After sessions were inserted, changed or deleted: the progress of the users concerned is counted anew.
-- Statement-level with transition tables, so that ten thousand sessions ended at once are one count per user.
-- Only ended sessions count, so a statement that touches none of them does nothing.
-- Not guarded: a progress that silently stops counting would be worse than a statement that fails. A transaction of
-- several such statements can deadlock with another one (40P01); it is to be retried like any deadlock.
-- Definer: nobody else may write the rolled-up columns.
create or replace function profiles_internal.roll_up_sessions()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $roll_up_sessions$
declare
  concerned uuid[];
begin
  if tg_op = 'INSERT' then
    concerned := array(
      select distinct n.user_id from new_sessions as n where n.ended_at is not null and n.user_id is not null order by 1
    );
  elsif tg_op = 'DELETE' then
    concerned := array(
      select distinct o.user_id from old_sessions as o where o.ended_at is not null and o.user_id is not null order by 1
    );
  else
    concerned := array(
      select changed.user_id
      from (
        (
          select o.id, o.user_id, to_jsonb(o) as session from old_sessions as o where o.ended_at is not null
          except
          select n.id, n.user_id, to_jsonb(n) from new_sessions as n where n.ended_at is not null
        )
        union
        (
          select n.id, n.user_id, to_jsonb(n) from new_sessions as n where n.ended_at is not null
          except
          select o.id, o.user_id, to_jsonb(o) from old_sessions as o where o.ended_at is not null
        )
      ) as changed
      where changed.user_id is not null
      group by changed.user_id
      order by changed.user_id
    );
  end if;

  if cardinality(concerned) > 0 then
    perform profiles_internal.recount_progress(concerned);
  end if;
  return null;
end
$roll_up_sessions$;

-- Recounts one user whose sessions were there before: after a change of the time zone, and after a progress row was made, by
-- backfill, say. At sign-up nobody has any.
create or replace function profiles_internal.roll_up_user()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $roll_up_user$
begin
  if (select 1 from public.sessions as s where s.user_id = new.user_id and s.ended_at is not null limit 1) is not null then
    perform profiles_internal.recount_progress(array[new.user_id]);
  end if;
  return null;
end
$roll_up_user$;

revoke all on function profiles_internal.roll_up_user() from public, anon, authenticated, service_role;
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

create or replace trigger roll_up_in_new_timezone
  after update on public.user_profiles
  for each row
  when (old.timezone is distinct from new.timezone)
  execute function profiles_internal.roll_up_user();

create or replace trigger roll_up_new_progress
  after insert on public.user_progress
  for each row
  when (current_setting('profiles_internal.signing_up', true) is distinct from 'yes')
  execute function profiles_internal.roll_up_user();
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
drop function if exists profiles_internal.roll_up_sessions() cascade; -- with its triggers on sessions
drop function if exists profiles_internal.roll_up_user() cascade; -- with its triggers
drop trigger guard_export_status on public.export_history;
drop function profiles_internal.guard_export_status();
drop function if exists profiles_internal.forget_adopted_values() cascade; -- with its trigger
drop trigger record_profile_deletion on public.user_profiles;
drop trigger record_profile_change on public.user_profiles;
drop trigger record_profile_creation on public.user_profiles;
drop function profiles_internal.record_profile_change();
drop trigger keep_updated_at on public.export_history;
drop trigger keep_updated_at on public.user_api_keys;
drop trigger keep_updated_at on public.user_progress;
drop trigger keep_updated_at on public.user_profiles;
drop function profiles_internal.keep_profile_updated_at();
drop function profiles_internal.keep_updated_at();
drop trigger refuse_plain_api_keys on public.user_api_keys;
drop function profiles_internal.refuse_plain_api_keys();
drop trigger refuse_reserved_username on public.user_profiles;
drop function profiles_internal.refuse_reserved_username();
drop trigger require_known_timezone on public.user_profiles;
drop function profiles_internal.require_known_timezone();
drop trigger fill_missing_profile_id on public.user_profiles;
drop function profiles_internal.fill_missing_profile_id();

select profiles_internal.undo_adoption('0013_create_table_triggers');
"""
    )
