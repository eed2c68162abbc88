-- The id of a user's profile, in the type of p_like: id is text, or uuid in a table that came with uuid. A statement that
-- writes or compares it names the column's type so: key_of(user_id, (null::public.user_profiles).id).
create or replace function profiles_internal.key_of(p_user_id uuid, p_like anyelement)
returns anyelement
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $key_of$
begin
  return p_user_id;
end
$key_of$;

revoke all on function profiles_internal.key_of(uuid, anyelement) from public, anon, authenticated, service_role;
