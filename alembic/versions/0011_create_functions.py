"""What may be called, and the rules behind it: reading, changing, erasing, counting.

Why: triggers, the API and backfill share one rule, in one place.
Locks: nothing.
Compatible with: any code: nothing calls them yet.
Back: drops them.
"""

from alembic import op

revision = "0011_create_functions"
down_revision = "0010_create_audit_logs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
-- Functions of these names that were here before are set aside.
select profiles_internal.adopt('0011_create_functions');
"""
    )
    op.execute(
        r"""
-- The columns of wide profile tables that are known to belong into a JSON group: the type they usually have, the group and
-- the path in it, keys separated by dots. Made from trait_columns.csv by `make snapshot`.
create or replace function profiles_internal.known_traits()
returns table (column_name text, data_type text, jsonb_column text, path text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $known_traits$
  values
    ('dominant_archetype', 'text', 'personality_traits', 'archetypes.dominant'),
    ('secondary_archetypes', 'jsonb', 'personality_traits', 'archetypes.secondary'),
    ('shadow_archetype', 'text', 'personality_traits', 'archetypes.shadow'),
    ('archetype_confidence', 'real', 'personality_traits', 'archetypes.confidence'),
    ('openness_score', 'integer', 'personality_traits', 'bigFive.openness'),
    ('conscientiousness_score', 'integer', 'personality_traits', 'bigFive.conscientiousness'),
    ('extraversion_score', 'integer', 'personality_traits', 'bigFive.extraversion'),
    ('agreeableness_score', 'integer', 'personality_traits', 'bigFive.agreeableness'),
    ('neuroticism_score', 'integer', 'personality_traits', 'bigFive.neuroticism'),
    ('attachment_style', 'text', 'personality_traits', 'attachmentStyle'),
    ('attachment_confidence', 'real', 'personality_traits', 'attachmentConfidence'),
    ('emotional_awareness_score', 'integer', 'personality_traits', 'emotionalIntelligence.awareness'),
    ('empathy_score', 'integer', 'personality_traits', 'emotionalIntelligence.empathy'),
    ('emotional_regulation_score', 'integer', 'personality_traits', 'emotionalIntelligence.regulation'),
    ('personality_facets', 'jsonb', 'personality_traits', 'facets'),
    ('communication_formality', 'text', 'behavioral_metrics', 'communication.formality'),
    ('communication_assertiveness', 'text', 'behavioral_metrics', 'communication.assertiveness'),
    ('communication_engagement', 'text', 'behavioral_metrics', 'communication.engagement'),
    ('verbal_fluency_score', 'integer', 'behavioral_metrics', 'communication.verbalFluency'),
    ('question_asking_frequency', 'real', 'behavioral_metrics', 'communication.questionFrequency'),
    ('analytical_thinking_score', 'integer', 'behavioral_metrics', 'thinking.analyticalScore'),
    ('creative_thinking_score', 'integer', 'behavioral_metrics', 'thinking.creativeScore'),
    ('abstract_reasoning_score', 'integer', 'behavioral_metrics', 'thinking.abstractReasoning'),
    ('concrete_thinking_score', 'integer', 'behavioral_metrics', 'thinking.concreteThinking'),
    ('social_dominance_score', 'integer', 'behavioral_metrics', 'social.dominanceScore'),
    ('cooperation_score', 'integer', 'behavioral_metrics', 'social.cooperationScore'),
    ('conflict_style', 'text', 'behavioral_metrics', 'social.conflictStyle'),
    ('humor_style', 'text', 'behavioral_metrics', 'social.humorStyle'),
    ('message_length_avg', 'real', 'behavioral_metrics', 'messaging.avgLength'),
    ('message_length_variance', 'real', 'behavioral_metrics', 'messaging.lengthVariance'),
    ('response_latency_avg', 'real', 'behavioral_metrics', 'messaging.responseLatency'),
    ('emoji_usage_rate', 'real', 'behavioral_metrics', 'messaging.emojiUsageRate'),
    ('punctuation_style', 'text', 'behavioral_metrics', 'messaging.punctuationStyle'),
    ('capitalization_pattern', 'text', 'behavioral_metrics', 'messaging.capitalizationPattern'),
    ('primary_interests', 'jsonb', 'behavioral_metrics', 'interests.primary'),
    ('expertise_areas', 'jsonb', 'behavioral_metrics', 'interests.expertise'),
    ('technical_knowledge_level', 'text', 'behavioral_metrics', 'interests.technicalLevel'),
    ('uploaded_photo_url', 'text', 'appearance_traits', 'uploadedPhotoUrl'),
    ('uploaded_photo_metadata', 'jsonb', 'appearance_traits', 'uploadedPhotoMetadata'),
    ('ai_appearance_description', 'text', 'appearance_traits', 'aiDescription'),
    ('appearance_confidence', 'real', 'appearance_traits', 'confidence'),
    ('ai_detected_gender', 'text', 'appearance_traits', 'demographics.detectedGender'),
    ('gender_confidence', 'real', 'appearance_traits', 'demographics.genderConfidence'),
    ('estimated_age_range', 'text', 'appearance_traits', 'demographics.ageRange'),
    ('age_confidence', 'real', 'appearance_traits', 'demographics.ageConfidence'),
    ('face_shape', 'text', 'appearance_traits', 'facial.shape'),
    ('facial_symmetry_score', 'integer', 'appearance_traits', 'facial.symmetryScore'),
    ('jawline_prominence', 'text', 'appearance_traits', 'facial.jawlineProminence'),
    ('cheekbone_prominence', 'text', 'appearance_traits', 'facial.cheekboneProminence'),
    ('hair_color', 'text', 'appearance_traits', 'hair.color'),
    ('hair_texture', 'text', 'appearance_traits', 'hair.texture'),
    ('hair_length', 'text', 'appearance_traits', 'hair.length'),
    ('hair_style', 'text', 'appearance_traits', 'hair.style'),
    ('hair_density', 'text', 'appearance_traits', 'hair.density'),
    ('facial_hair', 'text', 'appearance_traits', 'hair.facial'),
    ('eye_color', 'text', 'appearance_traits', 'eyes.color'),
    ('eye_shape', 'text', 'appearance_traits', 'eyes.shape'),
    ('eye_spacing', 'text', 'appearance_traits', 'eyes.spacing'),
    ('eyebrow_shape', 'text', 'appearance_traits', 'eyes.eyebrowShape'),
    ('eyebrow_thickness', 'text', 'appearance_traits', 'eyes.eyebrowThickness'),
    ('nose_shape', 'text', 'appearance_traits', 'nose.shape'),
    ('nose_size', 'text', 'appearance_traits', 'nose.size'),
    ('lip_fullness', 'text', 'appearance_traits', 'mouth.lipFullness'),
    ('smile_type', 'text', 'appearance_traits', 'mouth.smileType'),
    ('skin_tone', 'text', 'appearance_traits', 'skin.tone'),
    ('skin_texture', 'text', 'appearance_traits', 'skin.texture'),
    ('complexion_quality', 'text', 'appearance_traits', 'skin.complexionQuality'),
    ('body_type', 'text', 'appearance_traits', 'physical.bodyType'),
    ('build_description', 'text', 'appearance_traits', 'physical.buildDescription'),
    ('height_estimate', 'text', 'appearance_traits', 'physical.heightEstimate'),
    ('posture', 'text', 'appearance_traits', 'physical.posture'),
    ('distinctive_features', 'jsonb', 'appearance_traits', 'distinctive.features'),
    ('clothing_style', 'text', 'appearance_traits', 'distinctive.clothingStyle'),
    ('accessories', 'jsonb', 'appearance_traits', 'distinctive.accessories'),
    ('attractiveness_assessment', 'text', 'appearance_traits', 'impression.attractiveness'),
    ('approachability_score', 'integer', 'appearance_traits', 'impression.approachabilityScore'),
    ('perceived_confidence_level', 'text', 'appearance_traits', 'impression.perceivedConfidence'),
    ('aesthetic_archetype', 'text', 'appearance_traits', 'impression.aestheticArchetype'),
    ('cultural_background', 'text', 'cultural_attributes', 'background'),
    ('cultural_values', 'jsonb', 'cultural_attributes', 'values'),
    ('cultural_communication_style', 'text', 'cultural_attributes', 'communicationStyle'),
    ('cultural_confidence', 'real', 'cultural_attributes', 'confidence'),
    ('zodiac_sign', 'text', 'cultural_attributes', 'astrology.sign'),
    ('zodiac_element', 'text', 'cultural_attributes', 'astrology.element'),
    ('zodiac_modality', 'text', 'cultural_attributes', 'astrology.modality'),
    ('birth_date', 'text', 'cultural_attributes', 'astrology.birthDate'),
    ('astrological_confidence', 'real', 'cultural_attributes', 'astrology.confidence'),
    ('affinity_score', 'integer', 'analysis_summary', 'relationship.affinityScore'),
    ('trust_level', 'integer', 'analysis_summary', 'relationship.trustLevel'),
    ('emotional_bond', 'text', 'analysis_summary', 'relationship.emotionalBond'),
    ('omega_thoughts', 'text', 'analysis_summary', 'relationship.thoughts'),
    ('notable_patterns', 'jsonb', 'analysis_summary', 'relationship.notablePatterns'),
    ('overall_sentiment', 'text', 'analysis_summary', 'sentiment.overall'),
    ('positive_interaction_ratio', 'real', 'analysis_summary', 'sentiment.positiveRatio'),
    ('negative_interaction_ratio', 'real', 'analysis_summary', 'sentiment.negativeRatio'),
    ('dominant_emotions', 'jsonb', 'analysis_summary', 'sentiment.dominantEmotions'),
    ('predicted_behaviors', 'jsonb', 'analysis_summary', 'predictions.behaviors'),
    ('prediction_confidence', 'real', 'analysis_summary', 'predictions.confidence'),
    ('prediction_timeframe', 'text', 'analysis_summary', 'predictions.timeframe'),
    ('last_prediction_at', 'bigint', 'analysis_summary', 'predictions.lastPredictionAt'),
    ('prediction_accuracy_score', 'real', 'analysis_summary', 'predictions.accuracyScore'),
    ('integrated_profile_summary', 'text', 'analysis_summary', 'integration.summary'),
    ('profile_integration_confidence', 'real', 'analysis_summary', 'integration.confidence'),
    ('world_model_adjustments', 'jsonb', 'analysis_summary', 'integration.worldModelAdjustments'),
    ('personal_model_adjustments', 'jsonb', 'analysis_summary', 'integration.personalModelAdjustments'),
    ('feelings_json', 'jsonb', 'metadata', 'feelings')
$known_traits$;

revoke all on function profiles_internal.known_traits() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Columns of the application in our tables that hold something of a person: what an erasure leaves, because no one has said
-- whether it is personal. Names, never values. Without a person: all columns of the application.
create or replace function profiles_internal.left_columns(p_user_id uuid default null)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $left_columns$
declare
  result text[] := '{}';
  own record;
  holds_something boolean;
begin
  for own in
    select c.oid::regclass as relation, c.relname, a.attname
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.oid in (to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.export_history'))
      and not exists (
        select from profiles_internal.legacy_columns as l
        where l.table_name = c.relname and a.attname in (l.column_name, 'restoring_' || l.column_name)
      )
      -- Ours. Made from the models by `make snapshot`.
      and a.attname <> all (regexp_split_to_array(case c.relname
        when 'user_profiles' then '
          id user_id external_id username display_name first_name last_name email phone bio company_name
          target_audience business_context master_system_prompt avatar_emoji avatar_url profile_picture_url logo_url
          profile_visibility role referral_code key_metrics preferences notification_settings timezone language
          is_active email_verified is_anonymous last_login login_count first_seen_at last_interaction_at
          last_analyzed_at last_photo_analyzed_at message_count personality_traits appearance_traits
          behavioral_metrics cultural_attributes analysis_summary metadata created_at updated_at'
        when 'user_progress' then '
          id user_id total_sessions total_descriptions total_images total_questions_answered total_correct_answers
          total_vocabulary_learned total_answer_seconds total_time_spent_minutes average_accuracy
          average_completion_time_seconds last_activity_at last_description_at last_qa_session_at
          last_vocabulary_practice_at last_active_on current_streak_days longest_streak_days total_points
          mastered_words_count learning_words_count new_words_count created_at updated_at'
        when 'export_history' then '
          id user_id export_type export_format status records_count file_size_bytes file_url filters data
          error_message retry_count started_at completed_at processing_time_seconds expires_at created_at updated_at'
      end, '\s+'))
    order by c.relname desc, a.attnum
  loop
    holds_something := true;
    if p_user_id is not null then
      execute format('select exists (select from %s where user_id = $1 and %I is not null)', own.relation, own.attname)
      into holds_something using p_user_id;
    end if;
    if holds_something then
      result := result || format('%I.%I', own.relname, own.attname);
    end if;
  end loop;
  return result;
end
$left_columns$;

revoke all on function profiles_internal.left_columns(uuid) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
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
"""
    )
    op.execute(
        r"""
-- Carries a change of a user over to the profile.
--
-- email, email_verified and is_anonymous always follow; the time of the last sign-in with its count. An address that a
-- user who never had one brought along (an adopted profile) stays.
-- Phone, name, picture and username follow only while the profile still holds what the OLD user row had produced: what a
-- person has edited stays theirs. A value that the user row no longer has is kept.
-- email_change and phone_change are pending, unproved wishes: never read.
-- Who is undeleted becomes active again. The profile of an account that was ended follows no more, or what was erased would
-- come back from auth.users, where the auth server's row may go on; an undelete ends that.
-- Returns false when there is no profile to follow with.
create or replace function profiles_internal.follow_user(p_old jsonb, p_new jsonb)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow_user$
declare
  changed_user_id constant uuid := (p_new ->> 'id')::uuid;
  old_values record;
  new_values record;
  signed_in constant boolean := p_new ->> 'last_sign_in_at' is not null
    and p_new ->> 'last_sign_in_at' is distinct from p_old ->> 'last_sign_in_at';
  had_email constant boolean := p_old ->> 'email' <> '';
  undeleted boolean := p_old ->> 'deleted_at' is not null;
  profile public.user_profiles;
  wanted_username text;
begin
  -- The address that the profile last followed; the old row has another one where a change was lost. Locked, so that a
  -- repair that is under way is waited for before its address is read.
  select p_old || jsonb_build_object('email', p.email)
  into p_old
  from public.user_profiles as p
  where p.user_id = changed_user_id
  for no key update;
  if not found then
    return false;
  end if;
  -- An undelete that was lost is made up for, once; a profile that was made inactive on purpose stays so.
  if not undeleted and not (select p.is_active from public.user_profiles as p where p.user_id = changed_user_id) and exists (
    select from public.user_profile_audit_logs as a
    where a.user_id = changed_user_id and a.action in ('failed', 'skipped') and a.metadata ? 'undeleted'
      and not exists (
        select from public.user_profile_audit_logs as r
        where r.user_id = changed_user_id and r.action = 'repaired' and r.created_at >= a.created_at
      )
  ) then
    undeleted := true;
    perform profiles_internal.record_events(array[changed_user_id], 'repaired', 'trigger');
  end if;
  if undeleted then
    delete from profiles_internal.erasures as e where e.user_id = changed_user_id;
  elsif exists (select from profiles_internal.erasures as e where e.user_id = changed_user_id) then
    return true;
  end if;
  select v.* into old_values from profiles_internal.profile_values(array[p_old]) as v;
  select v.* into new_values from profiles_internal.profile_values(array[p_new]) as v;

  update public.user_profiles as p
  set
    email = coalesce(new_values.email, case when had_email then null else p.email end),
    email_verified = new_values.email_verified,
    is_anonymous = new_values.is_anonymous,
    is_active = p.is_active or undeleted,
    last_login = case when signed_in or undeleted then new_values.last_login else p.last_login end,
    login_count = p.login_count + signed_in::integer,
    phone = case when p.phone is not distinct from old_values.phone
      then coalesce(new_values.phone, p.phone) else p.phone end,
    display_name = case when p.display_name is not distinct from old_values.display_name
      then coalesce(new_values.display_name, p.display_name) else p.display_name end,
    first_name = case when p.first_name is not distinct from old_values.first_name
      then coalesce(new_values.first_name, p.first_name) else p.first_name end,
    last_name = case when p.last_name is not distinct from old_values.last_name
      then coalesce(new_values.last_name, p.last_name) else p.last_name end,
    avatar_url = case when p.avatar_url is not distinct from old_values.avatar_url
      then coalesce(new_values.avatar_url, p.avatar_url) else p.avatar_url end
  where p.user_id = changed_user_id
  returning p.* into profile;

  if not found then
    return false;
  end if;

  -- A name follows a changed address only if it was made from the old one.
  if new_values.first_username <> old_values.first_username
    and profile.username in (old_values.first_username, old_values.second_username, old_values.third_username)
  then
    foreach wanted_username in array
      array[new_values.first_username, new_values.second_username, new_values.third_username]
    loop
      continue when (select 1 from public.user_profiles as p where lower(p.username) = wanted_username) is not null;
      begin
        update public.user_profiles set username = wanted_username where user_id = changed_user_id;
        exit;
      exception when unique_violation or lock_not_available then
        continue; -- another transaction was faster
      end;
    end loop;
  end if;
  return true;
end
$follow_user$;

revoke all on function profiles_internal.follow_user(jsonb, jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What the rolled-up columns of user_progress should hold for these users, counted from all of their ended sessions: the law
-- that the trigger on sessions keeps by differences. active_days is how many days profiles_internal.active_days should have.
-- Older tables lack qa_correct and qa_seconds: a name that the inner table lacks is looked for outside, and is 0 there.
create or replace function profiles_internal.computed_progress(p_user_ids uuid[])
returns table (
  user_id uuid, total_sessions integer, total_descriptions integer, total_images integer, total_questions_answered integer,
  total_correct_answers integer, total_vocabulary_learned integer, total_answer_seconds integer, total_time_spent_minutes integer,
  average_accuracy numeric, average_completion_time_seconds integer, last_activity_at timestamptz, last_active_on date,
  last_description_at timestamptz, last_qa_session_at timestamptz, last_vocabulary_practice_at timestamptz,
  current_streak_days integer, longest_streak_days integer, active_days bigint
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $computed_progress$
#variable_conflict use_column
declare
  most constant bigint := 2147483647;
begin
  return query
  with ended as (
    select
      s.user_id, s.ended_at, s.descriptions_generated::bigint, s.images_processed::bigint, s.qa_attempts::bigint,
      s.vocabulary_learned::bigint,
      coalesce(q.correct, 0) as correct, coalesce(q.seconds, 0) as seconds,
      greatest(0, coalesce(s.duration_minutes, case when isfinite(s.started_at) then floor(extract(epoch from s.ended_at - s.started_at) / 60) end, 0))::bigint as minutes,
      (s.ended_at at time zone coalesce(profile.timezone, 'UTC'))::date as local_day
    from public.sessions as s
    left join public.user_profiles as profile on profile.user_id = s.user_id
    cross join lateral (
      select (select qa_correct from (select s.*) as own)::bigint as correct, (select qa_seconds from (select s.*) as own)::bigint as seconds
      from (select 0 as qa_correct, 0 as qa_seconds) as absent
    ) as q
    where s.user_id = any (p_user_ids) and isfinite(s.ended_at)
  ),
  -- Consecutive days share the same difference between the day and its rank.
  streak as (
    select d.user_id, max(d.local_day) as last_day, count(*) as days
    from (
      select distinct_day.user_id, distinct_day.local_day,
        distinct_day.local_day - (row_number() over (partition by distinct_day.user_id order by distinct_day.local_day))::integer as run
      from (select distinct e.user_id, e.local_day from ended as e) as distinct_day
    ) as d
    group by d.user_id, d.run
  ),
  streaks as (
    select s.user_id, (array_agg(s.days order by s.last_day desc))[1] as current_days, max(s.days) as longest_days, sum(s.days) as days
    from streak as s
    group by s.user_id
  ),
  total as (
    select
      e.user_id,
      count(*) as sessions,
      sum(e.minutes) as minutes,
      sum(e.descriptions_generated) as descriptions,
      sum(e.images_processed) as images,
      sum(e.qa_attempts) as questions,
      sum(e.correct) as correct,
      sum(e.seconds) as answer_seconds,
      sum(e.vocabulary_learned) as vocabulary,
      max(e.ended_at) as last_activity_at,
      (array_agg(e.local_day order by e.ended_at desc))[1] as last_active_on,
      max(e.ended_at) filter (where e.descriptions_generated > 0) as last_description_at,
      max(e.ended_at) filter (where e.qa_attempts > 0) as last_qa_session_at,
      max(e.ended_at) filter (where e.vocabulary_learned > 0) as last_vocabulary_practice_at
    from ended as e
    group by e.user_id
  )
  select
    asked.user_id,
    least(coalesce(t.sessions, 0), most)::integer,
    least(coalesce(t.descriptions, 0), most)::integer,
    least(coalesce(t.images, 0), most)::integer,
    least(coalesce(t.questions, 0), most)::integer,
    least(coalesce(t.correct, 0), most)::integer,
    least(coalesce(t.vocabulary, 0), most)::integer,
    least(coalesce(t.answer_seconds, 0), most)::integer,
    least(coalesce(t.minutes, 0), most)::integer,
    case when t.questions > 0 then least(round(100.0 * t.correct / t.questions, 2), 999.99) else 0 end,
    case when t.questions > 0 then least(round(t.answer_seconds::numeric / t.questions), most) else 0 end::integer,
    t.last_activity_at, t.last_active_on, t.last_description_at, t.last_qa_session_at, t.last_vocabulary_practice_at,
    coalesce(s.current_days, 0)::integer,
    coalesce(s.longest_days, 0)::integer,
    coalesce(s.days, 0)::bigint
  from (select distinct a.user_id from unnest(p_user_ids) as a (user_id)) as asked
  left join total as t on t.user_id = asked.user_id
  left join streaks as s on s.user_id = asked.user_id;
end
$computed_progress$;

revoke all on function profiles_internal.computed_progress(uuid[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Counts the progress of these users anew from their ended sessions (computed_progress), and the days on which they were
-- active. Its cost grows with their history: for repair,
-- another time zone, and sessions that were there before us. The trigger on sessions goes by differences.
--
-- The rows are locked in order first and counted in later statements: a count in the statement that takes the lock would not
-- see what the lock had to wait for (READ COMMITTED). Marks of failed roll-ups go before the sessions are read: a mark that is
-- seen is committed, and so is the session it stands for.
-- Every row is written, also one that is right: a transaction with an older snapshot (REPEATABLE READ) has to notice, by the
-- row, that days or time zone have changed since.
-- Only updates: inserting a missing row would make the deletion of a user fail on its foreign key.
create or replace function profiles_internal.recount_progress(p_user_ids uuid[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $recount_progress$
begin
  perform from public.user_progress as p where p.user_id = any (p_user_ids) order by p.user_id for no key update;
  delete from profiles_internal.stale_progress as s where s.user_id = any (p_user_ids);

  delete from profiles_internal.active_days as d where d.user_id = any (p_user_ids);
  insert into profiles_internal.active_days (user_id, day, sessions)
  select s.user_id, (s.ended_at at time zone coalesce(profile.timezone, 'UTC'))::date, count(*)
  from public.user_progress as p
  join public.sessions as s on s.user_id = p.user_id
  left join public.user_profiles as profile on profile.user_id = s.user_id
  where p.user_id = any (p_user_ids) and isfinite(s.ended_at)
  group by 1, 2;

  update public.user_progress as p
  set
    total_sessions = c.total_sessions,
    total_descriptions = c.total_descriptions,
    total_images = c.total_images,
    total_questions_answered = c.total_questions_answered,
    total_correct_answers = c.total_correct_answers,
    total_vocabulary_learned = c.total_vocabulary_learned,
    total_answer_seconds = c.total_answer_seconds,
    total_time_spent_minutes = c.total_time_spent_minutes,
    average_accuracy = c.average_accuracy,
    average_completion_time_seconds = c.average_completion_time_seconds,
    last_activity_at = c.last_activity_at,
    last_active_on = c.last_active_on,
    last_description_at = c.last_description_at,
    last_qa_session_at = c.last_qa_session_at,
    last_vocabulary_practice_at = c.last_vocabulary_practice_at,
    current_streak_days = c.current_streak_days,
    longest_streak_days = c.longest_streak_days
  from profiles_internal.computed_progress(p_user_ids) as c
  where p.user_id = c.user_id;
end
$recount_progress$;

revoke all on function profiles_internal.recount_progress(uuid[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Brings the profile of a user whose change or erasure was lost up to date, and records that. An erasure takes the keys and
-- exports of a user without a profile as well; otherwise such a user is left to create_profiles.
-- The user is locked first, then the profile, and both are read in later statements: a change that is under way is waited for,
-- and one that begins now follows afterwards.
create or replace function profiles_internal.repair_profile(p_user_id uuid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $repair_profile$
declare
  followed_sign_in timestamptz;
  has_profile boolean;
  before jsonb;
  after jsonb;
begin
  if has_any_column_privilege('auth.users', 'update') then -- which a row lock needs
    perform from auth.users as u where u.id = p_user_id for share;
  end if;
  select p.last_login into followed_sign_in from public.user_profiles as p where p.user_id = p_user_id for no key update;
  has_profile := found;
  select to_jsonb(u) into after from auth.users as u where u.id = p_user_id;
  if after ->> 'deleted_at' is not null then
    perform profiles_internal.erase_profile(p_user_id);
  elsif after is null or not has_profile then
    return;
  else
    before := after;
    -- As if the last sign-in happened now, unless the profile has it already.
    if followed_sign_in is distinct from (after ->> 'last_sign_in_at')::timestamptz then
      before := before - 'last_sign_in_at';
    end if;
    perform profiles_internal.follow_user(before, after);
  end if;
  perform profiles_internal.record_events(array[p_user_id], 'repaired', 'backfill');
end
$repair_profile$;

revoke all on function profiles_internal.repair_profile(uuid) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- May the caller act for this user? The user themselves, service_role, and a session that connected directly as a role that
-- is a member of service_role or owns this schema. Asked inside definer functions, where current_user is the owner:
-- the role that the caller has set is read from the setting "role", which a definer function does not change.
create or replace function profiles_internal.may_act_for(p_user_id uuid)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $may_act_for$
declare
  acting_role constant text := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  if acting_role in ('anon', 'authenticated') then
    return coalesce(acting_role = 'authenticated' and p_user_id = auth.uid(), false);
  end if;
  -- An application may have roles of its own that are members of ours.
  return coalesce(p_user_id = auth.uid() and pg_has_role(acting_role, 'authenticated', 'member'), false)
    or pg_has_role(acting_role, 'service_role', 'member')
    or pg_has_role(acting_role, current_user, 'member');
end
$may_act_for$;

revoke all on function profiles_internal.may_act_for(uuid) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- After an API key was read to be used: last_used_at says so, at most once an hour, and an audit row does where the
-- setting audit_key_reads is on. Readers of one key do not wait for each other.
-- Definer: users write neither. The caller must be the user, or may act for anybody (may_act_for).
create or replace function profiles_internal.record_key_use(p_user_id uuid, p_provider text, p_label text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $record_key_use$
declare
  source record;
begin
  if not profiles_internal.may_act_for(p_user_id) then
    raise exception 'a key is used by its owner' using errcode = 'insufficient_privilege';
  end if;
  update public.user_provider_keys as k
  set last_used_at = clock_timestamp()
  where k.id = (
    select o.id from public.user_provider_keys as o
    where o.user_id = p_user_id and o.provider = p_provider and o.label = p_label
      and (o.last_used_at is null or o.last_used_at < clock_timestamp() - interval '1 hour')
    for no key update skip locked
  );
  if (select s.value from profiles_internal.settings as s where s.key = 'audit_key_reads') = 'true' and (
    exists (
      select from public.user_provider_keys as k
      where k.user_id = p_user_id and k.provider = p_provider and k.label = p_label
    )
    or p_label = '' and exists (
      select from public.user_api_keys as k where k.user_id = p_user_id and to_jsonb(k) ->> (p_provider || '_api_key') is not null
    )
  ) then
    select s.* into source from profiles_internal.audit_source() as s;
    insert into public.user_profile_audit_logs (user_id, action, origin, actor, metadata)
    values (p_user_id, 'key_read', source.origin, source.actor, source.context || jsonb_build_object('provider', p_provider));
  end if;
end
$record_key_use$;

revoke all on function profiles_internal.record_key_use(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.record_key_use(uuid, text, text) to authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Is this the encryption key that has always had this id? 'same', 'other', or 'new' where none is recorded. The check
-- value is a short fingerprint that tells nothing about the key.
-- service_role and the owner of this schema record a new one; a user who could do that could lock all others out.
-- Definer: users may not read the table.
create or replace function profiles_internal.check_encryption_key(p_key_id text, p_check_value text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $check_encryption_key$
declare
  caller constant text := coalesce(nullif(current_setting('role', true), 'none'), session_user);
  recorded text := (select k.check_value from profiles_internal.encryption_keys as k where k.key_id = p_key_id);
begin
  if recorded is null and caller not in ('anon', 'authenticated')
    and (pg_has_role(caller, 'service_role', 'member') or pg_has_role(caller, current_user, 'member'))
  then
    insert into profiles_internal.encryption_keys (key_id, check_value)
    values (p_key_id, p_check_value)
    on conflict do nothing;
    -- Another process may have been first.
    select k.check_value into recorded from profiles_internal.encryption_keys as k where k.key_id = p_key_id;
  end if;
  return case when recorded is null then 'new' when recorded = p_check_value then 'same' else 'other' end;
end
$check_encryption_key$;

revoke all on function profiles_internal.check_encryption_key(text, text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.check_encryption_key(text, text) to authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- May the signed-in user read and write their own rows? Not if they are erased or their profile is inactive, with
-- any token. A user without a profile may: the first request creates it.
-- For policies, in a scalar sub-select, so that it is asked once per statement.
-- Definer: authenticated may not read auth.users, and policies must not read the table that they guard. Says nothing about
-- anybody but the caller.
create or replace function profiles_internal.may_use_own_rows()
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $may_use_own_rows$
declare
  caller constant uuid := auth.uid();
begin
  return (select p.is_active from public.user_profiles as p where p.user_id = caller) is not false
    and (select to_jsonb(u) ->> 'deleted_at' from auth.users as u where u.id = caller) is null;
end
$may_use_own_rows$;

revoke all on function profiles_internal.may_use_own_rows() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.may_use_own_rows() to authenticated;
"""
    )
    op.execute(
        r"""
-- The same as may_use_own_rows, for policies of INSERT: an erasure that is under way is waited for, because it cannot see
-- the new row. The lock is the one that the row's foreign key takes anyway.
-- Definer: authenticated has no right on auth.users.
create or replace function profiles_internal.may_add_own_rows()
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $may_add_own_rows$
begin
  if not has_any_column_privilege('auth.users', 'update') then
    null; -- a row lock needs that right
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- One snapshot for all statements: an erasure since then is an error (40001).
    perform from auth.users as u where u.id = auth.uid() for share;
  else
    perform from auth.users as u where u.id = auth.uid() for key share;
  end if;
  return profiles_internal.may_use_own_rows();
end
$may_add_own_rows$;

revoke all on function profiles_internal.may_add_own_rows() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.may_add_own_rows() to authenticated;
"""
    )
    op.execute(
        r"""
-- Raises 42501 when the caller is a user who is erased or inactive; true for everybody else.
-- service_role, and roles that are members of it, may act for any user.
create or replace function profiles_internal.require_active_caller()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $require_active_caller$
begin
  if auth.uid() is not null and not profiles_internal.may_use_own_rows()
    and not pg_has_role(coalesce(nullif(current_setting('role', true), 'none'), session_user), 'service_role', 'member')
  then
    raise exception 'this account is erased or inactive'
      using errcode = 'insufficient_privilege', hint = 'It can neither read nor write anything.';
  end if;
  return true;
end
$require_active_caller$;

revoke all on function profiles_internal.require_active_caller() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The work of ensure_user_profile: the profile of a user, made if it is missing. What the caller gives is used only then, and
-- goes by the rules for metadata, so that nothing in it can fail.
-- With p_follow, a profile that exists is brought up to date with its user row, as a sign-in does: for what a trigger has missed.
-- Definer: reads auth.users and makes rows that no API role may make; it authorises the caller itself.
-- Errors: 42501 the caller may not act for this user, or is erased or inactive; P0002 no such user, or a deleted one.
create or replace function profiles_internal.ensure_profile(p_user_id uuid, p_given jsonb default null, p_follow boolean default false)
returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $ensure_profile$
declare
  profile jsonb;
  user_row jsonb;
  last_known jsonb;
begin
  if p_user_id is null or not profiles_internal.may_act_for(p_user_id) then
    raise exception 'not allowed to act for this user'
      using errcode = 'insufficient_privilege', hint = 'Sign in as that user, or call with service_role.';
  end if;

  perform profiles_internal.require_active_caller();

  select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
  if profile is not null and not p_follow then
    return profile;
  end if;

  user_row := (profiles_internal.living_users(array[p_user_id]))[1];
  if user_row is null then
    raise exception 'there is no user %', p_user_id
      using errcode = 'no_data_found', hint = 'The id must be that of a row in auth.users that is not deleted.';
  end if;

  if profile is not null then
    -- The user is locked first, then the profile, and read in a later statement, as in repair_profile.
    perform from public.user_profiles as p where p.user_id = p_user_id for no key update;
    select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
    -- As if the last sign-in happened now, unless the profile has it already.
    last_known := user_row;
    if (profile ->> 'last_login')::timestamptz is distinct from (user_row ->> 'last_sign_in_at')::timestamptz then
      last_known := last_known - 'last_sign_in_at';
    end if;
    perform set_config('profiles_internal.origin', 'sync', true);
    perform profiles_internal.follow_user(last_known, user_row);
    perform set_config('profiles_internal.origin', '', true);
    select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
    return profile;
  end if;

  user_row := user_row || jsonb_build_object('raw_user_meta_data',
    case when jsonb_typeof(user_row -> 'raw_user_meta_data') = 'object' then user_row -> 'raw_user_meta_data' else '{}' end
    || coalesce((
      select jsonb_object_agg(g.key, g.value) from jsonb_each_text(p_given) as g
      where g.key in ('first_name', 'last_name', 'phone', 'language') and g.value <> ''
    ), '{}'));
  perform set_config('profiles_internal.origin', 'registration', true);
  if profiles_internal.create_profiles(array[user_row]) = 1 then
    perform profiles_internal.record_events(array[p_user_id], 'repaired', 'registration');
  end if;
  perform set_config('profiles_internal.origin', '', true);

  select to_jsonb(p) into profile from public.user_profiles as p where p.user_id = p_user_id;
  return profile;
end
$ensure_profile$;

revoke all on function profiles_internal.ensure_profile(uuid, jsonb, boolean) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.ensure_profile(uuid, jsonb, boolean) to authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The work of get_public_profile and get_public_profiles: what profiles show to everybody, of public and active ones only; by
-- name, or by the ids of their users.
-- Errors: 42501 for a caller who is erased or inactive.
-- Definer: the only way to read another user's profile, and only these columns.
create or replace function profiles_internal.public_profiles(p_username text, p_user_ids uuid[])
returns table (
  id text, user_id uuid, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $public_profiles$
  select p.id::text, p.user_id, p.username, p.display_name, p.avatar_emoji, p.avatar_url, p.profile_picture_url, p.bio
  from public.user_profiles as p
  where (lower(p.username) = lower(p_username) or p.user_id = any (p_user_ids) or p.user_id = (
      -- A name that was given up lately leads to its former owner.
      select h.user_id from profiles_internal.held_usernames as h
      where h.username = lower(p_username) and h.held_until > now()
        and not exists (select from public.user_profiles as n where lower(n.username) = lower(p_username))
    ))
    and p.profile_visibility = 'public'
    and p.is_active
    and (select profiles_internal.require_active_caller())
$public_profiles$;

revoke all on function profiles_internal.public_profiles(text, uuid[]) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.public_profiles(text, uuid[]) to anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The work of gen_available_username: a name made from an address, which no profile has at this moment.
-- Advice for a form, no reservation; the sign-up trigger does not depend on it.
-- Definer: must see every username, which no API role may.
create or replace function profiles_internal.available_username(p_email text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $available_username$
declare
  choices record;
  candidate text;
begin
  perform profiles_internal.require_active_caller();
  loop
    select v.* into choices
    from profiles_internal.profile_values(array[jsonb_build_object('id', gen_random_uuid(), 'email', p_email)]) as v;
    foreach candidate in array array[choices.first_username, choices.second_username] loop
      if (select 1 from public.user_profiles as p where lower(p.username) = candidate) is null
        and (select 1 from profiles_internal.held_usernames as h where h.username = candidate and h.held_until > now()) is null
      then
        return candidate;
      end if;
    end loop;
  end loop;
end
$available_username$;

revoke all on function profiles_internal.available_username(text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.available_username(text) to authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The work of get_user_profile_stats. Keys:
--   users, profiles            counts; users without the soft-deleted ones
--   missing                    users without a profile
--   active, anonymous, public  profiles
--   new_per_day, active_per_day  {"2026-01-31": count} of the last 30 days (UTC), by created_at and by last_login
--   failures_by_sqlstate       {"55P03": count} of recorded failures whose user still exists, last 30 days
--   completion                 {"0-24", "25-49", "50-74", "75-100": count}: per cent of display_name, first_name,
--                              last_name, a picture, bio and a verified email that are there
-- Reads every profile: for a dashboard, not for a request path.
-- Definer: reads auth.users.
create or replace function profiles_internal.profile_stats()
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $profile_stats$
  with living_user as (
    select u.id
    from auth.users as u
    where to_jsonb(u) ->> 'deleted_at' is null
  ),
  profile as (
    select
      p.*,
      100 * ((p.display_name is not null)::integer + (p.first_name is not null)::integer + (p.last_name is not null)::integer
        + (coalesce(p.profile_picture_url, p.avatar_url) is not null)::integer + (p.bio is not null)::integer
        + p.email_verified::integer) / 6 as completion
    from public.user_profiles as p
  )
  select jsonb_build_object(
    'users', (select count(*) from living_user),
    'profiles', (select count(*) from profile),
    'missing', (select count(*) from living_user as u where not exists (select from public.user_profiles as p where p.user_id = u.id)),
    'active', (select count(*) from profile as p where p.is_active),
    'anonymous', (select count(*) from profile as p where p.is_anonymous),
    'public', (select count(*) from profile as p where p.profile_visibility = 'public'),
    'new_per_day', (
      select coalesce(jsonb_object_agg(d.day, d.profiles), '{}')
      from (
        select (p.created_at at time zone 'UTC')::date as day, count(*) as profiles
        from profile as p where p.created_at > now() - interval '30 days' group by 1
      ) as d
    ),
    'active_per_day', (
      select coalesce(jsonb_object_agg(d.day, d.profiles), '{}')
      from (
        select (p.last_login at time zone 'UTC')::date as day, count(*) as profiles
        from profile as p where p.last_login > now() - interval '30 days' group by 1
      ) as d
    ),
    'failures_by_sqlstate', (
      select coalesce(jsonb_object_agg(f.error_code, f.failures), '{}')
      from (
        select coalesce(a.error_code, 'unknown') as error_code, count(*) as failures
        from public.user_profile_audit_logs as a
        where a.action = 'failed' and a.created_at > now() - interval '30 days' group by 1
      ) as f
    ),
    'completion', (
      select jsonb_build_object(
        '0-24', count(*) filter (where p.completion < 25),
        '25-49', count(*) filter (where p.completion >= 25 and p.completion < 50),
        '50-74', count(*) filter (where p.completion >= 50 and p.completion < 75),
        '75-100', count(*) filter (where p.completion >= 75)
      )
      from profile as p
    )
  )
$profile_stats$;

revoke all on function profiles_internal.profile_stats() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.profile_stats() to service_role;
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- The work of create_user. One user per external id: a known one is returned as it is, also to two callers at once.
-- Definer: writes auth.users, which is ours here.
-- Errors: 23505 username taken; 23514 a username that the rule refuses.
create or replace function profiles_internal.make_user(
  p_email text,
  p_phone text,
  p_external_id text,
  p_username text,
  p_metadata jsonb
)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $make_user$
declare
  made_user_id uuid;
begin
  if p_external_id is not null then
    perform pg_advisory_xact_lock(hashtextextended('profiles_internal.make_user ' || p_external_id, 0));
    select p.user_id into made_user_id from public.user_profiles as p where p.external_id = p_external_id;
    if found then
      return made_user_id;
    end if;
  end if;

  insert into auth.users (email, phone, raw_user_meta_data)
  values (p_email, p_phone, coalesce(p_metadata, '{}'))
  returning id into made_user_id;

  -- The trigger has made the profile, unless it was switched off or failed.
  perform profiles_internal.create_profiles(array[to_jsonb(u)]) from auth.users as u
  where u.id = made_user_id and (select 1 from public.user_profiles as p where p.user_id = made_user_id) is null;

  if p_external_id is not null or p_username is not null then
    update public.user_profiles as p
    set external_id = p_external_id, username = coalesce(p_username, p.username)
    where p.user_id = made_user_id;
  end if;
  return made_user_id;
end
$make_user$;

revoke all on function profiles_internal.make_user(text, text, text, text, jsonb) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.make_user(text, text, text, text, jsonb) to service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
-- gen_available_username('ada@example.org'): a username that is free at this moment.
create or replace function public.gen_available_username(p_email text)
returns text
language sql
set search_path = pg_catalog, pg_temp
as $gen_available_username$
  select profiles_internal.available_username(p_email)
$gen_available_username$;

revoke all on function public.gen_available_username(text) from public, anon, authenticated, service_role;
grant execute on function public.gen_available_username(text) to authenticated, service_role;
comment on function public.gen_available_username(text) is 'A username that is free at this moment';
"""
    )
    op.execute(
        r"""
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
"""
    )
    op.execute(
        r"""
-- get_my_profile_v2(): the caller's own row of user_profiles, made if it is missing.
-- Columns of the application that users may not read are null in it.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_profile_v2()
returns public.user_profiles
language plpgsql
set search_path = pg_catalog, pg_temp
as $get_my_profile_v2$
declare
  profile public.user_profiles;
begin
  for attempt in 1 .. 2 loop
    if has_table_privilege('public.user_profiles', 'select') then
      select p.* into profile from public.user_profiles as p where p.user_id = auth.uid();
    else
      execute (
        select format('select %s from public.user_profiles as p where p.user_id = auth.uid()', string_agg(
          case when has_column_privilege(a.attrelid, a.attnum, 'select') then 'p.' || quote_ident(a.attname) else 'null' end, ', ' order by a.attnum))
        from pg_attribute as a
        where a.attrelid = 'public.user_profiles'::regclass and a.attnum > 0 and not a.attisdropped
      ) into profile;
    end if;
    exit when profile.user_id is not null or attempt = 2;
    perform profiles_internal.ensure_profile(auth.uid());
  end loop;
  return profile;
end
$get_my_profile_v2$;

revoke all on function public.get_my_profile_v2() from public, anon, authenticated, service_role;
grant execute on function public.get_my_profile_v2() to authenticated;
comment on function public.get_my_profile_v2() is 'The caller''s own row of user_profiles, made if it is missing';
"""
    )
    op.execute(
        r"""
-- The work of get_my_referral_code: the caller's code, made at random on the first request.
-- Definer: users may not write the column; it acts for the signed-in user only.
-- Two requests at once: the second waits for the first, and returns its code.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function profiles_internal.referral_code()
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $referral_code$
declare
  caller constant uuid := auth.uid();
  code text := profiles_internal.ensure_profile(caller) ->> 'referral_code';
begin
  for attempt in 1 .. 5 loop
    exit when code is not null;
    begin
      update public.user_profiles as p
      -- Up to here all digits of such a uuid are random.
      set referral_code = coalesce(p.referral_code, upper(left(replace(gen_random_uuid()::text, '-', ''), 10)))
      where p.user_id = caller
      returning p.referral_code into code;
    exception when unique_violation then
      if attempt = 5 then
        raise;
      end if;
    end;
  end loop;
  return code;
end
$referral_code$;

revoke all on function profiles_internal.referral_code() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.referral_code() to authenticated;
"""
    )
    op.execute(
        r"""
-- get_my_referral_code(): the caller's referral code, made at random on the first request.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_referral_code()
returns text
language sql
set search_path = pg_catalog, pg_temp
as $get_my_referral_code$
  select profiles_internal.referral_code()
$get_my_referral_code$;

revoke all on function public.get_my_referral_code() from public, anon, authenticated, service_role;
grant execute on function public.get_my_referral_code() to authenticated;
comment on function public.get_my_referral_code() is 'The caller''s referral code, made at random on the first request';
"""
    )
    op.execute(
        r"""
-- get_my_progress(): the caller's own row of user_progress, with the streak as it stands today: 0 once a day was missed.
-- Today is that of the caller's time zone. Columns of the application that users may not read are null in it.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_progress()
returns public.user_progress
language plpgsql
set search_path = pg_catalog, pg_temp
as $get_my_progress$
declare
  progress public.user_progress;
  today date;
begin
  for attempt in 1 .. 2 loop
    execute (
      select format('select %s from public.user_progress as p where p.user_id = auth.uid()', string_agg(
        case when has_column_privilege(a.attrelid, a.attnum, 'select') then 'p.' || quote_ident(a.attname) else 'null' end, ', ' order by a.attnum))
      from pg_attribute as a
      where a.attrelid = 'public.user_progress'::regclass and a.attnum > 0 and not a.attisdropped
    ) into progress;
    exit when progress.user_id is not null or attempt = 2;
    perform profiles_internal.ensure_profile(auth.uid());
    insert into public.user_progress (user_id) values (auth.uid()) on conflict do nothing;
  end loop;
  select (now() at time zone p.timezone)::date into today from public.user_profiles as p where p.user_id = auth.uid();
  if progress.last_active_on < coalesce(today, (now() at time zone 'UTC')::date) - 1 then
    progress.current_streak_days := 0;
  end if;
  return progress;
end
$get_my_progress$;

revoke all on function public.get_my_progress() from public, anon, authenticated, service_role;
grant execute on function public.get_my_progress() to authenticated;
comment on function public.get_my_progress() is 'The caller''s own row of user_progress, with the streak as it stands today: 0 once a day was missed';
"""
    )
    op.execute(
        r"""
-- The work of export_my_data. Definer: it makes a missing profile; it acts for the signed-in user only.
-- The profile row is locked, so that two requests at once give one export.
create or replace function profiles_internal.export_my_data()
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $export_my_data$
declare
  caller constant uuid := auth.uid();
  export_id uuid;
begin
  perform profiles_internal.ensure_profile(caller);
  perform from public.user_profiles as p where p.user_id = caller for no key update;
  select e.id into export_id
  from public.export_history as e
  where e.user_id = caller and e.export_type = 'everything' and e.status in ('pending', 'processing')
  order by e.created_at
  limit 1;
  if export_id is null then
    insert into public.export_history (user_id, export_type, export_format) values (caller, 'everything', 'json')
    returning id into export_id;
  end if;
  return export_id;
end
$export_my_data$;

revoke all on function profiles_internal.export_my_data() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.export_my_data() to authenticated;
"""
    )
    op.execute(
        r"""
-- export_my_data(): queues an export of everything that the caller has here, and returns its id. While one is waiting or being
-- written, it is that one.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.export_my_data()
returns uuid
language sql
set search_path = pg_catalog, pg_temp
as $export_my_data$
  select profiles_internal.export_my_data()
$export_my_data$;

revoke all on function public.export_my_data() from public, anon, authenticated, service_role;
grant execute on function public.export_my_data() to authenticated;
comment on function public.export_my_data() is 'Queues an export of everything that the caller has here, and returns its id';
"""
    )
    op.execute(
        r"""
-- The work of delete_my_account: shuts the account at once and notes that it is to be erased, which
-- `profiles-schema users erase --pending` does. It leaves auth.users alone, which the auth server may own.
-- Definer: users may write neither is_active nor the note; it acts for the signed-in user only.
-- The user is locked first, then the profile, as everywhere: rows that are being added are waited for.
create or replace function profiles_internal.delete_my_account(p_confirm text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $delete_my_account$
declare
  caller constant uuid := auth.uid();
  username constant text := profiles_internal.ensure_profile(caller) ->> 'username';
begin
  if lower(p_confirm) is distinct from lower(username) then
    raise exception 'the account was not deleted: p_confirm is not its username'
      using errcode = 'invalid_parameter_value', hint = 'Ask the person to type their username, and send what they typed.';
  end if;
  if has_any_column_privilege('auth.users', 'update') then -- which a row lock needs
    perform from auth.users as u where u.id = caller for update;
  end if;
  insert into profiles_internal.erasures as e (user_id, requested_by) values (caller, 'user')
  on conflict (user_id) do update
  set requested_at = excluded.requested_at, requested_by = excluded.requested_by, finished_at = null;
  update public.user_profiles as p set is_active = false where p.user_id = caller;
  perform profiles_internal.record_events(array[caller], 'deleted', 'manual', p_metadata => '{"account": "to be erased"}');
end
$delete_my_account$;

revoke all on function profiles_internal.delete_my_account(text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.delete_my_account(text) to authenticated;
"""
    )
    op.execute(
        r"""
-- delete_my_account('ada'): ends the caller's account; p_confirm is their username. From then on they read and write nothing,
-- whatever token they hold, and nobody sees their profile. `profiles-schema users erase --pending` erases what is theirs.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one; 22023 another username.
create or replace function public.delete_my_account(p_confirm text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $delete_my_account$
  select profiles_internal.delete_my_account(p_confirm)
$delete_my_account$;

revoke all on function public.delete_my_account(text) from public, anon, authenticated, service_role;
grant execute on function public.delete_my_account(text) to authenticated;
comment on function public.delete_my_account(text) is 'Ends the caller''s account; p_confirm is their username';
"""
    )
    op.execute(
        r"""
-- The work of award_points. The progress row is locked first, so that awards of a user come one after the other and the total is
-- the sum of the ledger. Definer: no other role may write them.
create or replace function profiles_internal.award_points(p_user_id uuid, p_amount integer, p_reason text, p_key text)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $award_points$
declare
  total bigint;
begin
  if p_amount is null or coalesce(btrim(p_reason), '') = '' or coalesce(btrim(p_key), '') = '' or length(p_reason) > 200 or length(p_key) > 200 then
    raise exception 'an award needs a user, an amount, a reason and a key; reason and key have 1 to 200 characters'
      using errcode = 'invalid_parameter_value';
  end if;
  select p.total_points into total from public.user_progress as p where p.user_id = p_user_id for no key update;
  if not found then
    raise exception 'there is no progress of such a user' using errcode = 'no_data_found', hint = 'profiles-schema backfill makes what is missing.';
  end if;
  insert into profiles_internal.point_awards (user_id, key, amount, reason) values (p_user_id, p_key, p_amount, p_reason)
  on conflict do nothing;
  if not found then
    return total;
  end if;
  total := total + p_amount;
  if total < 0 then
    raise exception 'there are not enough points' using errcode = 'check_violation', schema = 'public', table = 'user_progress', column = 'total_points';
  end if;
  update public.user_progress as p set total_points = total where p.user_id = p_user_id;
  return total;
end
$award_points$;

revoke all on function profiles_internal.award_points(uuid, integer, text, text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.award_points(uuid, integer, text, text) to service_role;
"""
    )
    op.execute(
        r"""
-- award_points(…): gives a user points, or takes some (a negative amount), and returns the new total.
-- The same key counts once: a repeated call changes nothing, and returns the total as it is.
-- Errors: 22023 without an amount, reason or key; P0002 no such user; 23514 the total would fall below zero; 22003 it is too high.
create or replace function public.award_points(p_user_id uuid, p_amount integer, p_reason text, p_key text)
returns integer
language sql
set search_path = pg_catalog, pg_temp
as $award_points$
  select profiles_internal.award_points(p_user_id, p_amount, p_reason, p_key)
$award_points$;

revoke all on function public.award_points(uuid, integer, text, text) from public, anon, authenticated, service_role;
grant execute on function public.award_points(uuid, integer, text, text) to service_role;
comment on function public.award_points(uuid, integer, text, text) is 'Gives a user points, or takes some (a negative amount), and returns the new total';
"""
    )
    op.execute(
        r"""
-- Why the caller's own profile cannot be changed like this: each key that is wrong, its rule in words, and the rule itself.
-- Asked only after a change was refused. The rules are read from the catalog, so that each is written once: a CHECK is
-- evaluated on the row as it would be, and its name says what it allows. A value is never part of the answer.
-- Definer: a person may see neither the names of others nor the list of time zones.
create or replace function profiles_internal.refused_changes(p_changes jsonb)
returns table (column_name text, rule text, definition text)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $refused_changes$
declare
  relation constant regclass := 'public.user_profiles';
  -- An array of the names of all CHECKs that the row $1 breaks.
  checks constant text := (
    select 'select array_remove(array[' || string_agg(
      format('case when (%s) is false then %L end', pg_get_expr(k.conbin, k.conrelid), k.conname), ', ' order by k.conname
    ) || ']::text[], null) from (select ($1).*) as changed'
    from pg_constraint as k where k.conrelid = relation and k.contype = 'c'
  );
  stored public.user_profiles;
  changed public.user_profiles;
  broken text[];
  broken_by_one text[];
  attributed text[] := '{}';
  change record;
begin
  select p.* into stored from public.user_profiles as p where p.user_id = auth.uid();
  execute checks into broken using jsonb_populate_record(stored, p_changes);

  for change in
    select a.attname::text as name, c.value, c.value = 'null' and a.attnotnull as is_missing
    from jsonb_each(p_changes) as c
    join pg_attribute as a on a.attrelid = relation and a.attname = c.key and a.attnum > 0 and not a.attisdropped
    order by c.key
  loop
    changed := jsonb_populate_record(stored, jsonb_build_object(change.name, change.value));
    execute checks into broken_by_one using changed;
    -- A row may break a rule already, where the application added one as not valid.
    broken_by_one := array(
      select k.conname::text
      from pg_constraint as k
      join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
      where k.conrelid = relation and k.contype = 'c' and k.conname = any (broken_by_one) and a.attname = change.name
    );
    attributed := attributed || broken_by_one;
    return query
    select change.name,
      case
        when k.conname ~ '^ck_user_profiles_'
          then replace(regexp_replace(k.conname, '^ck_user_profiles_(' || change.name || '_)?', ''), '_', ' ')
        else format('breaks the rule %s', k.conname)
      end,
      pg_get_constraintdef(k.oid)
    from pg_constraint as k
    where k.conrelid = relation and k.contype = 'c' and k.conname = any (broken_by_one)
    order by k.conname;

    if change.is_missing then
      return query select change.name, 'cannot be null', 'NOT NULL';
    elsif change.name = 'timezone' then
      return query
      select change.name, 'is a name of pg_timezone_names', 'trigger require_known_timezone'
      where not exists (select from profiles_internal.timezones as z where z.name = changed.timezone)
        and not exists (select from pg_timezone_names as z where z.name = changed.timezone);
    elsif change.name = 'username' and broken_by_one = '{}' then
      return query
      select change.name, 'is reserved', 'trigger refuse_reserved_username'
      from profiles_internal.profile_values(array[jsonb_build_object('id', stored.user_id, 'email', changed.username || '@')]) as v
      where v.first_username <> changed.username and changed.username <> stored.username
      union all
      select change.name, 'is taken', 'index idx_user_profiles_username_lower'
      from public.user_profiles as p
      where lower(p.username) = lower(changed.username) and p.user_id <> stored.user_id
      union all
      select change.name, 'is held for its former owner', 'trigger hold_username'
      from profiles_internal.held_usernames as h
      where h.username = lower(changed.username) and h.user_id <> stored.user_id and h.held_until > now();
    end if;
  end loop;

  -- What only several changes together break.
  return query
  select string_agg(a.attname, ', ' order by a.attname), format('break the rule %s', k.conname), pg_get_constraintdef(k.oid)
  from pg_constraint as k
  join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any (k.conkey) and p_changes ? a.attname::text
  where k.conrelid = relation and k.contype = 'c' and k.conname = any (broken) and k.conname <> all (attributed)
  group by k.oid, k.conname
  order by k.conname;
end
$refused_changes$;

revoke all on function profiles_internal.refused_changes(jsonb) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.refused_changes(jsonb) to authenticated;
"""
    )
    op.execute(
        r"""
-- One JSON document with another merged into it, by RFC 7386: objects member by member, null removes a member, anything else
-- replaces what is there. A patch nested too deep for our tables is returned as it is; their CHECKs refuse it.
create or replace function profiles_internal.merge_patch(p_target jsonb, p_patch jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $merge_patch$
begin
  if jsonb_typeof(p_patch) <> 'object' or p_patch @? '$.**{33}' then
    return p_patch;
  end if;
  if jsonb_typeof(p_target) is distinct from 'object' then
    p_target := '{}';
  end if;
  return coalesce((
    select jsonb_object_agg(m.key, m.value)
    from (
      select t.key, t.value from jsonb_each(p_target) as t where not p_patch ? t.key
      union all
      select c.key, profiles_internal.merge_patch(p_target -> c.key, c.value)
      from jsonb_each(p_patch) as c where c.value <> 'null'
    ) as m
  ), '{}');
end
$merge_patch$;

revoke all on function profiles_internal.merge_patch(jsonb, jsonb) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.merge_patch(jsonb, jsonb) to authenticated;
"""
    )
    op.execute(
        r"""
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
"""
    )
    op.execute(
        r"""
-- get_public_profile('ada'): what a public profile shows to everybody; no row for a private, inactive or unknown one.
create or replace function public.get_public_profile(p_username text)
returns table (id text, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $get_public_profile$
  select p.id, p.username, p.display_name, p.avatar_emoji, p.avatar_url, p.profile_picture_url, p.bio
  from profiles_internal.public_profiles(p_username, null) as p
$get_public_profile$;

revoke all on function public.get_public_profile(text) from public, anon, authenticated, service_role;
grant execute on function public.get_public_profile(text) to anon, authenticated, service_role;
comment on function public.get_public_profile(text) is 'What a public profile shows to everybody';
"""
    )
    op.execute(
        r"""
-- get_public_profiles(array of user ids): what public profiles show to everybody, for feeds and lists of comments; no row for a
-- private, inactive or unknown one. At most 200 ids.
-- Errors: 22023 more than 200 ids.
create or replace function public.get_public_profiles(p_user_ids uuid[])
returns table (
  id text, user_id uuid, username text, display_name text, avatar_emoji text, avatar_url text, profile_picture_url text, bio text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $get_public_profiles$
begin
  if cardinality(p_user_ids) > 200 then
    raise exception '% user ids are too many', cardinality(p_user_ids)
      using errcode = 'invalid_parameter_value', hint = 'Ask for 200 at most, and again for the rest.';
  end if;
  return query select * from profiles_internal.public_profiles(null, p_user_ids);
end
$get_public_profiles$;

revoke all on function public.get_public_profiles(uuid[]) from public, anon, authenticated, service_role;
grant execute on function public.get_public_profiles(uuid[]) to anon, authenticated, service_role;
comment on function public.get_public_profiles(uuid[]) is 'What public profiles show to everybody, for feeds and lists of comments';
"""
    )
    op.execute(
        r"""
-- get_user_profile_stats(): counts for a dashboard, as JSON. The keys stand in profiles_internal.profile_stats.
create or replace function public.get_user_profile_stats()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $get_user_profile_stats$
  select profiles_internal.profile_stats()
$get_user_profile_stats$;

revoke all on function public.get_user_profile_stats() from public, anon, authenticated, service_role;
grant execute on function public.get_user_profile_stats() to service_role;
comment on function public.get_user_profile_stats() is 'Counts for a dashboard, as JSON';
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
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
$frozen$;
  end if;
end
$only_where$
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
-- Left by an upgrade that failed in one of its batches.
drop procedure if exists profiles_internal.run_batches;
drop function if exists public.create_user(text, text, text, text, jsonb);
drop function if exists profiles_internal.make_user(text, text, text, text, jsonb);
drop function public.get_user_profile_stats();
drop function public.get_public_profiles(uuid[]);
drop function public.get_public_profile(text);
drop function public.update_my_profile_v2(jsonb, boolean, timestamptz);
drop function profiles_internal.merge_patch(jsonb, jsonb);
drop function profiles_internal.refused_changes(jsonb);
drop function public.award_points(uuid, integer, text, text);
drop function profiles_internal.award_points(uuid, integer, text, text);
drop function public.delete_my_account(text);
drop function profiles_internal.delete_my_account(text);
drop function public.export_my_data();
drop function profiles_internal.export_my_data();
drop function public.get_my_progress();
drop function public.get_my_referral_code();
drop function profiles_internal.referral_code();
drop function public.get_my_profile_v2();
drop function public.ensure_user_profile(uuid), public.ensure_user_profile(uuid, text, text, text, text, text, text);
drop function public.gen_available_username(text);
drop function profiles_internal.profile_stats();
drop function profiles_internal.available_username(text);
drop function profiles_internal.public_profiles(text, uuid[]);
drop function profiles_internal.ensure_profile(uuid, jsonb, boolean);
drop function profiles_internal.require_active_caller();
drop function profiles_internal.may_add_own_rows();
drop function profiles_internal.may_use_own_rows();
drop function profiles_internal.check_encryption_key(text, text);
drop function profiles_internal.record_key_use(uuid, text, text);
drop function profiles_internal.may_act_for(uuid);
drop function profiles_internal.repair_profile(uuid);
drop function profiles_internal.recount_progress(uuid[]);
drop function profiles_internal.computed_progress(uuid[]);
drop function profiles_internal.follow_user(jsonb, jsonb);
drop function profiles_internal.erase_profile(uuid);
drop function profiles_internal.left_columns(uuid);
drop function profiles_internal.known_traits();

select profiles_internal.undo_adoption('0011_create_functions');
"""
    )
