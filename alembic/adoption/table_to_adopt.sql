-- The table that a revision would take over instead of creating one: of our name, or of the one that -x adopt-table
-- gives for user_profiles. Null where there is none, or where the revisions have made or taken over it already.
create or replace function profiles_internal.table_to_adopt(p_table text)
returns regclass
language sql
stable
set search_path = pg_catalog, pg_temp
as $table_to_adopt$
  select c.oid::regclass
  from pg_class as c
  cross join lateral (
    select nullif(current_setting('profiles_schema.adopt_table', true), '') as other_name
  ) as o
  where c.oid = coalesce(
      to_regclass('public.' || p_table),
      case when p_table = 'user_profiles' then to_regclass('public.' || quote_ident(o.other_name)) end
    )
    and obj_description(c.oid, 'pg_class') is distinct from (
      select w.definition from profiles_internal.wanted_shape() as w where w.table_name = p_table and w.kind = 'comment'
    )
$table_to_adopt$;

revoke all on function profiles_internal.table_to_adopt(text) from public, anon, authenticated, service_role;
