-- A function and those of the application's that it calls, directly or through others: what their texts name, and a bracket.
create or replace function profiles_internal.reached_functions(p_function oid)
returns table (function_id oid, body text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $reached_functions$
  with recursive written as materialized (
    -- What a comment says is not done.
    select f.oid, f.proname,
      regexp_replace(regexp_replace(coalesce(pg_get_function_sqlbody(f.oid), f.prosrc), '/\*.*?\*/', ' ', 'g'), '--[^\n]*', '', 'g') as body
    from pg_proc as f
    join pg_language as l on l.oid = f.prolang
    where f.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
      and l.lanname not in ('internal', 'c')
  ),
  reached as (
    select w.oid, w.body from written as w where w.oid = p_function
    union
    select w.oid, w.body
    from reached as r
    cross join lateral regexp_matches(r.body, '("[^"]+"|\w+)\s*\(', 'g') as m (words)
    join written as w on w.proname in (lower(m.words[1]), trim(m.words[1], '"'))
  )
  select r.oid, r.body from reached as r
$reached_functions$;

revoke all on function profiles_internal.reached_functions(oid) from public, anon, authenticated, service_role;
