-- update_my_profile_v2({"bio": "…"}): changes the caller's own profile and returns the row.
--   p_merge           JSON documents are merged into the stored ones (RFC 7386) instead of replacing them
--   p_if_updated_at   changes the profile only if its updated_at is still this one
-- Runs as the caller: row level security and column grants hold as for a plain UPDATE; the lists below only serve to name
-- everything that is wrong in one error.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one; PT409 (which PostgREST answers with HTTP status
-- 409) the profile has changed since
-- p_if_updated_at. All others list every key that is wrong, each with its rule: 22023 if there are unknown or forbidden keys,
-- or values of the wrong type; else what the first refusal of the table was: 23514 a CHECK, a time zone, a reserved name;
-- 23505 a username that is taken; 23502 null.
create or replace function public.update_my_profile_v2(
  p_changes jsonb,
  p_merge boolean default false,
  p_if_updated_at timestamptz default null
)
returns public.user_profiles
language plpgsql
set search_path = pg_catalog, pg_temp
as $update_my_profile_v2$
declare
  texts constant text[] := array[
    'username', 'display_name', 'first_name', 'last_name', 'phone', 'bio', 'company_name', 'target_audience', 'business_context',
    'master_system_prompt', 'avatar_emoji', 'profile_picture_url', 'logo_url', 'profile_visibility', 'timezone', 'language'
  ];
  documents constant text[] := array['key_metrics', 'preferences', 'notification_settings'];
  fitting jsonb;
  problems text;
  broken_rules text;
  error_code text := '22023';
  profile public.user_profiles;
begin
  if jsonb_typeof(p_changes) is distinct from 'object' then
    raise exception 'the changes must be a JSON object'
      using errcode = 'invalid_parameter_value', hint = 'For example {"bio": "…"}.';
  end if;

  select
    string_agg(left(c.key, 100) || case
        when c.is_large then ': is larger than 128 kB'
        when c.key = any (texts) then ': must be a text'
        else ': cannot be changed here'
      end, ', ' order by c.key)
      filter (where not c.fits),
    coalesce(jsonb_object_agg(c.key, c.value) filter (where c.fits), '{}')
  into problems, fitting
  from (
    select e.key, e.value, s.is_large,
      not s.is_large and (e.key = any (documents) or e.key = any (texts) and jsonb_typeof(e.value) in ('string', 'null')) as fits
    from jsonb_each(p_changes) as e
    -- What no rule of the table admits is not worth the merging.
    cross join lateral (select pg_column_size(e.value) > 131072) as s (is_large)
  ) as c;

  profile := public.get_my_profile_v2();
  if p_merge then
    select fitting || coalesce(jsonb_object_agg(d.name, profiles_internal.merge_patch(to_jsonb(profile) -> d.name, fitting -> d.name)), '{}')
    into fitting
    from unnest(documents) as d (name) where fitting ? d.name;
  end if;
  if problems is null then
    begin
      update public.user_profiles as p
      set
        username = case when p_changes ? 'username' then p_changes ->> 'username' else p.username end,
        display_name = case when p_changes ? 'display_name' then p_changes ->> 'display_name' else p.display_name end,
        first_name = case when p_changes ? 'first_name' then p_changes ->> 'first_name' else p.first_name end,
        last_name = case when p_changes ? 'last_name' then p_changes ->> 'last_name' else p.last_name end,
        phone = case when p_changes ? 'phone' then p_changes ->> 'phone' else p.phone end,
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
        key_metrics = case
          when not p_changes ? 'key_metrics' then p.key_metrics
          when p_merge then profiles_internal.merge_patch(p.key_metrics, p_changes -> 'key_metrics')
          else p_changes -> 'key_metrics'
        end,
        preferences = case
          when not p_changes ? 'preferences' then p.preferences
          when p_merge then profiles_internal.merge_patch(p.preferences, p_changes -> 'preferences')
          else p_changes -> 'preferences'
        end,
        notification_settings = case
          when not p_changes ? 'notification_settings' then p.notification_settings
          when p_merge then profiles_internal.merge_patch(p.notification_settings, p_changes -> 'notification_settings')
          else p_changes -> 'notification_settings'
        end
      where p.user_id = auth.uid() and (p_if_updated_at is null or p.updated_at = p_if_updated_at)
      returning p.user_id into profile.user_id;
      if found then
        return public.get_my_profile_v2();
      elsif exists (select from public.user_profiles as p where p.user_id = auth.uid() and p.updated_at <> p_if_updated_at) then
        raise exception 'the profile has changed since it was read'
          using errcode = 'PT409', hint = 'Read it again, and repeat the change with its present updated_at.';
      end if;
      -- Erased or made inactive since the statement began.
      raise exception 'this account is erased or inactive'
        using errcode = 'insufficient_privilege', hint = 'It can neither read nor write anything.';
    exception when check_violation or not_null_violation or unique_violation then
      error_code := sqlstate;
      -- Another trigger's refusal keeps its own words.
      if not exists (select from profiles_internal.refused_changes(fitting)) then
        raise;
      end if;
    end;
  end if;

  select
    concat_ws(', ', problems, string_agg(format('%s: %s', r.column_name, r.rule), ', ' order by r.column_name, r.rule)),
    string_agg(format('%s: %s', r.column_name, r.definition), e'\n' order by r.column_name, r.rule)
  into problems, broken_rules
  from profiles_internal.refused_changes(fitting) as r;
  raise exception 'the profile cannot be changed like this: %', problems
    using errcode = error_code, schema = 'public', table = 'user_profiles',
      detail = coalesce(broken_rules, 'No rule of the table was broken.'),
      hint = 'Keys that can be changed: ' || array_to_string(texts || documents, ', ') || '.';
end
$update_my_profile_v2$;

revoke all on function public.update_my_profile_v2(jsonb, boolean, timestamptz) from public, anon, authenticated, service_role;
grant execute on function public.update_my_profile_v2(jsonb, boolean, timestamptz) to authenticated;
comment on function public.update_my_profile_v2(jsonb, boolean, timestamptz) is 'Changes the caller''s own profile and returns the row';
