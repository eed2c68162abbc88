"""Every user who signs up gets a profile.

Why: the purpose of it all; alone in its revision, because it locks the table that sign-ups need.
Locks: auth.users in SHARE ROW EXCLUSIVE mode: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; sign-ups that commit before this are found by the next revision.
Beside triggers of the application on auth.users: one user is inserted, and taken back, before the revision counts.
Back: drops the triggers; ACCESS EXCLUSIVE on auth.users for milliseconds. Profiles stay.
"""

from pathlib import Path

from alembic import op

revision = "0014_create_sign_up_triggers"
down_revision = "0013_create_table_triggers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
-- Sign-up triggers that were here before, empty since the tables changed, go.
select profiles_internal.adopt('0014_create_sign_up_triggers');
"""
    )
    op.execute(
        r"""
-- After users have signed up (one, or a whole import): each of them gets a profile and a progress row.
--
-- Guarantees: the sign-up commits, even if this fails. A failure is a row in user_profile_audit_logs; the next sign-in
-- and `profiles-schema backfill` repair it.
-- Never: waits longer for a lock than 250 ms at a time, reads metadata for anything that grants a right, or assumes a
-- column that not every auth server has.
-- Definer: the auth server's own role has no rights in public.
-- Statement-level: costs a single sign-up no more than a row-level trigger, and an import half.
-- An import is served a thousand users at a time, so that it need not fit into memory.
-- Users who are inserted as deleted ones (a restore, a move from another server) get none.
-- Row triggers run before statement triggers. So where the application has one on auth.users, which may need the profile,
-- the same function also serves a row trigger, 00_profiles_on_auth_user_created, that runs before the application's; the
-- statement trigger then has nothing left to do.
create or replace function profiles_internal.on_auth_user_created()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_auth_user_created$
declare
  batch_users constant integer := 1000;
  lost_wait constant text := 'an earlier statement of this transaction waited for a lock and did not get it';
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  signing_up text := set_config('profiles_internal.signing_up', 'yes', true);
  served text := coalesce(current_setting('profiles_internal.served', true), '');
  off boolean := false;
  users jsonb[];
  error_code text;
begin
  -- A setting that cannot be read counts as its default.
  begin
    off := (select s.value from profiles_internal.settings as s where s.key = 'auto_create_profiles') = 'false';
  exception when query_canceled or assert_failure or others then
    error_code := sqlstate;
  end;
  if off then
    return null;
  end if;

  if tg_level = 'ROW' then
    begin
      if to_jsonb(new) ->> 'deleted_at' is null and gave_up = '' then
        perform profiles_internal.sign_up(array[to_jsonb(new)]);
      elsif to_jsonb(new) ->> 'deleted_at' is null and gave_up = 'yes' then
        perform profiles_internal.record_events(array[new.id], 'skipped', 'trigger', '55P03', lost_wait);
      end if;
      served := set_config('profiles_internal.served', 'yes', true);
    exception when query_canceled or assert_failure or others then
      -- The statement trigger tries again, and records what fails.
      served := set_config('profiles_internal.served', '', true);
    end;
    signing_up := set_config('profiles_internal.signing_up', '', true);
    return null;
  elsif served = 'yes' then
    served := set_config('profiles_internal.served', '', true);
    signing_up := set_config('profiles_internal.signing_up', '', true);
    return null;
  end if;

  begin
    if gave_up = '' then
      users := array(select to_jsonb(n) from new_users as n where to_jsonb(n) ->> 'deleted_at' is null limit batch_users + 1);
      if cardinality(users) <= batch_users then
        perform profiles_internal.sign_up(users);
      else
        for users in
          select array_agg(numbered.user_row)
          from (
            select to_jsonb(n) as user_row, (row_number() over () - 1) / batch_users as batch
            from new_users as n
            where to_jsonb(n) ->> 'deleted_at' is null
          ) as numbered
          group by numbered.batch
          order by numbered.batch
        loop
          perform profiles_internal.sign_up(users);
        end loop;
      end if;
    elsif gave_up = 'yes' then
      perform profiles_internal.record_events(
        array(select n.id from new_users as n where to_jsonb(n) ->> 'deleted_at' is null), 'skipped', 'trigger', '55P03', lost_wait
      );
    end if;
    signing_up := set_config('profiles_internal.signing_up', '', true);
    return null;
  exception when query_canceled or assert_failure or others then
    error_code := sqlstate;
  end;

  -- Only a user row that cannot be read leads here: record by id, which any table of users has.
  begin
    perform profiles_internal.record_events(array(select n.id from new_users as n), 'failed', 'trigger', error_code, 'auth.users');
  exception when query_canceled or assert_failure or others then
    raise warning 'profiles-schema: no profile for a new user (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
  return null;
end
$on_auth_user_created$;

revoke all on function profiles_internal.on_auth_user_created() from public, anon, authenticated, service_role;

create or replace trigger profiles_on_auth_user_created
  after insert on auth.users
  referencing new table as new_users
  for each statement
  execute function profiles_internal.on_auth_user_created();
"""
    )
    op.execute(
        r"""
-- After a user has changed (every sign-in does that): the profile follows, and a missing one is made.
--
-- Guarantees: the sign-in commits, even if this fails. A failure is recorded as at sign-up.
-- Cheap when nothing that concerns a profile has changed: one index probe.
-- Two transactions on one user: the one that creates a profile holds the user's row as a foreign key does (FOR KEY SHARE) until it
-- commits. An erasure, and a change that finds no profile and makes none, lock the row FOR UPDATE: they wait for a profile
-- that is being made, and the next one is made from what they leave (see living_users). A change that makes the profile
-- itself takes no such lock: the unique index lets one of the two in, and the other one then follows.
-- A plain AFTER UPDATE that compares in its body: UPDATE OF and WHEN would make the trigger depend on columns of
-- auth.users and so block the auth server's own migrations.
-- Definer: the auth server's own role has no rights in public.
create or replace function profiles_internal.on_auth_user_updated()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_auth_user_updated$
declare
  gave_up constant text := coalesce(current_setting('profiles_internal.gave_up', true), '');
  one_snapshot constant boolean := current_setting('transaction_isolation') in ('repeatable read', 'serializable');
  before jsonb;
  after jsonb;
  lost jsonb := '{}';
  signed_in boolean;
  profile_exists boolean := true;
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  if gave_up <> '' then
    -- This transaction has waited for a lock and did not get it. The profile misses this change: it is recorded, unless
    -- the record cannot be written either.
    begin
      before := to_jsonb(old) - 'updated_at';
      after := to_jsonb(new) - 'updated_at';
      if gave_up = 'yes' and before <> after then
        lost := case when before ->> 'deleted_at' is not null and after ->> 'deleted_at' is null then '{"undeleted": true}' else '{}' end;
        perform profiles_internal.record_events(
          array[new.id], 'skipped', 'trigger', '55P03', 'an earlier statement of this transaction waited for a lock and did not get it', lost
        );
      end if;
    exception when query_canceled or assert_failure or others then
      perform set_config('profiles_internal.gave_up', 'mute', true);
      raise warning 'profiles-schema: a profile did not follow its user, and no record of it (SQLSTATE %)', sqlstate
        using hint = 'Run: profiles-schema backfill';
    end;
    return null;
  end if;

  begin
    before := to_jsonb(old);
    after := to_jsonb(new);
    lost := case when before ->> 'deleted_at' is not null and after ->> 'deleted_at' is null then '{"undeleted": true}' else '{}' end;

    if after ->> 'deleted_at' is not null then
      if before ->> 'deleted_at' is null then
        -- Where the wait is too long, what can be seen is erased all the same, and the rest is on record for backfill.
        begin
          perform from auth.users as u where u.id = new.id for update;
          error_code := case when one_snapshot then '40001' end;
        exception when lock_not_available or deadlock_detected then
          error_code := sqlstate;
        end;
        perform profiles_internal.erase_profile(new.id);
        if error_code is not null then
          perform profiles_internal.record_events(array[new.id], 'failed', 'trigger', error_code, 'auth.users');
        end if;
      end if;
      return null;
    end if;

    signed_in := after ->> 'last_sign_in_at' is not null and before -> 'last_sign_in_at' is distinct from after -> 'last_sign_in_at';
    if before -> 'email' is distinct from after -> 'email'
      or before -> 'phone' is distinct from after -> 'phone'
      or before -> 'deleted_at' is distinct from after -> 'deleted_at'
      or before -> 'raw_user_meta_data' is distinct from after -> 'raw_user_meta_data'
      or before #> '{raw_app_meta_data,identity_username}' is distinct from after #> '{raw_app_meta_data,identity_username}'
    then
      profile_exists := profiles_internal.follow_user(before, after);
    elsif signed_in
      or before -> 'email_confirmed_at' is distinct from after -> 'email_confirmed_at'
      or before -> 'is_anonymous' is distinct from after -> 'is_anonymous'
    then
      -- A sign-in, or a confirmation. What follows always is set again: an earlier change may have failed to. A profile that
      -- missed a change of the address follows in full, with its username; so does one that is inactive, perhaps because an
      -- undelete was lost.
      update public.user_profiles as p
      set
        last_login = case when signed_in then (after ->> 'last_sign_in_at')::timestamptz else p.last_login end,
        login_count = p.login_count + signed_in::integer,
        email_verified = nullif(after ->> 'email', '') is not null and after ->> 'email_confirmed_at' is not null,
        is_anonymous = coalesce((after ->> 'is_anonymous')::boolean, false)
      where p.user_id = new.id and p.is_active
        and coalesce(nullif(after ->> 'email', ''), p.email) is not distinct from p.email;
      profile_exists := found or profiles_internal.follow_user(before, after);
    else
      profile_exists := (select 1 from public.user_profiles as p where p.user_id = new.id) is not null;
    end if;

    if profile_exists then
      return null;
    end if;
    if (select s.value from profiles_internal.settings as s where s.key = 'auto_create_profiles') is distinct from 'false' then
      if profiles_internal.create_profiles(array[after]) = 1 then
        perform profiles_internal.record_events(array[new.id], 'repaired', 'trigger');
        return null;
      end if;
      -- Another transaction has just made it, from the row as it was before this change.
      profile_exists := profiles_internal.follow_user(before, after);
    else
      perform from auth.users as u where u.id = new.id for update;
      -- In a transaction with one snapshot, a profile made since then cannot be seen.
      profile_exists := profiles_internal.follow_user(before, after) or not one_snapshot;
    end if;
    if not profile_exists then
      raise exception 'the profile is being made or deleted at this moment' using errcode = 'serialization_failure';
    end if;
    return null;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
  end;

  begin
    if error_code in ('55P03', '40P01', '57014') then
      perform set_config('profiles_internal.gave_up', 'yes', true);
    end if;
    perform profiles_internal.record_events(
      array[new.id], 'failed', 'trigger', error_code,
      profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context), lost
    );
  exception when query_canceled or assert_failure or others then
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: a profile did not follow its user (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
  return null;
end
$on_auth_user_updated$;

revoke all on function profiles_internal.on_auth_user_updated() from public, anon, authenticated, service_role;

create or replace trigger profiles_on_auth_user_updated
  after update on auth.users
  for each row
  execute function profiles_internal.on_auth_user_updated();
"""
    )
    op.execute(
        r"""
-- Where tables were taken over, the application's row triggers on auth.users may need the profile: ours is a row trigger
-- there, too, and the first.
do $first_at_sign_up$
begin
  if exists (select from profiles_internal.adopted as a where a.object_type = 'table') and exists (
    select from pg_trigger as t
    join pg_proc as f on f.oid = t.tgfoid
    where t.tgrelid = 'auth.users'::regclass and not t.tgisinternal and t.tgenabled <> 'D'
      -- After an insert, for each row.
      and t.tgtype & 5 = 5 and t.tgtype & 66 = 0
      and f.pronamespace <> 'profiles_internal'::regnamespace and f.prosrc not like '%profiles_schema: set aside%'
  ) then
    create trigger "00_profiles_on_auth_user_created"
      after insert on auth.users
      for each row
      execute function profiles_internal.on_auth_user_created();
  end if;
end
$first_at_sign_up$;

do $try_real_sign_up$
declare
  failed text;
begin
  select profiles_internal.try_real_sign_up((a.data)::integer) into failed
  from profiles_internal.adopted as a where a.object_type = 'sign-up' and a.object_name = 'auth.users';
  if failed is not null then
    raise exception 'a sign-up that worked before the upgrade would fail: %', failed
      using hint = 'Nothing of this revision was changed. Adapt that trigger of the application, or drop it, then run the upgrade again. '
        'The way back: profiles-schema downgrade base';
  end if;
end
$try_real_sign_up$;
"""
    )
    # What took over tables that were here already has done its work.
    op.execute(
        f"""
do $drop_planner$
declare
  ours record;
begin
  for ours in
    select p.oid::regprocedure as name
    from pg_proc as p
    where p.pronamespace = 'profiles_internal'::regnamespace
      and p.proname = any (string_to_array('{" ".join(function.stem for function in planner())}', ' '))
  loop
    execute format('drop function %s', ours.name);
  end loop;
end
$drop_planner$
"""
    )


def downgrade() -> None:
    # What the revisions before this took over is taken back by the same functions. A body may name what is gone.
    op.execute("set local check_function_bodies = off")
    for function in planner():
        op.execute(function.read_text(encoding="utf-8"))
    op.execute("set local check_function_bodies = on")
    op.execute(
        r"""
-- Dropping the function takes its trigger along: on some hosts the owner of auth.users is somebody else and DROP TRIGGER
-- is refused. Where even this is refused, a function that does nothing is left behind.
do $drop_sign_up_triggers$
declare
  function_name text;
begin
  foreach function_name in array array['on_auth_user_created', 'on_auth_user_updated'] loop
    begin
      execute format('drop function if exists profiles_internal.%I() cascade', function_name);
    exception when insufficient_privilege then
      execute format(
        'create or replace function profiles_internal.%I() returns trigger language plpgsql as %L',
        function_name, 'begin return null; end'
      );
      raise notice 'trigger function %() could not be dropped; it does nothing from now on', function_name;
    end;
  end loop;
end
$drop_sign_up_triggers$;

select profiles_internal.undo_adoption('0014_create_sign_up_triggers');
"""
    )


def planner() -> list[Path]:
    """The functions that plan an adoption and carry it out (0002_look_at_what_exists)."""
    return sorted((Path(__file__).parents[1] / "adoption").glob("*.sql"))
