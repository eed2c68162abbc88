-- Raises 42501 when the caller is a user who is erased or inactive; true for everybody else.
-- service_role, and roles that are members of it, may act for any user.
create or replace function profiles_internal.require_active_caller()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $require_active_caller$
begin
  if auth.uid() is not null and not profiles_internal.may_use_own_rows()
    and not pg_has_role(coalesce(nullif(current_setting('role', true), 'none'), session_user), 'service_role', 'member')
  then
    raise exception 'this account is erased or inactive'
      using errcode = 'insufficient_privilege', hint = 'It can neither read nor write anything.';
  end if;
  return true;
end
$require_active_caller$;

revoke all on function profiles_internal.require_active_caller() from public, anon, authenticated, service_role;
