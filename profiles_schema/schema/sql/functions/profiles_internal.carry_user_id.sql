-- Before a profile is written in a table where another column of the application says whose it is (the trigger's argument):
-- that column and user_id say the same. Where a statement gives or changes only one, the other one follows.
-- Its triggers are on user_profiles only where adoption found such a column.
-- Errors: 23514 a statement gives two users.
create or replace function profiles_internal.carry_user_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $carry_user_id$
declare
  owner constant text := tg_argv[0];
  given constant uuid := to_jsonb(new) ->> owner;
begin
  if tg_op = 'INSERT' and new.user_id is null or tg_op = 'UPDATE' and new.user_id = old.user_id then
    new.user_id := given;
  elsif tg_op = 'INSERT' and given is null or tg_op = 'UPDATE' and given = old.user_id then
    new := jsonb_populate_record(new, jsonb_build_object(owner, new.user_id));
  elsif given is distinct from new.user_id then
    raise exception 'a profile of two users: % is not the user_id', owner
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = owner;
  end if;
  return new;
end
$carry_user_id$;

revoke all on function profiles_internal.carry_user_id() from public, anon, authenticated, service_role;
