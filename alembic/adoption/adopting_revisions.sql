-- Which revision takes over, or else creates, which table; in their order.
create or replace function profiles_internal.adopting_revisions()
returns table (place integer, table_name text, revision text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $adopting_revisions$
  values
    (1, 'user_profiles', '0006_create_user_profiles'),
    (2, 'user_progress', '0007_create_user_progress'),
    (3, 'user_api_keys', '0008_create_user_api_keys'),
    (4, 'export_history', '0009_create_export_history'),
    (5, 'user_profile_audit_logs', '0010_create_audit_logs')
$adopting_revisions$;

revoke all on function profiles_internal.adopting_revisions() from public, anon, authenticated, service_role;
