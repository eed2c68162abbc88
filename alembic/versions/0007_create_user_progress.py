"""Progress per user, and the sessions it is rolled up from.

Why: totals, accuracy and streaks are read on every screen; counting them there would be too dear. Points have a ledger.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for the foreign keys: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; until policies come the tables are closed to the API roles.
Back: drops user_progress with the ledger of points, and sessions only where it was made here; refuses while they hold rows.
"""

from alembic import op

revision = "0007_create_user_progress"
down_revision = "0006_create_user_profiles"
branch_labels = None
depends_on = None
downgrade_drops = ("public.user_progress", "public.sessions")


def upgrade() -> None:
    op.execute(
        r"""
-- A table that is here already is taken over, with its rows; what follows then finds nothing left to make.
select profiles_internal.adopt('0007_create_user_progress');
"""
    )
    op.execute(
        r"""
create table if not exists public.user_progress (
  id uuid default gen_random_uuid() not null,
  user_id uuid not null,
  total_sessions integer default 0 not null,
  total_descriptions integer default 0 not null,
  total_images integer default 0 not null,
  total_questions_answered integer default 0 not null,
  total_correct_answers integer default 0 not null,
  total_vocabulary_learned integer default 0 not null,
  total_answer_seconds integer default 0 not null,
  total_time_spent_minutes integer default 0 not null,
  average_accuracy numeric(5, 2) default 0 not null,
  average_completion_time_seconds integer default 0 not null,
  last_activity_at timestamp with time zone,
  last_description_at timestamp with time zone,
  last_qa_session_at timestamp with time zone,
  last_vocabulary_practice_at timestamp with time zone,
  last_active_on date,
  current_streak_days integer default 0 not null,
  longest_streak_days integer default 0 not null,
  total_points integer default 0 not null,
  mastered_words_count integer default 0 not null,
  learning_words_count integer default 0 not null,
  new_words_count integer default 0 not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_user_progress primary key (id),
  constraint ck_user_progress_rolled_up_not_negative check (least(total_sessions, total_descriptions, total_images, total_questions_answered, total_correct_answers, total_vocabulary_learned, total_answer_seconds, total_time_spent_minutes, average_completion_time_seconds, current_streak_days, longest_streak_days) >= 0),
  constraint ck_user_progress_total_points_not_negative check (total_points >= 0),
  constraint ck_user_progress_mastered_words_count_not_negative check (mastered_words_count >= 0),
  constraint ck_user_progress_learning_words_count_not_negative check (learning_words_count >= 0),
  constraint ck_user_progress_new_words_count_not_negative check (new_words_count >= 0),
  constraint fk_user_progress_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists idx_user_progress_last_activity on public.user_progress (last_activity_at desc);

create unique index if not exists idx_user_progress_user_id on public.user_progress (user_id);

comment on table public.user_progress is 'Totals per user, rolled up from ended sessions by a trigger';
comment on column public.user_progress.average_accuracy is 'Percent of the questions answered correctly; 0 without questions';
comment on column public.user_progress.average_completion_time_seconds is 'Seconds per question answered; 0 without questions';
comment on column public.user_progress.last_activity_at is 'The end of the last ended session';
comment on column public.user_progress.last_active_on is 'last_activity_at as a date in the user''s time zone';
comment on column public.user_progress.current_streak_days is 'Consecutive local days that end on last_active_on; over once that is before yesterday';
comment on column public.user_progress.total_points is 'The sum of what award_points gave';
comment on column public.user_progress.mastered_words_count is 'Kept by the application';
comment on column public.user_progress.learning_words_count is 'Kept by the application';
comment on column public.user_progress.new_words_count is 'Kept by the application';

alter table public.user_progress enable row level security;
"""
    )
    op.execute(
        r"""
-- A table of this name is somebody else's; it is left alone.
do $sessions$
begin
  if to_regclass('public.sessions') is not null then
    raise notice 'a table sessions exists already and is left as it is';
    return;
  end if;
  execute $frozen$
create table if not exists public.sessions (
  id uuid default gen_random_uuid() not null,
  user_id uuid,
  started_at timestamp with time zone default now() not null,
  ended_at timestamp with time zone,
  duration_minutes integer,
  descriptions_generated integer default 0 not null,
  images_processed integer default 0 not null,
  qa_attempts integer default 0 not null,
  qa_correct integer default 0 not null,
  qa_seconds integer default 0 not null,
  vocabulary_learned integer default 0 not null,
  constraint pk_sessions primary key (id),
  constraint ck_sessions_descriptions_generated_not_negative check (descriptions_generated >= 0),
  constraint ck_sessions_images_processed_not_negative check (images_processed >= 0),
  constraint ck_sessions_qa_attempts_not_negative check (qa_attempts >= 0),
  constraint ck_sessions_qa_correct_not_negative check (qa_correct >= 0),
  constraint ck_sessions_qa_seconds_not_negative check (qa_seconds >= 0),
  constraint ck_sessions_vocabulary_learned_not_negative check (vocabulary_learned >= 0),
  constraint fk_sessions_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists idx_sessions_user_id on public.sessions (user_id, ended_at);
create index if not exists idx_sessions_described on public.sessions (user_id, ended_at) where descriptions_generated > 0;
create index if not exists idx_sessions_answered on public.sessions (user_id, ended_at) where qa_attempts > 0;
create index if not exists idx_sessions_practised on public.sessions (user_id, ended_at) where vocabulary_learned > 0;

comment on table public.sessions is 'profiles-schema: learning sessions; ended ones are rolled up into user_progress';
comment on column public.sessions.ended_at is 'Null while the session runs';
comment on column public.sessions.duration_minutes is 'Null: the whole minutes from started_at to ended_at';
comment on column public.sessions.qa_seconds is 'Seconds spent on all answers';

alter table public.sessions enable row level security;
$frozen$;
end
$sessions$;
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.active_days (
  user_id uuid not null,
  day date not null,
  sessions bigint not null,
  constraint pk_active_days primary key (user_id, day),
  constraint fk_active_days_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

comment on table profiles_internal.active_days is 'The days on which users ended sessions, from which streaks are told';
comment on column profiles_internal.active_days.user_id is 'Whose day';
comment on column profiles_internal.active_days.day is 'The day in the user''s time zone';
comment on column profiles_internal.active_days.sessions is 'Sessions that ended on it';

create table if not exists profiles_internal.stale_progress (
  id bigint generated always as identity,
  user_id uuid not null,
  error_code text not null,
  error_message text,
  created_at timestamp with time zone default now() not null,
  constraint pk_stale_progress primary key (id),
  constraint fk_stale_progress_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists ix_stale_progress_user_id on profiles_internal.stale_progress (user_id);

comment on table profiles_internal.stale_progress is 'Users whose sessions changed without their progress, because the roll-up failed';
comment on column profiles_internal.stale_progress.id is 'Order in which they were noted';
comment on column profiles_internal.stale_progress.user_id is 'Whose progress is to be counted anew';
comment on column profiles_internal.stale_progress.error_code is 'SQLSTATE of the failure';
comment on column profiles_internal.stale_progress.error_message is 'Names of the objects involved, never quoted values';
comment on column profiles_internal.stale_progress.created_at is 'When it failed';

create table if not exists profiles_internal.point_awards (
  user_id uuid not null,
  key text not null,
  amount integer not null,
  reason text not null,
  created_at timestamp with time zone default now() not null,
  constraint pk_point_awards primary key (user_id, key),
  constraint fk_point_awards_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

comment on table profiles_internal.point_awards is 'The ledger of points: user_progress.total_points is its sum';
comment on column profiles_internal.point_awards.user_id is 'Who got them';
comment on column profiles_internal.point_awards.key is 'What makes a repeated award count once';
comment on column profiles_internal.point_awards.amount is 'Points; negative where they were spent';
comment on column profiles_internal.point_awards.reason is 'What for';
comment on column profiles_internal.point_awards.created_at is 'When';

revoke all on table profiles_internal.active_days, profiles_internal.stale_progress, profiles_internal.point_awards
  from public, anon, authenticated, service_role;

-- What a table that was here before has given is where the ledger begins.
insert into profiles_internal.point_awards (user_id, key, amount, reason)
select p.user_id, 'opening', p.total_points, 'what there was before the ledger'
from public.user_progress as p
where p.total_points <> 0
on conflict (user_id, key) do nothing;
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $keep_data$
declare
  progress_rows bigint;
  session_rows bigint := 0;
  own_sessions constant boolean := coalesce(obj_description(to_regclass('public.sessions'), 'pg_class'), '') like 'profiles-schema:%';
begin
  lock table public.user_progress in access exclusive mode;
  select count(*) into progress_rows from public.user_progress;
  if own_sessions then
    lock table public.sessions in access exclusive mode;
    select count(*) into session_rows from public.sessions;
  end if;
  if progress_rows + session_rows > 0 and coalesce(current_setting('profiles_schema.allow_data_loss', true), '') <> 'yes' then
    raise exception 'this downgrade would drop tables that hold rows: public.user_progress (% rows), public.sessions (% rows)', progress_rows, session_rows
      using hint = 'Save them first, then run it again with: -x allow-data-loss=yes';
  end if;
  drop table profiles_internal.active_days, profiles_internal.stale_progress, profiles_internal.point_awards;
  if own_sessions then
    drop table public.sessions;
  end if;
  if exists (select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_progress') then
    perform profiles_internal.undo_adoption('0007_create_user_progress');
  else
    drop table public.user_progress;
  end if;
end
$keep_data$;
"""
    )
