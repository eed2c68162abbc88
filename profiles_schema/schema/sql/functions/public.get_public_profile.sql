-- get_public_profile('ada'): what a public profile shows to everybody; no row for a private, inactive or unknown one.
create or replace function public.get_public_profile(p_username text)
returns table (id text, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $get_public_profile$
  select p.id, p.username, p.display_name, p.avatar_emoji, p.avatar_url, p.profile_picture_url, p.bio
  from profiles_internal.public_profiles(p_username, null) as p
$get_public_profile$;

revoke all on function public.get_public_profile(text) from public, anon, authenticated, service_role;
grant execute on function public.get_public_profile(text) to anon, authenticated, service_role;
comment on function public.get_public_profile(text) is 'What a public profile shows to everybody';
