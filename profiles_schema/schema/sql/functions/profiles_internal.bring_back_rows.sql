-- Puts rows out of quarantine back into their table, which has its old columns again: those of p_columns that are still there.
-- A row whose id somebody has by now stays where it is.
create or replace function profiles_internal.bring_back_rows(p_table text, p_columns text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bring_back_rows$
declare
  listed text;
  given text;
  staying bigint;
begin
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum), string_agg(
    case when a.atttypid in ('json'::regtype, 'jsonb'::regtype) then format('(q.row_data -> %L)::%s', a.attname, a.atttypid::regtype)
      else 'r.' || quote_ident(a.attname) end, ', ' order by a.attnum)
  into listed, given
  from pg_attribute as a
  where a.attrelid = p_table::regclass and a.attname = any (p_columns) and a.attnum > 0 and not a.attisdropped;
  execute format(
    'with gone as (delete from profiles_internal.quarantine as q where q.table_name = %4$L and (q.reason = ''second row of the same id'' '
    'or not exists (select from %1$s as t where t.id::text = q.row_data ->> ''id'')) returning q.*) '
    'insert into %1$s (%2$s) overriding system value select %3$s from gone as q '
    'cross join lateral jsonb_populate_record(null::%1$s, q.row_data) as r order by q.id',
    p_table, listed, given, p_table
  );
  select count(*) into staying from profiles_internal.quarantine as q where q.table_name = p_table;
  if staying > 0 then
    raise warning '%: % rows stay in profiles_internal.quarantine, since rows with their ids have come', p_table, staying;
  end if;
end
$bring_back_rows$;

revoke all on function profiles_internal.bring_back_rows(text, text[]) from public, anon, authenticated, service_role;
