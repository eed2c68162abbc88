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
