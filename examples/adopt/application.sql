-- A small application that made profiles itself: the key of user_profiles is the user's id, a trigger fills it, and
-- nothing keeps a username short, alone, or a profile from outliving its user.
create table public.user_profiles (
  id uuid primary key,
  username text,
  display_name text,
  bio text,
  profile_visibility text default 'public',
  favourite_colour text,
  updated_at timestamptz default now()
);
alter table public.user_profiles enable row level security;
create policy "Profiles are for everybody" on public.user_profiles for select using (true);
create policy "Update your own profile" on public.user_profiles for update using (auth.uid() = id);
-- As a hosted project grants every new table.
grant select, insert, update, delete on public.user_profiles to anon, authenticated;

create function public.handle_new_user() returns trigger language plpgsql security definer as $$
begin
  insert into public.user_profiles (id, username) values (new.id, split_part(new.email, '@', 1));
  return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users
  for each row execute function public.handle_new_user();

create table public.posts (
  id integer primary key,
  author uuid not null references public.user_profiles (id) on delete cascade,
  body text
);
create view public.bylines as
  select o.id as post, p.username, o.body from public.posts as o join public.user_profiles as p on p.id = o.author;

insert into auth.users (id, email)
select format('00000000-0000-4000-8000-00000000000%s', n)::uuid, name || '@example.org'
from unnest(array['ada', 'Ada', 'grace', 'x', 'linus+work', 'margaret']) with ordinality as u (name, n);

update public.user_profiles as p
set username = c.username, bio = c.bio, profile_visibility = c.visibility, favourite_colour = c.colour
from (values
  (1, 'ada', 'The first', 'public', 'green'),
  (2, 'Ada', 'The other one', 'friends', null),
  (3, 'Grace Hopper (Rear Admiral, retired)', repeat('COBOL ', 1000), 'public', 'blue'),
  (4, 'x', null, null, null),
  (5, 'linus+work', null, 'private', 'red')
) as c (n, username, bio, visibility, colour)
where p.id = format('00000000-0000-4000-8000-00000000000%s', c.n)::uuid;

-- One user never got a profile, one profile's user is gone.
delete from public.user_profiles where username = 'margaret';
insert into public.user_profiles (id, username, bio)
values ('00000000-0000-4000-8000-000000000009', 'ghost', 'Whose account was deleted last year');

insert into public.posts values
  (1, '00000000-0000-4000-8000-000000000001', 'Hello'),
  (2, '00000000-0000-4000-8000-000000000003', 'A bug, literally'),
  (3, '00000000-0000-4000-8000-000000000009', 'I am still here');
