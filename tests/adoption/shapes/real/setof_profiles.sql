/*
modelled_on = "Functions that return rows of the table: search, the signed-in user's own row, and one written in plpgsql"
options = ["adopt-table=profiles"]
stops = "takes or returns rows"
*/
create table public.profiles (
  id uuid primary key references auth.users on delete cascade,
  full_name text,
  city text,
  searchable boolean not null default true
);
alter table public.profiles enable row level security;
create policy "Read for members" on public.profiles for select to authenticated using (searchable or auth.uid() = id);
create policy "Write own" on public.profiles for update to authenticated using (auth.uid() = id);
create function public.search_profiles(q text) returns setof public.profiles language sql stable as $$
  select * from public.profiles where full_name ilike '%' || q || '%' order by full_name
$$;
create function public.get_my_profile() returns public.profiles language sql stable as $$
  select * from public.profiles where id = auth.uid()
$$;
create function public.all_in_city(wanted text) returns setof profiles language plpgsql security definer set search_path = public as $$
declare
  found_one profiles;
begin
  for found_one in select * from profiles where city = wanted loop
    return next found_one;
  end loop;
end
$$;
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'Ada Lovelace', 'London', true), ('22222222-2222-4222-8222-222222222222', 'Bo Adams', 'Lund', false),
  ('33333333-3333-4333-8333-333333333333', null, 'London', true);
-- probes
-- as anon
select id from search_profiles('a');
select id, full_name from all_in_city('London');
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, full_name, city from search_profiles('ada');
select (get_my_profile()).full_name, (get_my_profile()).id = auth.uid();
select city from all_in_city('Lund');
update profiles set city = 'Paris' where id = auth.uid() returning full_name, city;
-- as authenticated 22222222-2222-4222-8222-222222222222
select id, full_name, city, searchable from search_profiles('ada');
select p.city from get_my_profile() as p;
-- as service_role
select id, full_name from search_profiles('');
