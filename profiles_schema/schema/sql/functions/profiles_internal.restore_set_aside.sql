-- Puts back what one step set aside in profiles_internal.adopted, newest first. What cannot come back (a CHECK that rows
-- written since do not keep comes back NOT VALID) is a warning, and its entry stays, as that of "STEP (refused)".
create or replace function profiles_internal.restore_set_aside(p_revision text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $restore_set_aside$
declare
  thing record;
begin
  for thing in
    select a.* from profiles_internal.adopted as a where a.revision = p_revision order by a.id desc
  loop
    begin
      execute thing.definition;
    exception
      when check_violation then
        execute thing.definition || ' not valid';
        raise warning 'constraint % came back NOT VALID: rows written since do not keep it', thing.object_name;
      when lock_not_available or deadlock_detected then
        raise;
      when others then
        update profiles_internal.adopted as a set revision = p_revision || ' (refused)' where a.id = thing.id;
        raise warning '% % could not come back (SQLSTATE %): %', thing.object_type, thing.object_name, sqlstate, thing.definition;
    end;
    delete from profiles_internal.adopted as a where a.id = thing.id and a.revision = p_revision;
  end loop;
end
$restore_set_aside$;

revoke all on function profiles_internal.restore_set_aside(text) from public, anon, authenticated, service_role;
