/*
modelled_on = "A school: policies of other tables look up the reader's own role by subselect, and profiles are private"
options = []
[questions]
"required:public.user_profiles.full_name" = "relax"
[signs_up]
role = "pupil"
[differs]
"a pupil becomes a teacher" = "plan: (?i)role"
*/
create table public.user_profiles (
  id uuid primary key references auth.users on delete cascade,
  full_name text not null,
  role text not null check (role in ('teacher', 'pupil', 'parent')) default 'pupil',
  class_id integer
);
create table public.grades (id integer generated always as identity primary key, pupil uuid not null references public.user_profiles (id), class_id integer, grade numeric(3, 1));
alter table public.user_profiles enable row level security;
alter table public.grades enable row level security;
create policy "self" on public.user_profiles for select to authenticated using (id = (select auth.uid()));
create policy "self edit" on public.user_profiles for update to authenticated using (id = (select auth.uid()));
create policy "teachers of the class" on public.grades for all to authenticated
  using (exists (select 1 from public.user_profiles t where t.id = auth.uid() and t.role = 'teacher' and t.class_id = grades.class_id))
  with check (exists (select 1 from public.user_profiles t where t.id = auth.uid() and t.role = 'teacher' and t.class_id = grades.class_id));
create policy "own grades" on public.grades for select to authenticated using (pupil = auth.uid());
insert into public.user_profiles values
  ('11111111-1111-4111-8111-111111111111', 'Ada Lovelace', 'teacher', 7), ('22222222-2222-4222-8222-222222222222', 'Bo', 'pupil', 7),
  ('33333333-3333-4333-8333-333333333333', 'Cyd', 'pupil', 8);
insert into public.grades (pupil, class_id, grade) values ('22222222-2222-4222-8222-222222222222', 7, 4.5), ('33333333-3333-4333-8333-333333333333', 8, 6);
-- probes
-- as anon
select grade from grades;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, full_name, role, class_id from user_profiles;
select pupil, grade from grades;
update grades set grade = 5 where class_id = 7 returning id, grade;
insert into grades (pupil, class_id, grade) values ('22222222-2222-4222-8222-222222222222', 7, 3) returning id;
insert into grades (pupil, class_id, grade) values ('33333333-3333-4333-8333-333333333333', 8, 3);
-- as authenticated 22222222-2222-4222-8222-222222222222
select grade from grades;
select full_name from user_profiles;
update user_profiles set full_name = 'Bo B' where id = auth.uid() returning full_name, class_id;
update user_profiles set class_id = 8 where id = auth.uid() returning class_id;
update grades set grade = 6;
-- name: a pupil becomes a teacher
update user_profiles set role = 'teacher' where id = auth.uid() returning role;
-- as service_role
select p.full_name, g.grade from grades g join user_profiles p on p.id = g.pupil;
select full_name, role from user_profiles where role = 'teacher';
insert into user_profiles (id, full_name, role) values ('33333333-3333-4333-8333-333333333333', 'Cyd C', 'parent')
on conflict (id) do update set full_name = excluded.full_name, role = excluded.role returning full_name, role;
