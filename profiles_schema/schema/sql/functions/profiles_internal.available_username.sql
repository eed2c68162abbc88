-- The work of gen_available_username: a name made from an address, which no profile has at this moment.
-- Advice for a form, no reservation; the sign-up trigger does not depend on it.
-- Definer: must see every username, which no API role may.
create or replace function profiles_internal.available_username(p_email text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $available_username$
declare
  choices record;
  candidate text;
begin
  perform profiles_internal.require_active_caller();
  loop
    select v.* into choices
    from profiles_internal.profile_values(array[jsonb_build_object('id', gen_random_uuid(), 'email', p_email)]) as v;
    foreach candidate in array array[choices.first_username, choices.second_username] loop
      if (select 1 from public.user_profiles as p where lower(p.username) = candidate) is null
        and (select 1 from profiles_internal.held_usernames as h where h.username = candidate and h.held_until > now()) is null
      then
        return candidate;
      end if;
    end loop;
  end loop;
end
$available_username$;

revoke all on function profiles_internal.available_username(text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.available_username(text) to authenticated, service_role;
