-- Before a person takes another username: not one that suggests authority. The list is that of sign-up
-- (profile_values makes another name of a reserved one); service_role may hand such names out.
-- Definer: a person may not call profile_values.
create or replace function profiles_internal.refuse_reserved_username()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $refuse_reserved_username$
declare
  acting_role constant text := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  -- A role of the application may be a member of authenticated, and act without SET ROLE.
  if (
    acting_role in ('anon', 'authenticated')
    or pg_has_role(acting_role, 'authenticated', 'member')
      and not pg_has_role(acting_role, 'service_role', 'member') and not pg_has_role(acting_role, current_user, 'member')
  ) and new.username ~ '^[a-z0-9_.-]{3,32}$' and (
    select v.first_username
    from profiles_internal.profile_values(array[jsonb_build_object('id', new.user_id, 'email', new.username || '@')]) as v
  ) <> new.username then
    raise exception 'the username "%" is reserved', new.username
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = 'username';
  end if;
  return new;
end
$refuse_reserved_username$;

revoke all on function profiles_internal.refuse_reserved_username() from public, anon, authenticated, service_role;

create or replace trigger refuse_reserved_username
  before update on public.user_profiles
  for each row
  when (new.username is distinct from old.username)
  execute function profiles_internal.refuse_reserved_username();
