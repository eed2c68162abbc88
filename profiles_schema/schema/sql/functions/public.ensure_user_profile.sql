-- ensure_user_profile(user): the profile as JSON, made if it is missing. For the user's own id, or for service_role.
-- The seven-argument form serves callers of an older function of this name: what they pass and a user may write (names,
-- phone, language) is used when the profile is made. Email and role are ignored: only the user row decides them.
create or replace function public.ensure_user_profile(p_user_id uuid default auth.uid())
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $ensure_user_profile$
  select profiles_internal.ensure_profile(p_user_id)
$ensure_user_profile$;

create or replace function public.ensure_user_profile(
  p_user_id uuid,
  p_email text,
  p_first_name text,
  p_last_name text,
  p_phone text,
  p_language text,
  p_role text
)
returns jsonb
language sql
set search_path = pg_catalog, pg_temp
as $ensure_user_profile$
  select profiles_internal.ensure_profile(p_user_id, jsonb_build_object(
    'first_name', p_first_name, 'last_name', p_last_name, 'phone', p_phone, 'language', p_language
  ))
$ensure_user_profile$;

revoke all on function
  public.ensure_user_profile(uuid),
  public.ensure_user_profile(uuid, text, text, text, text, text, text)
from public, anon, authenticated, service_role;
grant execute on function
  public.ensure_user_profile(uuid),
  public.ensure_user_profile(uuid, text, text, text, text, text, text)
to authenticated, service_role;
comment on function public.ensure_user_profile(uuid) is 'The profile as JSON, made if it is missing';
comment on function public.ensure_user_profile(uuid, text, text, text, text, text, text) is 'The profile as JSON, made if it is missing';
