/*
modelled_on = "Sign-in by text message: phone is unique and NOT NULL, the trigger copies it, nobody has an address"
options = ["adopt-table=profiles"]
[differs]
"Fay takes a number that Ada has" = "plan: profiles_phone_key"
"Fay deletes her profile" = "plan: A DELETE by users fails"
*/
insert into auth.users (id, aud, role, email, phone, phone_confirmed_at, created_at, updated_at) values
  ('66666666-6666-4666-8666-666666666666', 'authenticated', 'authenticated', null, '31612345678', '2024-01-06', '2024-01-06', '2024-01-06');
create table public.profiles (
  id uuid primary key references auth.users on delete cascade,
  phone text not null unique,
  nickname text,
  push_token text
);
alter table public.profiles enable row level security;
create policy "own" on public.profiles for all to authenticated using (id = auth.uid()) with check (id = auth.uid());
create function public.create_profile_for_phone() returns trigger language plpgsql security definer set search_path = public as $$
begin
  insert into profiles (id, phone) values (new.id, coalesce(new.phone, new.id::text));
  return new;
end
$$;
create trigger create_profile_for_phone after insert on auth.users for each row execute function public.create_profile_for_phone();
insert into public.profiles values
  ('11111111-1111-4111-8111-111111111111', '+31600000001', 'Ada', 'token-1'), ('22222222-2222-4222-8222-222222222222', '+31600000002', null, null),
  ('33333333-3333-4333-8333-333333333333', '33333333-3333-4333-8333-333333333333', 'Cyd', null),
  ('66666666-6666-4666-8666-666666666666', '31612345678', 'Fay', 'token-6');
-- probes
-- as anon
select phone from profiles;
-- as authenticated 66666666-6666-4666-8666-666666666666
select id, phone, nickname, push_token from profiles;
update profiles set push_token = 'token-7', nickname = 'F' where id = auth.uid() returning push_token, nickname;
-- name: Fay takes a number that Ada has
update profiles set phone = '+31600000001' where id = auth.uid();
-- name: Fay deletes her profile
delete from profiles where id = auth.uid() returning nickname;
-- as authenticated 22222222-2222-4222-8222-222222222222
insert into profiles (id, phone, nickname) values (auth.uid(), '+31600000002', 'Bo') on conflict (id) do update set nickname = excluded.nickname returning nickname;
update profiles set nickname = 'x' where id = '11111111-1111-4111-8111-111111111111';
-- as service_role
select id, phone, push_token from profiles;
select nickname from profiles where phone = '31612345678';
