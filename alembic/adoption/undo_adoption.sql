-- Takes back what one revision did to things that it found, newest first. A CHECK, key or foreign key that rows written
-- since do not keep comes back NOT VALID, or not at all, with a warning, and so does a foreign key to such a key;
-- anything else that fails stops the downgrade.
create or replace function profiles_internal.undo_adoption(p_revision text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set check_function_bodies = off
as $undo_adoption$
declare
  step record;
begin
  -- What is checked at commit would stand in the way of the next change of the table.
  set constraints all immediate;
  for step in
    select a.* from profiles_internal.adopted as a
    where a.revision = p_revision and a.definition is not null
    order by a.id desc
  loop
    begin
      execute step.definition;
    exception
      when check_violation or foreign_key_violation then
        execute step.definition || ' not valid';
        raise warning '% came back NOT VALID: rows written since do not keep it', step.object_name;
      when unique_violation or not_null_violation or invalid_foreign_key then
        -- What has to have a value is another matter than a key (restore_values).
        if sqlstate = '23502' and step.data ->> 'kind' is distinct from 'drop_primary_key' then
          raise;
        end if;
        raise warning '% did not come back, since rows written since do not keep it: %', step.object_name,
          step.definition;
    end;
  end loop;
  delete from profiles_internal.adopted as a where a.revision = p_revision;
end
$undo_adoption$;

revoke all on function profiles_internal.undo_adoption(text) from public, anon, authenticated, service_role;
