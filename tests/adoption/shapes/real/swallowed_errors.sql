/*
modelled_on = "A careful handle_new_user: a username from metadata or address with a suffix, on conflict do update, errors swallowed"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Public read access" = "keep"
[signs_up]
full_name = "New Person"
language = "en"
[differs]
"times that nobody knew" = "plan: created_at"
"Ada deletes no other" = "plan: A DELETE by users fails"
"by the old spelling" = "plan: username"
"everybody's names" = "plan: username"
*/
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  username text unique,
  full_name text,
  avatar_url text,
  language text default 'en',
  created_at timestamptz default now()
);
create index profiles_username_idx on public.profiles (username);
alter table public.profiles enable row level security;
create policy "Public read access" on public.profiles for select to public using (true);
create policy "Own write access" on public.profiles for all to authenticated using (auth.uid() = id) with check (auth.uid() = id);
create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = public as $$
declare
  base text := coalesce(new.raw_user_meta_data ->> 'user_name', split_part(new.email, '@', 1), 'user');
begin
  insert into public.profiles (id, username, full_name, avatar_url)
  values (new.id, base || '_' || left(md5(new.id::text), 4), coalesce(new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'name'),
    coalesce(new.raw_user_meta_data ->> 'avatar_url', new.raw_user_meta_data ->> 'picture'))
  on conflict (id) do update set full_name = excluded.full_name;
  return new;
exception when others then
  raise warning 'no profile for %: %', new.id, sqlerrm;
  return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users for each row execute procedure public.handle_new_user();
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'Ada Lovelace', 'Ada Lovelace', 'https://example.org/ada.png', 'en', '2024-01-01'),
  ('22222222-2222-4222-8222-222222222222', 'bob', null, null, null, null), ('33333333-3333-4333-8333-333333333333', 'cyd.3', '', 'https://example.org/cyd.png', 'sv', '2024-01-03');
-- probes
-- as anon
-- name: everybody's names
select id, username from profiles;
select id, full_name, avatar_url from profiles;
-- name: by the old spelling
select id from profiles where username = 'Ada Lovelace';
-- as authenticated 11111111-1111-4111-8111-111111111111
select full_name, avatar_url, language from profiles where id = auth.uid();
insert into profiles (id, full_name) values (auth.uid(), 'Ada') on conflict (id) do update set full_name = excluded.full_name returning full_name;
-- name: Ada deletes no other
delete from profiles where id = '22222222-2222-4222-8222-222222222222';
-- as authenticated 33333333-3333-4333-8333-333333333333
select username, language, created_at from profiles where id = auth.uid();
update profiles set language = 'de', full_name = 'Cyd' where id = auth.uid() returning language, full_name;
-- as service_role
select id, full_name from profiles where username in ('bob', 'cyd.3');
-- name: times that nobody knew
select id, created_at from profiles where username in ('bob', 'cyd.3');
