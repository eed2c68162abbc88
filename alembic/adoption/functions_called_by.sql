-- A function and those of the application's that it calls, directly or through others: what their texts name, and a
-- bracket.
create or replace function profiles_internal.functions_called_by(p_function oid)
returns table (function_id oid, body text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $functions_called_by$
  with recursive reached as (
    select p_function as oid
    union
    select f.oid
    from reached as r
    cross join lateral (select coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) as body from pg_proc as p
      where p.oid = r.oid) as t
    cross join lateral regexp_matches(t.body, '("[^"]+"|\w+)\s*\(', 'g') as m (words)
    join pg_proc as f on f.proname = any (array[lower(m.words[1]), trim(m.words[1], '"')]::name[])
    join pg_language as l on l.oid = f.prolang
    where f.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
      and l.lanname not in ('internal', 'c')
  )
  -- What a comment says is not done.
  select p.oid, regexp_replace(regexp_replace(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), '/\*.*?\*/', ' ',
    'g'), '--[^\n]*', '', 'g')
  from reached as r
  join pg_proc as p on p.oid = r.oid
$functions_called_by$;

revoke all on function profiles_internal.functions_called_by(oid) from public, anon, authenticated, service_role;
