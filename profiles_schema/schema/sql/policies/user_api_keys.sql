-- Who may do what with user_api_keys. The columns accept only our ciphertext envelope, from every role.
revoke all on table public.user_api_keys from public, anon, authenticated, service_role;

grant select, delete on table public.user_api_keys to authenticated;
grant insert (user_id, openai_api_key, unsplash_api_key, anthropic_api_key, hints) on table public.user_api_keys to authenticated;
grant update (openai_api_key, unsplash_api_key, anthropic_api_key, hints) on table public.user_api_keys to authenticated;
grant select, insert, update, delete on table public.user_api_keys to service_role;

alter table public.user_api_keys enable row level security;

create policy "Owners can read their own API keys" on public.user_api_keys
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can store their own API keys" on public.user_api_keys
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can replace their own API keys" on public.user_api_keys
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can delete their own API keys" on public.user_api_keys
  for delete to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.user_api_keys') then
    return;
  end if;
  revoke select on table public.user_api_keys from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.user_api_keys'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.user_api_keys' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.user_api_keys to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
