-- What reads a table: views, functions, rules, and policies of other tables, directly or through one another. The
-- catalog knows views, policies and SQL-standard bodies; of other functions there is only the text. as_owner: it reads
-- with the rights of an owner whom row level security does not bind, so no policy changes what it finds.
create or replace function profiles_internal.table_readers(p_table regclass)
returns table (object oid, name text, as_owner boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $table_readers$
declare
  unbound constant oid[] := array(
    select r.oid
    from pg_roles as r join pg_class as c on c.oid = p_table
    where r.rolsuper or r.rolbypassrls or not c.relforcerowsecurity and pg_has_role(r.oid, c.relowner, 'usage')
  );
  -- Those that read with the rights of their caller are followed to what reads through them.
  relations oid[] := array[p_table::oid];
  functions oid[] := '{}';
  next_relations oid[];
  bound_relations oid[];
  bound_functions oid[];
  found_relations oid[] := relations;
  found_functions oid[] := '{}';
  asking oid[] := relations;
  names text;
begin
  loop
    select string_agg(
      format('(?<![.\w"])("?%s"?\s*\.\s*)?"?%s"?(?![\w"])',
        regexp_replace(n.nspname, '(\W)', '\\\1', 'g'), regexp_replace(c.relname, '(\W)', '\\\1', 'g')), '|')
    into names
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = any (relations);

    select array_agg(distinct c.oid),
      array_agg(distinct c.oid) filter (where c.relkind = 'v' and (s.by_asker or c.relowner <> all (unbound)))
    into bound_relations, next_relations
    from pg_depend as d
    join pg_rewrite as w on w.oid = d.objid
    join pg_class as c on c.oid = w.ev_class and c.relkind in ('v', 'm')
    cross join lateral (
      select exists (select from pg_options_to_table(c.reloptions) as o where o.option_name = 'security_invoker'
        and o.option_value::boolean) as by_asker
    ) as s
    where d.classid = 'pg_rewrite'::regclass and c.oid <> all (found_relations)
      and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (relations) or d.refclassid = 'pg_proc'::regclass
        and d.refobjid = any (functions));

    select array_agg(f.oid), array_agg(f.oid) filter (where not f.prosecdef or f.proowner <> all (unbound))
    into bound_functions, functions
    from pg_proc as f
    join pg_language as l on l.oid = f.prolang and l.lanname not in ('internal', 'c')
    cross join lateral (
      select regexp_replace(regexp_replace(f.prosrc, '/\*.*?\*/', ' ', 'g'), '--[^\n]*', '', 'g') as body
    ) as t
    where f.pronamespace <> all (array['pg_catalog', 'information_schema',
      coalesce(to_regnamespace('profiles_internal')::text, 'pg_catalog')]::regnamespace[])
      and f.oid <> all (found_functions)
      and not exists (select from pg_depend as d where d.classid = 'pg_proc'::regclass and d.objid = f.oid
        and d.deptype = 'e')
      -- What is set aside, because it does what ours do, reads nothing afterwards.
      and f.oid not in (
        select r.function_id from profiles_internal.functions_we_replace() as r
        where r.is_same or profiles_internal.answer('function:' || r.function_id::regprocedure) = 'replace'
      )
      and not (f.prorettype = 'trigger'::regtype and profiles_internal.does_what_ours_do(f.oid))
      and (
        t.body ~* names
        or exists (
          select from pg_proc as g where g.oid = any (functions)
            and t.body ~* ('(?<![\w"])"?' || regexp_replace(g.proname, '(\W)', '\\\1', 'g') || '"?\s*\(')
        )
        or exists (
          select from pg_depend as d
          where d.classid = 'pg_proc'::regclass and d.objid = f.oid
            and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (relations)
              or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (functions))
        )
      );

    exit when bound_relations is null and bound_functions is null;
    found_relations := found_relations || bound_relations;
    found_functions := found_functions || bound_functions;
    relations := coalesce(next_relations, '{}');
    functions := coalesce(functions, '{}');
    asking := asking || relations || functions;
    return query select r::oid, format('view %s', r), r::oid <> all (relations)
      from unnest(bound_relations::regclass[]) as r
    -- Ours are followed, and not named.
    where coalesce(obj_description(r, 'pg_class'), '') not like 'profiles-schema:%';
    return query select f::oid, format('function %s', f), f::oid <> all (functions)
      from unnest(bound_functions::regprocedure[]) as f;
  end loop;

  return query
  select y.oid, format('policy %s:%s', y.polrelid::regclass, y.polname), not bool_or(d.refobjid = any (asking))
  from pg_depend as d
  join pg_policy as y on y.oid = d.objid and y.polrelid <> p_table
  where d.classid = 'pg_policy'::regclass
    and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (found_relations)
      or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (found_functions))
  group by y.oid
  union all
  select w.oid, format('rule %s on %s', w.rulename, w.ev_class::regclass), not bool_or(d.refobjid = any (asking))
  from pg_depend as d
  join pg_rewrite as w on w.oid = d.objid and w.rulename <> '_RETURN' and w.ev_class <> p_table
  where d.classid = 'pg_rewrite'::regclass
    and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (found_relations)
      or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (found_functions))
  group by w.oid;
end
$table_readers$;

revoke all on function profiles_internal.table_readers(regclass) from public, anon, authenticated, service_role;
