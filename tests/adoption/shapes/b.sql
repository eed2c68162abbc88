-- Shape B, a marketing platform on a hosted project: the table is called profiles, its key is the id of the user.
create table public.profiles (
  id uuid primary key references auth.users on delete cascade,
  email text,
  full_name text,
  company_name text,
  bio text,
  phone text,
  target_audience text,
  business_context text,
  master_system_prompt text,
  key_metrics jsonb default '[]',
  logo_url text,
  profile_picture_url text,
  preferences jsonb default '{}',
  last_login timestamptz,
  login_count integer default 0,
  is_active boolean default true,
  email_verified boolean,
  timezone text default 'UTC',
  language text default 'en',
  notification_settings jsonb default '{}',
  plan text not null default 'free',
  seats smallint,
  created_at timestamptz default now(),
  updated_at timestamptz default now()
);
create index profiles_company on public.profiles (lower(company_name));
comment on column public.profiles.plan is 'What is paid for';

create function public.update_updated_at_column() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end;
$$;
create trigger update_profiles_updated_at before update on public.profiles
  for each row execute function public.update_updated_at_column();

alter table public.profiles enable row level security;
create policy "Users can view own profile" on public.profiles for select using (auth.uid() = id);
create policy "Users can update own profile" on public.profiles for update using (auth.uid() = id) with check (auth.uid() = id);
create policy "Users can insert own profile" on public.profiles for insert with check (auth.uid() = id);

create table public.campaigns (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null references public.profiles (id) on delete cascade,
  name text not null,
  budget numeric(12, 2)
);
create index campaigns_owner on public.campaigns (owner_id);
alter table public.campaigns enable row level security;
create policy "Own campaigns" on public.campaigns using (owner_id = auth.uid());
create view public.campaign_owners as
  select c.id as campaign_id, p.id as profile_id, p.email, p.full_name
  from public.campaigns as c join public.profiles as p on p.id = c.owner_id;
