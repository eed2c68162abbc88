-- The application's own table of users, where one was chosen with -x identity and still exists: the table, its qualified
-- name, its key, the key's type, and whether that is uuid. A table that was renamed is known by our triggers.
create or replace function profiles_internal.identity_table()
returns table (relation regclass, table_name text, key_name text, key_type text, by_uuid boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $identity_table$
declare
  chosen constant text := (select s.value #>> '{}' from profiles_internal.settings as s where s.key = 'identity');
begin
  if chosen is null then
    return;
  end if;
  return query
    select k.conrelid::regclass, k.conrelid::regclass::text, a.attname::text, format_type(a.atttypid, null), coalesce(nullif(t.typbasetype, 0), t.oid) = 'uuid'::regtype
    from pg_constraint as k
    join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
    join pg_type as t on t.oid = a.atttypid
    where k.contype = 'p' and cardinality(k.conkey) = 1
      and k.conrelid = coalesce(
        to_regclass(chosen),
        (select g.tgrelid from pg_trigger as g where g.tgfoid = to_regproc('profiles_internal.on_identity_changed') order by g.oid limit 1)
      );
end
$identity_table$;

revoke all on function profiles_internal.identity_table() from public, anon, authenticated, service_role;
