-- After a profile has taken another username: the old one is held for its former owner, as long as the setting
-- username_hold_days says (90), and get_public_profile answers it with the new one. Nobody else can take it meanwhile, not even
-- service_role: 23505, as for a name that is taken.
-- After the change and not before: whoever had to wait for the former owner's commit sees here what is held since.
-- A user holds three names at most, the latest. A name that the profile had in the transaction that made it is not held, nor
-- that of an account that ends.
-- Definer: users have no right on the table.
create or replace function profiles_internal.hold_username()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $hold_username$
declare
  days integer;
begin
  if exists (
    select from profiles_internal.held_usernames as h
    where h.username = lower(new.username) and h.user_id <> new.user_id and h.held_until > now()
  ) then
    raise exception 'the username "%" is held for its former owner', new.username
      using errcode = 'unique_violation', schema = 'public', table = 'user_profiles', column = 'username';
  end if;
  if tg_op = 'INSERT' then
    return null;
  end if;
  delete from profiles_internal.held_usernames as h where h.username = lower(new.username);
  if not new.is_active or old.created_at = now() or lower(old.username) = lower(new.username) then
    return null;
  end if;
  days := coalesce(
    (
      select s.value::text::integer from profiles_internal.settings as s
      where s.key = 'username_hold_days' and s.value::text ~ '^[0-9]{1,4}$'
    ), 90
  );
  if days > 0 then
    insert into profiles_internal.held_usernames as h (username, user_id, held_until)
    values (lower(old.username), old.user_id, clock_timestamp() + make_interval(days => days))
    on conflict (username) do update set user_id = excluded.user_id, held_until = excluded.held_until;
    delete from profiles_internal.held_usernames as h
    where h.username in (
      select o.username from profiles_internal.held_usernames as o
      where o.user_id = new.user_id order by o.held_until desc offset 3
    );
  end if;
  return null;
end
$hold_username$;

revoke all on function profiles_internal.hold_username() from public, anon, authenticated, service_role;

create or replace trigger hold_username
  after update on public.user_profiles
  for each row
  when (new.username is distinct from old.username)
  execute function profiles_internal.hold_username();

-- create_profiles asks by itself.
create or replace trigger hold_username_on_insert
  after insert on public.user_profiles
  for each row
  when (current_setting('profiles_internal.creating', true) is distinct from 'yes')
  execute function profiles_internal.hold_username();
