/*
modelled_on = "Prisma and Clerk on a plain server: user_id holds Clerk's text ids, the application connects as the owner"
place = "empty"
options = []
[differs]
"by the old name" = "plan: rename .*external_id"
"an upsert" = "plan: rename .*external_id"
*/
create table public.user_profiles (
  id text primary key,
  user_id text not null unique,
  username text not null,
  bio text,
  streak integer not null default 0
);
create table public.notes (
  id integer primary key,
  author text not null references public.user_profiles (user_id) on update cascade on delete cascade,
  body text not null
);
insert into public.user_profiles values
  ('ck1', 'user_2abcDEF', 'ada', 'First', 3), ('ck2', 'user_2ghiJKL', 'bob', null, 0), ('ck3', 'user_2mnoPQR', 'cyd', '', 9);
insert into public.notes values (1, 'user_2abcDEF', 'one'), (2, 'user_2abcDEF', 'two'), (3, 'user_2mnoPQR', 'three');
-- probes
select id, username, bio, streak from user_profiles order by id;
-- name: by the old name
select id, username from user_profiles where user_id = 'user_2abcDEF';
-- name: an upsert
insert into user_profiles (id, user_id, username) values ('ck4', 'user_2abcDEF', 'ada')
on conflict (user_id) do update set streak = user_profiles.streak + 1 returning id, streak;
select author, body from notes where author = 'user_2abcDEF';
update user_profiles set streak = streak + 1, bio = 'new' where id = 'ck2' returning streak, bio;
insert into notes values (4, 'user_2ghiJKL', 'four') returning author;
insert into notes values (5, 'user_unknown', 'five');
delete from user_profiles where id = 'ck3';
