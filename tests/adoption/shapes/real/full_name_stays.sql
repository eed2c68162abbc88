/*
modelled_on = "user_profiles under our very name, with full_name, which the application reads and searches by"
options = []
[questions]
"policy:public.user_profiles:Enable read access for all users" = "keep"
*/
create table public.user_profiles (
  id uuid not null primary key,
  full_name text,
  avatar_url text,
  onboarding_completed boolean default false,
  created_at timestamptz default now(),
  updated_at timestamptz default now()
);
alter table public.user_profiles add foreign key (id) references auth.users (id) on delete cascade;
create index on public.user_profiles (lower(full_name));
alter table public.user_profiles enable row level security;
create policy "Enable read access for all users" on public.user_profiles as permissive for select to public using (true);
create policy "Enable insert for users based on user_id" on public.user_profiles as permissive for insert to public with check (auth.uid() = id);
create policy "Enable update for users based on user_id" on public.user_profiles as permissive for update to public using (auth.uid() = id);
insert into public.user_profiles (id, full_name, avatar_url, onboarding_completed, created_at, updated_at) values
  ('11111111-1111-4111-8111-111111111111', 'Ada Lovelace', null, true, '2024-01-01', '2024-01-01'),
  ('22222222-2222-4222-8222-222222222222', null, null, false, '2024-01-02', '2024-01-02');
-- probes
-- as anon
select full_name from user_profiles where lower(full_name) like 'ada%';
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, full_name, onboarding_completed from user_profiles where id = auth.uid();
insert into user_profiles (id, full_name, updated_at) values (auth.uid(), 'Ada King', '2024-02-02')
on conflict (id) do update set full_name = excluded.full_name, updated_at = excluded.updated_at returning id, full_name;
update user_profiles set onboarding_completed = true, full_name = 'A' where id = auth.uid() returning full_name, onboarding_completed;
update user_profiles set full_name = 'x' where id <> auth.uid();
insert into user_profiles (id, full_name) values ('22222222-2222-4222-8222-222222222222', 'forged');
-- as authenticated 22222222-2222-4222-8222-222222222222
select full_name, avatar_url from user_profiles where id = '11111111-1111-4111-8111-111111111111';
-- as service_role
select id, full_name, created_at from user_profiles where id::text < '3';
insert into user_profiles (id, full_name) values ('33333333-3333-4333-8333-333333333333', 'Cyd')
on conflict (id) do update set full_name = excluded.full_name returning full_name;
