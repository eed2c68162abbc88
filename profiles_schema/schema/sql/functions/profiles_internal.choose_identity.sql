-- Follows the table that was chosen with -x identity (setting "identity"), if it can be. Returns its name.
create or replace function profiles_internal.choose_identity()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $choose_identity$
begin
  perform profiles_internal.refuse_identity();
  perform profiles_internal.install_identity();
  return (select i.table_name from profiles_internal.identity_table() as i);
end
$choose_identity$;

revoke all on function profiles_internal.choose_identity() from public, anon, authenticated, service_role;
