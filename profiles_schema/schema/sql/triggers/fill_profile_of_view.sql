-- Before a profile is inserted by way of the view that bears the old name of user_profiles. Old statements know neither
-- the username nor today's id, so both are filled here: those of the profile that is there (an upsert comes by here before
-- it finds the row to update), or else those that a sign-up gives, with what else it knows of the user.
-- An id that looks like the column's random default becomes the user's id: the two cannot be told apart.
-- A person cannot take a reserved username this way, nor date updated_at. Sign-up fills everything itself, and is not held up.
-- Definer: a person may read neither auth.users nor profile_values.
create or replace function profiles_internal.fill_profile_of_view()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fill_profile_of_view$
declare
  by_person constant boolean := coalesce(current_setting('role', true), '') in ('anon', 'authenticated');
  username_now text;
  known record;
begin
  -- Another person's row: the policy refuses it, with nothing of that person filled in.
  if new.user_id is null or (by_person and new.user_id is distinct from auth.uid()) then
    return new;
  end if;
  if new.id is null or pg_typeof(new.id) = 'text'::regtype and new.id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' then
    new.id := new.user_id::text;
  end if;
  if by_person then
    new.updated_at := now();
  end if;

  select p.username into username_now from public.user_profiles as p where p.user_id = new.user_id;
  if not found then
    -- Of two upserts that make one profile, the second waits here, and then finds it: behind this it would fail on a key
    -- that its ON CONFLICT does not name.
    perform pg_advisory_xact_lock(hashtextextended('profiles_internal.fill_profile_of_view ' || new.user_id, 0));
    select p.username into username_now from public.user_profiles as p where p.user_id = new.user_id;
  end if;
  if username_now is not null then
    new.username := coalesce(new.username, username_now);
  else
    select v.* into known
    from profiles_internal.profile_values(array[coalesce(
      (profiles_internal.living_users(array[new.user_id]))[1], jsonb_build_object('id', new.user_id)
    )]) as v;
    if new.username is null then
      select c.name into new.username
      from unnest(array[known.first_username, known.second_username, known.third_username, replace(gen_random_uuid()::text, '-', '')])
        with ordinality as c (name, place)
      where (select 1 from public.user_profiles as p where lower(p.username) = c.name) is null
      order by c.place limit 1;
    end if;
    if new.email is null then
      new.email := known.email;
      new.email_verified := known.email_verified;
    end if;
    new.phone := coalesce(new.phone, known.phone);
    new.display_name := coalesce(new.display_name, known.display_name);
    new.first_name := coalesce(new.first_name, known.first_name);
    new.last_name := coalesce(new.last_name, known.last_name);
    new.avatar_url := coalesce(new.avatar_url, known.avatar_url);
    new.is_anonymous := known.is_anonymous;
    new.last_login := coalesce(new.last_login, known.last_login);
  end if;

  if by_person and new.username is distinct from username_now and new.username ~ '^[a-z0-9_.-]{3,32}$' and (
    select v.first_username
    from profiles_internal.profile_values(array[jsonb_build_object('id', new.user_id, 'email', new.username || '@')]) as v
  ) <> new.username then
    raise exception 'the username "%" is reserved', new.username
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = 'username';
  end if;
  return new;
end
$fill_profile_of_view$;

revoke all on function profiles_internal.fill_profile_of_view() from public, anon, authenticated, service_role;

create or replace trigger fill_profile_of_view
  before insert on public.user_profiles
  for each row
  when (current_setting('profiles_internal.creating', true) is distinct from 'yes' or current_user in ('anon', 'authenticated'))
  execute function profiles_internal.fill_profile_of_view();
