-- Carries a change of a user over to the profile.
--
-- email, email_verified and is_anonymous always follow; the time of the last sign-in with its count. An address that a
-- user who never had one brought along (an adopted profile) stays.
-- Phone, name, picture and username follow only while the profile still holds what the OLD user row had produced: what a
-- person has edited stays theirs. A value that the user row no longer has is kept.
-- email_change and phone_change are pending, unproved wishes: never read.
-- Who is undeleted becomes active again. The profile of an account that was ended follows no more, or what was erased would
-- come back from auth.users, where the auth server's row may go on; an undelete ends that.
-- Returns false when there is no profile to follow with.
create or replace function profiles_internal.follow_user(p_old jsonb, p_new jsonb)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow_user$
declare
  changed_user_id constant uuid := (p_new ->> 'id')::uuid;
  old_values record;
  new_values record;
  signed_in constant boolean := p_new ->> 'last_sign_in_at' is not null
    and p_new ->> 'last_sign_in_at' is distinct from p_old ->> 'last_sign_in_at';
  had_email constant boolean := p_old ->> 'email' <> '';
  undeleted boolean := p_old ->> 'deleted_at' is not null;
  profile public.user_profiles;
  wanted_username text;
begin
  -- The address that the profile last followed; the old row has another one where a change was lost. Locked, so that a
  -- repair that is under way is waited for before its address is read.
  select p_old || jsonb_build_object('email', p.email)
  into p_old
  from public.user_profiles as p
  where p.user_id = changed_user_id
  for no key update;
  if not found then
    return false;
  end if;
  -- An undelete that was lost is made up for, once; a profile that was made inactive on purpose stays so.
  if not undeleted and not (select p.is_active from public.user_profiles as p where p.user_id = changed_user_id) and exists (
    select from public.user_profile_audit_logs as a
    where a.user_id = changed_user_id and a.action in ('failed', 'skipped') and a.metadata ? 'undeleted'
      and not exists (
        select from public.user_profile_audit_logs as r
        where r.user_id = changed_user_id and r.action = 'repaired' and r.created_at >= a.created_at
      )
  ) then
    undeleted := true;
    perform profiles_internal.record_events(array[changed_user_id], 'repaired', 'trigger');
  end if;
  if undeleted then
    delete from profiles_internal.erasures as e where e.user_id = changed_user_id;
  elsif exists (select from profiles_internal.erasures as e where e.user_id = changed_user_id) then
    return true;
  end if;
  select v.* into old_values from profiles_internal.profile_values(array[p_old]) as v;
  select v.* into new_values from profiles_internal.profile_values(array[p_new]) as v;

  update public.user_profiles as p
  set
    email = coalesce(new_values.email, case when had_email then null else p.email end),
    email_verified = new_values.email_verified,
    is_anonymous = new_values.is_anonymous,
    is_active = p.is_active or undeleted,
    last_login = case when signed_in or undeleted then new_values.last_login else p.last_login end,
    login_count = p.login_count + signed_in::integer,
    phone = case when p.phone is not distinct from old_values.phone
      then coalesce(new_values.phone, p.phone) else p.phone end,
    display_name = case when p.display_name is not distinct from old_values.display_name
      then coalesce(new_values.display_name, p.display_name) else p.display_name end,
    first_name = case when p.first_name is not distinct from old_values.first_name
      then coalesce(new_values.first_name, p.first_name) else p.first_name end,
    last_name = case when p.last_name is not distinct from old_values.last_name
      then coalesce(new_values.last_name, p.last_name) else p.last_name end,
    avatar_url = case when p.avatar_url is not distinct from old_values.avatar_url
      then coalesce(new_values.avatar_url, p.avatar_url) else p.avatar_url end
  where p.user_id = changed_user_id
  returning p.* into profile;

  if not found then
    return false;
  end if;

  -- A name follows a changed address only if it was made from the old one.
  if new_values.first_username <> old_values.first_username
    and profile.username in (old_values.first_username, old_values.second_username, old_values.third_username)
  then
    foreach wanted_username in array
      array[new_values.first_username, new_values.second_username, new_values.third_username]
    loop
      continue when (select 1 from public.user_profiles as p where lower(p.username) = wanted_username) is not null;
      begin
        update public.user_profiles set username = wanted_username where user_id = changed_user_id;
        exit;
      exception when unique_violation or lock_not_available then
        continue; -- another transaction was faster
      end;
    end loop;
  end if;
  return true;
end
$follow_user$;

revoke all on function profiles_internal.follow_user(jsonb, jsonb) from public, anon, authenticated, service_role;
