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

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.export_history') then
    return;
  end if;
  revoke select on table public.export_history from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.export_history'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.export_history' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.export_history to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
