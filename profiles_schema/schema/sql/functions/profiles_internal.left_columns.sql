-- Columns of the application in our tables that hold something of a person: what an erasure leaves, since nobody has said
-- whether it is personal. Names, never values. Without a person: all columns of the application.
create or replace function profiles_internal.left_columns(p_user_id uuid default null)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $left_columns$
declare
  result text[] := '{}';
  own record;
  holds_something boolean;
begin
  for own in
    select c.oid::regclass as relation, c.relname, a.attname
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.oid in (to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.export_history'))
      and not exists (
        select from profiles_internal.wanted_shape() as w
        where w.table_name = c.relname and w.kind = 'column' and w.name = a.attname
      )
      and not exists (
        select from profiles_internal.known_traits() as k
        where c.relname = 'user_profiles' and a.attname in (k.column_name, 'restoring_' || k.column_name)
      )
    order by c.relname desc, a.attnum
  loop
    holds_something := true;
    if p_user_id is not null then
      execute format('select exists (select from %s where user_id = $1 and %I is not null)', own.relation, own.attname)
      into holds_something using p_user_id;
    end if;
    if holds_something then
      result := result || format('%I.%I', own.relname, own.attname);
    end if;
  end loop;
  return result;
end
$left_columns$;

revoke all on function profiles_internal.left_columns(uuid) from public, anon, authenticated, service_role;
