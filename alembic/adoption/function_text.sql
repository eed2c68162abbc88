-- The statements that make a function as it is: its text, its comment, its owner and who may call it.
create or replace function profiles_internal.function_text(p_function oid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $function_text$
  select concat_ws('; ',
    rtrim(pg_get_functiondef(f.oid)),
    case when f.proacl is not null
      then format('revoke all on routine %s from public, anon, authenticated, service_role', f.oid::regprocedure) end,
    (
      select string_agg(
        format('grant execute on routine %s to %s', f.oid::regprocedure,
          case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
          || case when a.is_grantable then ' with grant option' else '' end, '; '
      )
      from aclexplode(f.proacl) as a
      where a.grantee <> f.proowner
    ),
    'comment on routine ' || f.oid::regprocedure || ' is ' || quote_literal(obj_description(f.oid, 'pg_proc')),
    -- One with its owner's rights must not come back with more of them.
    case when pg_get_userbyid(f.proowner) <> current_user
      then format('alter routine %s owner to %I', f.oid::regprocedure, pg_get_userbyid(f.proowner)) end
  )
  from pg_proc as f
  where f.oid = p_function
$function_text$;

revoke all on function profiles_internal.function_text(oid) from public, anon, authenticated, service_role;
