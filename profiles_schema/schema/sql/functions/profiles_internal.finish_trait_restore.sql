-- The wide columns are filled: gives them their names, defaults, indexes, constraints, comments and rights back, in one
-- transaction, so that a session that sees a column sees it complete. Refuses while a row differs. Returns how many.
create or replace function profiles_internal.finish_trait_restore()
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $finish_trait_restore$
declare
  found record;
  restored integer;
begin
  if not exists (select from profiles_internal.legacy_columns where table_name = 'user_profiles' and state = 'restoring') then
    return 0;
  end if;
  if not profiles_internal.dual_write_is_whole() then
    raise exception 'the dual-write trigger of user_profiles is missing or disabled: rows may have changed behind them'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Run: profiles-schema normalize restore';
  end if;
  if exists (select from profiles_internal.trait_differences(p_most => 1)) then
    raise exception 'rows of user_profiles are not restored yet'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Run: profiles-schema normalize restore';
  end if;

  for found in
    select l.column_name, l.column_default
    from profiles_internal.legacy_columns as l
    where l.table_name = 'user_profiles' and l.state = 'restoring'
    order by l.recorded_at, l.column_name
  loop
    execute format('alter table public.user_profiles rename column %I to %I', 'restoring_' || found.column_name, found.column_name);
    if found.column_default is not null then
      begin
        execute format('alter table public.user_profiles alter column %I set default %s', found.column_name, found.column_default);
      exception
        when lock_not_available or deadlock_detected then
          raise;
        when others then
          raise warning 'the default of % could not come back (SQLSTATE %): %', found.column_name, sqlstate, found.column_default;
      end;
    end if;
  end loop;
  -- In step, but not verified yet: the period begins again.
  update profiles_internal.legacy_columns
  set state = 'converted', converted_at = clock_timestamp(), contracted_at = null
  where table_name = 'user_profiles' and state = 'restoring';
  get diagnostics restored = row_count;
  perform profiles_internal.install_dual_write();
  perform profiles_internal.restore_set_aside('contract_traits');
  return restored;
end
$finish_trait_restore$;

revoke all on function profiles_internal.finish_trait_restore() from public, anon, authenticated, service_role;
