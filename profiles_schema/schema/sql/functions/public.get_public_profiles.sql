-- get_public_profiles(array of user ids): what public profiles show to everybody, for feeds and lists of comments; no row for a
-- private, inactive or unknown one. At most 200 ids.
-- Errors: 22023 more than 200 ids.
create or replace function public.get_public_profiles(p_user_ids uuid[])
returns table (
  id text, user_id uuid, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $get_public_profiles$
begin
  if cardinality(p_user_ids) > 200 then
    raise exception '% user ids are too many', cardinality(p_user_ids)
      using errcode = 'invalid_parameter_value', hint = 'Ask for 200 at most, and again for the rest.';
  end if;
  return query select * from profiles_internal.public_profiles(null, p_user_ids);
end
$get_public_profiles$;

revoke all on function public.get_public_profiles(uuid[]) from public, anon, authenticated, service_role;
grant execute on function public.get_public_profiles(uuid[]) to anon, authenticated, service_role;
comment on function public.get_public_profiles(uuid[]) is 'What public profiles show to everybody, for feeds and lists of comments';
