/*
modelled_on = "What code generators make: profiles with a uuid of their own beside user_id, roles in a table of their own, has_role()"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Profiles are viewable by everyone" = "keep"
*/
create type public.app_role as enum ('admin', 'moderator', 'user');
create table public.profiles (
  id uuid not null default gen_random_uuid() primary key,
  user_id uuid not null unique references auth.users (id) on delete cascade,
  display_name text,
  avatar_url text,
  xp integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table public.user_roles (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references auth.users (id) on delete cascade not null,
  role public.app_role not null,
  unique (user_id, role)
);
create function public.has_role(_user_id uuid, _role public.app_role) returns boolean language sql stable security definer
  set search_path = public as $$ select exists (select 1 from public.user_roles where user_id = _user_id and role = _role) $$;
create function public.update_updated_at_column() returns trigger language plpgsql set search_path = public as $$
begin
  new.updated_at = now();
  return new;
end
$$;
create trigger update_profiles_updated_at before update on public.profiles for each row execute function public.update_updated_at_column();
create table public.bookmarks (profile_id uuid not null references public.profiles (id) on delete cascade, url text, primary key (profile_id, url));
alter table public.profiles enable row level security;
alter table public.user_roles enable row level security;
alter table public.bookmarks enable row level security;
create policy "Profiles are viewable by everyone" on public.profiles for select using (true);
create policy "Users can update their own profile" on public.profiles for update using (auth.uid() = user_id);
create policy "Users can insert their own profile" on public.profiles for insert with check (auth.uid() = user_id);
create policy "Admins manage roles" on public.user_roles for all using (public.has_role(auth.uid(), 'admin'));
create policy "Own bookmarks" on public.bookmarks for all using (
  profile_id in (select id from public.profiles where user_id = auth.uid()));
insert into public.profiles (id, user_id, display_name, xp, created_at, updated_at) values
  ('a1111111-1111-4111-8111-111111111111', '11111111-1111-4111-8111-111111111111', 'Ada', 10, '2024-01-01', '2024-01-01'),
  ('b2222222-2222-4222-8222-222222222222', '22222222-2222-4222-8222-222222222222', null, 0, '2024-01-02', '2024-01-02'),
  ('c3333333-3333-4333-8333-333333333333', '33333333-3333-4333-8333-333333333333', 'Cyd', -5, '2024-01-03', '2024-01-03');
insert into public.user_roles (user_id, role) values ('11111111-1111-4111-8111-111111111111', 'admin');
insert into public.bookmarks select id, 'https://example.org/' from public.profiles;
-- probes
-- as anon
select id, user_id, display_name, xp from profiles;
select url from bookmarks;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, display_name from profiles where user_id = auth.uid();
update profiles set display_name = 'Ada L', xp = xp + 1 where user_id = auth.uid() returning id, display_name, xp;
select url, profile_id from bookmarks;
insert into bookmarks values ('a1111111-1111-4111-8111-111111111111', 'https://example.org/2') returning profile_id;
insert into bookmarks values ('b2222222-2222-4222-8222-222222222222', 'https://example.org/2');
select has_role(auth.uid(), 'admin'), role from user_roles;
-- as authenticated 22222222-2222-4222-8222-222222222222
select count(*) from user_roles;
update profiles set display_name = 'x' where user_id <> auth.uid();
insert into profiles (user_id, display_name) values (auth.uid(), 'again');
-- as service_role
select p.display_name, r.role from profiles p left join user_roles r using (user_id);
update profiles set xp = 7 where id = 'b2222222-2222-4222-8222-222222222222' returning user_id, xp;
