-- create_user(…): a user with a profile, for applications without an auth server. Exists only where auth.users is ours.
create or replace function public.create_user(
  email text default null,
  phone text default null,
  external_id text default null,
  username text default null,
  metadata jsonb default '{}'
)
returns uuid
language sql
set search_path = pg_catalog, pg_temp
as $create_user$
  select profiles_internal.make_user(email, phone, external_id, username, metadata)
$create_user$;

revoke all on function public.create_user(text, text, text, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.create_user(text, text, text, text, jsonb) to service_role;
comment on function public.create_user(text, text, text, text, jsonb) is 'A user with a profile, for applications without an auth server';
