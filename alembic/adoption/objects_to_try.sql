-- The functions and views that have to run after a table was taken over as they did before: what reads it, or has
-- values of its types.
create or replace function profiles_internal.objects_to_try(p_table regclass)
returns oid[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $objects_to_try$
  select array(
    select r.object from profiles_internal.table_readers(p_table) as r
    union
    select d.objid
    from pg_depend as d join pg_type as t on t.oid = d.refobjid
    where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_type'::regclass and (
      t.typrelid = p_table
      or exists (select from pg_type as e where e.typrelid = p_table and e.typarray = t.oid)
      or t.typtype <> 'b'
        and exists (select from pg_attribute as a where a.attrelid = p_table and a.atttypid = t.oid)
    )
  )
$objects_to_try$;

revoke all on function profiles_internal.objects_to_try(regclass) from public, anon, authenticated, service_role;
