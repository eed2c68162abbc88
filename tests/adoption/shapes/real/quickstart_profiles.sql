/*
modelled_on = "The profiles table of hosted quick starts: everybody reads, owners insert and update, a trigger fills it from metadata"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Public profiles are viewable by everyone." = "keep"
[differs]
"the service sees times" = "plan: updated_at"
"Ada deletes nothing" = "plan: A DELETE by users fails"
[signs_up]
full_name = "New Person"
avatar_url = "https://example.org/new.png"
*/
create table public.profiles (
  id uuid not null references auth.users on delete cascade primary key,
  updated_at timestamptz,
  username text unique,
  full_name text,
  avatar_url text,
  website text,
  constraint username_length check (char_length(username) >= 3)
);
alter table public.profiles enable row level security;
create policy "Public profiles are viewable by everyone." on public.profiles for select using (true);
create policy "Users can insert their own profile." on public.profiles for insert with check ((select auth.uid()) = id);
create policy "Users can update own profile." on public.profiles for update using ((select auth.uid()) = id);
create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.profiles (id, full_name, avatar_url)
  values (new.id, new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'avatar_url');
  return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users for each row execute procedure public.handle_new_user();
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', '2024-02-01', 'ada', 'Ada Lovelace', 'https://example.org/ada.png', 'https://ada.example.org'),
  ('22222222-2222-4222-8222-222222222222', null, 'bo_2', null, null, null),
  ('33333333-3333-4333-8333-333333333333', '2024-02-03', 'cyd', '', 'https://example.org/cyd.png', 'not a url');
-- probes
-- as anon
select id, username, full_name, avatar_url, website from profiles order by username;
select count(*) from profiles;
update profiles set website = 'https://evil.example.org';
-- as authenticated 11111111-1111-4111-8111-111111111111
select username, website from profiles where id = auth.uid();
insert into profiles (id, username, website, avatar_url, updated_at)
values (auth.uid(), 'ada', 'https://new.example.org', 'https://example.org/a2.png', '2024-03-01')
on conflict (id) do update set username = excluded.username, website = excluded.website, avatar_url = excluded.avatar_url,
  updated_at = excluded.updated_at
returning id, username, website, avatar_url;
update profiles set full_name = 'Ada King', website = null where id = '11111111-1111-4111-8111-111111111111' returning full_name, website;
update profiles set full_name = 'Not mine' where id = '22222222-2222-4222-8222-222222222222';
insert into profiles (id, username) values ('44444444-4444-4444-8444-444444444444', 'forged');
-- name: Ada deletes nothing
delete from profiles where id = auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
select p.id, u.full_name from profiles p join profiles u using (id) where p.id::text like '2%';
update profiles set username = 'bo' returning id, username;
-- as service_role
select id, username, full_name, avatar_url, website from profiles;
-- name: the service sees times
select id, updated_at from profiles;
update profiles set website = 'https://example.org' where username = 'bo_2' returning id, website;
