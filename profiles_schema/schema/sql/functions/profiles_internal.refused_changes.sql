-- Why the caller's own profile cannot be changed like this: each key that is wrong, its rule in words, and the rule itself.
-- Asked only after a change was refused. The rules are read from the catalog, so that each is written once: a CHECK is
-- evaluated on the row as it would be, and its name says what it allows. A value is never part of the answer.
-- Definer: a person may see neither the names of others nor the list of time zones.
create or replace function profiles_internal.refused_changes(p_changes jsonb)
returns table (column_name text, rule text, definition text)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $refused_changes$
declare
  relation constant regclass := 'public.user_profiles';
  -- An array of the names of all CHECKs that the row $1 breaks.
  checks constant text := (
    select 'select array_remove(array[' || string_agg(
      format('case when (%s) is false then %L end', pg_get_expr(k.conbin, k.conrelid), k.conname), ', ' order by k.conname
    ) || ']::text[], null) from (select ($1).*) as changed'
    from pg_constraint as k where k.conrelid = relation and k.contype = 'c'
  );
  stored public.user_profiles;
  changed public.user_profiles;
  broken text[];
  broken_by_one text[];
  attributed text[] := '{}';
  change record;
begin
  select p.* into stored from public.user_profiles as p where p.user_id = auth.uid();
  execute checks into broken using jsonb_populate_record(stored, p_changes);

  for change in
    select a.attname::text as name, c.value, c.value = 'null' and a.attnotnull as is_missing
    from jsonb_each(p_changes) as c
    join pg_attribute as a on a.attrelid = relation and a.attname = c.key and a.attnum > 0 and not a.attisdropped
    order by c.key
  loop
    changed := jsonb_populate_record(stored, jsonb_build_object(change.name, change.value));
    execute checks into broken_by_one using changed;
    -- A row may break a rule already, where the application added one as not valid.
    broken_by_one := array(
      select k.conname::text
      from pg_constraint as k
      join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
      where k.conrelid = relation and k.contype = 'c' and k.conname = any (broken_by_one) and a.attname = change.name
    );
    attributed := attributed || broken_by_one;
    return query
    select change.name,
      case
        when k.conname ~ '^ck_user_profiles_'
          then replace(regexp_replace(k.conname, '^ck_user_profiles_(' || change.name || '_)?', ''), '_', ' ')
        else format('breaks the rule %s', k.conname)
      end,
      pg_get_constraintdef(k.oid)
    from pg_constraint as k
    where k.conrelid = relation and k.contype = 'c' and k.conname = any (broken_by_one)
    order by k.conname;

    if change.is_missing then
      return query select change.name, 'cannot be null', 'NOT NULL';
    elsif change.name = 'timezone' then
      return query
      select change.name, 'is a name of pg_timezone_names', 'trigger require_known_timezone'
      where not exists (select from profiles_internal.timezones as z where z.name = changed.timezone)
        and not exists (select from pg_timezone_names as z where z.name = changed.timezone);
    elsif change.name = 'username' and broken_by_one = '{}' then
      return query
      select change.name, 'is reserved', 'trigger refuse_reserved_username'
      from profiles_internal.profile_values(array[jsonb_build_object('id', stored.user_id, 'email', changed.username || '@')]) as v
      where v.first_username <> changed.username and changed.username <> stored.username
      union all
      select change.name, 'is taken', 'index idx_user_profiles_username_lower'
      from public.user_profiles as p
      where lower(p.username) = lower(changed.username) and p.user_id <> stored.user_id
      union all
      select change.name, 'is held for its former owner', 'trigger hold_username'
      from profiles_internal.held_usernames as h
      where h.username = lower(changed.username) and h.user_id <> stored.user_id and h.held_until > now();
    end if;
  end loop;

  -- What only several changes together break.
  return query
  select string_agg(a.attname, ', ' order by a.attname), format('break the rule %s', k.conname), pg_get_constraintdef(k.oid)
  from pg_constraint as k
  join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any (k.conkey) and p_changes ? a.attname::text
  where k.conrelid = relation and k.contype = 'c' and k.conname = any (broken) and k.conname <> all (attributed)
  group by k.oid, k.conname
  order by k.conname;
end
$refused_changes$;

revoke all on function profiles_internal.refused_changes(jsonb) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.refused_changes(jsonb) to authenticated;
