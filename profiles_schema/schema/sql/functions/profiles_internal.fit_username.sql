-- A username for one profile from what an old statement wrote, by the rules of adoption (fit_usernames): one that keeps our
-- rule and is free stays; another is made by the rule of sign-up, with its choices where it is taken. The profile's own name
-- does not count as taken. Null stays null.
create or replace function profiles_internal.fit_username(p_username text, p_user_id uuid)
returns text
language sql
set search_path = pg_catalog, pg_temp
as $fit_username$
  select c.name
  from profiles_internal.profile_values(array[
    jsonb_build_object('id', p_user_id, 'email', split_part(p_username, '@', 1) || '@')
  ]) as v
  cross join lateral (values
    (1, case when p_username ~ '^[a-z0-9_.-]{3,32}$' then p_username else v.first_username end),
    (2, v.second_username), (3, v.third_username), (4, replace(gen_random_uuid()::text, '-', ''))
  ) as c (place, name)
  where p_username is not null
    and coalesce((select p.user_id from public.user_profiles as p where lower(p.username) = c.name), p_user_id) = p_user_id
  order by c.place
  limit 1
$fit_username$;

revoke all on function profiles_internal.fit_username(text, uuid) from public, anon, authenticated, service_role;
