/*
modelled_on = "A waiting list: referral codes by default, referred_by references the same table, points, a generated column"
options = []
[questions]
"policy:public.user_profiles:Leaderboard" = "keep"
*/
create table public.user_profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  username text,
  referral_code text unique default upper(substr(md5(random()::text), 1, 8)),
  referred_by uuid references public.user_profiles (id) on delete set null,
  points integer not null default 0,
  level integer generated always as (points / 100) stored,
  search text generated always as (lower(coalesce(username, ''))) stored
);
alter table public.user_profiles enable row level security;
create policy "Leaderboard" on public.user_profiles for select to authenticated using (points > 0 or id = auth.uid());
create policy "Own" on public.user_profiles for update to authenticated using (id = auth.uid());
create view public.leaderboard as select username, points, level from public.user_profiles where points > 0;
create function public.redeem(code text) returns uuid language plpgsql security definer set search_path = public as $$
declare
  found_id uuid;
begin
  select id into found_id from user_profiles where referral_code = code;
  if found_id is null then
    raise exception 'unknown code %', code;
  end if;
  update user_profiles set referred_by = found_id where id = auth.uid();
  return found_id;
end
$$;
insert into public.user_profiles (id, username, referral_code, referred_by, points) values
  ('11111111-1111-4111-8111-111111111111', 'ada', 'ADA00001', null, 250),
  ('22222222-2222-4222-8222-222222222222', 'bob', 'BO000002', '11111111-1111-4111-8111-111111111111', 0),
  ('33333333-3333-4333-8333-333333333333', 'cyd', null, '11111111-1111-4111-8111-111111111111', 99);
-- probes
-- as anon
select username, points, level from leaderboard order by points desc;
select id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, username, referral_code, points, level, search from user_profiles;
update user_profiles set username = 'ada_l' where id = auth.uid() returning username, search;
-- as authenticated 22222222-2222-4222-8222-222222222222
select id, points from user_profiles;
select redeem('ADA00001');
select redeem('NOPE');
update user_profiles set points = 1000 where id <> auth.uid();
-- as service_role
select c.username, p.username from user_profiles c join user_profiles p on p.id = c.referred_by;
update user_profiles set points = points + 10 where referral_code = 'BO000002' returning points, level;
select id from user_profiles where referral_code is null;
