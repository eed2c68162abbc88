/*
modelled_on = "A feed whose posts hide with their author's account: the policy of one table reads another one that everybody may read"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Anyone can read profiles" = "keep"
*/
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  handle text unique,
  is_private boolean not null default false,
  created_at timestamptz not null default now()
);
alter table public.profiles enable row level security;
create policy "Anyone can read profiles" on public.profiles for select using (true);
create policy "Edit own" on public.profiles for update to authenticated using (id = auth.uid()) with check (id = auth.uid());
create table public.posts (
  id integer primary key,
  author uuid not null references public.profiles (id) on delete cascade,
  body text not null
);
alter table public.posts enable row level security;
create policy "Posts of open accounts, and one's own" on public.posts for select
  using (author = auth.uid() or not exists (select 1 from public.profiles p where p.id = author and p.is_private));
create policy "Write as oneself" on public.posts for insert to authenticated with check (author = auth.uid());
insert into public.profiles (id, handle, is_private, created_at) values
  ('11111111-1111-4111-8111-111111111111', 'ada', false, '2024-01-01'),
  ('22222222-2222-4222-8222-222222222222', 'bo', true, '2024-01-02'),
  ('33333333-3333-4333-8333-333333333333', 'cyd', true, '2024-01-03');
insert into public.posts
select g, ('{11111111-1111-4111-8111-111111111111,22222222-2222-4222-8222-222222222222,33333333-3333-4333-8333-333333333333}'::uuid[])[1 + g % 3],
  'post ' || g from generate_series(1, 12) as g;
-- probes
-- as anon
-- name: anon sees open posts
select id, author from posts;
-- as authenticated 11111111-1111-4111-8111-111111111111
-- name: Ada sees no private post of others
select id, author from posts;
-- name: Ada lists accounts
select handle, is_private from profiles;
insert into posts (id, author, body) values (100, auth.uid(), 'mine') returning id;
insert into posts (id, author, body) values (101, '22222222-2222-4222-8222-222222222222', 'forged');
update profiles set is_private = true where id = auth.uid() returning is_private;
update profiles set is_private = false where id <> auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
-- name: Bo sees his own private posts
select id, author from posts;
-- name: Bo counts posts
select p.handle, count(*) from posts join profiles p on p.id = posts.author group by 1;
-- as service_role
select author, count(*) from posts group by author;
-- as owner
select p.handle, o.body from posts o join profiles p on p.id = o.author order by o.id;
