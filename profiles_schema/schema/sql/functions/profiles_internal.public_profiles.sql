-- The work of get_public_profile and get_public_profiles: what profiles show to everybody, of public and active ones only; by
-- name, or by the ids of their users.
-- Errors: 42501 for a caller who is erased or inactive.
-- Definer: the only way to read another user's profile, and only these columns.
create or replace function profiles_internal.public_profiles(p_username text, p_user_ids uuid[])
returns table (
  id text, user_id uuid, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $public_profiles$
  select p.id::text, p.user_id, p.username, p.display_name, p.avatar_emoji, p.avatar_url, p.profile_picture_url, p.bio
  from public.user_profiles as p
  where (lower(p.username) = lower(p_username) or p.user_id = any (p_user_ids) or p.user_id = (
      -- A name that was given up lately leads to its former owner.
      select h.user_id from profiles_internal.held_usernames as h
      where h.username = lower(p_username) and h.held_until > now()
        and not exists (select from public.user_profiles as n where lower(n.username) = lower(p_username))
    ))
    and p.profile_visibility = 'public'
    and p.is_active
    and (select profiles_internal.require_active_caller())
$public_profiles$;

revoke all on function profiles_internal.public_profiles(text, uuid[]) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.public_profiles(text, uuid[]) to anon, authenticated, service_role;
