-- Who may do what with export_history. A user asks for an export; status, file and data are the application's.
revoke all on table public.export_history from public, anon, authenticated, service_role;

grant select on table public.export_history to authenticated;
grant insert (user_id, export_type, export_format, filters) on table public.export_history to authenticated;
grant update (filters) on table public.export_history to authenticated;
grant select, insert, update, delete on table public.export_history to service_role;

alter table public.export_history enable row level security;

create policy "Owners can read their own exports" on public.export_history
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can ask for their own exports" on public.export_history
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can change their own pending exports" on public.export_history
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));
