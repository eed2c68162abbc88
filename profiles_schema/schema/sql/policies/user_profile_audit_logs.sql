-- Who may do what with user_profile_audit_logs. Append only, by grants: only the owner of the table can change
-- or remove a row (a trigger that forbids it would break ON DELETE SET NULL).
revoke all on table public.user_profile_audit_logs from public, anon, authenticated, service_role;

grant select on table public.user_profile_audit_logs to authenticated;
grant select, insert on table public.user_profile_audit_logs to service_role;

alter table public.user_profile_audit_logs enable row level security;

create policy "Owners can read their own audit log" on public.user_profile_audit_logs
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.user_profile_audit_logs') then
    return;
  end if;
  revoke select on table public.user_profile_audit_logs from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.user_profile_audit_logs'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.user_profile_audit_logs' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.user_profile_audit_logs to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
