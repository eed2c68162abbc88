-- After an API key was read to be used: last_used_at says so, at most once an hour, and an audit row does where the
-- setting audit_key_reads is on. Readers of one key do not wait for each other.
-- Definer: users write neither. The caller must be the user, or may act for anybody (may_act_for).
create or replace function profiles_internal.record_key_use(p_user_id uuid, p_provider text, p_label text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_key_use$
declare
  source record;
begin
  if not profiles_internal.may_act_for(p_user_id) then
    raise exception 'a key is used by its owner' using errcode = 'insufficient_privilege';
  end if;
  update public.user_provider_keys as k
  set last_used_at = clock_timestamp()
  where k.id = (
    select o.id from public.user_provider_keys as o
    where o.user_id = p_user_id and o.provider = p_provider and o.label = p_label
      and (o.last_used_at is null or o.last_used_at < clock_timestamp() - interval '1 hour')
    for no key update skip locked
  );
  if (select s.value from profiles_internal.settings as s where s.key = 'audit_key_reads') = 'true' and (
    exists (
      select from public.user_provider_keys as k
      where k.user_id = p_user_id and k.provider = p_provider and k.label = p_label
    )
    or p_label = '' and exists (
      select from public.user_api_keys as k where k.user_id = p_user_id and to_jsonb(k) ->> (p_provider || '_api_key') is not null
    )
  ) then
    select s.* into source from profiles_internal.audit_source() as s;
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values (p_user_id, 'key_read', source.origin, source.actor, source.context || jsonb_build_object('provider', p_provider));
  end if;
end
$record_key_use$;

revoke all on function profiles_internal.record_key_use(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.record_key_use(uuid, text, text) to authenticated, service_role;
