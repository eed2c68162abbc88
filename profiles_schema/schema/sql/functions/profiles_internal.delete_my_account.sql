-- The work of delete_my_account: shuts the account at once and notes that it is to be erased, which
-- `profiles-schema users erase --pending` does. It leaves auth.users alone, which the auth server may own.
-- Definer: users may write neither is_active nor the note; it acts for the signed-in user only.
-- The user is locked first, then the profile, as everywhere: rows that are being added are waited for.
create or replace function profiles_internal.delete_my_account(p_confirm text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $delete_my_account$
declare
  caller constant uuid := auth.uid();
  username constant text := profiles_internal.ensure_profile(caller) ->> 'username';
begin
  if lower(p_confirm) is distinct from lower(username) then
    raise exception 'the account was not deleted: p_confirm is not its username'
      using errcode = 'invalid_parameter_value', hint = 'Ask the person to type their username, and send what they typed.';
  end if;
  if has_any_column_privilege('auth.users', 'update') then -- which a row lock needs
    perform from auth.users as u where u.id = caller for update;
  end if;
  insert into profiles_internal.erasures as e (user_id, requested_by) values (caller, 'user')
  on conflict (user_id) do update
  set requested_at = excluded.requested_at, requested_by = excluded.requested_by, finished_at = null;
  update public.user_profiles as p set is_active = false where p.user_id = caller;
  perform profiles_internal.record_events(array[caller], 'deleted', 'manual', p_metadata => '{"account": "to be erased"}');
end
$delete_my_account$;

revoke all on function profiles_internal.delete_my_account(text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.delete_my_account(text) to authenticated;
