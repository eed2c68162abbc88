-- Drops the triggers on the application's own table of users, and the one on user_profiles that belongs to them.
create or replace function profiles_internal.remove_identity()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $remove_identity$
declare
  ours record;
begin
  for ours in
    select t.tgname, t.tgrelid::regclass as relation
    from pg_trigger as t
    where t.tgfoid in ('profiles_internal.on_identity_changed'::regproc, 'profiles_internal.fill_external_id'::regproc)
    order by t.tgrelid, t.tgname
  loop
    execute format('drop trigger %I on %s', ours.tgname, ours.relation);
  end loop;
end
$remove_identity$;

revoke all on function profiles_internal.remove_identity() from public, anon, authenticated, service_role;
