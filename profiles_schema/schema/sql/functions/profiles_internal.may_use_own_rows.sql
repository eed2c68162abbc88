-- May the signed-in user read and write their own rows? Not if they are erased or their profile is inactive, with
-- any token. A user without a profile may: the first request creates it.
-- For policies, in a scalar sub-select, so that it is asked once per statement.
-- Definer: authenticated may not read auth.users, and policies must not read the table that they guard. Says nothing about
-- anybody but the caller.
create or replace function profiles_internal.may_use_own_rows()
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $may_use_own_rows$
declare
  caller constant uuid := auth.uid();
begin
  return (select p.is_active from public.user_profiles as p where p.user_id = caller) is not false
    and (select to_jsonb(u) ->> 'deleted_at' from auth.users as u where u.id = caller) is null;
end
$may_use_own_rows$;

revoke all on function profiles_internal.may_use_own_rows() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.may_use_own_rows() to authenticated;
