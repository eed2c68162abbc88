-- Erases what is personal of a soft-deleted user: the row of the user stays, and so does an empty, inactive profile
-- under a random, meaningless name that no profile can have, so that foreign keys of the application keep their target.
-- Columns of the application stay as they are; the log names those that hold something.
-- The hash that the auth server leaves in the email column is never copied.
create or replace function profiles_internal.erase_profile(p_user_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $erase_profile$
declare
  left_columns text[];
  wide_columns text;
begin
  -- Sessions first, in the order in which their end locks rows: session, then progress. Only where they are learning
  -- sessions: those of some web frameworks are another thing under the same name. Something of the application's that
  -- hangs on them must not keep the rest from being erased.
  if exists (
    select from pg_trigger as t
    where t.tgrelid = to_regclass('public.sessions') and t.tgname = 'roll_up_deleted_sessions'
  ) then
    begin
      delete from public.sessions where user_id = p_user_id;
    exception when others then
      perform profiles_internal.record_events(array[p_user_id], 'failed', 'trigger', sqlstate, 'sessions in profiles_internal.erase_profile');
    end;
  end if;

  -- What adoption kept of old values; they were this person's, too.
  delete from profiles_internal.adopted as a
  using (
    select p.id::text as key from public.user_profiles as p where p.user_id = p_user_id
    union all
    select g.id::text from public.user_progress as g where g.user_id = p_user_id
    union all
    select k.id::text from public.user_api_keys as k where k.user_id = p_user_id
    union all
    select e.id::text from public.export_history as e where e.user_id = p_user_id
  ) as r
  where a.data ->> 'key' = r.key and a.object_type in ('value', 'found value', 'kept value');

  delete from public.user_api_keys where user_id = p_user_id;
  delete from profiles_internal.held_usernames where user_id = p_user_id;
  delete from public.user_provider_keys where user_id = p_user_id;
  update public.export_history
  set
    status = case status when 'pending' then 'expired' when 'processing' then 'failed' when 'completed' then 'expired' else status end,
    data = null, filters = null, file_url = null, error_message = null
  where user_id = p_user_id;

  -- Before the JSON groups: a row that is not converted yet would fill them again from its wide columns.
  select string_agg(format('%I = null', a.attname), ', ')
  into wide_columns
  from profiles_internal.known_traits() as k
  join pg_attribute as a
    on a.attrelid = 'public.user_profiles'::regclass and a.attname in (k.column_name, 'restoring_' || k.column_name)
    and not a.attisdropped and not a.attnotnull and a.attgenerated = '';
  if wide_columns is not null then
    execute format('update public.user_profiles set %s where user_id = $1', wide_columns) using p_user_id;
  end if;
  delete from profiles_internal.kept_json where user_id = p_user_id;
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

  begin
    left_columns := profiles_internal.left_columns(p_user_id);
    if left_columns <> '{}' then
      perform profiles_internal.record_events(
        array[p_user_id], 'deleted', coalesce(nullif(current_setting('profiles_internal.origin', true), ''), 'trigger'),
        p_error_message => 'erased, except columns of the application: ' || array_to_string(left_columns, ', '),
        p_metadata => jsonb_build_object('left', left_columns)
      );
    end if;
  exception when others then
    raise warning 'profiles-schema: an erasure did not record which columns it left (SQLSTATE %)', sqlstate;
  end;
end
$erase_profile$;

revoke all on function profiles_internal.erase_profile(uuid) from public, anon, authenticated, service_role;
