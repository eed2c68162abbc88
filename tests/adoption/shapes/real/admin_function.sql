/*
modelled_on = "is_admin() in SQL and in plpgsql, security definer, used in the policies of other tables and of the profiles themselves"
options = []
[questions]
"policy:public.user_profiles:Admins read all" = "keep"
[differs]
"Ada promotes herself" = "plan: (?i)role"
*/
create table public.user_profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text,
  role text not null default 'user' check (role in ('user', 'admin', 'moderator'))
);
create function public.is_admin() returns boolean language sql stable security definer set search_path = public as $$
  select exists (select 1 from user_profiles where id = auth.uid() and role = 'admin')
$$;
create function public.is_moderator() returns boolean language plpgsql security definer as $$
begin
  return (select role from public.user_profiles where id = auth.uid()) in ('admin', 'moderator');
end
$$;
alter table public.user_profiles enable row level security;
create policy "Read own" on public.user_profiles for select using (auth.uid() = id);
create policy "Admins read all" on public.user_profiles for select using (public.is_admin());
create policy "Update own" on public.user_profiles for update using (auth.uid() = id);
create table public.documents (id integer primary key, title text, secret boolean not null default false);
alter table public.documents enable row level security;
create policy "open documents" on public.documents for select using (not secret or public.is_admin());
create policy "moderators write" on public.documents for all using (public.is_moderator()) with check (public.is_moderator());
insert into public.user_profiles values
  ('11111111-1111-4111-8111-111111111111', 'ada@example.org', 'admin'), ('22222222-2222-4222-8222-222222222222', 'bo@example.org', 'moderator'),
  ('33333333-3333-4333-8333-333333333333', 'cyd@example.org', 'user');
insert into public.documents values (1, 'open', false), (2, 'secret', true);
-- probes
-- as anon
select id, title from documents;
select is_admin();
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, title from documents;
select is_admin(), is_moderator();
select id, role from user_profiles;
insert into documents values (3, 'new') returning id;
-- as authenticated 22222222-2222-4222-8222-222222222222
select is_admin(), is_moderator();
update documents set title = 'edited' returning id;
select id, role from user_profiles;
-- as authenticated 33333333-3333-4333-8333-333333333333
select id, title from documents;
insert into documents values (3, 'new');
select role from user_profiles where id = auth.uid();
-- name: Ada promotes herself
update user_profiles set role = 'admin' where id = auth.uid() returning role;
-- as service_role
select id, email, role from user_profiles;
update user_profiles set role = 'moderator' where id = '33333333-3333-4333-8333-333333333333' returning role;
