"""What user_progress should hold, counted from the sessions."""

COLUMNS = (
    "total_sessions, total_descriptions, total_images, total_questions_answered, total_correct_answers,"
    " total_vocabulary_learned, total_answer_seconds, total_time_spent_minutes, average_accuracy,"
    " average_completion_time_seconds, last_activity_at, last_active_on, last_description_at, last_qa_session_at,"
    " last_vocabulary_practice_at, current_streak_days, longest_streak_days"
)
TOTALS = f"""
select user_id, {COLUMNS} from public.user_progress
except
select user_id, {COLUMNS} from profiles_internal.computed_progress(array(select user_id from public.user_progress))
"""
DAYS = """
with day as (
  select s.user_id, (s.ended_at at time zone p.timezone)::date as day, count(*) as sessions
  from public.sessions as s join public.user_profiles as p using (user_id)
  where isfinite(s.ended_at) group by 1, 2
)
(table profiles_internal.active_days except table day) union all (table day except table profiles_internal.active_days)
"""


def wrong(database):
    """Rows of user_progress, and days, that are not what a count of everything gives."""
    return [*database.run(TOTALS), *database.run(DAYS)]
