-- The functions of the application in schema public with one of our names and number of arguments. If the types are the
-- same, ours replaces them (is_same). With other types, a call that leaves the types open may find either, and whether
-- they stay is a question. Others of that name stay. Each with the result of ours, and who may call it.
create or replace function profiles_internal.functions_we_replace()
returns table (function_id oid, is_same boolean, result text, callers text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $functions_we_replace$
  select distinct on (f.oid) f.oid, n.is_same, o.result, o.callers
  from pg_proc as f
  join (values
    ('award_points', 'uuid integer text text', 4, 'integer', 'service_role'),
    ('create_user', 'text text text text jsonb', 0, 'uuid', 'service_role'),
    ('delete_my_account', 'text', 1, 'void', 'authenticated'),
    ('ensure_user_profile', 'uuid', 0, 'jsonb', 'authenticated and service_role'),
    ('ensure_user_profile', 'uuid text text text text text text', 7, 'jsonb', 'authenticated and service_role'),
    ('export_my_data', '', 0, 'uuid', 'authenticated'),
    ('gen_available_username', 'text', 1, 'text', 'authenticated and service_role'),
    ('get_my_profile_v2', '', 0, 'a row of user_profiles', 'authenticated'),
    ('get_my_progress', '', 0, 'a row of user_progress', 'authenticated'),
    ('get_my_referral_code', '', 0, 'text', 'authenticated'),
    ('get_public_profile', 'text', 1, 'a table (id, username, display_name, pictures, bio)',
      'anon, authenticated and service_role'),
    ('get_public_profiles', 'uuid[]', 1, 'a table (id, user_id, username, display_name, pictures, bio)',
      'anon, authenticated and service_role'),
    ('get_user_profile_stats', '', 0, 'jsonb', 'service_role'),
    ('update_my_profile_v2', 'jsonb boolean timestamptz', 1, 'a row of user_profiles', 'authenticated')
  ) as o (name, arguments, least, result, callers) on o.name = f.proname
  cross join lateral (select string_to_array(o.arguments, ' ')::regtype[]::oid[] as types) as a
  cross join lateral (
    select bool_or(a.types[1 : g.given] = (f.proargtypes::oid[])[0 : g.given - 1]) as is_same
    from generate_series(greatest(o.least, f.pronargs - f.pronargdefaults), least(cardinality(a.types), f.pronargs))
      as g (given)
  ) as n
  where f.pronamespace = 'public'::regnamespace
    -- Where an auth server makes the users, we have no such function.
    and (o.name <> 'create_user' or to_regclass('auth.users') is null
      or coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%')
    and n.is_same is not null
  order by f.oid, n.is_same desc
$functions_we_replace$;

revoke all on function profiles_internal.functions_we_replace() from public, anon, authenticated, service_role;
