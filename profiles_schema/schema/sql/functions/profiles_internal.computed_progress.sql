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
