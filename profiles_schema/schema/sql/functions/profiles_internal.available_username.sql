-- The work of gen_available_username: a name made from an address that nobody has at this moment.
-- Advice for a form, no reservation; the sign-up trigger does not depend on it.
-- Definer: must see every username, which no API role may.
create or replace function profiles_internal.available_username(p_email text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $available_username$
declare
  candidate text := profiles_internal.username_base(p_email);
begin
  while candidate = 'user' or (select 1 from public.user_profiles as p where lower(p.username) = candidate) is not null loop
    candidate := profiles_internal.username_for(profiles_internal.username_base(p_email), gen_random_uuid(), 2);
  end loop;
  return candidate;
end
$available_username$;

revoke all on function profiles_internal.available_username(text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.available_username(text) to authenticated, service_role;
