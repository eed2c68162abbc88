-- Before a profile gets a time zone: it must be a name in pg_timezone_names. A CHECK cannot ask that, and
-- AT TIME ZONE accepts inventions such as 'FOO+5'.
-- The view walks a directory of a thousand files, so the names are in a table of this package; the view is asked only for
-- a name that the table does not know (the server's zone data may be newer).
-- Definer: a role that updates the profile has no rights in profiles_internal.
create or replace function profiles_internal.require_known_timezone()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $require_known_timezone$
begin
  if tg_op = 'UPDATE' and new.timezone is not distinct from old.timezone then
    return new;
  end if;
  if (select 1 from profiles_internal.timezones as z where z.name = new.timezone) is null
    and not exists (select from pg_timezone_names as z where z.name = new.timezone)
  then
    raise exception 'time zone "%" is not known', left(new.timezone, 100)
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = 'timezone',
        hint = 'Use a name from pg_timezone_names, such as Europe/Berlin.';
  end if;
  return new;
end
$require_known_timezone$;

revoke all on function profiles_internal.require_known_timezone() from public, anon, authenticated, service_role;

create or replace trigger require_known_timezone
  before insert or update on public.user_profiles
  for each row
  when (new.timezone <> 'UTC')
  execute function profiles_internal.require_known_timezone();
