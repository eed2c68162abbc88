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
