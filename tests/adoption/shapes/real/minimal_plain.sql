/*
modelled_on = "A plain server without an auth server: profiles keyed by uuid, the application connects as the owner and checks rights itself"
place = "empty"
options = ["adopt-table=profiles"]
[differs]
"the application makes a profile" = "plan: (?i)insert"
"the application makes one twice" = "plan: (?i)insert"
*/
create table public.profiles (
  id uuid primary key default gen_random_uuid(),
  email text unique not null,
  name text,
  locale varchar(5) not null default 'en_US',
  active boolean not null default true
);
create table public.invoices (id integer primary key, profile_id uuid not null references public.profiles (id), cents bigint not null);
insert into public.profiles values
  ('a1111111-1111-4111-8111-111111111111', 'ada@example.org', 'Ada', 'en_GB', true), ('b2222222-2222-4222-8222-222222222222', 'bo@example.org', null, 'sv_SE', false),
  ('c3333333-3333-4333-8333-333333333333', 'cyd@example.org', '', 'en_US', true);
insert into public.invoices values (1, 'a1111111-1111-4111-8111-111111111111', 1000), (2, 'c3333333-3333-4333-8333-333333333333', 5);
-- probes
select id, email, name, locale, active from profiles order by email;
select p.name, sum(i.cents) from profiles p join invoices i on i.profile_id = p.id group by p.name;
update profiles set name = 'Bo', active = true where id = 'b2222222-2222-4222-8222-222222222222' returning name, active;
update profiles set email = 'ada@example.com' where id = 'a1111111-1111-4111-8111-111111111111' returning email;
-- name: the application makes a profile
insert into profiles (email, name) values ('new@example.org', 'New') returning email, name, locale, active;
-- name: the application makes one twice
insert into profiles (email) values ('ada@example.org');
insert into invoices values (3, 'b2222222-2222-4222-8222-222222222222', 7) returning cents;
delete from profiles where id = 'a1111111-1111-4111-8111-111111111111';
delete from profiles where id = 'b2222222-2222-4222-8222-222222222222' returning email;
