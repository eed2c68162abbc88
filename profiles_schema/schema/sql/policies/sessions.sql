-- Who may do what with sessions, where the table is ours: users read their own, the application writes.
revoke all on table public.sessions from public, anon, authenticated, service_role;

grant select on table public.sessions to authenticated;
grant select, insert, update, delete on table public.sessions to service_role;

alter table public.sessions enable row level security;

-- It is there already where schema profiles_internal was dropped, and this runs again.
drop policy if exists "Owners can read their own sessions" on public.sessions;
create policy "Owners can read their own sessions" on public.sessions
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));
