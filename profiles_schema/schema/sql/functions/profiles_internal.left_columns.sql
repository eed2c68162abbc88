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
