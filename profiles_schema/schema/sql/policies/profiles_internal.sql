-- profiles_internal is closed. One can enter it only to reach the functions that the callable functions of public
-- lead to; each of those carries its own grant, in its own file.
revoke all on schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all tables in schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all sequences in schema profiles_internal from public, anon, authenticated, service_role;

grant usage on schema profiles_internal to anon, authenticated, service_role;
