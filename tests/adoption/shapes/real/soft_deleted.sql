/*
modelled_on = "Patients: date of birth and address in columns of the application's; one account was soft-deleted and its record kept on purpose"
options = []
[questions]
"policy:public.user_profiles:view own" = "restrict"
"policy:public.user_profiles:update own" = "restrict"
*/
insert into auth.users (id, aud, role, email, deleted_at, created_at, updated_at) values
  ('55555555-5555-4555-8555-555555555555', 'authenticated', 'authenticated', null, '2024-04-04', '2024-01-05', '2024-04-04');
create table public.user_profiles (
  id uuid primary key references auth.users (id) on delete restrict,
  first_name text,
  last_name text,
  phone text,
  dob date,
  address jsonb not null default '{}',
  deleted_at timestamptz
);
alter table public.user_profiles enable row level security;
create policy "view own" on public.user_profiles for select to authenticated using (id = auth.uid() and deleted_at is null);
create policy "update own" on public.user_profiles for update to authenticated using (id = auth.uid() and deleted_at is null);
insert into public.user_profiles values
  ('11111111-1111-4111-8111-111111111111', 'Ada', 'Lovelace', null, '1815-12-10', '{"street": "Main 1", "zip": "0123"}', null),
  ('22222222-2222-4222-8222-222222222222', 'Bo', null, '+46 1', null, '{}', null),
  ('33333333-3333-4333-8333-333333333333', 'Cyd', '', null, '2001-01-01', '{"zip": null}', '2024-03-03'),
  ('55555555-5555-4555-8555-555555555555', 'Eve', 'Evans', '+1 555', '1990-09-09', '{"street": "Elm 5"}', '2024-04-04');
-- probes
-- as anon
select id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, first_name, last_name, dob, address from user_profiles;
update user_profiles set address = '{"street": "New 2"}', dob = '1815-12-11' where id = auth.uid() returning address, dob;
update user_profiles set dob = null where id = '55555555-5555-4555-8555-555555555555';
-- as authenticated 33333333-3333-4333-8333-333333333333
select id from user_profiles;
update user_profiles set address = '{}' where id = auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
select first_name, phone, address from user_profiles;
-- as service_role
select id, first_name, last_name, phone, dob, address, deleted_at from user_profiles;
select first_name, dob from user_profiles where id = '55555555-5555-4555-8555-555555555555';
-- as owner
select address ->> 'street' from user_profiles where deleted_at is not null;
