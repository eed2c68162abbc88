-- Shape A, profile bootstrap on a hosted project: the key of user_profiles is the id of the user, and everything of the
-- application hangs on it. Nothing here keeps a profile from outliving its user.
create table public.user_profiles (
  id uuid primary key,
  username text,
  display_name text,
  bio text,
  avatar_emoji text default '👶',
  profile_visibility text default 'public',
  is_active boolean default true,
  favourite_colour text default 'green' check (favourite_colour <> 'beige'),
  updated_at timestamptz default now()
);
create index idx_user_profiles_updated_at on public.user_profiles (updated_at);
create index user_profiles_colour on public.user_profiles (favourite_colour) where favourite_colour is not null;
comment on table public.user_profiles is 'Who uses the app';
comment on column public.user_profiles.id is 'The id of auth.users';
comment on column public.user_profiles.favourite_colour is 'For the header';

create function public.gen_available_username(p_email text) returns text language plpgsql security definer as $$
declare
  base text := split_part(p_email, '@', 1);
  candidate text := base;
  n integer := 0;
begin
  while exists (select 1 from public.user_profiles where username = candidate) loop
    n := n + 1;
    candidate := base || n;
  end loop;
  return candidate;
end
$$;
comment on function public.gen_available_username(text) is 'A free name';

create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = public as $$
begin
  insert into public.user_profiles (id, username, display_name)
  values (new.id, public.gen_available_username(new.email), new.raw_user_meta_data ->> 'full_name');
  return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users
  for each row execute function public.handle_new_user();

create function public.touch_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end
$$;
create trigger set_updated_at before update on public.user_profiles
  for each row execute function public.touch_updated_at();
comment on trigger set_updated_at on public.user_profiles is 'Keeps the time of the last change';

alter table public.user_profiles enable row level security;
create policy "Public profiles are viewable by everyone." on public.user_profiles for select using (true);
create policy "Users can insert their own profile." on public.user_profiles for insert with check (auth.uid() = id);
create policy "Users can update own profile." on public.user_profiles for update using (auth.uid() = id);
create policy "Service role manages profiles" on public.user_profiles to service_role using (true) with check (true);
comment on policy "Users can update own profile." on public.user_profiles is 'Everybody the own one';

create table public.posts (
  id bigint generated always as identity primary key,
  author uuid not null constraint posts_author_fkey references public.user_profiles (id) on delete cascade,
  editor uuid references public.user_profiles on update cascade on delete set null deferrable initially deferred,
  body text,
  updated_at timestamptz default now()
);
create trigger set_updated_at before update on public.posts for each row execute function public.touch_updated_at();
alter table public.posts enable row level security;
create policy "Posts of public profiles" on public.posts for select to authenticated, anon
  using (exists (select from public.user_profiles as p where p.id = author and p.profile_visibility = 'public'));
create view public.profile_cards with (security_invoker = true) as
  select p.id, p.username, p.avatar_emoji, (select count(*) from public.posts as o where o.author = p.id) as posts
  from public.user_profiles as p;
comment on view public.profile_cards is 'What the front page shows';
revoke all on public.profile_cards from anon;
