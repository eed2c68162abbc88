-- Restores the wide columns: adds them, empty and under temporary names, and lets the dual-write triggers fill them for
-- every row that is written from here on. No session sees a column before finish_trait_restore, when it is complete.
-- Returns how many. Locks user_profiles in ACCESS EXCLUSIVE mode, for as long as changing the catalog takes.
create or replace function profiles_internal.begin_trait_restore()
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $begin_trait_restore$
declare
  restored integer;
  taken text;
begin
  select string_agg(l.column_name, ', ') into taken
  from profiles_internal.legacy_columns as l
  join pg_attribute as a on a.attrelid = 'public.user_profiles'::regclass and a.attname = l.column_name and not a.attisdropped
  where l.table_name = 'user_profiles' and l.state = 'contracted';
  if taken is not null then
    raise exception 'user_profiles has columns of the same names again: %', taken
      using errcode = 'duplicate_column', hint = 'Rename or drop them first.';
  end if;

  update profiles_internal.legacy_columns
  set state = 'restoring'
  where table_name = 'user_profiles' and state = 'contracted';
  get diagnostics restored = row_count;
  if restored > 0 then
    execute (
      select 'alter table public.user_profiles '
        || string_agg(format('add column %I %s', 'restoring_' || l.column_name, l.data_type), ', ' order by l.recorded_at, l.column_name)
      from profiles_internal.legacy_columns as l
      where l.table_name = 'user_profiles' and l.state = 'restoring'
    );
    perform profiles_internal.install_dual_write();
  end if;
  return restored;
end
$begin_trait_restore$;

revoke all on function profiles_internal.begin_trait_restore() from public, anon, authenticated, service_role;
