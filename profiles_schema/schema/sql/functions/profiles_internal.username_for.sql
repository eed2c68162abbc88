-- The username of a user, by attempt: 1 the base itself, 2 with the last eight hex digits of the user id,
-- 3 all 32 hex digits. 'user' alone is nobody's name: it starts at 2. No chance and no loop, so that the
-- thousandth ada@… costs what the second did.
create or replace function profiles_internal.username_for(p_base text, p_user_id uuid, p_attempt integer)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $username_for$
declare
  digits text := replace(p_user_id::text, '-', '');
begin
  if p_attempt = 1 and p_base <> 'user' then
    return p_base;
  elsif p_attempt <= 2 then
    return left(p_base, 23) || '_' || right(digits, 8);
  end if;
  return digits;
end
$username_for$;

revoke all on function profiles_internal.username_for(text, uuid, integer) from public, anon, authenticated, service_role;
