/*
modelled_on = "Types with rules: a domain for addresses, one for handles, varchar lengths, and CHECKs over our columns"
options = []
[questions]
"policy:public.user_profiles:members" = "keep"
[differs]
"a long first name" = "plan: first_name"
*/
create domain public.email_address as text check (value ~ '^[^@ ]+@[^@ ]+$');
create domain public.handle as varchar(30) check (value ~ '^[a-z0-9_]+$');
create table public.user_profiles (
  id uuid primary key references auth.users on delete cascade,
  username public.handle,
  email public.email_address,
  bio varchar(280),
  first_name varchar(50),
  age smallint check (age between 13 and 120),
  constraint bio_is_short check (length(bio) <= 200)
);
create function public.find_handle(wanted public.handle) returns setof uuid language sql stable as $$
  select id from public.user_profiles where username = wanted
$$;
alter table public.user_profiles enable row level security;
create policy "members" on public.user_profiles for select using (auth.role() = 'authenticated');
create policy "self" on public.user_profiles for update using (auth.uid() = id);
insert into public.user_profiles values
  ('11111111-1111-4111-8111-111111111111', 'ada', 'ada@example.org', 'Short', 'Ada', 36), ('22222222-2222-4222-8222-222222222222', 'bo_2', 'bo@example.org', null, null, null),
  ('33333333-3333-4333-8333-333333333333', 'cyd', 'cyd@example.org', '', 'Cyd', 13);
-- probes
-- as anon
select id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, username, email, bio, first_name, age from user_profiles;
select find_handle('bo_2');
update user_profiles set username = 'Not A Handle' where id = auth.uid();
update user_profiles set bio = repeat('x', 201) where id = auth.uid();
update user_profiles set age = 5 where id = auth.uid();
update user_profiles set bio = 'New', age = 37, username = 'ada_2' where id = auth.uid() returning bio, age, username;
-- as authenticated 22222222-2222-4222-8222-222222222222
update user_profiles set bio = 'x' where username = 'ada';
select username from user_profiles where email = 'bo@example.org'::email_address;
-- as service_role
select find_handle('cyd');
-- name: a long first name
update user_profiles set first_name = repeat('y', 51) where username = 'cyd';
update user_profiles set first_name = 'C' where username = 'cyd' returning first_name, email;
