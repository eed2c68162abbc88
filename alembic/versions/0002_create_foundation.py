"""Roles of the API, users where there is no auth server, and the tables that the database keeps for itself.

Why: everything else hangs on auth.users(id), auth.uid() and the three roles, and leaves its record in profiles_internal.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for a foreign key: its writers wait for milliseconds, its readers not at all.
Beside it: any code may run.
Back: drops the internal tables, and auth.users where it was made here; refuses while that holds users. Roles stay.
"""

from pathlib import Path

from alembic import op

revision = "0002_create_foundation"
down_revision = "0001_default_profile_id"
branch_labels = None
depends_on = None
downgrade_drops = ("auth.users",)


def upgrade() -> None:
    op.execute(
        r"""
-- The roles of the API belong to the whole server: made only where missing, never dropped, and another database may be
-- making them at this very moment.
do $roles$
declare
  role_name text;
begin
  foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
    for attempt in 1 .. 20 loop
      exit when exists (select from pg_roles as r where r.rolname = role_name);
      begin
        if role_name = 'service_role' then
          begin
            execute 'create role service_role nologin noinherit bypassrls';
          exception when insufficient_privilege then
            execute 'create role service_role nologin noinherit';
          end;
        else
          execute format('create role %I nologin noinherit', role_name);
        end if;
      exception
        when insufficient_privilege then
          raise exception 'role % may not create the role %', current_user, role_name
            using errcode = 'insufficient_privilege',
              hint = 'An administrator runs: create role anon nologin noinherit; create role authenticated nologin noinherit; '
                'create role service_role nologin noinherit bypassrls; '
                || format('grant anon, authenticated, service_role to %I;', current_user);
        when duplicate_object or unique_violation or internal_error then
          perform pg_sleep(0.05 * attempt);
      end;
    end loop;
  end loop;
end
$roles$;

do $memberships$
declare
  role_name text;
  app_role constant text := nullif(current_setting('profiles_schema.app_role', true), '');
  member_name text;
begin
  if app_role is not null and not exists (select from pg_roles as r where r.rolname = app_role) then
    raise exception 'there is no role "%" to grant the API roles to', app_role
      using hint = 'Create it first, or correct -x app-role.';
  end if;
  foreach member_name in array array_remove(array[current_user::text, app_role], null) loop
    foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
      for attempt in 1 .. 20 loop
        begin
          if not exists (
            select from pg_auth_members as m
            where m.roleid = (select r.oid from pg_roles as r where r.rolname = role_name)
              and m.member = (select r.oid from pg_roles as r where r.rolname = member_name)
          ) or not pg_has_role(member_name, role_name, 'usage') then
            execute format('grant %I to %I', role_name, member_name);
          end if;
          exit;
        exception
          when insufficient_privilege then
            if pg_has_role(member_name, role_name, 'member') then
              exit;
            end if;
            raise exception 'role % may not grant the role % to %', current_user, role_name, member_name
              using errcode = 'insufficient_privilege',
                hint = format('An administrator runs: grant anon, authenticated, service_role to %I;', member_name);
          when unique_violation or internal_error then
            perform pg_sleep(0.05 * attempt);
        end;
      end loop;
    end loop;
  end loop;
end
$memberships$;
"""
    )
    # What takes over tables that are here already. It stays until 0011_create_sign_up_triggers; a body may name what only
    # later revisions make.
    op.execute("set local check_function_bodies = off")
    for function in planner():
        op.execute(function.read_text(encoding="utf-8"))
    op.execute("set local check_function_bodies = on")
    op.execute(
        r"""
-- Nothing is changed before this has looked. All that came before it goes with this transaction.
do $preflight$
declare
  problems text;
  questions text;
begin
  -- What exists already is taken over. What stands against that, all of it, and before anything else:
  select
    string_agg(format(E'\n  %s: %s. Wanted: %s. %s', s.object, s.found, s.wanted, s.remedy), '' order by s.seq) filter (where s.action = 'stop'),
    string_agg(format(E'\n  %s: %s. %s', s.object, s.found, s.remedy), '' order by s.seq) filter (where s.action = 'question')
  into problems, questions
  from profiles_internal.adoption_plan() as s;
  if problems is not null then
    raise exception 'what exists already cannot be taken over as it is:%', concat_ws(E'\nQuestions that are open, too:', problems, questions)
      using hint = 'Nothing was changed. The whole plan: profiles-schema adopt --dry-run';
  elsif questions is not null then
    raise exception 'questions about what exists already are open:%', questions
      using hint = 'Nothing was changed. Write them to a file, and answer them there: profiles-schema adopt --dry-run --write-answers '
        'adopt.toml; then: profiles-schema upgrade -x answers=adopt.toml';
  end if;

  if not has_schema_privilege('public', 'create') then
    raise exception 'role % may not create tables in schema public', current_user
      using errcode = 'insufficient_privilege',
        hint = format('Nothing was changed. An administrator runs: grant create on schema public to %I;', current_user);
  end if;

  if to_regclass('auth.users') is not null and to_regprocedure('auth.uid()') is null then
    raise exception 'auth.users exists, but the function auth.uid() does not'
      using hint = 'Nothing was changed. Row level security asks auth.uid() who is calling: create it, then run the upgrade again.';
  end if;

  if to_regclass('public.sessions') is not null and current_setting('profiles_schema.sessions', true) = 'require'
    and (
      select count(*) from pg_attribute as a
      where a.attrelid = to_regclass('public.sessions') and not a.attisdropped
        and a.attname in ('id', 'user_id', 'started_at', 'ended_at', 'duration_minutes', 'descriptions_generated',
          'images_processed', 'qa_attempts', 'vocabulary_learned')
        and (a.attname <> 'user_id' or a.atttypid = 'uuid'::regtype)
        and (a.attname not in ('started_at', 'ended_at') or a.atttypid = 'timestamptz'::regtype)
    ) < 9
  then
    raise exception 'the table sessions is not one of learning sessions, and -x sessions=require asks for one'
      using hint = 'Nothing was changed. Rename that table, or leave the option away: then there is no roll-up.';
  end if;
end
$preflight$;
"""
    )
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
-- The rows of auth.users belong to create_user, to the triggers, and to whoever owns the table.
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
    op.execute(
        r"""
create table if not exists profiles_internal.settings (
  key text not null,
  value jsonb not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_settings primary key (key)
);

comment on table profiles_internal.settings is 'Settings that the database itself reads: the feature flag, the audit level, thresholds';
comment on column profiles_internal.settings.key is 'Name of the setting';
comment on column profiles_internal.settings.value is 'Its value';
comment on column profiles_internal.settings.updated_at is 'When it was last set';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.timezones (
  name text not null,
  constraint pk_timezones primary key (name)
);

comment on table profiles_internal.timezones is 'Time zones the server knows, so that validating one is an index probe instead of a directory walk';
comment on column profiles_internal.timezones.name is 'A name of pg_timezone_names';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.jobs (
  id bigint generated always as identity,
  kind text not null,
  state text default 'pending'::text not null,
  parameters jsonb default '{}'::jsonb not null,
  cursor jsonb,
  rows_total bigint,
  rows_done bigint default 0 not null,
  rows_failed bigint default 0 not null,
  batch_rows integer,
  target_ms integer default 100 not null,
  fence bigint default 0 not null,
  runner text,
  heartbeat_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  started_at timestamp with time zone,
  finished_at timestamp with time zone,
  constraint pk_jobs primary key (id),
  constraint ck_jobs_state_is_known check (state::text in ('pending', 'running', 'paused', 'completed', 'cancelled'))
);

comment on table profiles_internal.jobs is 'Work in batches: where each job stands, so that it can be paused, resumed and taken over';
comment on column profiles_internal.jobs.id is 'Number of the job';
comment on column profiles_internal.jobs.kind is 'What it does, for example backfill';
comment on column profiles_internal.jobs.state is 'Where it stands';
comment on column profiles_internal.jobs.parameters is 'What it was called with; under left_out, until it ends, the rows skipped';
comment on column profiles_internal.jobs.cursor is 'Key of the last row done; null before the first batch';
comment on column profiles_internal.jobs.rows_total is 'Rows to do, as estimated at the start';
comment on column profiles_internal.jobs.rows_done is 'Rows done so far';
comment on column profiles_internal.jobs.rows_failed is 'Rows recorded and skipped';
comment on column profiles_internal.jobs.batch_rows is 'Rows of the present batch size';
comment on column profiles_internal.jobs.target_ms is 'Milliseconds that a batch should take';
comment on column profiles_internal.jobs.fence is 'Grows with every runner; a runner with an older one may not write';
comment on column profiles_internal.jobs.runner is 'Who works on it: host and process id';
comment on column profiles_internal.jobs.heartbeat_at is 'Last sign of life of the runner';
comment on column profiles_internal.jobs.created_at is 'When it was registered';
comment on column profiles_internal.jobs.started_at is 'When the first runner began';
comment on column profiles_internal.jobs.finished_at is 'When it completed or was cancelled';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.adopted (
  id bigint generated always as identity,
  revision text not null,
  object_type text not null,
  object_name text not null,
  definition text,
  data jsonb,
  created_at timestamp with time zone default now() not null,
  constraint pk_adopted primary key (id)
);

create index if not exists ix_adopted_key on profiles_internal.adopted ((data ->> 'key'));

comment on table profiles_internal.adopted is 'What an upgrade found and set aside; downgrade restores it';
comment on column profiles_internal.adopted.id is 'Order in which things were set aside';
comment on column profiles_internal.adopted.revision is 'The revision that set it aside';
comment on column profiles_internal.adopted.object_type is 'What it is, for example policy, trigger, column';
comment on column profiles_internal.adopted.object_name is 'Its qualified name';
comment on column profiles_internal.adopted.definition is 'SQL that brings it back';
comment on column profiles_internal.adopted.data is 'Values it held that were changed';
comment on column profiles_internal.adopted.created_at is 'When it was set aside';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.quarantine (
  id bigint generated always as identity,
  table_name text not null,
  row_data jsonb not null,
  reason text not null,
  created_at timestamp with time zone default now() not null,
  constraint pk_quarantine primary key (id)
);

comment on table profiles_internal.quarantine is 'Rows that adoption could not keep in their table, for example those without a user';
comment on column profiles_internal.quarantine.id is 'Order in which rows were set aside';
comment on column profiles_internal.quarantine.table_name is 'Qualified name of the table the row was in';
comment on column profiles_internal.quarantine.row_data is 'The whole row';
comment on column profiles_internal.quarantine.reason is 'Why it could not stay';
comment on column profiles_internal.quarantine.created_at is 'When it was set aside';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.legacy_columns (
  table_name text not null,
  column_name text not null,
  data_type text not null,
  column_default text,
  jsonb_column text not null,
  path text not null,
  state text default 'expanded'::text not null,
  recorded_at timestamp with time zone default now() not null,
  converted_at timestamp with time zone,
  contracted_at timestamp with time zone,
  constraint pk_legacy_columns primary key (table_name, column_name)
);

comment on table profiles_internal.legacy_columns is 'Wide columns that become JSON, as they were found; downgrade recreates them from here';
comment on column profiles_internal.legacy_columns.table_name is 'Name of the table';
comment on column profiles_internal.legacy_columns.column_name is 'Name of the column';
comment on column profiles_internal.legacy_columns.data_type is 'Its type as the server prints it';
comment on column profiles_internal.legacy_columns.column_default is 'Its default as the server prints it';
comment on column profiles_internal.legacy_columns.jsonb_column is 'The JSON column that takes its values';
comment on column profiles_internal.legacy_columns.path is 'The path inside that column, keys separated by dots';
comment on column profiles_internal.legacy_columns.state is 'Where its normalization stands, from expanded to contracted';
comment on column profiles_internal.legacy_columns.recorded_at is 'When it was found';
comment on column profiles_internal.legacy_columns.converted_at is 'When all its values had been converted';
comment on column profiles_internal.legacy_columns.contracted_at is 'When it was dropped';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.kept_json (
  id bigint generated always as identity,
  user_id uuid not null,
  jsonb_column text not null,
  path text not null,
  value jsonb not null,
  kept_at timestamp with time zone default now() not null,
  superseded_at timestamp with time zone,
  constraint pk_kept_json primary key (id),
  constraint fk_kept_json_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists ix_kept_json_user_id on profiles_internal.kept_json (user_id);

comment on table profiles_internal.kept_json is 'JSON values that no wide column can hold, kept over a downgrade';
comment on column profiles_internal.kept_json.id is 'Order in which values were kept';
comment on column profiles_internal.kept_json.user_id is 'Whose value';
comment on column profiles_internal.kept_json.jsonb_column is 'The JSON column it was in';
comment on column profiles_internal.kept_json.path is 'Its path inside that column';
comment on column profiles_internal.kept_json.value is 'The value';
comment on column profiles_internal.kept_json.kept_at is 'When it was put here';
comment on column profiles_internal.kept_json.superseded_at is 'When something newer stood in its place; it does not come back';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.migration_log (
  id bigint generated always as identity,
  revision text not null,
  direction text not null,
  started timestamp with time zone not null,
  seconds double precision,
  role text default CURRENT_USER not null,
  package_version text,
  outcome text default 'running'::text not null,
  users bigint,
  missing bigint,
  constraint pk_migration_log primary key (id),
  constraint ck_migration_log_direction_is_known check (direction::text in ('upgrade', 'downgrade')),
  constraint ck_migration_log_outcome_is_known check (outcome::text in ('running', 'done', 'failed'))
);

comment on table profiles_internal.migration_log is 'Every run of a revision: when, by whom, how long, and the users it left without a profile';
comment on column profiles_internal.migration_log.id is 'Order of the runs';
comment on column profiles_internal.migration_log.revision is 'The revision';
comment on column profiles_internal.migration_log.direction is 'upgrade or downgrade';
comment on column profiles_internal.migration_log.started is 'When it began';
comment on column profiles_internal.migration_log.seconds is 'How long it took; null while it runs';
comment on column profiles_internal.migration_log.role is 'The role that ran it';
comment on column profiles_internal.migration_log.package_version is 'Version of profiles-schema';
comment on column profiles_internal.migration_log.outcome is 'How it ended';
comment on column profiles_internal.migration_log.users is 'Users when it ended';
comment on column profiles_internal.migration_log.missing is 'Users without a profile when it ended';

-- It ran before there was a log.
insert into profiles_internal.migration_log (revision, direction, started, outcome)
values ('0001_default_profile_id', 'upgrade', now(), 'done');
"""
    )
    op.execute(
        r"""
insert into profiles_internal.timezones (name)
select z.name from pg_timezone_names as z
where z.name !~ '^posix' and z.name <> 'localtime'
on conflict do nothing;

insert into profiles_internal.settings (key, value) values
  ('auto_create_profiles', 'true'),
  ('audit_level', '"changes"'),
  ('normalize_verification_days', '7')
on conflict do nothing;
"""
    )
    op.execute(
        r"""
-- The language of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_language()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_language$
begin
  return 'en'::text;
end
$default_language$;

revoke all on function profiles_internal.default_language() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The timezone of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_timezone()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_timezone$
begin
  return 'UTC'::text;
end
$default_timezone$;

revoke all on function profiles_internal.default_timezone() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What user rows say about their profiles: one row per user row, in their order. The rule stands here alone; sign-up,
-- sign-in, backfill and gen_available_username all ask this.
--
-- A user row comes as JSON, so that a column which this auth server does not have yet reads as null instead of failing.
-- Nothing in the metadata decides authority, and nothing in it can fail: any key may hold any JSON at all, and a value of
-- the wrong type or shape is as good as none.
--
-- Usernames: the email's local part, lower-cased ("C": ASCII only, the same on every server), cleaned to [a-z0-9_.-], cut
-- to 32 characters; or, made alike, the username that an application's own table of users gives. The first choice is that
-- name; the second adds the last eight hex digits of the user id; the third is all 32 of them. No chance and no loop: the
-- thousandth ada@… costs what the second did. 'user' replaces what leaves nothing usable: no address, fewer than three
-- characters, or a reserved name, which would pass for somebody in charge. A name is reserved too if it only looks like one
-- of the list: without _ . - and with look-alikes read as one letter (adm1n, -admin-, supp0rt). No profile is called just 'user'.
--
-- Names lose control characters and what hides or turns text around, as their CHECK demands; a line end becomes a space.
-- An address of more than 320 characters is not copied. The phone is a contact number: that of the user row, else the
-- metadata's.
--
-- Nothing but simple expressions, which plpgsql evaluates without starting the executor: a call, or a query, per value
-- costs more than the insert that it prepares.
create or replace function profiles_internal.profile_values(p_users jsonb[])
returns table (
  user_id uuid,
  first_username text,
  second_username text,
  third_username text,
  email text,
  phone text,
  email_verified boolean,
  is_anonymous boolean,
  last_login timestamptz,
  display_name text,
  first_name text,
  last_name text,
  avatar_url text,
  timezone text,
  language text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $profile_values$
declare
  blanks constant text := E' \t\r\n';
  -- Words between spaces, not an array: that would be copied at every call.
  reserved constant text := ' '
    'abuse admin administrator anon anonymous api authenticated authenticator billing contact deleted help '
    'helpdesk hostmaster info mail mailerdaemon me moderator news nobody noreply null official operator owner '
    'pgbouncer postgres postgresql postmaster privacy root security service servicerole staff supabase '
    'supabaseadmin superadmin superuser support sysadmin system team undefined user webmaster www ';
  default_timezone constant text := profiles_internal.default_timezone();
  default_language constant text := profiles_internal.default_language();
  user_row jsonb;
  metadata jsonb;
  base text;
begin
  foreach user_row in array p_users loop
    user_id := (user_row ->> 'id')::uuid;
    email := case when length(user_row ->> 'email') between 1 and 320 then user_row ->> 'email' end;
    phone := case when length(user_row ->> 'phone') between 1 and 40 then user_row ->> 'phone' end;
    email_verified := email is not null and user_row ->> 'email_confirmed_at' is not null;
    is_anonymous := coalesce((user_row ->> 'is_anonymous')::boolean, false);
    last_login := (user_row ->> 'last_sign_in_at')::timestamptz;

    base := coalesce(user_row -> 'raw_app_meta_data' ->> 'identity_username', split_part(email, '@', 1));
    base := left(regexp_replace(lower(left(base, 1000) collate "C"), '[^a-z0-9_.-]', '', 'g'), 32);
    if base is null or length(base) < 3
      or strpos(reserved, ' ' || translate(base, '0345789_.-', 'oeastbg') || ' ') > 0
      -- The digit 1 may be an i or an l: where a name holds one, both are written as i.
      or strpos(base, '1') > 0
        and strpos(translate(reserved, 'l', 'i'), ' ' || translate(base, 'l10345789_.-', 'iioeastbg') || ' ') > 0
    then
      base := 'user';
    end if;
    third_username := replace(user_row ->> 'id', '-', '');
    second_username := left(base, 23) || '_' || right(third_username, 8);
    first_username := case when base = 'user' then second_username else base end;

    display_name := null;
    first_name := null;
    last_name := null;
    avatar_url := null;
    timezone := default_timezone;
    language := null;
    metadata := user_row -> 'raw_user_meta_data';
    if jsonb_typeof(metadata) = 'object' and metadata <> '{}' then
      if jsonb_typeof(metadata -> 'full_name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'full_name', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'name', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'preferred_username') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'preferred_username', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'user_name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'user_name', blanks), 200), blanks), '');
      end if;
      if metadata ?| '{first_name,given_name,last_name,family_name}' then
        if jsonb_typeof(metadata -> 'first_name') = 'string' then
          first_name := nullif(btrim(left(btrim(metadata ->> 'first_name', blanks), 200), blanks), '');
        end if;
        if first_name is null and jsonb_typeof(metadata -> 'given_name') = 'string' then
          first_name := nullif(btrim(left(btrim(metadata ->> 'given_name', blanks), 200), blanks), '');
        end if;
        if jsonb_typeof(metadata -> 'last_name') = 'string' then
          last_name := nullif(btrim(left(btrim(metadata ->> 'last_name', blanks), 200), blanks), '');
        end if;
        if last_name is null and jsonb_typeof(metadata -> 'family_name') = 'string' then
          last_name := nullif(btrim(left(btrim(metadata ->> 'family_name', blanks), 200), blanks), '');
        end if;
      end if;
      if concat(display_name, first_name, last_name) ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]' then
        display_name := nullif(btrim(regexp_replace(translate(display_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
        first_name := nullif(btrim(regexp_replace(translate(first_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
        last_name := nullif(btrim(regexp_replace(translate(last_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
      end if;
      -- A URL is whole or worthless, so the cut is one character behind the longest good one.
      if jsonb_typeof(metadata -> 'avatar_url') = 'string' then
        avatar_url := nullif(btrim(left(btrim(metadata ->> 'avatar_url', blanks), 2049), blanks), '');
      end if;
      if avatar_url is null and jsonb_typeof(metadata -> 'picture') = 'string' then
        avatar_url := nullif(btrim(left(btrim(metadata ->> 'picture', blanks), 2049), blanks), '');
      end if;
      if length(avatar_url) > 2048 or avatar_url !~ '^(https?://\S|/[^/\\\s])\S*$' then
        avatar_url := null;
      end if;
      if phone is null and jsonb_typeof(metadata -> 'phone') = 'string' then
        phone := nullif(btrim(left(btrim(metadata ->> 'phone', blanks), 41), blanks), '');
        if length(phone) > 40 or phone ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]' then
          phone := null;
        end if;
      end if;
      if metadata ?| '{language,locale,timezone}' then
        if jsonb_typeof(metadata -> 'language') = 'string' then
          language := nullif(btrim(left(btrim(metadata ->> 'language', blanks), 36), blanks), '');
        end if;
        if language is null and jsonb_typeof(metadata -> 'locale') = 'string' then
          language := nullif(btrim(left(btrim(metadata ->> 'locale', blanks), 36), blanks), '');
        end if;
        language := replace(language, '_', '-');
        if jsonb_typeof(metadata -> 'timezone') = 'string' then
          timezone := coalesce(
            (select z.name from profiles_internal.timezones as z where z.name = metadata ->> 'timezone'), default_timezone
          );
        end if;
      end if;
    end if;
    if language is null or length(language) > 35 or language !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' then
      language := default_language;
    end if;
    return next;
  end loop;
end
$profile_values$;

revoke all on function profiles_internal.profile_values(jsonb[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The rows of these users, as create_profiles takes them; deleted users are left out.
-- For a caller that makes profiles of users who were there before. It locks each row as the profile's foreign key will, so
-- that what it returns stays true until the caller commits: an erasure, and a change that finds no profile and makes none,
-- wait for the commit, and then see the profile (on_auth_user_updated).
create or replace function profiles_internal.living_users(p_user_ids uuid[])
returns jsonb[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $living_users$
begin
  if not has_any_column_privilege('auth.users', 'update') then
    -- A row lock needs the right to UPDATE. Without it the next sign-in, or backfill, makes up for what is missed here.
    null;
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- One snapshot for all statements: a row that has changed since is an error (40001), not an old row.
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for share;
  else
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for key share;
  end if;
  -- A statement of its own, which sees what the lock had to wait for. Offset 0: made into JSON once, not again to look at deleted_at.
  return array(
    select r.user_row
    from (select u.id, to_jsonb(u) as user_row from auth.users as u where u.id = any (p_user_ids) offset 0) as r
    where r.user_row ->> 'deleted_at' is null
    order by r.id
  );
end
$living_users$;

revoke all on function profiles_internal.living_users(uuid[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- profiles_internal is closed. One can enter it only to reach the functions that the callable functions of public
-- lead to; each of those carries its own grant, in its own file.
revoke all on schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all tables in schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all sequences in schema profiles_internal from public, anon, authenticated, service_role;

grant usage on schema profiles_internal to anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Before tables change: sign-up triggers of the application that write them are emptied, while nobody signs up.
select profiles_internal.adopt('0002_create_foundation');
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
select profiles_internal.put_back_adopted('0002_create_foundation');
drop function profiles_internal.living_users(uuid[]);
drop function profiles_internal.profile_values(jsonb[]);
drop function profiles_internal.default_timezone();
drop function profiles_internal.default_language();
drop table profiles_internal.migration_log;
drop table profiles_internal.kept_json;
drop table profiles_internal.legacy_columns;
drop table profiles_internal.quarantine;
drop table profiles_internal.adopted;
drop table profiles_internal.jobs;
drop table profiles_internal.timezones;
drop table profiles_internal.settings;
"""
    )
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
    drop_planner()


def planner() -> list[Path]:
    """The functions that plan an adoption and carry it out."""
    return sorted((Path(__file__).parents[1] / "adoption").glob("*.sql"))


def drop_planner() -> None:
    """Drop the functions of the planner."""
    op.execute(
        f"""
do $drop_planner$
declare
  ours record;
begin
  for ours in
    select p.oid::regprocedure as name
    from pg_proc as p
    where p.pronamespace = 'profiles_internal'::regnamespace
      and p.proname = any (string_to_array('{" ".join(function.stem for function in planner())}', ' '))
  loop
    execute format('drop function %s', ours.name);
  end loop;
end
$drop_planner$
"""
    )
