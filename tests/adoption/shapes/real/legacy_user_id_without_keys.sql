/*
modelled_on = "The same without foreign keys: only the values say that id is the auth id"
options = []
*/
create table public.user_profiles (
  id uuid primary key,
  user_id uuid,
  name text not null default 'Anonymous',
  score numeric(6, 2) not null default 0
);
alter table public.user_profiles enable row level security;
create policy "read own" on public.user_profiles for select to authenticated using (id = auth.uid());
create policy "update own" on public.user_profiles for update to authenticated using (id = auth.uid());
create table public.scores (profile uuid references public.user_profiles, game text, points integer, primary key (profile, game));
insert into public.user_profiles (id, name, score) values
  ('11111111-1111-4111-8111-111111111111', 'Ada', 12.5), ('22222222-2222-4222-8222-222222222222', default, 0),
  ('33333333-3333-4333-8333-333333333333', '', 9999.99);
insert into public.scores select id, 'chess', 3 from public.user_profiles;
-- probes
-- as anon
select id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, name, score from user_profiles where id = auth.uid();
update user_profiles set name = 'Ada L' where id = auth.uid() returning name;
update user_profiles set name = 'x' where id = '33333333-3333-4333-8333-333333333333';
-- as authenticated 33333333-3333-4333-8333-333333333333
select id, name, score from user_profiles;
-- as service_role
select p.id, p.name, s.points from user_profiles p join scores s on s.profile = p.id;
update user_profiles set score = score + 1 where id = '22222222-2222-4222-8222-222222222222'::uuid returning score;
-- as owner
insert into scores values ('11111111-1111-4111-8111-111111111111', 'go', 1) returning points;
insert into scores values ('99999999-9999-4999-8999-999999999999', 'go', 1);
