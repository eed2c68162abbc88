-- update_my_profile_v2({"bio": "…"}): changes the caller's own profile and returns the row.
-- Runs as the caller: row level security and column grants hold as for a plain UPDATE; the list below only serves to
-- name everything that is wrong in one error.
-- Errors: 22023 unknown or forbidden keys, or values of the wrong type, all listed; 42501 without a signed-in user, or for an erased or inactive one;
-- 23505 username taken; 23514 a value that a CHECK refuses.
create or replace function public.update_my_profile_v2(p_changes jsonb)
returns public.user_profiles
language plpgsql
set search_path = pg_catalog, pg_temp
as $update_my_profile_v2$
declare
  texts constant text[] := array[
    'username', 'display_name', 'first_name', 'last_name', 'bio', 'company_name', 'target_audience', 'business_context',
    'master_system_prompt', 'avatar_emoji', 'profile_picture_url', 'logo_url', 'profile_visibility', 'timezone', 'language'
  ];
  documents constant text[] := array['key_metrics', 'preferences', 'notification_settings'];
  problems text;
  profile public.user_profiles;
begin
  if jsonb_typeof(p_changes) is distinct from 'object' then
    raise exception 'the changes must be a JSON object'
      using errcode = 'invalid_parameter_value', hint = 'For example {"bio": "…"}.';
  end if;

  select string_agg(left(c.key, 100) || case when c.key = any (texts) then ' must be a text' else ' cannot be changed here' end, ', ' order by c.key)
  into problems
  from jsonb_each(p_changes) as c
  where not (c.key = any (texts) and jsonb_typeof(c.value) in ('string', 'null'))
    and not c.key = any (documents);
  if problems is not null then
    raise exception 'the profile cannot be changed like this: %', problems
      using errcode = 'invalid_parameter_value', hint = 'Keys that can be changed: ' || array_to_string(texts || documents, ', ') || '.';
  end if;

  perform public.get_my_profile_v2();
  update public.user_profiles as p
  set
    username = case when p_changes ? 'username' then p_changes ->> 'username' else p.username end,
    display_name = case when p_changes ? 'display_name' then p_changes ->> 'display_name' else p.display_name end,
    first_name = case when p_changes ? 'first_name' then p_changes ->> 'first_name' else p.first_name end,
    last_name = case when p_changes ? 'last_name' then p_changes ->> 'last_name' else p.last_name end,
    bio = case when p_changes ? 'bio' then p_changes ->> 'bio' else p.bio end,
    company_name = case when p_changes ? 'company_name' then p_changes ->> 'company_name' else p.company_name end,
    target_audience = case when p_changes ? 'target_audience' then p_changes ->> 'target_audience' else p.target_audience end,
    business_context = case when p_changes ? 'business_context' then p_changes ->> 'business_context' else p.business_context end,
    master_system_prompt = case when p_changes ? 'master_system_prompt' then p_changes ->> 'master_system_prompt' else p.master_system_prompt end,
    avatar_emoji = case when p_changes ? 'avatar_emoji' then p_changes ->> 'avatar_emoji' else p.avatar_emoji end,
    profile_picture_url = case when p_changes ? 'profile_picture_url' then p_changes ->> 'profile_picture_url' else p.profile_picture_url end,
    logo_url = case when p_changes ? 'logo_url' then p_changes ->> 'logo_url' else p.logo_url end,
    profile_visibility = case when p_changes ? 'profile_visibility' then p_changes ->> 'profile_visibility' else p.profile_visibility end,
    timezone = case when p_changes ? 'timezone' then p_changes ->> 'timezone' else p.timezone end,
    language = case when p_changes ? 'language' then p_changes ->> 'language' else p.language end,
    key_metrics = case when p_changes ? 'key_metrics' then p_changes -> 'key_metrics' else p.key_metrics end,
    preferences = case when p_changes ? 'preferences' then p_changes -> 'preferences' else p.preferences end,
    notification_settings = case when p_changes ? 'notification_settings' then p_changes -> 'notification_settings' else p.notification_settings end
  where p.user_id = auth.uid()
  returning p.* into profile;
  if not found then
    -- Erased or made inactive since the statement began.
    raise exception 'this account is erased or inactive'
      using errcode = 'insufficient_privilege', hint = 'It can neither read nor write anything.';
  end if;
  return profile;
end
$update_my_profile_v2$;

revoke all on function public.update_my_profile_v2(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.update_my_profile_v2(jsonb) to authenticated;
