-- Computes the rolled-up columns of user_progress anew from the ended sessions of the given users. Exact by
-- construction: nothing is added up that could be counted twice.
--
-- The rows are locked in order first and counted in the next statement: a count in the statement that takes the lock
-- would not see what the lock had to wait for (READ COMMITTED).
-- Only updates: inserting a missing row would make the deletion of a user fail on its foreign key.
-- A session's columns that older tables lack (qa_correct, qa_seconds) are read so that their absence counts as 0.
create or replace function profiles_internal.recount_progress(p_user_ids uuid[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $recount_progress$
begin
  perform from public.user_progress as p where p.user_id = any (p_user_ids) order by p.user_id for no key update;

  with ended as (
    select
      s.user_id, s.ended_at, s.descriptions_generated, s.images_processed, s.qa_attempts, s.vocabulary_learned,
      coalesce((to_jsonb(s) ->> 'qa_correct')::bigint, 0) as qa_correct,
      coalesce((to_jsonb(s) ->> 'qa_seconds')::bigint, 0) as qa_seconds,
      greatest(0, coalesce(s.duration_minutes, floor(extract(epoch from s.ended_at - s.started_at) / 60)))::bigint as minutes,
      (s.ended_at at time zone coalesce(profile.timezone, 'UTC'))::date as local_day
    from public.sessions as s
    left join public.user_profiles as profile on profile.user_id = s.user_id
    where s.user_id = any (p_user_ids) and s.ended_at is not null
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
    select s.user_id, (array_agg(s.days order by s.last_day desc))[1] as current_days, max(s.days) as longest_days
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
      sum(e.qa_correct) as correct,
      sum(e.qa_seconds) as answer_seconds,
      sum(e.vocabulary_learned) as vocabulary,
      max(e.ended_at) as last_activity_at,
      (array_agg(e.local_day order by e.ended_at desc))[1] as last_active_on,
      max(e.ended_at) filter (where e.descriptions_generated > 0) as last_description_at,
      max(e.ended_at) filter (where e.qa_attempts > 0) as last_qa_session_at,
      max(e.ended_at) filter (where e.vocabulary_learned > 0) as last_vocabulary_practice_at
    from ended as e
    group by e.user_id
  )
  update public.user_progress as p
  set
    total_sessions = least(coalesce(t.sessions, 0), 2147483647),
    total_descriptions = least(coalesce(t.descriptions, 0), 2147483647),
    total_images = least(coalesce(t.images, 0), 2147483647),
    total_questions_answered = least(coalesce(t.questions, 0), 2147483647),
    total_correct_answers = least(coalesce(t.correct, 0), 2147483647),
    total_vocabulary_learned = least(coalesce(t.vocabulary, 0), 2147483647),
    total_answer_seconds = least(coalesce(t.answer_seconds, 0), 2147483647),
    total_time_spent_minutes = least(coalesce(t.minutes, 0), 2147483647),
    average_accuracy = case when t.questions > 0 then least(round(100.0 * t.correct / t.questions, 2), 999.99) else 0 end,
    average_completion_time_seconds = case when t.questions > 0 then least(round(t.answer_seconds::numeric / t.questions), 2147483647) else 0 end,
    last_activity_at = t.last_activity_at,
    last_active_on = t.last_active_on,
    last_description_at = t.last_description_at,
    last_qa_session_at = t.last_qa_session_at,
    last_vocabulary_practice_at = t.last_vocabulary_practice_at,
    current_streak_days = coalesce(s.current_days, 0),
    longest_streak_days = coalesce(s.longest_days, 0)
  from unnest(p_user_ids) as asked (user_id)
  left join total as t on t.user_id = asked.user_id
  left join streaks as s on s.user_id = asked.user_id
  where p.user_id = asked.user_id;
end
$recount_progress$;

revoke all on function profiles_internal.recount_progress(uuid[]) from public, anon, authenticated, service_role;
