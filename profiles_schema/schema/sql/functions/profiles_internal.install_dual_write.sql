-- Makes the trigger zz_dual_write on user_profiles and its function (see dual_write_body) for the wide columns that are
-- there; without any, both are dropped. Locks user_profiles in SHARE ROW EXCLUSIVE mode, for as long as that takes.
--
-- One trigger that compares in its body: a WHEN clause over a hundred columns is read and prepared anew by every statement,
-- which costs an update of anything else several times as much; UPDATE OF misses what other triggers change. Its name
-- sorts last. Definer: a role that writes a profile may not write kept_json.
create or replace function profiles_internal.install_dual_write()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_dual_write$
begin
  if not exists (select from profiles_internal.traits_in_place()) then
    perform profiles_internal.remove_dual_write();
    return;
  end if;
  execute format(
    'create or replace function profiles_internal.dual_write_traits() returns trigger language plpgsql security definer'
    ' set search_path = pg_catalog, pg_temp as %L',
    profiles_internal.dual_write_body()
  );
  revoke all on function profiles_internal.dual_write_traits() from public, anon, authenticated, service_role;
  if not profiles_internal.dual_write_is_whole() then
    create or replace trigger zz_dual_write
      before insert or update on public.user_profiles
      for each row
      execute function profiles_internal.dual_write_traits();
    alter table public.user_profiles enable trigger zz_dual_write;
  end if;
end
$install_dual_write$;

revoke all on function profiles_internal.install_dual_write() from public, anon, authenticated, service_role;
