-- The rows of these users, as create_profiles takes them; deleted users are left out.
-- For a caller that makes profiles of users who were there before. It locks each row as the profile's foreign key will, so
-- that what it returns stays true until the caller commits: an erasure, and a change that finds no profile and makes none,
-- wait for the commit, and then see the profile (on_auth_user_updated).
create or replace function profiles_internal.living_users(p_user_ids uuid[])
returns jsonb[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $living_users$
begin
  if not has_any_column_privilege('auth.users', 'update') then
    -- A row lock needs the right to UPDATE. Without it the next sign-in, or backfill, makes up for what is missed here.
    null;
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- One snapshot for all statements: a row that has changed since is an error (40001), not an old row.
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for share;
  else
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for key share;
  end if;
  -- A statement of its own, which sees what the lock had to wait for. Offset 0: made into JSON once, not again to look at deleted_at.
  return array(
    select r.user_row
    from (select u.id, to_jsonb(u) as user_row from auth.users as u where u.id = any (p_user_ids) offset 0) as r
    where r.user_row ->> 'deleted_at' is null
    order by r.id
  );
end
$living_users$;

revoke all on function profiles_internal.living_users(uuid[]) from public, anon, authenticated, service_role;
