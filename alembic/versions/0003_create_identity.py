"""Users, where there is no auth server: auth.users and the functions that say who is calling.

Why: everything else hangs on auth.users(id) and auth.uid(). Where an auth server has them, nothing is made or changed.
Locks: nothing.
Compatible with: any code.
Back: drops auth.users where it was made here; refuses while that holds users.
"""

from alembic import op

revision = "0003_create_identity"
down_revision = "0002_look_at_what_exists"
branch_labels = None
depends_on = None
downgrade_drops = ("auth.users",)


def upgrade() -> None:
    op.execute(
        r"""
-- Users. Where an auth server has its table, that one is used and never altered.
do $identity$
begin
  if to_regclass('auth.users') is not null then
    return;
  end if;
  if to_regnamespace('auth') is null then
    create schema auth;
    comment on schema auth is 'profiles-schema: who signs in';
  end if;
  execute $frozen$
create table if not exists auth.users (
  id uuid default gen_random_uuid() not null,
  email text,
  phone text,
  email_confirmed_at timestamp with time zone,
  phone_confirmed_at timestamp with time zone,
  last_sign_in_at timestamp with time zone,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  is_sso_user boolean default false not null,
  is_anonymous boolean default false not null,
  banned_until timestamp with time zone,
  deleted_at timestamp with time zone,
  created_at timestamp with time zone default now(),
  updated_at timestamp with time zone default now(),
  constraint pk_users primary key (id)
);

comment on table auth.users is 'profiles-schema: who signs in';
$frozen$;
end
$identity$;
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.jwt(): the claims of the request, as the API gateway put them into the session.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.jwt()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $jwt$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$jwt$;

revoke all on function auth.jwt() from public, anon, authenticated, service_role;
grant execute on function auth.jwt() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.uid(): the user the request acts for; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.uid()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $uid$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid
$uid$;

revoke all on function auth.uid() from public, anon, authenticated, service_role;
grant execute on function auth.uid() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.role(): the claim "role" of the request; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.role()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $role$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
  )
$role$;

revoke all on function auth.role() from public, anon, authenticated, service_role;
grant execute on function auth.role() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.email(): the claim "email" of the request; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.email()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $email$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
  )
$email$;

revoke all on function auth.email() from public, anon, authenticated, service_role;
grant execute on function auth.email() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- Who may do what in schema auth, where it is ours: call the functions that read the claims, and nothing else.
-- The rows of auth.users belong to create_user, to the triggers, and to the owner of the table.
revoke all on schema auth from public, anon, authenticated, service_role;
revoke all on table auth.users from public, anon, authenticated, service_role;

grant usage on schema auth to anon, authenticated, service_role;

alter table auth.users enable row level security;
$frozen$;
  end if;
end
$only_where$
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $keep_data$
declare
  row_count bigint;
begin
  if coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    lock table auth.users in access exclusive mode;
    select count(*) into row_count from auth.users;
    if row_count > 0 and coalesce(current_setting('profiles_schema.allow_data_loss', true), '') <> 'yes' then
      raise exception 'this downgrade would drop tables that hold rows: auth.users (% rows)', row_count
        using hint = 'Save them first, then run it again with: -x allow-data-loss=yes';
    end if;
    drop table auth.users;
    drop function auth.uid(), auth.role(), auth.email(), auth.jwt();
    if coalesce(obj_description(to_regnamespace('auth'), 'pg_namespace'), '') like 'profiles-schema:%' then
      drop schema auth;
    end if;
  end if;
end
$keep_data$;
"""
    )
