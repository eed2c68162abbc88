-- Puts the triggers of identity_triggers in place where they are not, and takes them from any other table (one that was
-- exchanged for a new one, say). A table that was renamed is remembered by its new name. Returns the names of those it put in
-- place. Locks the application's table of users in
-- SHARE ROW EXCLUSIVE mode for milliseconds, only if there is something to do.
create or replace function profiles_internal.install_identity()
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_identity$
declare
  wanted record;
  installed text[] := '{}';
begin
  for wanted in
    select t.tgname as trigger_name, t.tgrelid::regclass as relation
    from pg_trigger as t
    where t.tgfoid in ('profiles_internal.on_identity_changed'::regproc, 'profiles_internal.fill_external_id'::regproc)
      and exists (select from profiles_internal.identity_triggers())
      and not exists (
        select from profiles_internal.identity_triggers() as i where i.relation = t.tgrelid and i.trigger_name = t.tgname
      )
  loop
    execute format('drop trigger %I on %s', wanted.trigger_name, wanted.relation);
  end loop;
  for wanted in select i.* from profiles_internal.identity_triggers() as i where i.state <> 'INSTALLED' loop
    execute replace(wanted.definition, 'CREATE TRIGGER', 'create or replace trigger');
    if wanted.state = 'DISABLED' then
      execute format('alter table %s enable trigger %I', wanted.relation, wanted.trigger_name);
    end if;
    installed := installed || format('%s.%s', wanted.relation, wanted.trigger_name);
  end loop;
  update profiles_internal.settings as s
  set value = to_jsonb(i.table_name), updated_at = now()
  from profiles_internal.identity_table() as i
  where s.key = 'identity' and s.value <> to_jsonb(i.table_name);
  return installed;
end
$install_identity$;

revoke all on function profiles_internal.install_identity() from public, anon, authenticated, service_role;
