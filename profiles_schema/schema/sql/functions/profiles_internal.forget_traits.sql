-- Back to a table whose wide columns are its own affair: puts constraints back that were set aside for the dual write, and
-- forgets what was recorded.
create or replace function profiles_internal.forget_traits()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $forget_traits$
begin
  perform profiles_internal.remove_dual_write();
  perform profiles_internal.restore_set_aside('expand_traits');
  delete from profiles_internal.legacy_columns where table_name = 'user_profiles';
end
$forget_traits$;

revoke all on function profiles_internal.forget_traits() from public, anon, authenticated, service_role;
