-- The default that the application gave to one of our columns, as it reads with our type, where our code can live with
-- it:
-- a constant that keeps our rules. Null where ours takes its place.
create or replace function profiles_internal.kept_default(p_table text, p_column text, p_type text, p_found text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $kept_default$
declare
  constant_value constant text := replace(substring(p_found from '^''((?:[^'']|'''')*)''(?:::[a-zA-Z0-9_."() ]+)?$'),
    '''''', '''');
  result constant text := format('%L::%s', constant_value, p_type);
  refused text;
  refuses boolean;
begin
  if p_table <> 'user_profiles' or constant_value is null or p_column <> all (
    array['role', 'language', 'timezone', 'profile_visibility', 'avatar_emoji', 'preferences', 'notification_settings',
      'key_metrics']
  ) then
    return null;
  end if;
  select string_agg('(' || r.wrong || ')', ' or ') into refused
  from profiles_internal.adoption_rules() as r where r.table_name = p_table and r.column_name = p_column;
  execute format('select %s from (select %s as %I) as d', coalesce(refused, 'false'), result, p_column) into refuses;
  return case when not refuses then result end;
exception when data_exception then
  return null; -- no value of our type
end
$kept_default$;

revoke all on function profiles_internal.kept_default(text, text, text, text) from public, anon, authenticated,
  service_role;
