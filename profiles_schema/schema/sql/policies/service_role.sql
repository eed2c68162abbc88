-- service_role passes row level security with BYPASSRLS. Where it cannot have that (only an administrator grants it),
-- it gets policies of its own.
do $service_role$
declare
  table_name text;
begin
  if (select r.rolbypassrls from pg_catalog.pg_roles as r where r.rolname = 'service_role') then
    return;
  end if;
  foreach table_name in array array[
    'public.user_profiles', 'public.user_progress', 'public.user_api_keys', 'public.user_provider_keys',
    'public.export_history', 'public.user_profile_audit_logs', 'public.sessions'
  ] loop
    if pg_catalog.obj_description(pg_catalog.to_regclass(table_name), 'pg_class') like 'profiles-schema:%'
      or table_name <> 'public.sessions'
    then
      execute pg_catalog.format(
        'create policy "Service role can do what its grants allow" on %s for all to service_role using (true) with check (true)',
        table_name
      );
    end if;
  end loop;
end
$service_role$;
