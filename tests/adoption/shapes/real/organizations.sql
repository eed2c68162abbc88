/*
modelled_on = "Teams: memberships reference profiles, members see each other's profiles through a security definer function"
options = ["adopt-table=profiles"]
[signs_up]
full_name = "New Person"
[questions]
"policy:public.profiles:Members see their peers" = "keep"
*/
create table public.organizations (id uuid primary key default gen_random_uuid(), slug text not null unique);
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  full_name text not null default '',
  default_organization uuid references public.organizations (id) on delete set null
);
create type public.org_role as enum ('owner', 'member');
create table public.organization_members (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid not null references public.profiles (id) on delete cascade,
  role public.org_role not null default 'member',
  primary key (organization_id, user_id)
);
create function public.my_organizations() returns setof uuid language sql stable security definer set search_path = '' as $$
  select organization_id from public.organization_members where user_id = auth.uid()
$$;
alter table public.organizations enable row level security;
alter table public.profiles enable row level security;
alter table public.organization_members enable row level security;
create policy "Own profile" on public.profiles for all using (id = auth.uid()) with check (id = auth.uid());
create policy "Members see their peers" on public.profiles for select using (
  id in (select m.user_id from public.organization_members m where m.organization_id in (select public.my_organizations())));
create policy "Members see organizations" on public.organizations for select using (id in (select public.my_organizations()));
create policy "Members see memberships" on public.organization_members for select using (organization_id in (select public.my_organizations()));
create policy "Owners invite" on public.organization_members for insert with check (exists (
  select 1 from public.organization_members m where m.organization_id = organization_members.organization_id
    and m.user_id = auth.uid() and m.role = 'owner'));
insert into public.organizations values ('aaaaaaaa-0000-4000-8000-000000000001', 'lab'), ('aaaaaaaa-0000-4000-8000-000000000002', 'club');
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'Ada', 'aaaaaaaa-0000-4000-8000-000000000001'), ('22222222-2222-4222-8222-222222222222', 'Bo', null),
  ('33333333-3333-4333-8333-333333333333', '', 'aaaaaaaa-0000-4000-8000-000000000002');
insert into public.organization_members values
  ('aaaaaaaa-0000-4000-8000-000000000001', '11111111-1111-4111-8111-111111111111', 'owner'),
  ('aaaaaaaa-0000-4000-8000-000000000001', '22222222-2222-4222-8222-222222222222', 'member'),
  ('aaaaaaaa-0000-4000-8000-000000000002', '33333333-3333-4333-8333-333333333333', 'owner');
-- probes
-- as anon
select id from profiles;
select id from organizations;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, full_name, default_organization from profiles;
select m.role, p.full_name from organization_members m join profiles p on p.id = m.user_id;
insert into organization_members (organization_id, user_id) values ('aaaaaaaa-0000-4000-8000-000000000001', '33333333-3333-4333-8333-333333333333') returning role;
insert into organization_members (organization_id, user_id) values ('aaaaaaaa-0000-4000-8000-000000000002', '11111111-1111-4111-8111-111111111111');
update profiles set default_organization = null, full_name = 'Ada L' where id = auth.uid() returning full_name, default_organization;
update profiles set full_name = 'x' where id = '22222222-2222-4222-8222-222222222222';
-- as authenticated 22222222-2222-4222-8222-222222222222
select slug from organizations;
select id, full_name from profiles;
-- as authenticated 33333333-3333-4333-8333-333333333333
select id from profiles;
-- as service_role
select o.slug, p.full_name from organizations o join profiles p on p.default_organization = o.id;
