-- Makes a column NOT NULL again on the way back. Rows that were written since may have left it empty: an outside id
-- gets the user's id instead, and a column with a default its default, as the application would have written it; for
-- the rest the column stays as it is, with a warning.
create or replace function profiles_internal.require_values(p_table regclass, p_column text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $require_values$
declare
  missing bigint;
begin
  if not exists (select from pg_attribute as a where a.attrelid = p_table and a.attname = p_column and a.attnum > 0
    and not a.attisdropped) then
    -- The application has dropped it since.
    return;
  end if;
  if p_column = 'external_id' then
    execute format('update %s as t set external_id = t.user_id::text where t.external_id is null', p_table);
  else
    execute format('update %1$s as t set %2$I = default where t.%2$I is null', p_table, p_column);
  end if;
  execute format('select count(*) from %s as t where t.%I is null', p_table, p_column) into missing;
  if missing > 0 then
    raise warning '%.% stays nullable: % rows written since have no value there', p_table, p_column, missing;
  else
    execute format('alter table %s alter column %I set not null', p_table, p_column);
  end if;
end
$require_values$;

revoke all on function profiles_internal.require_values(regclass, text) from public, anon, authenticated, service_role;
