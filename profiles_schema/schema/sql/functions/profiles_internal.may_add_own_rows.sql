-- The same as may_use_own_rows, for policies of INSERT: an erasure that is under way is waited for, because it cannot see
-- the new row. The lock is the one that the row's foreign key takes anyway.
-- Definer: authenticated has no right on auth.users.
create or replace function profiles_internal.may_add_own_rows()
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $may_add_own_rows$
begin
  if not has_any_column_privilege('auth.users', 'update') then
    null; -- a row lock needs that right
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- One snapshot for all statements: an erasure since then is an error (40001).
    perform from auth.users as u where u.id = auth.uid() for share;
  else
    perform from auth.users as u where u.id = auth.uid() for key share;
  end if;
  return profiles_internal.may_use_own_rows();
end
$may_add_own_rows$;

revoke all on function profiles_internal.may_add_own_rows() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.may_add_own_rows() to authenticated;
