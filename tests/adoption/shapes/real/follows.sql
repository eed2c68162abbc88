/*
modelled_on = "A social network: follows between profiles, a definer view for visitors, counters by a view, a feed by a function"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Visible unless blocked" = "keep"
*/
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  username text unique not null,
  bio text,
  is_private boolean not null default false
);
create table public.follows (
  follower_id uuid references public.profiles (id) on delete cascade not null,
  following_id uuid references public.profiles (id) on delete cascade not null,
  primary key (follower_id, following_id),
  constraint cant_follow_self check (follower_id <> following_id)
);
create table public.blocks (blocker uuid references public.profiles on delete cascade, blocked uuid references public.profiles on delete cascade, primary key (blocker, blocked));
create view public.public_profiles as select id, username, bio from public.profiles where not is_private;
create view public.follow_counts with (security_invoker = on) as
  select p.id, p.username, count(f.follower_id) as followers from public.profiles p left join public.follows f on f.following_id = p.id group by p.id;
create function public.is_blocked(a uuid, b uuid) returns boolean language sql stable security definer set search_path = public as $$
  select exists (select 1 from blocks where blocker = a and blocked = b)
$$;
create function public.suggestions(how_many integer default 5) returns table (id uuid, username text) language sql stable as $$
  select p.id, p.username from public.profiles p
  where p.id <> auth.uid() and not exists (select 1 from public.follows f where f.follower_id = auth.uid() and f.following_id = p.id)
  order by p.username limit how_many
$$;
alter table public.profiles enable row level security;
alter table public.follows enable row level security;
create policy "Visible unless blocked" on public.profiles for select using (not public.is_blocked(id, auth.uid()));
create policy "Own" on public.profiles for update using (id = auth.uid());
create policy "Follows are public" on public.follows for select using (true);
create policy "Follow who is not private" on public.follows for insert with check (
  follower_id = auth.uid() and exists (select 1 from public.profiles p where p.id = following_id and not p.is_private));
create policy "Unfollow" on public.follows for delete using (follower_id = auth.uid());
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'ada', 'First', false), ('22222222-2222-4222-8222-222222222222', 'bob', null, true),
  ('33333333-3333-4333-8333-333333333333', 'cyd', '', false);
insert into public.follows values
  ('11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222'), ('22222222-2222-4222-8222-222222222222', '11111111-1111-4111-8111-111111111111');
insert into public.blocks values ('33333333-3333-4333-8333-333333333333', '22222222-2222-4222-8222-222222222222');
-- probes
-- as anon
select id, username, bio from public_profiles;
select id, followers from follow_counts;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, username from profiles;
select username, followers from follow_counts;
select id, username from suggestions();
insert into follows values (auth.uid(), '33333333-3333-4333-8333-333333333333') returning following_id;
delete from follows where follower_id = auth.uid() returning following_id;
delete from follows where follower_id <> auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
select id, username from profiles;
insert into follows values (auth.uid(), '33333333-3333-4333-8333-333333333333');
select username from suggestions(1);
update profiles set bio = 'Me', is_private = false where id = auth.uid() returning bio, is_private;
-- as authenticated 33333333-3333-4333-8333-333333333333
insert into follows values (auth.uid(), '22222222-2222-4222-8222-222222222222');
-- as service_role
select username, followers from follow_counts;
select f.username, t.username from follows join profiles f on f.id = follower_id join profiles t on t.id = following_id;
