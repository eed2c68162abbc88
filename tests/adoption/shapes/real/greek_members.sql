/*
modelled_on = "A club in Greece: defaults of its own for columns that have ours elsewhere (role, language, time zone, settings)"
options = []
[questions]
"policy:public.user_profiles:join_club" = "restrict"
[signs_up]
role = "member"
language = "el"
timezone = "Europe/Athens"
preferences = '{"newsletter": true}'
*/
create table public.user_profiles (
  id uuid primary key references auth.users on delete cascade,
  role text not null default 'member',
  language text default 'el',
  timezone text not null default 'Europe/Athens',
  preferences jsonb not null default '{"newsletter": true}',
  is_active boolean not null default true,
  created_at timestamptz default now()
);
alter table public.user_profiles enable row level security;
create policy own on public.user_profiles for select to authenticated using (id = auth.uid());
create policy own_settings on public.user_profiles for update to authenticated using (id = auth.uid());
create policy join_club on public.user_profiles for insert to authenticated with check (id = auth.uid() and role = 'member');
create view public.newsletter with (security_invoker = true) as
  select id, language from public.user_profiles where (preferences ->> 'newsletter')::boolean;
insert into public.user_profiles (id, role, language) values
  ('11111111-1111-4111-8111-111111111111', 'treasurer', 'el'), ('22222222-2222-4222-8222-222222222222', 'member', 'en');
-- probes
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, role, language, timezone, preferences from user_profiles;
update user_profiles set preferences = '{"newsletter": false}', language = 'en' where id = auth.uid() returning preferences, language;
select id from newsletter;
-- as authenticated 22222222-2222-4222-8222-222222222222
select role, language, is_active from user_profiles where id = auth.uid();
-- as anon
select id from user_profiles;
-- as service_role
select role, count(*) from user_profiles where id::text < '3' group by role;
insert into auth.users (id, email) values ('66666666-6666-4666-8666-666666666666', 'x@example.org');
-- as owner
insert into user_profiles (id) values ('33333333-3333-4333-8333-333333333333') on conflict (id) do update set language = 'el' returning role, language, timezone;
select column_default from information_schema.columns where table_name = 'user_profiles' and column_name in ('role', 'language');
