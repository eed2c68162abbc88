-- What the steps of adoption need to know about one table, gathered once:
--   table, found (its name today), target (its name afterwards), by (the revision that takes it over),
--   columns (adoption_columns, as an array), by_name (the same, by the name afterwards),
--   own (users are made by us), makes_users (a user is made for every row), owner (the column that says whose row it is),
--   user (the user's id, over t, the table as found), user_now (the same, once columns have their new names),
--   asks (where nothing says whose the rows are: the columns that could, and what each leads to),
--   names (regular expression of our tables' names).
create or replace function profiles_internal.adoption_context(p_table text, p_found regclass)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_context$
declare
  columns jsonb;
  by_name jsonb;
  own constant boolean := to_regclass('auth.users') is null
    or coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%';
  chosen constant text := nullif(current_setting('profiles_schema.answers', true), '')::jsonb ->> ('key:public.' || p_table);
  owner record;
  candidates jsonb;
  readable boolean;
begin
  select jsonb_agg(to_jsonb(c) order by c.found_position, c.name), jsonb_object_agg(c.name, to_jsonb(c))
  into columns, by_name
  from profiles_internal.adoption_columns(p_table, p_found) as c;

  if p_table <> 'user_profiles' then
    select u ->> 'found_name' as column_name, 1::bigint as matches, 1::bigint as total,
      replace(coalesce(u ->> 'source', '{column}'), '{column}', 't.' || quote_ident(u ->> 'found_name')) as expression
    into owner
    from (values (by_name -> 'user_id')) as v (u);
  else
    select o.* into owner
    from profiles_internal.adoption_owners(p_found, columns, own) as o
    order by o.column_name = chosen desc nulls last limit 1;
    -- Users that we make may be those of an outside id; and of rows that lead to no user, only people know whose they are.
    if owner.total > 0 and owner.matches = 0 and owner.column_name is distinct from chosen then
      if not own then
        select jsonb_object_agg(o.column_name, format('%s leads to the user; %s of %s rows go to quarantine: no user in auth.users', o.column_name, o.total - o.matches, o.total))
        into candidates
        from profiles_internal.adoption_owners(p_found, columns, own) as o;
      end if;
      owner := null;
    end if;
  end if;
  return '{}';
end
$adoption_context$;
