/*
modelled_on = "An audit habit: created_by, NOT NULL, with the signed-in user as default; nobody is signed in when the auth server inserts"
options = ["adopt-table=profiles"]
stops = "created_by"
*/
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  nickname text,
  created_by uuid not null default auth.uid()
);
alter table public.profiles enable row level security;
create policy "own" on public.profiles for all to authenticated using (id = auth.uid()) with check (id = auth.uid());
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'ada', '11111111-1111-4111-8111-111111111111'),
  ('22222222-2222-4222-8222-222222222222', 'bo', '22222222-2222-4222-8222-222222222222');
-- probes
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, nickname, created_by from profiles;
-- as authenticated 33333333-3333-4333-8333-333333333333
insert into profiles (id, nickname) values (auth.uid(), 'cyd') returning created_by;
