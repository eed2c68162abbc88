-- Puts rows out of quarantine back into their table, which has its old columns again: those of p_columns that are still
-- there.
-- A row whose key another row has by now stays where it is.
create or replace function profiles_internal.bring_back_rows(p_table text, p_columns text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bring_back_rows$
declare
  listed text;
  given text;
  gone record;
  back bigint;
  staying bigint := 0;
begin
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum), string_agg(
    case when a.atttypid in ('json'::regtype, 'jsonb'::regtype)
      then format('($1 -> %L)::%s', a.attname, a.atttypid::regtype)
      else 'r.' || quote_ident(a.attname) end, ', ' order by a.attnum)
  into listed, given
  from pg_attribute as a
  where a.attrelid = p_table::regclass and a.attname = any (p_columns) and a.attnum > 0 and not a.attisdropped;
  for gone in
    select q.id, q.row_data from profiles_internal.quarantine as q where q.table_name = p_table order by q.id
  loop
    execute format(
      'insert into %1$s (%2$s) overriding system value select %3$s from jsonb_populate_record(null::%1$s, $1) as r on '
        'conflict do nothing',
      p_table, listed, given
    ) using gone.row_data;
    get diagnostics back = row_count;
    if back = 1 then
      delete from profiles_internal.quarantine as q where q.id = gone.id;
    end if;
    staying := staying + 1 - back;
  end loop;
  if staying > 0 then
    raise warning '%: % rows stay in profiles_internal.quarantine, since rows with their keys have come', p_table,
      staying;
  end if;
end
$bring_back_rows$;

revoke all on function profiles_internal.bring_back_rows(text, text[]) from public, anon, authenticated, service_role;
