-- The profile trigger that people write first. Nothing here is taken from anybody: it is the sum of the mistakes in
-- the list of sign-up failures, each of which somebody ships every week. The tests show that every scenario really
-- fails here, and that it fails for its own reason; so the same scenario passing on ours says something.
--
-- The file is cut at the lines "-- section:". test_signup_failures.py runs the first ones as the owner of the project
-- and the others where a scenario asks for them.

-- section: tables
create table user_profiles (
  id text primary key default gen_random_uuid()::text,
  user_id uuid not null unique references auth.users (id),
  username varchar(50) not null unique,
  email varchar(255) not null unique,
  phone varchar(20),
  display_name varchar(100),
  first_name varchar(50),
  avatar_url varchar(255),
  bio text,
  provider varchar(50) not null,
  role text not null default 'user',
  referral_code text default gen_random_uuid()::text unique deferrable initially deferred,
  is_active boolean not null default true,
  is_anonymous boolean not null default false,
  email_verified boolean not null default false,
  last_login timestamptz,
  login_count integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table profile_audit (
  id bigint generated always as identity primary key,
  "userId" text,
  actor uuid not null default auth.uid(),
  what text not null
);

alter table user_profiles enable row level security;
alter table user_profiles force row level security;

create policy read_profiles on user_profiles for select using (true);
create policy edit_profile on user_profiles for update using (auth.uid() = user_id);

create function touch_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at = now();
  return new;
end
$$;

create trigger touch_updated_at before update on user_profiles for each row execute function touch_updated_at();

create function audit_profile() returns trigger language plpgsql as $$
begin
  insert into profile_audit ("userId", what) values (old.user_id::text, tg_op);
  return null;
end
$$;

create trigger audit_profile after update or delete on user_profiles for each row execute function audit_profile();

-- section: trigger
create function handle_new_user() returns trigger language plpgsql as $$
begin
  insert into user_profiles (user_id, username, email, phone, display_name, avatar_url, provider, role, is_active, is_anonymous)
  values (
    new.id,
    split_part(new.email, '@', 1),
    new.email,
    new.phone,
    new.raw_user_meta_data ->> 'full_name',
    new.raw_user_meta_data ->> 'avatar_url',
    new.raw_app_meta_data ->> 'provider',
    coalesce(new.raw_user_meta_data ->> 'role', 'user'),
    coalesce((new.raw_user_meta_data ->> 'is_active')::boolean, true),
    new.is_anonymous
  );
  return new;
end
$$;

create trigger on_auth_user_created before insert on auth.users for each row execute function handle_new_user();

create function handle_user_email() returns trigger language plpgsql as $$
begin
  update user_profiles set email = new.email where user_id = new.id;
  return new;
end
$$;

drop trigger if exists on_auth_user_email on auth.users;
create trigger on_auth_user_email after update of email on auth.users
  for each row when (old.email is distinct from new.email) execute function handle_user_email();

create function handle_sign_in() returns trigger language plpgsql as $$
begin
  update user_profiles
  set last_login = new.last_sign_in_at, login_count = login_count + 1, display_name = new.raw_user_meta_data ->> 'full_name'
  where user_id = new.id;
  return new;
end
$$;

drop trigger if exists on_auth_user_signed_in on auth.users;
create trigger on_auth_user_signed_in after update of last_sign_in_at on auth.users
  for each row execute function handle_sign_in();

-- section: backfill
create function backfill_profiles() returns bigint language sql as $$
  with created as (
    insert into public.user_profiles (user_id, username, email, provider)
    select u.id, 'user_' || u.id, coalesce(u.email, u.id::text), 'unknown' from auth.users as u
    where not exists (select from public.user_profiles as p where p.user_id = u.id)
    returning 1
  )
  select count(*) from created
$$;

-- section: extras
comment on trigger on_auth_user_created on auth.users is 'Makes a profile for every new user';
create index on auth.users (created_at);

-- section: guarded
create or replace function handle_new_user() returns trigger language plpgsql as $$
begin
  begin
    insert into user_profiles (user_id, username, email, provider)
    values (new.id, split_part(new.email, '@', 1), new.email, new.raw_app_meta_data ->> 'provider');
  exception when others then
    raise log 'could not create the profile';
  end;
  return new;
end
$$;

-- section: uninstall
drop trigger if exists on_auth_user_created on auth.users;
drop trigger if exists on_auth_user_email on auth.users;
drop trigger if exists on_auth_user_signed_in on auth.users;
drop function handle_new_user(), handle_user_email(), handle_sign_in(), backfill_profiles();
drop table profile_audit, user_profiles;
