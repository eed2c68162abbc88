/*
modelled_on = "Clerk signs people in; the table has a uuid of its own beside clerk_user_id, and auth.users knows none of them"
options = []
stops = "(?i)(key|quarantine|clerk_user_id|no .*match)"
*/
create function public.requesting_user_id() returns text language sql stable as $$
  select nullif(current_setting('request.jwt.claims', true)::json ->> 'sub', '')
$$;
create table public.user_profiles (
  id uuid primary key default gen_random_uuid(),
  clerk_user_id text not null unique,
  email text,
  first_name text,
  last_name text,
  created_at timestamptz not null default now()
);
alter table public.user_profiles enable row level security;
create policy "Own row by Clerk" on public.user_profiles for all using (clerk_user_id = public.requesting_user_id())
  with check (clerk_user_id = public.requesting_user_id());
insert into public.user_profiles (clerk_user_id, email, first_name)
select 'user_2N' || md5(g::text), 'c' || g || '@example.org', 'C' || g from generate_series(1, 25) as g;
-- probes
-- as authenticated user_2Nc4ca4238a0b923820dcc509a6f75849b
select email, first_name from user_profiles;
update user_profiles set last_name = 'Clerk' returning clerk_user_id;
-- as service_role
select clerk_user_id, email from user_profiles;
