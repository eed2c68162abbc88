/*
modelled_on = "Roles as an enum type, has_role() with a parameter of that type, and a policy that compares them"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Profiles are viewable by everyone" = "keep"
[signs_up]
role = "member"
[differs]
"Bo promotes himself" = "plan: (?i)role"
*/
create type public.app_role as enum ('member', 'editor', 'admin');
create table public.profiles (
  id uuid primary key references auth.users on delete cascade,
  username varchar(40),
  role public.app_role not null default 'member',
  created_at timestamptz not null default timezone('utc'::text, now())
);
create function public.has_role(_user_id uuid, _role public.app_role) returns boolean language sql stable security definer
  set search_path = public as $$
  select exists (select 1 from public.profiles p where p.id = _user_id and p.role = _role)
$$;
create function public.my_role() returns public.app_role language sql stable as $$
  select role from public.profiles where id = auth.uid()
$$;
alter table public.profiles enable row level security;
create policy "Profiles are viewable by everyone" on public.profiles for select using (true);
create policy "Users update themselves" on public.profiles for update using (auth.uid() = id);
create table public.articles (id integer primary key, title text, published boolean default false);
alter table public.articles enable row level security;
create policy "published or editors" on public.articles for select
  using (published or public.has_role(auth.uid(), 'editor') or public.my_role() = 'admin'::public.app_role);
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'ada', 'admin', '2024-01-01'), ('22222222-2222-4222-8222-222222222222', 'bob', 'member', '2024-01-02'),
  ('33333333-3333-4333-8333-333333333333', 'cyd', 'editor', '2024-01-03');
insert into public.articles values (1, 'out', true), (2, 'draft', false);
-- probes
-- as anon
select username, role from profiles order by role desc, username;
select id from articles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id from articles;
select my_role(), has_role(auth.uid(), 'admin');
select role = 'admin'::app_role from profiles where id = auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
select id from articles;
select my_role(), has_role('33333333-3333-4333-8333-333333333333', 'editor');
update profiles set username = 'bosse' where id = auth.uid() returning username, role;
-- name: Bo promotes himself
update profiles set role = 'admin' where id = auth.uid() returning role;
-- as service_role
select enum_range(null::app_role), count(*) from profiles where role >= 'editor';
update profiles set role = 'editor' where username = 'bob' returning id, role;
update profiles set role = 'emperor' where username = 'bob';
