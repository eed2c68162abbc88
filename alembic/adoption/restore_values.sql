-- Restores old values of rows, unless a newer one was written since. Compares values in the spelling of the upgrade,
-- with any settings of the session.
create or replace function profiles_internal.restore_values(p_revision text, p_table text, p_type text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
as $restore_values$
declare
  changed record;
begin
  for changed in
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type
    from pg_attribute as a
    where a.attrelid = to_regclass(p_table) and a.attnum > 0 and not a.attisdropped and exists (
      select from profiles_internal.adopted as k
      where k.revision = p_revision and k.object_type = p_type and k.object_name = p_table || '.' || a.attname
    )
  loop
    execute format(
      'update %1$s as t set %2$I = (k.data ->> ''old'')::%3$s from profiles_internal.adopted as k '
      'where k.revision = %4$L and k.object_type = %5$L and k.object_name = %6$L '
      'and t.id::text = k.data ->> ''key'' and t.%2$I::text is not distinct from k.data ->> ''new''',
      p_table, changed.name, changed.type, p_revision, p_type, p_table || '.' || changed.name
    );
    delete from profiles_internal.adopted as k
    where k.revision = p_revision and k.object_type = p_type and k.object_name = p_table || '.' || changed.name;
  end loop;
end
$restore_values$;

revoke all on function profiles_internal.restore_values(text, text, text) from public, anon, authenticated,
  service_role;
