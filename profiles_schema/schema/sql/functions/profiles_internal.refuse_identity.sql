-- Raises where -x identity=SCHEMA.TABLE names a table that cannot be followed; changes nothing. Without the option: nothing
-- to say. Its body also runs before the first revision, where none of our functions exists yet: so it calls none.
create or replace function profiles_internal.refuse_identity()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse_identity$
declare
  asked constant text := nullif(current_setting('profiles_schema.identity', true), '');
  unchanged constant text := 'Nothing was changed. ';
  parts text[];
  wanted text;
  chosen text;
  relation regclass;
  kind "char";
  key_columns integer;
  key_name text;
  key_type oid;
begin
  if asked is null then
    return;
  end if;
  begin
    parts := parse_ident(asked);
  exception when others then
    parts := null;
  end;
  if cardinality(parts) is distinct from 2 then
    raise exception '-x identity takes SCHEMA.TABLE, not %', asked
      using hint = unchanged || 'For example: -x identity=public.users';
  end if;
  wanted := format('%I.%I', parts[1], parts[2]);

  if to_regclass('profiles_internal.settings') is not null then
    execute 'select s.value #>> ''{}'' from profiles_internal.settings as s where s.key = ''identity''' into chosen;
    if chosen <> wanted then
      raise exception 'the users of this database come from % already, not from %', chosen, wanted
        using hint = unchanged || format('Leave the option away, or give: -x identity=%s', chosen);
    end if;
  end if;
  if to_regclass('auth.users') is not null and coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') not like 'profiles-schema:%' then
    raise exception 'auth.users belongs to an auth server here: it is the identity, and % cannot be', wanted
      using hint = unchanged || 'Run the upgrade without -x identity.';
  end if;

  relation := to_regclass(wanted);
  if relation is null then
    raise exception 'there is no table %', wanted
      using hint = unchanged || 'Create it first, or correct -x identity.';
  end if;
  if parts[1] in ('auth', 'profiles_internal') or wanted in (
    'public.user_profiles', 'public.user_progress', 'public.user_api_keys', 'public.user_provider_keys',
    'public.export_history', 'public.user_profile_audit_logs', 'public.sessions'
  ) then
    raise exception '% is a table of this package, not one of the application''s users', wanted
      using hint = unchanged || 'Name the application''s own table of users.';
  end if;
  select case when c.relispartition or c.relhassubclass then 'p' else c.relkind end into kind from pg_class as c where c.oid = relation;
  if kind <> 'r' or exists (select from pg_inherits as i where i.inhrelid = relation) then
    raise exception '% is no ordinary table: a view, or one with partitions or heirs', wanted
      using hint = unchanged || 'Users can be followed in an ordinary table only.';
  end if;
  select cardinality(k.conkey), a.attname, coalesce(nullif(t.typbasetype, 0), t.oid)
  into key_columns, key_name, key_type
  from pg_constraint as k
  join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
  join pg_type as t on t.oid = a.atttypid
  where k.conrelid = relation and k.contype = 'p';
  if key_columns is distinct from 1 then
    raise exception '% has no primary key of one column', wanted
      using hint = unchanged || format('Give it one, for example: alter table %s add primary key (id);', wanted);
  end if;
  if key_type <> all (array['uuid', 'int2', 'int4', 'int8', 'text', 'varchar']::regtype[]::oid[]) then
    raise exception 'the primary key %.% is of type %, which cannot be followed', wanted, key_name, format_type(key_type, null)
      using hint = unchanged || 'Types that can: uuid, smallint, integer, bigint, text, varchar.';
  end if;
  if not (has_table_privilege(relation, 'select') and has_table_privilege(relation, 'trigger')) then
    raise exception 'role % may not read % and put triggers on it', current_user, wanted
      using errcode = 'insufficient_privilege',
        hint = unchanged || format('An administrator runs: grant select, trigger on %s to %I;', wanted, current_user);
  end if;
  if row_security_active(relation) then
    raise exception 'role % does not see all rows of %: row level security hides them', current_user, wanted
      using errcode = 'insufficient_privilege',
        hint = unchanged || format('An administrator runs: alter role %I bypassrls;', current_user);
  end if;
end
$refuse_identity$;

revoke all on function profiles_internal.refuse_identity() from public, anon, authenticated, service_role;
