-- What hangs on a column besides its own table: views, policies of other tables, generated columns, triggers that name
-- it, functions with a parsed body, foreign keys that point to it. All of them follow a rename; none allows another
-- type.
create or replace function profiles_internal.column_readers(p_table regclass, p_column text)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $column_readers$
  select coalesce(array_agg(distinct d.what order by d.what), '{}')
  from pg_attribute as a
  cross join lateral (
    select 'view ' || w.ev_class::regclass::text as what
    from pg_depend as x join pg_rewrite as w on w.oid = x.objid
    where x.classid = 'pg_rewrite'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and w.ev_class <> a.attrelid
    union all
    select 'policy "' || y.polname || '" on ' || y.polrelid::regclass
    from pg_depend as x join pg_policy as y on y.oid = x.objid
    where x.classid = 'pg_policy'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and y.polrelid <> a.attrelid
    union all
    select 'generated column ' || g.attname
    from pg_depend as x
    join pg_attrdef as f on f.oid = x.objid
    join pg_attribute as g on g.attrelid = f.adrelid and g.attnum = f.adnum and g.attgenerated <> ''
    where x.classid = 'pg_attrdef'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and g.attnum <> a.attnum
    union all
    select 'trigger ' || t.tgname
    from pg_depend as x join pg_trigger as t on t.oid = x.objid
    where x.classid = 'pg_trigger'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and not t.tgisinternal
    union all
    select 'function ' || x.objid::regprocedure
    from pg_depend as x
    where x.classid = 'pg_proc'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum
    union all
    select 'foreign key ' || k.conname || ' of ' || k.conrelid::regclass
    from pg_constraint as k
    where k.contype = 'f' and k.confrelid = a.attrelid and a.attnum = any (k.confkey) and k.conparentid = 0
  ) as d
  where a.attrelid = p_table and a.attname = p_column
$column_readers$;

revoke all on function profiles_internal.column_readers(regclass, text) from public, anon, authenticated, service_role;
