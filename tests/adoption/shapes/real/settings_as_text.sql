/*
modelled_on = "Settings kept as JSON in columns of type json and text, and times without a zone"
options = []
[differs]
"the client parses preferences" = "plan: preferences"
"nobody has said anything" = "plan: preferences"
"times without a zone" = "plan: (created_at|updated_at)"
*/
create table public.user_profiles (
  user_id uuid primary key references auth.users on delete cascade,
  preferences text default '{"theme": "light"}',
  notification_settings json not null default '{"email": true}',
  layout json,
  created_at timestamp default (now() at time zone 'utc'),
  updated_at timestamp
);
alter table public.user_profiles enable row level security;
create policy "mine" on public.user_profiles to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());
insert into public.user_profiles values
  ('11111111-1111-4111-8111-111111111111', '{"theme":"dark","zoom":1.50}', '{"push": true,  "email": false}', '[1,2]', '2024-01-01 10:00', '2024-01-01 11:00'),
  ('22222222-2222-4222-8222-222222222222', null, '{}', null, null, null), ('33333333-3333-4333-8333-333333333333', '{}', '{"a": {"b": [null]}}', '{"x": 1}', '2024-01-03', null);
-- probes
-- as anon
select user_id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
-- name: the client parses preferences
select preferences from user_profiles;
select notification_settings, layout from user_profiles where user_id = auth.uid();
update user_profiles set layout = '[3]', notification_settings = '{"push": false}' where user_id = auth.uid() returning layout, notification_settings;
update user_profiles set preferences = '{"theme":"sepia"}' where user_id = auth.uid();
-- name: times without a zone
select created_at, updated_at from user_profiles;
-- as authenticated 22222222-2222-4222-8222-222222222222
-- name: nobody has said anything
select notification_settings from user_profiles where preferences is null;
update user_profiles set layout = '[]' where user_id <> auth.uid();
-- as service_role
select user_id, layout, notification_settings from user_profiles;
select notification_settings ->> 'push' from user_profiles where user_id = '11111111-1111-4111-8111-111111111111';
