-- Gives every user of the array a profile and a progress row, and returns how many profiles it made.
-- The one place where a profile comes into being: sign-up, sign-in, ensure_user_profile and backfill all call it.
--
-- Names are inserted in order, so that two imports meet each name in the same order; an import that finds the name taken
-- (by an older row or by a concurrent one) uses the next choice. ON CONFLICT has no target on purpose:
-- a target would cover one unique index and let the others fail.
-- If all three are taken, a person took them on purpose (public profiles show ids): then a random one.
-- At audit level 'all' it records the creation itself, which is cheaper than a trigger call per row
-- (record_profile_creation stands back while `profiles_internal.creating` is set).
-- Generic plans: planning anew for every array would cost as much as the inserts.
-- Errors are the caller's business. Runs with the rights of its caller, which is always one of our definer functions.
create or replace function profiles_internal.create_profiles(p_users jsonb[], p_first_choice integer default 1)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $create_profiles$
declare
  asked jsonb[];
  made uuid[];
  created uuid[] := '{}';
  everybody_served boolean;
  creating text := set_config('profiles_internal.creating', 'yes', true);
begin
  for choice in p_first_choice .. 4 loop
    with candidate as materialized (
      select
        v.*,
        case choice
          when 1 then v.first_username
          when 2 then v.second_username
          when 3 then v.third_username
          else replace(gen_random_uuid()::text, '-', '')
        end as username
      from profiles_internal.profile_values(p_users) as v
    ),
    profile as (
      insert into public.user_profiles (
        id, user_id, username, display_name, first_name, last_name, email, phone, avatar_url, timezone, language,
        email_verified, is_anonymous, last_login, login_count
      )
      select
        profiles_internal.key_of(c.user_id, (null::public.user_profiles).id), c.user_id, c.username, c.display_name, c.first_name, c.last_name, c.email, c.phone, c.avatar_url,
        c.timezone, c.language, c.email_verified, c.is_anonymous, c.last_login, (c.last_login is not null)::integer
      from candidate as c
      -- Held for a former owner: as good as taken.
      where (
        select 1 from profiles_internal.held_usernames as h
        where h.username = c.username and h.user_id <> c.user_id and h.held_until > now()
      ) is null
      order by c.username
      on conflict do nothing
      returning user_id
    ),
    progress as (
      insert into public.user_progress (user_id)
      select p.user_id from profile as p
      on conflict do nothing
    )
    select array_agg(p.user_id) into made from profile as p;

    created := created || made;
    everybody_served := coalesce(cardinality(made), 0) = cardinality(p_users);
    exit when everybody_served;

    -- The scalar sub-select keeps the planner on the index: a NOT EXISTS makes it hash the whole profile table.
    asked := coalesce(asked, p_users);
    p_users := array(
      select u.user_row
      from unnest(p_users) as u (user_row)
      where (select 1 from public.user_profiles as p where p.user_id = (u.user_row ->> 'id')::uuid) is null
    );
    everybody_served := p_users = '{}';
    exit when everybody_served;
  end loop;

  if asked is not null then
    -- A user had a profile already, and perhaps no progress.
    insert into public.user_progress (user_id)
    select p.user_id
    from unnest(asked) as u (user_row)
    join public.user_profiles as p on p.user_id = (u.user_row ->> 'id')::uuid
    on conflict do nothing;
    if not everybody_served then
      -- Not a name, then: some unique index of the application's own.
      raise exception 'a unique index leaves no room for a profile'
        using errcode = 'unique_violation', schema = 'public', table = 'user_profiles';
    end if;
  end if;

  begin
    if (select s.value from profiles_internal.settings as s where s.key = 'audit_level') = '"all"' then
      perform profiles_internal.record_events(
        created, 'created', coalesce(nullif(current_setting('profiles_internal.origin', true), ''), 'trigger')
      );
    end if;
  exception when query_canceled or assert_failure or others then
    raise warning 'profiles-schema: the creation of profiles was not recorded (SQLSTATE %)', sqlstate;
  end;
  creating := set_config('profiles_internal.creating', '', true);
  return cardinality(created);
end
$create_profiles$;

revoke all on function profiles_internal.create_profiles(jsonb[], integer) from public, anon, authenticated, service_role;
