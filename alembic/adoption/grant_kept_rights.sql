-- Gives the roles of the API what they go on doing with tables that were taken over (adoption_rights), after something
-- has taken all rights away.
create or replace function profiles_internal.grant_kept_rights()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $grant_kept_rights$
declare
  kept record;
begin
  for kept in
    select a.object_name as relation, r.value ->> 'role' as who, r.value ->> 'right' as name,
      string_agg(quote_ident(c.attname), ', ') as columns
    from profiles_internal.adopted as a
    cross join lateral jsonb_array_elements(a.data -> 'rights') as r
    join pg_attribute as c on c.attrelid = to_regclass(a.object_name) and c.attname = r.value ->> 'column'
      and not c.attisdropped
    where a.object_type = 'rights'
    group by a.object_name, r.value ->> 'role', r.value ->> 'right'
  loop
    execute format('grant %s (%s) on table %s to %I', kept.name, kept.columns, kept.relation, kept.who);
  end loop;
end
$grant_kept_rights$;

revoke all on function profiles_internal.grant_kept_rights() from public, anon, authenticated, service_role;
