-- The work of create_user. One user per external id: a known one is returned as it is, also to two callers at once.
-- Definer: writes auth.users, which is ours here.
-- Errors: 23505 username taken; 23514 a username that the rule refuses.
create or replace function profiles_internal.make_user(
  p_email text,
  p_phone text,
  p_external_id text,
  p_username text,
  p_metadata jsonb
)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $make_user$
declare
  made_user_id uuid;
begin
  if p_external_id is not null then
    perform pg_advisory_xact_lock(hashtextextended('profiles_internal.make_user ' || p_external_id, 0));
    select p.user_id into made_user_id from public.user_profiles as p where p.external_id = p_external_id;
    if found then
      return made_user_id;
    end if;
  end if;

  insert into auth.users (email, phone, raw_user_meta_data)
  values (p_email, p_phone, coalesce(p_metadata, '{}'))
  returning id into made_user_id;

  -- The trigger has made the profile, unless it was switched off or failed.
  perform profiles_internal.create_profiles(array[to_jsonb(u)]) from auth.users as u
  where u.id = made_user_id and (select 1 from public.user_profiles as p where p.user_id = made_user_id) is null;

  if p_external_id is not null or p_username is not null then
    update public.user_profiles as p
    set external_id = p_external_id, username = coalesce(p_username, p.username)
    where p.user_id = made_user_id;
  end if;
  return made_user_id;
end
$make_user$;

revoke all on function profiles_internal.make_user(text, text, text, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.make_user(text, text, text, text, jsonb) to service_role;
