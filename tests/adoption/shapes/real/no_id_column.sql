/*
modelled_on = "A profile table keyed by user_id, without a column id, and with the row of an account that is gone"
options = []
[questions]
"quarantine:public.user_profiles" = "accept|quarantine"
[differs]
"the orphan" = "quarantine:public.user_profiles"
*/
create table public.user_profiles (
  user_id uuid primary key,
  display_name text,
  theme text not null default 'light'
);
alter table public.user_profiles enable row level security;
create policy "own profile" on public.user_profiles for all using (auth.uid() = user_id) with check (auth.uid() = user_id);
insert into public.user_profiles (user_id, display_name, theme) values
  ('11111111-1111-4111-8111-111111111111', 'Ada', 'dark'),
  ('22222222-2222-4222-8222-222222222222', null, 'light'),
  ('33333333-3333-4333-8333-333333333333', 'Cyd', 'light'),
  ('99999999-9999-4999-8999-999999999999', 'Gone', 'dark');
-- probes
-- as anon
select user_id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select user_id, display_name, theme from user_profiles;
insert into user_profiles (user_id, display_name, theme) values (auth.uid(), 'Ada L', 'dark')
on conflict (user_id) do update set display_name = excluded.display_name, theme = excluded.theme returning display_name, theme;
update user_profiles set theme = 'sepia' where user_id = '11111111-1111-4111-8111-111111111111' returning theme;
update user_profiles set theme = 'sepia' where user_id = '22222222-2222-4222-8222-222222222222';
-- as authenticated 22222222-2222-4222-8222-222222222222
select display_name from user_profiles where user_id = auth.uid();
-- as service_role
select user_id, display_name, theme from user_profiles where user_id::text < '9';
update user_profiles set theme = 'dark' where user_id::text < '9' returning user_id;
-- name: the orphan
select display_name from user_profiles where user_id = '99999999-9999-4999-8999-999999999999';
