/*
modelled_on = "A delivery service: phone and email are what the customer typed, not what the auth server proved"
options = ["adopt-table=profiles"]
[differs]
"Ada reads her contact" = "plan: public\\.(user_)?profiles\\.email"
"the courier calls" = "plan: public\\.(user_)?profiles\\.email"
*/
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text,
  phone text,
  first_name text,
  last_name text,
  email_verified boolean default true
);
alter table public.profiles enable row level security;
create policy "see yourself" on public.profiles for select to authenticated using (auth.uid() = id);
create policy "change yourself" on public.profiles for update to authenticated using (auth.uid() = id) with check (auth.uid() = id);
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'ada.private@example.net', '+31 6 1234 5678', 'Ada', 'Lovelace', true),
  ('22222222-2222-4222-8222-222222222222', 'bo@example.org', '070-123 45 67 (evenings)', 'Bo', null, true),
  ('33333333-3333-4333-8333-333333333333', null, '0031-6-8765', null, null, null);
-- probes
-- as anon
select phone from profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
-- name: Ada reads her contact
select email, phone, first_name from profiles where id = auth.uid();
select phone, first_name, last_name from profiles;
update profiles set phone = '+31 6 0000 0000', first_name = 'A.' where id = auth.uid() returning phone, first_name;
update profiles set phone = null where id = auth.uid() returning phone;
update profiles set phone = 'x' where id = '22222222-2222-4222-8222-222222222222';
-- as authenticated 22222222-2222-4222-8222-222222222222
select email, phone from profiles;
-- as service_role
select id, phone, first_name, last_name from profiles;
-- name: the courier calls
select phone from profiles where email = 'ada.private@example.net';
update profiles set phone = '112' where id = '33333333-3333-4333-8333-333333333333' returning phone;
