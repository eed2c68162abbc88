-- The work of get_my_referral_code: the caller's code, made at random on the first request.
-- Definer: users may not write the column; it acts for the signed-in user only.
-- Two requests at once: the second waits for the first, and returns its code.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function profiles_internal.referral_code()
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $referral_code$
declare
  caller constant uuid := auth.uid();
  code text := profiles_internal.ensure_profile(caller) ->> 'referral_code';
begin
  for attempt in 1 .. 5 loop
    exit when code is not null;
    begin
      update public.user_profiles as p
      -- Up to here all digits of such a uuid are random.
      set referral_code = coalesce(p.referral_code, upper(left(replace(gen_random_uuid()::text, '-', ''), 10)))
      where p.user_id = caller
      returning p.referral_code into code;
    exception when unique_violation then
      if attempt = 5 then
        raise;
      end if;
    end;
  end loop;
  return code;
end
$referral_code$;

revoke all on function profiles_internal.referral_code() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.referral_code() to authenticated;
