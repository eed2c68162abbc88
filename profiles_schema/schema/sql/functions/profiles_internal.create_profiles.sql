-- Gives every user of the array a profile and a progress row, and returns how many profiles it made.
-- The one place where a profile comes into being: sign-up, sign-in, ensure_user_profile and backfill all call it.
--
-- Names are inserted in order, so that two imports meet each name in the same order; whoever finds the name taken
-- (by an older row or by a concurrent one) goes to the next attempt. ON CONFLICT stands without a target on purpose:
-- a target would cover one unique index and let the others fail.
-- Errors are the caller's business. Runs with the rights of its caller, which is always one of our definer functions.
create or replace function profiles_internal.create_profiles(p_users jsonb[], p_first_attempt integer default 1)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $create_profiles$
declare
  created integer := 0;
  made integer;
  waiting jsonb[] := p_users;
begin
  for attempt in p_first_attempt .. 3 loop
    with candidate as materialized (
      select
        (u.user_row ->> 'id')::uuid as user_id,
        profiles_internal.username_for(v.username_base, (u.user_row ->> 'id')::uuid, attempt) as username,
        v.*
      from unnest(waiting) as u (user_row)
      cross join lateral profiles_internal.profile_values(u.user_row) as v
    ),
    profile as (
      insert into public.user_profiles (
        id, user_id, username, display_name, first_name, last_name, email, phone, avatar_url, timezone, language,
        email_verified, is_anonymous, last_login, login_count
      )
      select
        c.user_id::text, c.user_id, c.username, c.display_name, c.first_name, c.last_name, c.email, c.phone, c.avatar_url,
        c.timezone, c.language, c.email_verified, c.is_anonymous, c.last_login, (c.last_login is not null)::integer
      from candidate as c
      order by c.username
      on conflict do nothing
      returning user_id
    ),
    progress as (
      insert into public.user_progress (user_id)
      select p.user_id from profile as p
      on conflict do nothing
    )
    select count(*) into made from profile;

    created := created + made;
    if made = cardinality(waiting) then
      return created;
    end if;

    -- The scalar sub-select keeps the planner on the index: a NOT EXISTS makes it hash the whole profile table.
    select array_agg(u.user_row)
    into waiting
    from unnest(waiting) as u (user_row)
    where (select 1 from public.user_profiles as p where p.user_id = (u.user_row ->> 'id')::uuid) is null;
    exit when waiting is null;
  end loop;

  -- Reached only when somebody had one of the two rows already.
  insert into public.user_progress (user_id)
  select p.user_id
  from unnest(p_users) as u (user_row)
  join public.user_profiles as p on p.user_id = (u.user_row ->> 'id')::uuid
  on conflict do nothing;
  return created;
end
$create_profiles$;

revoke all on function profiles_internal.create_profiles(jsonb[], integer) from public, anon, authenticated, service_role;
