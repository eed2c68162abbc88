-- Who may do what in schema auth, where it is ours: call the functions that read the claims, and nothing else.
-- The rows of auth.users belong to create_user, to the triggers, and to the owner of the table.
revoke all on schema auth from public, anon, authenticated, service_role;
revoke all on table auth.users from public, anon, authenticated, service_role;

grant usage on schema auth to anon, authenticated, service_role;

alter table auth.users enable row level security;
