/*
modelled_on = "The personal half of such a kit, as an ORM declares it: varchar lengths, a name that the trigger takes from the address"
options = ["adopt-table=accounts"]
[questions]
"required:public.accounts.name" = "relax"
"trigger:auth.users:on_signed_up" = "drop"
*/
create table public.accounts (
  id uuid primary key not null,
  name varchar(255) not null,
  email varchar(320),
  is_personal_account boolean not null default true,
  picture_url varchar(1000),
  phone_number varchar(14),
  constraint accounts_id_users_id_fk foreign key (id) references auth.users (id) on delete cascade on update cascade
);
create unique index accounts_email_unique on public.accounts (email);
alter table public.accounts enable row level security;
create policy "accounts_read_self" on public.accounts as permissive for select to authenticated using ((select auth.uid()) = id);
create policy "accounts_edit_self" on public.accounts as permissive for update to authenticated using ((select auth.uid()) = id) with check ((select auth.uid()) = id);
create function public.setup_account() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.accounts (id, name, email, picture_url)
  values (new.id, coalesce(new.raw_user_meta_data ->> 'name', split_part(new.email, '@', 1), ''), new.email, new.raw_user_meta_data ->> 'avatar_url')
  on conflict (id) do nothing;
  return new;
end
$$;
create trigger on_signed_up after insert on auth.users for each row execute function public.setup_account();
insert into public.accounts values
  ('11111111-1111-4111-8111-111111111111', 'ada', 'ada@example.org', true, 'https://example.org/ada.png', '+310612345678'),
  ('22222222-2222-4222-8222-222222222222', 'bo', 'bo@example.org', true, null, null),
  ('33333333-3333-4333-8333-333333333333', '', 'cyd@example.org', false, null, '');
-- probes
-- as anon
select id from accounts;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, name, email, is_personal_account, picture_url, phone_number from accounts;
update accounts set name = 'Ada', picture_url = null, phone_number = '112' where id = auth.uid() returning name, picture_url, phone_number;
update accounts set name = repeat('x', 300) where id = auth.uid();
update accounts set name = 'x' where id = '22222222-2222-4222-8222-222222222222';
-- as authenticated 22222222-2222-4222-8222-222222222222
select name, phone_number from accounts where email = 'bo@example.org';
-- as service_role
select id, name, phone_number from accounts;
select name from accounts where id = any ('{11111111-1111-4111-8111-111111111111}'::uuid[]);
