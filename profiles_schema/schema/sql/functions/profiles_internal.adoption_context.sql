-- What the steps of adoption need to know about one table, gathered once:
--   table, found (its name today), target (its name afterwards), by (the revision that takes it over),
--   columns (adoption_columns, as an array), by_name (the same, by the name afterwards),
--   own (users are made by us), makes_users (a user is made for every row), user (the user's id, over t, the table
--   as found), names (regular expression of our tables' names).
create or replace function profiles_internal.adoption_context(p_table text, p_found regclass)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_context$
declare
  columns jsonb;
  by_name jsonb;
  user_column jsonb;
begin
  select jsonb_agg(to_jsonb(c) order by c.found_position, c.name), jsonb_object_agg(c.name, to_jsonb(c))
  into columns, by_name
  from profiles_internal.adoption_columns(p_table, p_found) as c;
  user_column := by_name -> 'user_id';
  return jsonb_build_object(
    'table', p_table,
    'found', p_found::text,
    'target', 'public.' || p_table,
    'by', (select r.revision from profiles_internal.adopting_revisions() as r where r.table_name = p_table),
    'columns', columns,
    'by_name', by_name,
    'own', to_regclass('auth.users') is null
      or coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%',
    'makes_users', p_table = 'user_profiles' and user_column ->> 'found_name' is null
      and by_name -> 'external_id' ->> 'found_name' is not null,
    'user', case when user_column ->> 'found_name' is not null
      then replace(coalesce(user_column ->> 'source', '{column}'), '{column}', 't.' || quote_ident(user_column ->> 'found_name')) end
  );
end
$adoption_context$;

revoke all on function profiles_internal.adoption_context(text, regclass) from public, anon, authenticated, service_role;
