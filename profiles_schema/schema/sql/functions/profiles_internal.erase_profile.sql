-- Erases what is personal of a soft-deleted user: the row of the user stays, and so does an empty, inactive profile
-- under a random name that tells nothing and that nobody can have taken, so that foreign keys of the application keep their target.
-- The hash that the auth server leaves in the email column is never copied.
create or replace function profiles_internal.erase_profile(p_user_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $erase_profile$
begin
  update public.user_profiles
  set
    username = replace(gen_random_uuid()::text, '-', ''),
    external_id = null, display_name = null, first_name = null, last_name = null, email = null, phone = null, bio = null,
    company_name = null, target_audience = null, business_context = null, master_system_prompt = null,
    avatar_emoji = default, avatar_url = null, profile_picture_url = null, logo_url = null, profile_visibility = 'private',
    referral_code = null, key_metrics = default, preferences = default, notification_settings = default,
    timezone = default, language = default, is_active = false, email_verified = false, last_login = null,
    personality_traits = null, appearance_traits = null, behavioral_metrics = null, cultural_attributes = null,
    analysis_summary = null, metadata = null
  where user_id = p_user_id;

  delete from public.user_api_keys where user_id = p_user_id;
  update public.export_history set data = null, filters = null, file_url = null where user_id = p_user_id;

  -- The sessions of some frameworks are another thing under the same name.
  begin
    delete from public.sessions where user_id = p_user_id;
  exception when undefined_table or undefined_column or undefined_function then
    null;
  end;
end
$erase_profile$;

revoke all on function profiles_internal.erase_profile(uuid) from public, anon, authenticated, service_role;
