-- Whether user_profiles has its dual-write trigger, switched on and with the body that the columns ask for; or
-- no wide columns.
create or replace function profiles_internal.dual_write_is_whole()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $dual_write_is_whole$
  select not exists (select from profiles_internal.traits_in_place()) or exists (
    select
    from pg_trigger as t
    join pg_proc as f on f.oid = t.tgfoid
    where t.tgrelid = to_regclass('public.user_profiles') and t.tgname = 'zz_dual_write' and t.tgenabled in ('O', 'A')
      -- before, insert or update, for each row, without a condition
      and t.tgtype = 23 and t.tgqual is null and cardinality(t.tgattr::smallint[]) = 0
      and f.oid = to_regproc('profiles_internal.dual_write_traits')
      and f.prosrc = profiles_internal.dual_write_body()
  )
$dual_write_is_whole$;

revoke all on function profiles_internal.dual_write_is_whole() from public, anon, authenticated, service_role;
