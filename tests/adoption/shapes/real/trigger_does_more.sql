/*
modelled_on = "handle_new_user that makes the profile and also a workspace and its membership"
options = ["adopt-table=profiles"]
stops = "handle_new_user"
*/
create table public.profiles (id uuid primary key references auth.users on delete cascade, full_name text, onboarded boolean not null default false);
create table public.workspaces (id uuid primary key default gen_random_uuid(), owner uuid not null references public.profiles on delete cascade, name text);
alter table public.profiles enable row level security;
create policy "own" on public.profiles for all using (auth.uid() = id);
create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = public as $$
begin
  insert into profiles (id, full_name) values (new.id, new.raw_user_meta_data ->> 'full_name');
  insert into workspaces (owner, name) values (new.id, 'My workspace');
  return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users for each row execute function public.handle_new_user();
insert into public.profiles (id, full_name) values ('11111111-1111-4111-8111-111111111111', 'Ada'), ('22222222-2222-4222-8222-222222222222', null);
insert into public.workspaces (owner, name) select id, 'My workspace' from public.profiles;
-- probes
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, full_name, onboarded from profiles;
-- as service_role
select owner, name from workspaces;
