/*
modelled_on = "A multi-tenant kit: accounts of persons and of teams in one table, owned by primary_owner_user_id; one person owns several"
options = ["adopt-table=accounts"]
stops = "(?i)(quarantine|second|primary_owner_user_id)"
*/
create table public.accounts (
  id uuid primary key default gen_random_uuid(),
  primary_owner_user_id uuid not null default auth.uid() references auth.users on delete cascade,
  name varchar(255) not null,
  slug text unique,
  email varchar(320) unique,
  is_personal_account boolean not null default false,
  picture_url varchar(1000),
  public_data jsonb not null default '{}'
);
alter table public.accounts enable row level security;
create policy accounts_read on public.accounts for select to authenticated using (primary_owner_user_id = auth.uid());
insert into public.accounts (id, primary_owner_user_id, name, slug, email, is_personal_account) values
  ('11111111-1111-4111-8111-111111111111', '11111111-1111-4111-8111-111111111111', 'Ada', null, 'ada@example.org', true),
  ('22222222-2222-4222-8222-222222222222', '22222222-2222-4222-8222-222222222222', 'Bo', null, 'bo@example.org', true),
  ('aaaaaaaa-0000-4000-8000-000000000001', '11111111-1111-4111-8111-111111111111', 'Lab', 'lab', null, false),
  ('aaaaaaaa-0000-4000-8000-000000000002', '11111111-1111-4111-8111-111111111111', 'Works', 'works', null, false);
-- probes
-- as authenticated 11111111-1111-4111-8111-111111111111
select id, name, slug from accounts;
-- as service_role
select id, name from accounts where not is_personal_account;
