"""Roles of the API, and users where there is no auth server.

Why: everything else hangs on auth.users(id), auth.uid() and the three roles.
Locks: nothing of anybody else; where auth.users exists it is not touched.
Beside it: any code may run.
Back: drops auth.users and its functions only where they were made here; refuses while it holds users. Roles stay.
"""

from alembic import op

revision = "0001_create_identity"
down_revision = None
branch_labels = None
depends_on = None
downgrade_drops = ("auth.users",)


def upgrade() -> None:
    op.execute(
        r"""
-- Nothing is changed before this has looked: a table of one of our names in another shape stops the upgrade.
do $preflight$
declare
  problems text;
begin
  select string_agg(format('%s (%s)', p.table_name, p.what), '; ' order by p.table_name)
  into problems
  from (
    select w.table_name, string_agg(
      case when a.attname is null then 'no column ' || w.column_name
        else format('%s is %s instead of %s', w.column_name, format_type(a.atttypid, a.atttypmod), w.type_name) end,
      ', ' order by w.column_name
    ) as what
    from (values
      ('user_profiles', 'id', 'text'),
      ('user_profiles', 'user_id', 'uuid'),
      ('user_profiles', 'external_id', 'text'),
      ('user_profiles', 'username', 'text'),
      ('user_profiles', 'display_name', 'text'),
      ('user_profiles', 'first_name', 'text'),
      ('user_profiles', 'last_name', 'text'),
      ('user_profiles', 'email', 'text'),
      ('user_profiles', 'phone', 'text'),
      ('user_profiles', 'bio', 'text'),
      ('user_profiles', 'company_name', 'text'),
      ('user_profiles', 'target_audience', 'text'),
      ('user_profiles', 'business_context', 'text'),
      ('user_profiles', 'master_system_prompt', 'text'),
      ('user_profiles', 'avatar_emoji', 'text'),
      ('user_profiles', 'avatar_url', 'text'),
      ('user_profiles', 'profile_picture_url', 'text'),
      ('user_profiles', 'logo_url', 'text'),
      ('user_profiles', 'profile_visibility', 'text'),
      ('user_profiles', 'role', 'text'),
      ('user_profiles', 'referral_code', 'text'),
      ('user_profiles', 'key_metrics', 'jsonb'),
      ('user_profiles', 'preferences', 'jsonb'),
      ('user_profiles', 'notification_settings', 'jsonb'),
      ('user_profiles', 'timezone', 'text'),
      ('user_profiles', 'language', 'text'),
      ('user_profiles', 'is_active', 'boolean'),
      ('user_profiles', 'email_verified', 'boolean'),
      ('user_profiles', 'is_anonymous', 'boolean'),
      ('user_profiles', 'last_login', 'timestamp with time zone'),
      ('user_profiles', 'login_count', 'integer'),
      ('user_profiles', 'first_seen_at', 'bigint'),
      ('user_profiles', 'last_interaction_at', 'bigint'),
      ('user_profiles', 'last_analyzed_at', 'bigint'),
      ('user_profiles', 'last_photo_analyzed_at', 'bigint'),
      ('user_profiles', 'message_count', 'integer'),
      ('user_profiles', 'personality_traits', 'jsonb'),
      ('user_profiles', 'appearance_traits', 'jsonb'),
      ('user_profiles', 'behavioral_metrics', 'jsonb'),
      ('user_profiles', 'cultural_attributes', 'jsonb'),
      ('user_profiles', 'analysis_summary', 'jsonb'),
      ('user_profiles', 'metadata', 'jsonb'),
      ('user_profiles', 'created_at', 'timestamp with time zone'),
      ('user_profiles', 'updated_at', 'timestamp with time zone'),
      ('user_progress', 'id', 'uuid'),
      ('user_progress', 'user_id', 'uuid'),
      ('user_progress', 'total_sessions', 'integer'),
      ('user_progress', 'total_descriptions', 'integer'),
      ('user_progress', 'total_images', 'integer'),
      ('user_progress', 'total_questions_answered', 'integer'),
      ('user_progress', 'total_correct_answers', 'integer'),
      ('user_progress', 'total_vocabulary_learned', 'integer'),
      ('user_progress', 'total_answer_seconds', 'integer'),
      ('user_progress', 'total_time_spent_minutes', 'integer'),
      ('user_progress', 'average_accuracy', 'numeric(5, 2)'),
      ('user_progress', 'average_completion_time_seconds', 'integer'),
      ('user_progress', 'last_activity_at', 'timestamp with time zone'),
      ('user_progress', 'last_description_at', 'timestamp with time zone'),
      ('user_progress', 'last_qa_session_at', 'timestamp with time zone'),
      ('user_progress', 'last_vocabulary_practice_at', 'timestamp with time zone'),
      ('user_progress', 'last_active_on', 'date'),
      ('user_progress', 'current_streak_days', 'integer'),
      ('user_progress', 'longest_streak_days', 'integer'),
      ('user_progress', 'total_points', 'integer'),
      ('user_progress', 'mastered_words_count', 'integer'),
      ('user_progress', 'learning_words_count', 'integer'),
      ('user_progress', 'new_words_count', 'integer'),
      ('user_progress', 'created_at', 'timestamp with time zone'),
      ('user_progress', 'updated_at', 'timestamp with time zone'),
      ('user_api_keys', 'id', 'uuid'),
      ('user_api_keys', 'user_id', 'uuid'),
      ('user_api_keys', 'openai_api_key', 'text'),
      ('user_api_keys', 'unsplash_api_key', 'text'),
      ('user_api_keys', 'anthropic_api_key', 'text'),
      ('user_api_keys', 'last_validated_at', 'timestamp with time zone'),
      ('user_api_keys', 'is_active', 'boolean'),
      ('user_api_keys', 'validation', 'jsonb'),
      ('user_api_keys', 'created_at', 'timestamp with time zone'),
      ('user_api_keys', 'updated_at', 'timestamp with time zone'),
      ('export_history', 'id', 'uuid'),
      ('export_history', 'user_id', 'uuid'),
      ('export_history', 'export_type', 'character varying(50)'),
      ('export_history', 'export_format', 'character varying(20)'),
      ('export_history', 'status', 'character varying(20)'),
      ('export_history', 'records_count', 'integer'),
      ('export_history', 'file_size_bytes', 'bigint'),
      ('export_history', 'file_url', 'text'),
      ('export_history', 'filters', 'jsonb'),
      ('export_history', 'data', 'jsonb'),
      ('export_history', 'error_message', 'text'),
      ('export_history', 'retry_count', 'integer'),
      ('export_history', 'started_at', 'timestamp with time zone'),
      ('export_history', 'completed_at', 'timestamp with time zone'),
      ('export_history', 'processing_time_seconds', 'integer'),
      ('export_history', 'expires_at', 'timestamp with time zone'),
      ('export_history', 'created_at', 'timestamp with time zone'),
      ('export_history', 'updated_at', 'timestamp with time zone'),
      ('user_profile_audit_logs', 'id', 'uuid'),
      ('user_profile_audit_logs', 'user_id', 'uuid'),
      ('user_profile_audit_logs', 'action', 'text'),
      ('user_profile_audit_logs', 'origin', 'text'),
      ('user_profile_audit_logs', 'actor', 'uuid'),
      ('user_profile_audit_logs', 'changed', 'text[]'),
      ('user_profile_audit_logs', 'error_code', 'text'),
      ('user_profile_audit_logs', 'error_message', 'text'),
      ('user_profile_audit_logs', 'retry_count', 'integer'),
      ('user_profile_audit_logs', 'metadata', 'jsonb'),
      ('user_profile_audit_logs', 'created_at', 'timestamp with time zone')
    ) as w (table_name, column_name, type_name)
    left join pg_attribute as a
      on a.attrelid = to_regclass('public.' || w.table_name) and a.attname = w.column_name and not a.attisdropped and a.attnum > 0
    where to_regclass('public.' || w.table_name) is not null
      and (a.attname is null or format_type(a.atttypid, a.atttypmod) <> w.type_name)
    group by w.table_name
  ) as p;
  if problems is not null then
    raise exception 'tables with our names exist already, in another shape: %', problems
      using hint = 'Nothing was changed. Rename them or move them to another schema, then run the upgrade again.';
  end if;

  -- The right columns alone do not make a table ours: without its key, or with policies of somebody's, it would be open.
  select string_agg(p.table_name || ' ' || p.what, '; ' order by p.table_name, p.what)
  into problems
  from (
    select c.relname as table_name, unnest(array_remove(array[
      case when c.relkind <> 'r' then 'is no ordinary table' end,
      case when not exists (select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'p') then 'has no primary key' end,
      case when not exists (select from pg_constraint as k where k.conrelid = c.oid and k.contype = 'f' and k.confrelid = to_regclass('auth.users'))
        then 'does not refer to auth.users' end,
      case when exists (select from pg_policy as y where y.polrelid = c.oid) then 'has policies of its own' end
    ], null)) as what
    from pg_class as c
    where c.oid in (
      to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.user_api_keys'),
      to_regclass('public.export_history'), to_regclass('public.user_profile_audit_logs')
    )
  ) as p;
  if problems is not null then
    raise exception 'tables with our names exist already, and cannot be taken over as they are: %', problems
      using hint = 'Nothing was changed. Rename them or move them to another schema, then run the upgrade again.';
  end if;

  select string_agg(f.oid::regprocedure::text, ', ' order by f.oid::regprocedure::text)
  into problems
  from pg_proc as f
  where f.pronamespace = 'public'::regnamespace
    and f.proname in (
      'create_user', 'ensure_user_profile', 'gen_available_username', 'get_my_profile_v2', 'get_public_profile',
      'get_user_profile_stats', 'update_my_profile_v2'
    );
  if problems is not null then
    raise exception 'functions with our names exist already: %', problems
      using hint = 'Nothing was changed. Rename them or move them to another schema, then run the upgrade again.';
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
