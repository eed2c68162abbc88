-- Whether functions and triggers of the application would trip over the columns that a table is about to get, tried
-- before anything is changed: for a moment an empty table with these columns has its place, and all of it is taken
-- back. Returns what the server says, or null. The revision that takes the table over tries it again, with its rows and
-- rules.
-- Only what does not fit columns and types counts. Functions are not tried where the table gets another name (a view of
-- the old one has other columns), or where one takes or returns rows of the table: that type follows the table itself.
create or replace function profiles_internal.try_adoption(p_table text, p_found regclass)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $try_adoption$
declare
  undo constant text := 'PRTRY';
  target constant text := 'public.' || p_table;
  keeps_name constant boolean := p_found::text = target;
  columns constant jsonb := profiles_internal.adoption_context(p_table, p_found) -> 'columns';
  has_row_type constant boolean := exists (
    select from pg_depend as d join pg_class as c on c.oid = p_found
    where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_type'::regclass and d.refobjid = c.reltype
  );
  objects oid[] := '{}';
  failing oid[] := '{}';
  key_columns text;
  definition record;
  refusal text;
  trying boolean := false;
  error_code text;
  error_message text;
begin
  select string_agg(quote_ident(c.value ->> 'name'), ', ' order by n.place) into key_columns
  from pg_constraint as k
  cross join lateral unnest(k.conkey) with ordinality as n (attnum, place)
  join jsonb_array_elements(columns) as c on (c.value ->> 'found_position')::smallint = n.attnum
  where k.conrelid = p_found and k.contype = 'p';
  if keeps_name and not has_row_type then
    objects := profiles_internal.objects_to_try(p_found);
    failing := array(select f.object from profiles_internal.find_failing_objects(objects) as f);
  end if;
  begin
    if keeps_name then
      execute format('alter table %s rename to %I', p_found, 'user_profiles before the trial');
    end if;
    execute format('create table %s (%s%s)', target,
      (
        select string_agg(
          format('%I %s', c.value ->> 'name', coalesce(c.value ->> 'wanted_type', c.value ->> 'found_type')),
          ', ' order by (c.value ->> 'found_position')::integer, c.ordinality)
        from jsonb_array_elements(columns) with ordinality as c
      ),
      ', primary key (' || key_columns || ')');
    select string_agg(format('%s (%s)', f.name, f.error), '; ' order by f.name) into refusal
    from profiles_internal.find_failing_objects(objects) as f where f.object <> all (failing);
    if refusal is not null then
      refusal := 'these would no longer run: ' || refusal;
    elsif p_table in ('user_profiles', 'user_progress') and to_regclass('auth.users') is not null then
      for definition in
        select profiles_internal.trigger_text(t.oid, target) as text
        from pg_trigger as t
        where t.tgrelid = p_found and not t.tgisinternal and t.tgenabled <> 'D'
          and not profiles_internal.does_what_ours_do(t.tgfoid)
      loop
        execute definition.text;
      end loop;
      trying := true;
      perform profiles_internal.try_sign_ups(p_table);
    end if;
    raise exception 'tried' using errcode = undo;
  exception when others then
    get stacked diagnostics error_code = returned_sqlstate, error_message = message_text;
  end;
  if error_code in ('55P03', '40P01', '57014') then
    raise exception '%', error_message using errcode = error_code;
  end if;
  -- A trigger of a column that gets another name cannot be made here, and follows it there. What is refused for its
  -- value, or for want of a right, may be allowed with rows and rules.
  return coalesce(refusal, case when trying and error_code like '42%' and error_code <> '42501' then error_message end);
end
$try_adoption$;

revoke all on function profiles_internal.try_adoption(text, regclass) from public, anon, authenticated, service_role;
