-- Before a profile is written in a table where another column of the application says whose it is (the trigger's argument):
-- that column and user_id say the same. Where a statement gives only one, the other one follows; where both change, they
-- stay as given.
-- Its triggers are on user_profiles only where adoption found such a column.
create or replace function profiles_internal.carry_user_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $carry_user_id$
declare
  owner constant text := tg_argv[0];
  given constant text := to_jsonb(new) ->> owner;
begin
  if tg_op = 'INSERT' and new.user_id is null or tg_op = 'UPDATE' and given is distinct from to_jsonb(old) ->> owner and new.user_id is not distinct from old.user_id then
    new.user_id := given;
  elsif tg_op = 'INSERT' and given is null or tg_op = 'UPDATE' and given is not distinct from to_jsonb(old) ->> owner then
    new := jsonb_populate_record(new, jsonb_build_object(owner, new.user_id));
  end if;
  return new;
end
$carry_user_id$;

revoke all on function profiles_internal.carry_user_id() from public, anon, authenticated, service_role;
