"""Who may do what: rights first taken away, then given one by one, row by row.

Why: hosted databases open new tables to everybody by default; here everything starts closed.
Locks: our own tables in ACCESS EXCLUSIVE mode for milliseconds; nothing uses them before this.
Compatible with: any code; the API roles reach the tables from here on.
Back: drops the policies and takes the rights away: the tables are closed again.
"""

from alembic import op

revision = "0012_create_policies"
down_revision = "0011_create_functions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
-- Policies that were here before are set aside in the transaction that brings ours: no moment without either.
select profiles_internal.adopt('0012_create_policies');
"""
    )
    op.execute(
        r"""
-- Who may do what with user_profiles. First everything is taken away by name: hosted default privileges survive a
-- revoke from PUBLIC. Then rights are given one by one.
revoke all on table public.user_profiles from public, anon, authenticated, service_role;

grant select on table public.user_profiles to authenticated;
grant update (
  username, display_name, first_name, last_name, phone, bio, company_name, target_audience, business_context,
  master_system_prompt, avatar_emoji, profile_picture_url, logo_url, profile_visibility, key_metrics, preferences,
  notification_settings, timezone, language
) on table public.user_profiles to authenticated;
grant select, insert, update, delete on table public.user_profiles to service_role;

alter table public.user_profiles enable row level security;

create policy "Owners can read their own profile" on public.user_profiles
  for select to authenticated
  using ((select auth.uid()) = user_id and is_active and (select profiles_internal.may_use_own_rows()));

create policy "Owners can edit their own profile" on public.user_profiles
  for update to authenticated
  using ((select auth.uid()) = user_id and is_active and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and is_active and (select profiles_internal.may_use_own_rows()));

-- Where users inserted their own row into the table that was taken over, they go on doing so. (An upsert writes the column
-- that says whose row it is, too: to what it is, the policies see to that. It may name updated_at, which a trigger sets.)
do $own_inserts$
begin
  if exists (
    select from profiles_internal.adopted as a
    where a.object_type = 'rights' and a.object_name = 'public.user_profiles' and (a.data ->> 'inserts')::boolean
  ) then
    grant update (user_id, updated_at) on table public.user_profiles to authenticated;
    begin
      execute (
        select pg_catalog.format('grant insert (%1$I), update (%1$I) on table public.user_profiles to authenticated', a.data ->> 'owner')
        from profiles_internal.adopted as a
        where a.object_type = 'table' and a.object_name = 'public.user_profiles'
        order by a.id desc limit 1
      );
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
    grant insert (
      user_id, username, display_name, first_name, last_name, phone, bio, company_name, target_audience, business_context,
      master_system_prompt, avatar_emoji, profile_picture_url, logo_url, profile_visibility, key_metrics, preferences,
      notification_settings, timezone, language, updated_at
    ) on table public.user_profiles to authenticated;

    create policy "Owners can make their own profile" on public.user_profiles
      for insert to authenticated
      with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));
  end if;
end
$own_inserts$;

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.user_profiles') then
    return;
  end if;
  revoke select on table public.user_profiles from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.user_profiles'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.user_profiles' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.user_profiles to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
"""
    )
    op.execute(
        r"""
-- Who may do what with user_progress. Only the trigger on sessions writes the counted columns. Only award_points writes
-- points.
revoke all on table public.user_progress from public, anon, authenticated, service_role;

grant select on table public.user_progress to authenticated;
grant insert (user_id) on table public.user_progress to authenticated;
grant update (mastered_words_count, learning_words_count, new_words_count) on table public.user_progress to authenticated;
grant select, delete on table public.user_progress to service_role;
grant insert (id, user_id, mastered_words_count, learning_words_count, new_words_count, created_at, updated_at)
  on table public.user_progress to service_role;
grant update (mastered_words_count, learning_words_count, new_words_count) on table public.user_progress to service_role;

alter table public.user_progress enable row level security;

create policy "Owners can read their own progress" on public.user_progress
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can start their own progress" on public.user_progress
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can change their own progress" on public.user_progress
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.user_progress') then
    return;
  end if;
  revoke select on table public.user_progress from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.user_progress'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.user_progress' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.user_progress to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('public.sessions'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- Who may do what with sessions, where the table is ours: users read their own, the application writes.
revoke all on table public.sessions from public, anon, authenticated, service_role;

grant select on table public.sessions to authenticated;
grant select, insert, update, delete on table public.sessions to service_role;

alter table public.sessions enable row level security;

-- It is there already where schema profiles_internal was dropped, and this runs again.
drop policy if exists "Owners can read their own sessions" on public.sessions;
create policy "Owners can read their own sessions" on public.sessions
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
-- Who may do what with user_api_keys. The columns accept only our ciphertext envelope, from every role.
revoke all on table public.user_api_keys from public, anon, authenticated, service_role;

grant select, delete on table public.user_api_keys to authenticated;
grant insert (user_id, openai_api_key, unsplash_api_key, anthropic_api_key, hints) on table public.user_api_keys to authenticated;
grant update (openai_api_key, unsplash_api_key, anthropic_api_key, hints) on table public.user_api_keys to authenticated;
grant select, insert, update, delete on table public.user_api_keys to service_role;

alter table public.user_api_keys enable row level security;

create policy "Owners can read their own API keys" on public.user_api_keys
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can store their own API keys" on public.user_api_keys
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can replace their own API keys" on public.user_api_keys
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can delete their own API keys" on public.user_api_keys
  for delete to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.user_api_keys') then
    return;
  end if;
  revoke select on table public.user_api_keys from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.user_api_keys'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.user_api_keys' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.user_api_keys to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
"""
    )
    op.execute(
        r"""
-- Who may do what with user_provider_keys. The column envelope accepts only our ciphertext envelope, from every role; whether a
-- key works, and is used, is for the application to say.
revoke all on table public.user_provider_keys from public, anon, authenticated, service_role;

grant select, delete on table public.user_provider_keys to authenticated;
grant insert (user_id, provider, label, envelope, hint) on table public.user_provider_keys to authenticated;
grant update (envelope, hint) on table public.user_provider_keys to authenticated;
grant select, insert, update, delete on table public.user_provider_keys to service_role;

alter table public.user_provider_keys enable row level security;

create policy "Owners can read their own provider keys" on public.user_provider_keys
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can store their own provider keys" on public.user_provider_keys
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can replace their own provider keys" on public.user_provider_keys
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can delete their own provider keys" on public.user_provider_keys
  for delete to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));
"""
    )
    op.execute(
        r"""
-- Who may do what with export_history. A user asks for an export; status, file and data are the application's.
revoke all on table public.export_history from public, anon, authenticated, service_role;

grant select on table public.export_history to authenticated;
grant insert (user_id, export_type, export_format, filters) on table public.export_history to authenticated;
grant update (filters) on table public.export_history to authenticated;
grant select, insert, update, delete on table public.export_history to service_role;

alter table public.export_history enable row level security;

create policy "Owners can read their own exports" on public.export_history
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

create policy "Owners can ask for their own exports" on public.export_history
  for insert to authenticated
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_add_own_rows()));

create policy "Owners can change their own pending exports" on public.export_history
  for update to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()))
  with check ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.export_history') then
    return;
  end if;
  revoke select on table public.export_history from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.export_history'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.export_history' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.export_history to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
"""
    )
    op.execute(
        r"""
-- Who may do what with user_profile_audit_logs. Append only, by grants: only the owner of the table can change
-- or remove a row (a trigger that forbids it would break ON DELETE SET NULL).
revoke all on table public.user_profile_audit_logs from public, anon, authenticated, service_role;

grant select on table public.user_profile_audit_logs to authenticated;
grant select, insert on table public.user_profile_audit_logs to service_role;

alter table public.user_profile_audit_logs enable row level security;

create policy "Owners can read their own audit log" on public.user_profile_audit_logs
  for select to authenticated
  using ((select auth.uid()) = user_id and (select profiles_internal.may_use_own_rows()));

-- Where users could not read columns of the application, they read all others, by name.
do $hidden_columns$
declare
  column_name text;
begin
  if not exists (select from profiles_internal.adopted as a where a.object_type = 'hidden columns' and a.object_name = 'public.user_profile_audit_logs') then
    return;
  end if;
  revoke select on table public.user_profile_audit_logs from authenticated;
  for column_name in
    select c.attname
    from pg_catalog.pg_attribute as c
    where c.attrelid = 'public.user_profile_audit_logs'::pg_catalog.regclass and c.attnum > 0 and not c.attisdropped and not exists (
      select from profiles_internal.adopted as a
      where a.object_type = 'hidden columns' and a.object_name = 'public.user_profile_audit_logs' and a.data operator(pg_catalog.?) c.attname::text
    )
  loop
    begin
      execute pg_catalog.format('grant select (%I) on table public.user_profile_audit_logs to authenticated', column_name);
    exception when undefined_column then
      null; -- a copy of our columns alone, made to compare rights
    end;
  end loop;
end
$hidden_columns$;
"""
    )
    op.execute(
        r"""
-- service_role passes row level security with BYPASSRLS. Where it cannot have that (only an administrator grants it),
-- it gets policies of its own.
do $service_role$
declare
  table_name text;
begin
  if (select r.rolbypassrls from pg_catalog.pg_roles as r where r.rolname = 'service_role') then
    return;
  end if;
  foreach table_name in array array[
    'public.user_profiles', 'public.user_progress', 'public.user_api_keys', 'public.user_provider_keys',
    'public.export_history', 'public.user_profile_audit_logs', 'public.sessions'
  ] loop
    if pg_catalog.obj_description(pg_catalog.to_regclass(table_name), 'pg_class') like 'profiles-schema:%'
      or table_name <> 'public.sessions'
    then
      execute pg_catalog.format(
        'create policy "Service role can do what its grants allow" on %s for all to service_role using (true) with check (true)',
        table_name
      );
    end if;
  end loop;
end
$service_role$;
"""
    )
    op.execute(
        r"""
-- What the application's own statements need.
select profiles_internal.grant_kept_rights();
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $drop_policies$
declare
  policy record;
begin
  for policy in
    select p.polname, p.polrelid::regclass as table_name
    from pg_policy as p
    where p.polrelid in (
        to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.user_api_keys'),
        to_regclass('public.user_provider_keys'), to_regclass('public.export_history'), to_regclass('public.user_profile_audit_logs'), to_regclass('public.sessions')
      )
      and (p.polname like 'Owners can %' or p.polname = 'Service role can do what its grants allow')
  loop
    execute format('drop policy %I on %s', policy.polname, policy.table_name);
  end loop;
end
$drop_policies$;

revoke all on table public.user_profiles, public.user_progress, public.user_api_keys, public.user_provider_keys,
  public.export_history, public.user_profile_audit_logs from public, anon, authenticated, service_role;

do $close_sessions$
begin
  if coalesce(obj_description(to_regclass('public.sessions'), 'pg_class'), '') like 'profiles-schema:%' then
    revoke all on table public.sessions from public, anon, authenticated, service_role;
  end if;
end
$close_sessions$;

-- What the application's own statements need stays.
select profiles_internal.grant_kept_rights();

select profiles_internal.undo_adoption('0012_create_policies');
"""
    )
