-- The work of get_public_profile: what a profile shows to everybody, of public and active profiles only.
-- Errors: 42501 for a caller who is erased or inactive.
-- Definer: the one door through which somebody else's profile can be read; it opens on these columns alone.
create or replace function profiles_internal.public_profile(p_username text)
returns table (id text, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $public_profile$
  select p.id::text, p.username, p.display_name, p.avatar_emoji, p.avatar_url, p.profile_picture_url, p.bio
  from public.user_profiles as p
  where lower(p.username) = lower(p_username)
    and p.profile_visibility = 'public'
    and p.is_active
    and (select profiles_internal.require_active_caller())
$public_profile$;

revoke all on function profiles_internal.public_profile(text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.public_profile(text) to anon, authenticated, service_role;
