-- The text of what reads a table (table_readers): a view, function, policy or rule. Null once an upgrade has begun: its
-- steps may change how it reads.
create or replace function profiles_internal.reader_text(p_object oid, p_name text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $reader_text$
  select case
    when to_regclass('profiles_internal.adopted') is not null then null
    when p_name like 'function %' then (
      select case when f.prokind <> 'a' then pg_get_functiondef(f.oid) end from pg_proc as f where f.oid = p_object
    )
    when p_name like '%view %' then pg_get_viewdef(p_object)
    when p_name like 'policy %' then (
      select concat_ws(' with check ', pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid))
      from pg_policy as y where y.oid = p_object
    )
    when p_name like 'rule %' then pg_get_ruledef(p_object)
  end
$reader_text$;

revoke all on function profiles_internal.reader_text(oid, text) from public, anon, authenticated, service_role;
