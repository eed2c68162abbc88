-- Which of these functions and views do not run as things are, and what the server says. SQL bodies are parsed anew, in
-- a savepoint; plpgsql by plpgsql_check, where that is installed; a view is planned. Compared before and after a
-- change:
-- what failed before, or may not be replaced by this role, fails both times.
create or replace function profiles_internal.find_failing_objects(p_objects oid[])
returns table (object oid, name text, error text)
language plpgsql
set search_path = pg_catalog, pg_temp
set check_function_bodies = on
as $find_failing_objects$
declare
  checker constant text := (
    select format('%I.plpgsql_check_function_tb', n.nspname)
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
      where p.proname = 'plpgsql_check_function_tb' limit 1
  );
  tested record;
begin
  for tested in
    select f.oid, 'function ' || f.oid::regprocedure as name, l.lanname as kind, pg_get_functiondef(f.oid) as attempt,
      f.prorettype = 'trigger'::regtype as fires
    from pg_proc as f join pg_language as l on l.oid = f.prolang
    where f.oid = any (p_objects) and f.prokind <> 'a'
    union all
    select c.oid, 'view ' || c.oid::regclass, 'view', format('select from %s limit 0', c.oid::regclass), false
    from pg_class as c where c.oid = any (p_objects)
    order by 1
  loop
    begin
      -- As the application's statements find names.
      perform set_config('search_path', (select s.reset_val from pg_settings as s where s.name = 'search_path'), true);
      if tested.kind in ('sql', 'view') then
        execute tested.attempt;
      elsif tested.kind = 'plpgsql' and checker is not null then
        for error in
          execute format(
            'select c.message from (select %2$s::oid as relation) as t cross join lateral %1$s(%3$s::regprocedure, '
              't.relation) as c where c.level = ''error''',
            checker, case when tested.fires
              then format('(select t.tgrelid from pg_catalog.pg_trigger as t where t.tgfoid = %s limit 1)', tested.oid)
              else '0' end,
            tested.oid)
        loop
          exit;
        end loop;
        if error is not null then
          raise exception '%', error;
        end if;
      end if;
      raise exception 'it runs' using errcode = 'PS001';
    exception
      when sqlstate 'PS001' then
        null;
      when lock_not_available or deadlock_detected or query_canceled then
        raise;
      when others then
        object := tested.oid;
        name := tested.name;
        error := sqlerrm;
        return next;
    end;
    error := null;
  end loop;
end
$find_failing_objects$;

revoke all on function profiles_internal.find_failing_objects(oid[]) from public, anon, authenticated, service_role;
