/*
modelled_on = "A trigger that gives every account a handle: a column of the application's, NOT NULL and unique, that no other trigger fills"
options = ["adopt-table=profiles"]
[questions]
"required:public.profiles.handle" = "relax"
"trigger:auth.users:new_account" = "drop"
[differs]
"handles as the service sees them" = "required:public.profiles.handle"
*/
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  handle text not null unique,
  created_at timestamptz not null default now()
);
alter table public.profiles enable row level security;
create policy "Read own" on public.profiles for select to authenticated using (id = auth.uid());
create policy "Edit own" on public.profiles for update to authenticated using (id = auth.uid()) with check (id = auth.uid());
create function public.new_account() returns trigger language plpgsql security definer as $$
begin
  insert into public.profiles (id, handle) values (new.id, 'user-' || left(new.id::text, 8));
  return new;
end
$$;
create trigger new_account after insert on auth.users for each row execute function public.new_account();
insert into public.profiles (id, handle, created_at) values
  ('11111111-1111-4111-8111-111111111111', 'ada', '2024-01-01'), ('22222222-2222-4222-8222-222222222222', 'bo', '2024-01-02');
-- probes
-- as anon
select handle from profiles;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, handle from profiles;
update profiles set handle = 'bo' where id = auth.uid();
-- as authenticated 22222222-2222-4222-8222-222222222222
select handle from profiles where id = auth.uid();
update profiles set handle = 'x' where id = '11111111-1111-4111-8111-111111111111';
-- as service_role
-- name: handles as the service sees them
select id, handle from profiles;
insert into auth.users (id, email) values ('66666666-6666-4666-8666-666666666666', 'x@example.org');
