-- The statements that make a trigger as it is, on the table of another name if one is given.
create or replace function profiles_internal.trigger_text(p_trigger oid, p_table text default null)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $trigger_text$
  select replace(pg_get_triggerdef(t.oid), ' ON ' || t.tgrelid::regclass || ' ',
    ' ON ' || coalesce(p_table, t.tgrelid::regclass::text) || ' ')
    || case t.tgenabled when 'O' then '' else
      format('; alter table %s %s trigger %I', coalesce(p_table, t.tgrelid::regclass::text),
        case t.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end, t.tgname)
    end
    || coalesce('; comment on trigger ' || quote_ident(t.tgname) || ' on '
      || coalesce(p_table, t.tgrelid::regclass::text)
      || ' is ' || quote_literal(obj_description(t.oid, 'pg_trigger')), '')
  from pg_trigger as t
  where t.oid = p_trigger
$trigger_text$;

revoke all on function profiles_internal.trigger_text(oid, text) from public, anon, authenticated, service_role;
