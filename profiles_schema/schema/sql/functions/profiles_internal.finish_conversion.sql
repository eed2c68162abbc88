-- Every row is converted, as the caller has found by comparing: says so in legacy_columns, from which the verification
-- period counts, and lets the dual-write trigger look only at what a statement changed.
create or replace function profiles_internal.finish_conversion()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $finish_conversion$
begin
  update profiles_internal.legacy_columns
  set state = 'converted', converted_at = clock_timestamp()
  where table_name = 'user_profiles' and state = 'expanded';
  if found then
    perform profiles_internal.install_dual_write();
  end if;
end
$finish_conversion$;

revoke all on function profiles_internal.finish_conversion() from public, anon, authenticated, service_role;
