-- Who may do what with user_profile_audit_logs. Append only, by grants: nobody but the owner of the table can change
-- or remove a row (a trigger that forbids it would break ON DELETE SET NULL).
revoke all on table public.user_profile_audit_logs from public, anon, authenticated, service_role;

grant select on table public.user_profile_audit_logs to authenticated;
grant select, insert on table public.user_profile_audit_logs to service_role;

alter table public.user_profile_audit_logs enable row level security;

create policy "Owners can read their own audit log" on public.user_profile_audit_logs
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));
