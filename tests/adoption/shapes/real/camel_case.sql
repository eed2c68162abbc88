/*
modelled_on = "Tables that an ORM made: camel case, timestamp(3) without zone, updatedAt NOT NULL and filled by the client alone"
options = ["adopt-table=profiles"]
[questions]
"rls:public.profiles" = "keep"
"required:public.profiles.updatedAt" = "relax"
*/
create table public.profiles (
  "id" uuid not null,
  "displayName" text not null default '',
  "avatarUrl" text,
  "isPremium" boolean not null default false,
  "createdAt" timestamp(3) not null default current_timestamp,
  "updatedAt" timestamp(3) not null,
  constraint "profiles_pkey" primary key ("id")
);
create table public."Post" ("id" text not null primary key, "authorId" uuid not null, "title" text not null);
alter table public."Post" add constraint "Post_authorId_fkey" foreign key ("authorId") references public.profiles ("id") on delete restrict on update cascade;
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', 'Ada', null, true, '2024-01-01 10:00', '2024-02-01 11:00:00.123'),
  ('22222222-2222-4222-8222-222222222222', '', 'https://example.org/bo.png', false, '2024-01-02', '2024-01-02'),
  ('33333333-3333-4333-8333-333333333333', 'Cyd', '', false, '2024-01-03', '2024-01-03');
insert into public."Post" values ('p1', '11111111-1111-4111-8111-111111111111', 'One'), ('p2', '33333333-3333-4333-8333-333333333333', 'Two');
-- probes
select "id", "displayName", "avatarUrl", "isPremium", "createdAt", "updatedAt" from "public"."profiles" where "id" = '11111111-1111-4111-8111-111111111111'::uuid limit 1 offset 0;
insert into "public"."profiles" ("id", "displayName", "updatedAt") values ('22222222-2222-4222-8222-222222222222', 'Bo', '2024-06-01')
on conflict ("id") do update set "displayName" = 'Bo', "updatedAt" = '2024-06-01' returning "id", "displayName", "isPremium", "updatedAt";
update "public"."profiles" set "isPremium" = true, "updatedAt" = '2024-06-01' where "id" = '33333333-3333-4333-8333-333333333333' returning "isPremium";
select "t0"."title", "t1"."displayName" from "public"."Post" "t0" left join "public"."profiles" "t1" on "t1"."id" = "t0"."authorId" order by "t0"."id";
delete from "public"."profiles" where "id" = '11111111-1111-4111-8111-111111111111';
delete from "public"."profiles" where "id" = '22222222-2222-4222-8222-222222222222';
insert into "public"."Post" values ('p3', '99999999-9999-4999-8999-999999999999', 'Nobody');
select count(*) from "public"."profiles" where "createdAt" >= '2024-01-02' and "createdAt" < '2024-01-04';
-- as anon
select "displayName" from profiles where "id" = '33333333-3333-4333-8333-333333333333';
-- as authenticated 11111111-1111-4111-8111-111111111111
select "displayName", "isPremium" from profiles where "id" = auth.uid();
update profiles set "displayName" = 'A' where "id" = auth.uid() returning "displayName";
-- as authenticated 22222222-2222-4222-8222-222222222222
update profiles set "avatarUrl" = null where "id" = auth.uid() returning "avatarUrl";
-- as service_role
select "id", "updatedAt" from profiles;
