/*
modelled_on = "Profiles that are never empty: every column NOT NULL with a default, pictures included"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:allow read" = "keep"
"delete:public.profiles" = "refuse"
[differs]
"pictures as anon sees them" = "plan: no web address or path"
"pictures as Bo sees them" = "plan: no web address or path"
"Ada deletes her profile" = "plan: A DELETE by users fails"
[signs_up]
name = "Anonymous"
avatar_url = "https://example.org/new.png"
about = ""
karma = "0"
*/
create table public.profiles (
  id uuid primary key references auth.users on delete cascade,
  name text not null default 'Anonymous',
  avatar_url text not null default '/images/default-avatar.svg',
  about text not null default '',
  karma integer not null default 0 check (karma >= 0),
  badges text[] not null default '{}',
  joined timestamptz not null default '2024-01-01'
);
alter table public.profiles enable row level security;
create policy "allow read" on public.profiles for select to anon, authenticated using (true);
create policy "allow own insert" on public.profiles for insert to authenticated with check (auth.uid() = id);
create policy "allow own update" on public.profiles for update to authenticated using (auth.uid() = id) with check (auth.uid() = id);
create policy "allow own delete" on public.profiles for delete to authenticated using (auth.uid() = id);
insert into public.profiles (id, name, avatar_url, karma, badges) values
  ('11111111-1111-4111-8111-111111111111', 'Ada', 'https://example.org/ada.png', 5, '{founder,"two words"}'),
  ('22222222-2222-4222-8222-222222222222', default, default, default, default),
  ('33333333-3333-4333-8333-333333333333', 'Cyd', 'data:image/png;base64,iVBORw0KGgo=', 1, '{}');
-- probes
-- as anon
-- name: pictures as anon sees them
select id, name, avatar_url, about, karma, badges from profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select avatar_url from profiles where id = auth.uid();
update profiles set about = 'Hello', avatar_url = '/images/ada.svg', badges = badges || 'new' where id = auth.uid() returning about, avatar_url, badges;
insert into profiles (id, name) values (auth.uid(), 'Ada 2') on conflict (id) do update set name = excluded.name returning name, avatar_url, about, karma;
update profiles set karma = 100 where id = '22222222-2222-4222-8222-222222222222';
-- name: Ada deletes her profile
delete from profiles where id = auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
-- name: pictures as Bo sees them
select name, avatar_url from profiles where id in ('22222222-2222-4222-8222-222222222222', '33333333-3333-4333-8333-333333333333');
-- as service_role
update profiles set karma = karma - 1 where id = '22222222-2222-4222-8222-222222222222';
select name from profiles where 'founder' = any (badges);
