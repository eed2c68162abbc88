-- After a statement on sessions: the progress of the users concerned moves by the difference that the statement makes, so
-- that its cost does not depend on how many sessions they had. Statement-level, with transition tables: ten thousand sessions
-- ended at once are one update. A session has ended when ended_at is a time: infinity is none.
--
--   Sums: what was added less what was removed. Differences commute; the progress rows are locked in order first, and read in
--   the next statement, which sees what the lock had to wait for.
--   Latest times: move forward by comparison; looked up (idx_sessions_user_id and its partial sisters) when the session that
--   set one has changed.
--   Streaks: from profiles_internal.active_days. A day behind all others continues the streak or begins one; a day that appears
--   or vanishes elsewhere makes that user's days be walked through.
--   A sum at the limit of its type has lost its difference, and a day with fewer sessions than none is wrong: such users are
--   counted anew, and so are users with a mark in stale_progress.
--
-- One query may fire several of these triggers (an upsert, MERGE, WITH), and a trigger of the application may write sessions
-- before they fire. Sums bear any order. A count anew has seen what is still to come: in the same command of the client,
-- everything after it is counted anew as well. Latest times are looked up after a write from within a trigger.
--
-- It never fails the statement. What goes wrong (a lock, a deadlock, a cancel) leaves a mark in profiles_internal.stale_progress:
-- the next statement on that user's sessions counts anew, `profiles-schema progress recount` does, and `health` tells. A user
-- whose progress row is missing gets a mark, too: the transaction that makes the row may not see these sessions.
-- Another time zone, and a progress row that is made when there are sessions already, count anew, too.
-- Definer: no other role may write the counted columns. Generic plans: planning would cost more than the work.
do $session_change$
begin
  -- What counts of a session: rows of the application may be wide.
  if to_regtype('profiles_internal.session_change') is null then
    create type profiles_internal.session_change as (
      sign integer, user_id uuid, ended_at timestamptz, minutes bigint, descriptions bigint, images bigint, questions bigint,
      correct bigint, answer_seconds bigint, vocabulary bigint, described boolean, answered boolean, practised boolean
    );
  end if;
end
$session_change$;

create or replace function profiles_internal.roll_up_sessions()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $roll_up_sessions$
declare
  most constant bigint := 2147483647;
  command constant text := extract(epoch from statement_timestamp())::text;
  depth constant integer := pg_trigger_depth();
  changes profiles_internal.session_change[] := '{}';
  written_below boolean;
  users uuid[];
  recounted uuid[];
  wrong uuid[];
  emptied uuid[];
  walked uuid[];
  appended jsonb;
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  begin
    if tg_level = 'ROW' then
      if to_regclass('public.sessions') is null then
        return null;
      end if;
      if (select 1 from public.sessions as s where s.user_id = new.user_id and isfinite(s.ended_at) limit 1) is null then
        return null;
      end if;
      recounted := array[new.user_id];
    elsif tg_op = 'TRUNCATE' then
      recounted := array(select distinct d.user_id from profiles_internal.active_days as d);
    end if;

    if tg_op in ('INSERT', 'UPDATE') and tg_level = 'STATEMENT' then
      changes := array(
        select row(
          1, s.user_id, s.ended_at,
          greatest(0, coalesce(s.duration_minutes, case when isfinite(s.started_at) then floor(extract(epoch from s.ended_at - s.started_at) / 60) end, 0)),
          s.descriptions_generated, s.images_processed, s.qa_attempts, q.correct, q.seconds, s.vocabulary_learned,
          s.descriptions_generated > 0, s.qa_attempts > 0, s.vocabulary_learned > 0
        )::profiles_internal.session_change
        from new_sessions as s
        -- A name that the inner table lacks is looked for outside: an older table may have no such columns.
        cross join lateral (
          select (select qa_correct from (select s.*) as own)::bigint as correct, (select qa_seconds from (select s.*) as own)::bigint as seconds
          from (select 0 as qa_correct, 0 as qa_seconds) as absent
        ) as q
        where isfinite(s.ended_at) and s.user_id is not null
      );
    end if;
    if tg_op in ('DELETE', 'UPDATE') and tg_level = 'STATEMENT' then
      changes := changes || array(
        select row(
          -1, s.user_id, s.ended_at,
          greatest(0, coalesce(s.duration_minutes, case when isfinite(s.started_at) then floor(extract(epoch from s.ended_at - s.started_at) / 60) end, 0)),
          s.descriptions_generated, s.images_processed, s.qa_attempts, q.correct, q.seconds, s.vocabulary_learned,
          s.descriptions_generated > 0, s.qa_attempts > 0, s.vocabulary_learned > 0
        )::profiles_internal.session_change
        from old_sessions as s
        cross join lateral (
          select (select qa_correct from (select s.*) as own)::bigint as correct, (select qa_seconds from (select s.*) as own)::bigint as seconds
          from (select 0 as qa_correct, 0 as qa_seconds) as absent
        ) as q
        where isfinite(s.ended_at) and s.user_id is not null
      );
    end if;
    if tg_op = 'UPDATE' and (changes[1]).sign > 0 and (changes[cardinality(changes)]).sign < 0 then
      -- What counts in no other way than before is no change.
      changes := array(
        select row(
          sum(c.sign), c.user_id, c.ended_at, c.minutes, c.descriptions, c.images, c.questions, c.correct, c.answer_seconds,
          c.vocabulary, c.described, c.answered, c.practised
        )::profiles_internal.session_change
        from unnest(changes) as c
        group by c.user_id, c.ended_at, c.minutes, c.descriptions, c.images, c.questions, c.correct, c.answer_seconds,
          c.vocabulary, c.described, c.answered, c.practised
        having sum(c.sign) <> 0
      );
    end if;
    if recounted is null and cardinality(changes) = 0 then
      return null;
    end if;

    if recounted is null then
      -- A user without a row is counted when it is made. One with a mark is counted anew.
      select array_agg(p.user_id) filter (where not p.is_stale), coalesce(array_agg(p.user_id) filter (where p.is_stale), '{}')
      into users, recounted
      from (
        select p.user_id,
          current_setting('profiles_internal.counted_anew', true) is not distinct from command
            or exists (select from profiles_internal.stale_progress as s where s.user_id = p.user_id) as is_stale
        from public.user_progress as p
        where p.user_id = any (array(select c.user_id from unnest(changes) as c))
        order by p.user_id
        for no key update of p
      ) as p;
      if (select count(distinct c.user_id) from unnest(changes) as c) > coalesce(cardinality(users), 0) + cardinality(recounted) then
        insert into profiles_internal.stale_progress (user_id, error_code, error_message)
        select u.id, '02000', 'user_progress'
        from auth.users as u
        where u.id = any (array(select c.user_id from unnest(changes) as c)) and u.id <> all (users || recounted)
          and not exists (select from profiles_internal.stale_progress as s where s.user_id = u.id);
      end if;
      written_below := split_part(current_setting('profiles_internal.wrote_sessions', true), ' ', 1) = command
        and split_part(current_setting('profiles_internal.wrote_sessions', true), ' ', 2)::integer > depth;
      if depth > 1 and written_below is not true then
        perform set_config('profiles_internal.wrote_sessions', command || ' ' || depth, true);
      end if;
    end if;
    if users is not null then
      with difference as (
        select c.user_id, (c.ended_at at time zone coalesce(profile.timezone, 'UTC'))::date as day, sum(c.sign) as sessions
        from unnest(changes) as c
        left join public.user_profiles as profile on profile.user_id = c.user_id
        where c.user_id = any (users)
        group by 1, 2
        having sum(c.sign) <> 0
      ),
      written as (
        insert into profiles_internal.active_days as d (user_id, day, sessions)
        select f.user_id, f.day, f.sessions from difference as f order by f.user_id, f.day
        on conflict (user_id, day) do update set sessions = d.sessions + excluded.sessions
        returning d.user_id, d.day, d.sessions
      ),
      -- What the day had before.
      shift as (
        select w.user_id,
          array_agg(w.day) filter (where w.sessions = f.sessions) as appeared,
          bool_or(w.sessions = 0) as vanished, bool_or(least(w.sessions, w.sessions - f.sessions) < 0) as is_wrong
        from written as w
        join difference as f on f.user_id = w.user_id and f.day = w.day
        group by w.user_id
      ),
      -- The snapshot of this statement has none of the days that it writes.
      latest as (
        select s.*, (select max(d.day) from profiles_internal.active_days as d where d.user_id = s.user_id) as last_day
        from shift as s
      )
      select
        array_agg(l.user_id) filter (where l.is_wrong),
        array_agg(l.user_id) filter (where l.vanished),
        array_agg(l.user_id) filter (where l.vanished or cardinality(l.appeared) > 1 or l.appeared[1] < l.last_day),
        jsonb_object_agg(l.user_id, l.appeared[1] = l.last_day + 1)
          filter (where not l.vanished and cardinality(l.appeared) = 1 and coalesce(l.appeared[1] > l.last_day, true))
      into wrong, emptied, walked, appended
      from latest as l;

      if emptied is not null then
        delete from profiles_internal.active_days as d where d.user_id = any (emptied) and d.sessions = 0;
      end if;

      with difference as (
        select
          c.user_id,
          sum(c.sign) as sessions,
          sum(c.sign * c.minutes) as minutes,
          coalesce(sum(c.sign * c.descriptions), 0) as descriptions,
          coalesce(sum(c.sign * c.images), 0) as images,
          coalesce(sum(c.sign * c.questions), 0) as questions,
          coalesce(sum(c.sign * c.correct), 0) as correct,
          coalesce(sum(c.sign * c.answer_seconds), 0) as answer_seconds,
          coalesce(sum(c.sign * c.vocabulary), 0) as vocabulary,
          max(c.ended_at) filter (where c.sign > 0) as ended_at,
          max(c.ended_at) filter (where c.sign > 0 and c.described) as described_at,
          max(c.ended_at) filter (where c.sign > 0 and c.answered) as answered_at,
          max(c.ended_at) filter (where c.sign > 0 and c.practised) as practised_at,
          case when written_below then 'infinity' else max(c.ended_at) filter (where c.sign < 0) end as lost_at
        from unnest(changes) as c
        where c.user_id = any (users)
        group by c.user_id
      ),
      moved as (
        update public.user_progress as p
        set
          total_sessions = least(v.sessions, most),
          total_descriptions = least(v.descriptions, most),
          total_images = least(v.images, most),
          total_questions_answered = least(v.questions, most),
          total_correct_answers = least(v.correct, most),
          total_vocabulary_learned = least(v.vocabulary, most),
          total_answer_seconds = least(v.answer_seconds, most),
          total_time_spent_minutes = least(v.minutes, most),
          average_accuracy = case when v.questions > 0 then least(round(100.0 * v.correct / v.questions, 2), 999.99) else 0 end,
          average_completion_time_seconds = case when v.questions > 0 then least(round(v.answer_seconds::numeric / v.questions), most) else 0 end,
          last_activity_at = v.last_activity_at,
          last_active_on = (v.last_activity_at at time zone v.timezone)::date,
          last_description_at = v.last_description_at,
          last_qa_session_at = v.last_qa_session_at,
          last_vocabulary_practice_at = v.last_vocabulary_practice_at,
          current_streak_days = v.current_days,
          longest_streak_days = greatest(p.longest_streak_days, v.current_days)
        from (
          select
            o.user_id, coalesce(profile.timezone, 'UTC') as timezone,
            o.total_sessions + d.sessions as sessions,
            o.total_descriptions + d.descriptions as descriptions,
            o.total_images + d.images as images,
            o.total_questions_answered + d.questions as questions,
            o.total_correct_answers + d.correct as correct,
            o.total_vocabulary_learned + d.vocabulary as vocabulary,
            o.total_answer_seconds + d.answer_seconds as answer_seconds,
            o.total_time_spent_minutes + d.minutes as minutes,
            greatest(
              o.total_sessions, o.total_descriptions, o.total_images, o.total_questions_answered, o.total_correct_answers,
              o.total_vocabulary_learned, o.total_answer_seconds, o.total_time_spent_minutes
            ) = most as was_full,
            case when d.lost_at >= coalesce(o.last_activity_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity'
            ) else greatest(o.last_activity_at, d.ended_at) end as last_activity_at,
            case when d.lost_at >= coalesce(o.last_description_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity' and s.descriptions_generated > 0
            ) else greatest(o.last_description_at, d.described_at) end as last_description_at,
            case when d.lost_at >= coalesce(o.last_qa_session_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity' and s.qa_attempts > 0
            ) else greatest(o.last_qa_session_at, d.answered_at) end as last_qa_session_at,
            case when d.lost_at >= coalesce(o.last_vocabulary_practice_at, 'infinity') then (
              select max(s.ended_at) from public.sessions as s where s.user_id = o.user_id and s.ended_at > '-infinity' and s.ended_at < 'infinity' and s.vocabulary_learned > 0
            ) else greatest(o.last_vocabulary_practice_at, d.practised_at) end as last_vocabulary_practice_at,
            case
              when (appended -> o.user_id::text) = 'true' then o.current_streak_days + 1
              when appended ? o.user_id::text then 1
              else o.current_streak_days
            end as current_days
          from difference as d
          join public.user_progress as o on o.user_id = d.user_id
          left join public.user_profiles as profile on profile.user_id = d.user_id
        ) as v
        where p.user_id = v.user_id
        returning p.user_id, v.was_full or greatest(
          p.total_sessions, p.total_descriptions, p.total_images, p.total_questions_answered, p.total_correct_answers,
          p.total_vocabulary_learned, p.total_answer_seconds, p.total_time_spent_minutes
        ) = most as is_full
      )
      select recounted || wrong || array_agg(m.user_id) into recounted from moved as m where m.is_full;
    end if;
    if walked is not null then
      with run as (
        select d.user_id, max(d.day) as last_day, count(*) as days
        from (
          select a.user_id, a.day, a.day - (row_number() over (partition by a.user_id order by a.day))::integer as run
          from profiles_internal.active_days as a
          where a.user_id = any (walked)
        ) as d
        group by d.user_id, d.run
      ),
      streak as (
        select u.id as user_id, coalesce((array_agg(r.days order by r.last_day desc))[1], 0) as current_days, coalesce(max(r.days), 0) as longest_days
        from unnest(walked) as u (id)
        left join run as r on r.user_id = u.id
        group by u.id
      )
      update public.user_progress as p
      set current_streak_days = k.current_days, longest_streak_days = k.longest_days
      from streak as k
      where p.user_id = k.user_id;
    end if;
    if recounted <> '{}' then
      perform profiles_internal.recount_progress(recounted);
      perform set_config('profiles_internal.counted_anew', command, true);
    end if;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
    begin
      if tg_level = 'STATEMENT' and tg_op in ('INSERT', 'UPDATE') then
        recounted := recounted || array(select distinct s.user_id from new_sessions as s where s.ended_at is not null);
      end if;
      if tg_level = 'STATEMENT' and tg_op in ('DELETE', 'UPDATE') then
        recounted := recounted || array(select distinct s.user_id from old_sessions as s where s.ended_at is not null);
      end if;
      if tg_level = 'ROW' then
        recounted := array[new.user_id];
      end if;
      insert into profiles_internal.stale_progress (user_id, error_code, error_message)
      select u.id, error_code, profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
      from auth.users as u
      where u.id = any (recounted);
    exception
      when serialization_failure then
        raise; -- without a mark no one would know; and a client with such an isolation level retries the transaction
      when query_canceled or assert_failure or others then
        raise warning 'profiles-schema: progress was not counted (SQLSTATE %), and there is no record of it (SQLSTATE %)', error_code, sqlstate
          using hint = 'Run: profiles-schema progress recount';
    end;
  end;
  return null;
end
$roll_up_sessions$;

revoke all on function profiles_internal.roll_up_sessions() from public, anon, authenticated, service_role;

create or replace trigger roll_up_inserted_sessions
  after insert on public.sessions
  referencing new table as new_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_changed_sessions
  after update on public.sessions
  referencing old table as old_sessions new table as new_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_deleted_sessions
  after delete on public.sessions
  referencing old table as old_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_truncated_sessions
  after truncate on public.sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_in_new_timezone
  after update on public.user_profiles
  for each row
  when (old.timezone is distinct from new.timezone)
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_new_progress
  after insert on public.user_progress
  for each row
  when (current_setting('profiles_internal.signing_up', true) is distinct from 'yes')
  execute function profiles_internal.roll_up_sessions();
