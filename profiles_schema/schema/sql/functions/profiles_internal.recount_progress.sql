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
