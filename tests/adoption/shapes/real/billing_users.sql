/*
modelled_on = "A subscription starter: users with billing address and payment method beside customers and subscriptions; rows are private"
options = ["adopt-table=users"]
[signs_up]
full_name = "New Person"
avatar_url = "https://example.org/new.png"
*/
create table public.users (
  id uuid references auth.users not null primary key,
  full_name text,
  avatar_url text,
  billing_address jsonb,
  payment_method jsonb
);
alter table public.users enable row level security;
create policy "Can view own user data." on public.users for select using (auth.uid() = id);
create policy "Can update own user data." on public.users for update using (auth.uid() = id);
create function public.handle_new_user() returns trigger as $$
begin
  insert into public.users (id, full_name, avatar_url)
  values (new.id, new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'avatar_url');
  return new;
end
$$ language plpgsql security definer;
create trigger on_auth_user_created after insert on auth.users for each row execute procedure public.handle_new_user();
create table public.customers (id uuid references auth.users not null primary key, stripe_customer_id text);
alter table public.customers enable row level security;
create type public.subscription_status as enum ('trialing', 'active', 'canceled');
create table public.subscriptions (
  id text primary key,
  user_id uuid references auth.users not null,
  status public.subscription_status,
  quantity integer
);
alter table public.subscriptions enable row level security;
create policy "Can only view own subs data." on public.subscriptions for select using (auth.uid() = user_id);
insert into public.users values
  ('11111111-1111-4111-8111-111111111111', 'Ada Lovelace', 'https://example.org/ada.png', '{"city": "London", "line1": "St James 12"}', '{"type": "card", "last4": "4242"}'),
  ('22222222-2222-4222-8222-222222222222', null, null, null, null), ('33333333-3333-4333-8333-333333333333', 'Cyd', null, '[]', '"none"');
insert into public.customers values ('11111111-1111-4111-8111-111111111111', 'cus_1');
insert into public.subscriptions values ('sub_1', '11111111-1111-4111-8111-111111111111', 'active', 1);
-- probes
-- as anon
select * from users;
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, full_name, avatar_url, billing_address, payment_method from users;
select u.full_name, s.status from users u join subscriptions s on s.user_id = u.id;
update users set full_name = 'Ada King', billing_address = '{"city": "Paris"}' where id = auth.uid() returning full_name, billing_address;
update users set payment_method = null where id = '33333333-3333-4333-8333-333333333333';
select * from customers;
-- as authenticated 22222222-2222-4222-8222-222222222222
select full_name, billing_address from users;
insert into users (id, full_name) values (auth.uid(), 'Bo');
-- as service_role
select u.id, c.stripe_customer_id from users u left join customers c on c.id = u.id;
update users set billing_address = '{"city": "Lund"}', payment_method = '{"type": "card"}' where id = '22222222-2222-4222-8222-222222222222' returning billing_address, payment_method;
select billing_address ->> 'city' from users where payment_method ->> 'last4' = '4242';
