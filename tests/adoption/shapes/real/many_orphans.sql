/*
modelled_on = "Accounts were deleted for years and nothing cascaded: more rows without a user than with one"
options = []
[questions]
"quarantine:public.user_profiles" = "accept|quarantine"
[differs]
"the service counts" = "quarantine:public.user_profiles"
*/
create table public.user_profiles (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null unique,
  display_name text,
  city text
);
alter table public.user_profiles enable row level security;
create policy "own" on public.user_profiles for select using (auth.uid() = user_id);
create policy "own update" on public.user_profiles for update using (auth.uid() = user_id);
create table public.visits (profile uuid references public.user_profiles (id), at date);
insert into public.user_profiles (id, user_id, display_name) values
  ('a1111111-1111-4111-8111-111111111111', '11111111-1111-4111-8111-111111111111', 'Ada'),
  ('b2222222-2222-4222-8222-222222222222', '22222222-2222-4222-8222-222222222222', 'Bo'),
  ('c3333333-3333-4333-8333-333333333333', '33333333-3333-4333-8333-333333333333', null);
insert into public.user_profiles (id, user_id, display_name, city)
select md5('row ' || g)::uuid, md5('gone ' || g)::uuid, 'Gone ' || g, 'Lund' from generate_series(1, 40) as g;
insert into public.visits select id, '2024-01-01' from public.user_profiles where display_name in ('Ada', 'Bo');
-- probes
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, user_id, display_name from user_profiles;
update user_profiles set city = 'Delft' where user_id = auth.uid() returning id, city;
update user_profiles set city = 'Delft' where id = 'b2222222-2222-4222-8222-222222222222';
-- as authenticated 22222222-2222-4222-8222-222222222222
select id, display_name, city from user_profiles where id = 'b2222222-2222-4222-8222-222222222222'::uuid;
-- as anon
select id from user_profiles;
-- as service_role
-- name: the service counts
select count(*) from user_profiles;
select p.display_name, v.at from visits v join user_profiles p on p.id = v.profile;
