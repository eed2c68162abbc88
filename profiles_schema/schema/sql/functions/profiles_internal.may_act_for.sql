-- May the caller act for this user? The user themselves, service_role, and a session that connected directly as a role that
-- is a member of service_role or owns this schema. Asked inside definer functions, where current_user is the owner:
-- the role that the caller has set is read from the setting "role", which a definer function does not change.
create or replace function profiles_internal.may_act_for(p_user_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $may_act_for$
declare
  acting_role constant text := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  if acting_role in ('anon', 'authenticated') then
    return coalesce(acting_role = 'authenticated' and p_user_id = auth.uid(), false);
  end if;
  -- An application may have roles of its own that are members of ours.
  return coalesce(p_user_id = auth.uid() and pg_has_role(acting_role, 'authenticated', 'member'), false)
    or pg_has_role(acting_role, 'service_role', 'member')
    or pg_has_role(acting_role, current_user, 'member');
end
$may_act_for$;

revoke all on function profiles_internal.may_act_for(uuid) from public, anon, authenticated, service_role;
