-- The triggers on user_profiles that keep user_id and the application's own column for the user the same (carry_user_id).
-- Adoption calls it, and repair.
create or replace function profiles_internal.install_carry_user_id(p_owner text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_carry_user_id$
begin
  execute format(
    'create or replace trigger carry_user_id before insert on public.user_profiles '
    'for each row when (new.user_id::text is distinct from new.%1$I::text) execute function profiles_internal.carry_user_id(%1$L); '
    'create or replace trigger carry_user_id_change before update on public.user_profiles '
    'for each row when (new.user_id is distinct from old.user_id or new.%1$I is distinct from old.%1$I) '
    'execute function profiles_internal.carry_user_id(%1$L); '
    'alter table public.user_profiles enable trigger carry_user_id, enable trigger carry_user_id_change',
    p_owner
  );
end
$install_carry_user_id$;

revoke all on function profiles_internal.install_carry_user_id(text) from public, anon, authenticated, service_role;
