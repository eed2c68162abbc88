/*
modelled_on = "A trigger of the application's guards role and credits against the user's own updates, and counts changes"
options = []
[questions]
"policy:public.user_profiles:Staff read everybody" = "keep"
[differs]
"Bo promotes himself" = "plan: (?i)role"
*/
create table public.user_profiles (
  id uuid primary key references auth.users on delete cascade,
  username text,
  role text not null default 'client',
  credits integer not null default 3,
  changes integer not null default 0
);
create function public.protect_profile() returns trigger language plpgsql security definer set search_path = public as $$
begin
  if auth.uid() is not null and (new.role is distinct from old.role or new.credits is distinct from old.credits) then
    raise exception 'role and credits are not yours to change' using errcode = '42501';
  end if;
  new.changes := old.changes + 1;
  return new;
end
$$;
create trigger protect_profile before update on public.user_profiles for each row execute function public.protect_profile();
alter table public.user_profiles enable row level security;
create policy "Read own profile" on public.user_profiles for select using (auth.uid() = id);
create policy "Staff read everybody" on public.user_profiles for select using ((auth.jwt() -> 'app_metadata' ->> 'staff')::boolean);
create policy "Update own profile" on public.user_profiles for update using (auth.uid() = id) with check (auth.uid() = id);
create table public.tickets (id integer primary key, owner uuid references public.user_profiles, assigned uuid references public.user_profiles (id) on delete set null);
alter table public.tickets enable row level security;
create policy "owner or staff" on public.tickets for select using (owner = auth.uid() or (select role from public.user_profiles where id = auth.uid()) = 'staff');
insert into public.user_profiles (id, username, role, credits) values
  ('11111111-1111-4111-8111-111111111111', 'ada', 'staff', 0), ('22222222-2222-4222-8222-222222222222', 'bob', 'client', 3),
  ('33333333-3333-4333-8333-333333333333', 'cyd', 'client', 7);
insert into public.tickets values (1, '22222222-2222-4222-8222-222222222222', '11111111-1111-4111-8111-111111111111'), (2, '33333333-3333-4333-8333-333333333333', null);
-- probes
-- as anon
select id from user_profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111 {"app_metadata": {"staff": true}}
select id, role, credits from user_profiles;
select id from tickets;
-- as authenticated 22222222-2222-4222-8222-222222222222
select id, role, credits from user_profiles;
update user_profiles set username = 'bosse' where id = auth.uid() returning username, changes > 0;
-- name: Bo promotes himself
update user_profiles set role = 'staff' where id = auth.uid();
update user_profiles set credits = 99 where id = auth.uid();
select id from tickets;
-- as service_role
update user_profiles set credits = credits + 1 where id = '33333333-3333-4333-8333-333333333333' returning credits, changes > 0;
select t.id, o.username from tickets t join user_profiles o on o.id = t.owner;
