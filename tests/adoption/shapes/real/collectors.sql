/*
modelled_on = "A marketplace: collectors, keyed by collector_id, which references the auth server's users"
options = ["adopt-table=collectors"]
[signs_up]
country = "NL"
*/
create table public.collectors (
  collector_id uuid primary key references auth.users (id) on delete cascade,
  nickname text,
  country char(2) not null default 'NL',
  joined_on date not null default current_date
);
alter table public.collectors enable row level security;
create policy "collectors read themselves" on public.collectors for select using (collector_id = auth.uid());
create policy "collectors edit themselves" on public.collectors for update using (collector_id = auth.uid());
create policy "collectors register" on public.collectors for insert with check (collector_id = auth.uid());
create table public.items (
  item_id integer generated always as identity primary key,
  collector_id uuid not null references public.collectors on delete cascade,
  title text not null
);
alter table public.items enable row level security;
create policy "own items" on public.items for all using (collector_id = auth.uid()) with check (collector_id = auth.uid());
insert into public.collectors values
  ('11111111-1111-4111-8111-111111111111', 'Stamps!', 'NL', '2023-05-01'), ('22222222-2222-4222-8222-222222222222', null, 'SE', '2023-06-01'),
  ('33333333-3333-4333-8333-333333333333', 'Coins', 'SE', '2023-07-01');
insert into public.items (collector_id, title)
select collector_id, country || g from public.collectors, generate_series(1, 2) as g;
-- probes
-- as anon
select * from collectors;
-- as authenticated 11111111-1111-4111-8111-111111111111
select collector_id, nickname, country, joined_on from collectors;
insert into collectors (collector_id, nickname) values (auth.uid(), 'Stamps and coins')
on conflict (collector_id) do update set nickname = excluded.nickname returning collector_id, nickname, country;
update collectors set country = 'BE' where collector_id = auth.uid() returning country;
update collectors set country = 'BE' where collector_id <> auth.uid();
insert into items (collector_id, title) values (auth.uid(), 'Penny black') returning item_id, title;
insert into items (collector_id, title) values ('22222222-2222-4222-8222-222222222222', 'Forged');
-- as authenticated 22222222-2222-4222-8222-222222222222
select c.country, i.title from collectors c join items i using (collector_id);
-- as service_role
select country, count(*) from collectors group by country;
select collector_id, nickname from collectors where collector_id = any (array['33333333-3333-4333-8333-333333333333']::uuid[]);
