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
