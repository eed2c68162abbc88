-- get_my_referral_code(): the caller's referral code, made at random on the first request.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_referral_code()
returns text
language sql
set search_path = pg_catalog, pg_temp
as $get_my_referral_code$
  select profiles_internal.referral_code()
$get_my_referral_code$;

revoke all on function public.get_my_referral_code() from public, anon, authenticated, service_role;
grant execute on function public.get_my_referral_code() to authenticated;
comment on function public.get_my_referral_code() is 'The caller''s referral code, made at random on the first request';
