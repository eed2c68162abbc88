-- Shape C, schema alignment on a hosted project: an application's table of users beside auth.users, with the same ids, and
-- keys, progress and exports that refer to it.
create table public.users (
  id uuid primary key default gen_random_uuid(),
  email text,
  name text,
  created_at timestamptz default now()
);

create table public.sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references public.users (id) on delete cascade,
  started_at timestamptz default now(),
  ended_at timestamptz,
  duration_minutes integer,
  descriptions_generated integer default 0,
  images_processed integer default 0,
  qa_attempts integer default 0,
  qa_correct integer default 0,
  vocabulary_learned integer default 0,
  device text
);
create index idx_sessions_started on public.sessions (started_at);

create table public.user_api_keys (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references public.users (id) on delete cascade,
  openai_api_key text,
  unsplash_api_key text,
  anthropic_api_key text,
  last_validated_at timestamptz,
  is_active boolean default true,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  constraint unique_user_api_keys unique (user_id)
);
create index idx_user_api_keys_user_id on public.user_api_keys (user_id);

create table public.user_progress (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references public.users (id) on delete cascade,
  total_sessions integer default 0,
  total_descriptions integer default 0,
  total_images integer default 0,
  total_questions_answered integer default 0,
  total_vocabulary_learned integer default 0,
  total_time_spent_minutes integer default 0,
  average_accuracy numeric(5, 2) default 0,
  average_completion_time_seconds integer default 0,
  last_activity_at timestamptz,
  last_description_at timestamptz,
  last_qa_session_at timestamptz,
  last_vocabulary_practice_at timestamptz,
  current_streak_days integer default 0,
  longest_streak_days integer default 0,
  total_points integer default 0,
  mastered_words_count integer default 0,
  learning_words_count integer default 0,
  new_words_count integer default 0,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  constraint unique_user_progress unique (user_id)
);
create index idx_user_progress_user_id on public.user_progress (user_id);

create table public.export_history (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references public.users (id) on delete cascade,
  export_type varchar(50) not null,
  export_format varchar(20) not null,
  status varchar(20) default 'pending',
  records_count integer default 0,
  file_size_bytes bigint,
  file_url text,
  filters jsonb,
  data jsonb,
  error_message text,
  retry_count integer default 0,
  started_at timestamptz,
  completed_at timestamptz,
  processing_time_seconds integer,
  expires_at timestamptz,
  created_at timestamptz default now(),
  updated_at timestamptz default now()
);
create index idx_export_history_user_id on public.export_history (user_id);
create index idx_export_history_status on public.export_history (status);
create table public.export_downloads (
  export_id uuid not null references public.export_history on delete cascade,
  taken_at timestamptz not null default now()
);

create function public.update_user_api_keys_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end;
$$;
create function public.update_user_progress_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end;
$$;
create function public.update_export_history_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end;
$$;
create trigger trigger_user_api_keys_updated_at before update on public.user_api_keys
  for each row execute function public.update_user_api_keys_updated_at();
create trigger trigger_user_progress_updated_at before update on public.user_progress
  for each row execute function public.update_user_progress_updated_at();
create trigger trigger_export_history_updated_at before update on public.export_history
  for each row execute function public.update_export_history_updated_at();

-- A session counts again with every change of ended_at.
create function public.update_user_progress_from_session() returns trigger language plpgsql security definer as $$
begin
  if new.ended_at is not null and (tg_op = 'INSERT' or old.ended_at is distinct from new.ended_at) then
    insert into public.user_progress (user_id, total_sessions, total_descriptions, last_activity_at)
    values (new.user_id, 1, new.descriptions_generated, new.ended_at)
    on conflict (user_id) do update set
      total_sessions = user_progress.total_sessions + 1,
      total_descriptions = user_progress.total_descriptions + excluded.total_descriptions,
      last_activity_at = excluded.last_activity_at;
  end if;
  return new;
end;
$$;
create trigger trigger_update_user_progress_from_session after insert or update on public.sessions
  for each row execute function public.update_user_progress_from_session();

alter table public.user_api_keys enable row level security;
alter table public.user_progress enable row level security;
alter table public.export_history enable row level security;
create policy "Users can view their own API keys" on public.user_api_keys for select using (auth.uid() = user_id);
create policy "Users can insert their own API keys" on public.user_api_keys for insert with check (auth.uid() = user_id);
create policy "Users can update their own API keys" on public.user_api_keys for update using (auth.uid() = user_id);
create policy "Users can delete their own API keys" on public.user_api_keys for delete using (auth.uid() = user_id);
create policy "Users can view their own progress" on public.user_progress for select using (auth.uid() = user_id);
create policy "Users can insert their own progress" on public.user_progress for insert with check (auth.uid() = user_id);
create policy "Users can update their own progress" on public.user_progress for update using (auth.uid() = user_id);
create policy "Users can view their own exports" on public.export_history for select using (auth.uid() = user_id);
create policy "Users can insert their own exports" on public.export_history for insert with check (auth.uid() = user_id);
create policy "Users can update their own exports" on public.export_history for update using (auth.uid() = user_id);

create view public.leaders as
  select u.name, p.total_points from public.users as u join public.user_progress as p on p.user_id = u.id
  order by p.total_points desc nulls last limit 100;
