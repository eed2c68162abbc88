-- Who may do what with user_provider_keys. The column envelope accepts only our ciphertext envelope, from every role; whether a
-- key works, and is used, is for the application to say.
revoke all on table public.user_provider_keys from public, anon, authenticated, service_role;

grant select, delete on table public.user_provider_keys to authenticated;
grant insert (user_id, provider, label, envelope, hint) on table public.user_provider_keys to authenticated;
grant update (envelope, hint) on table public.user_provider_keys to authenticated;
grant select, insert, update, delete on table public.user_provider_keys to service_role;

alter table public.user_provider_keys enable row level security;

create policy "Owners can read their own provider keys" on public.user_provider_keys
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can store their own provider keys" on public.user_provider_keys
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can replace their own provider keys" on public.user_provider_keys
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can delete their own provider keys" on public.user_provider_keys
  for delete to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));
