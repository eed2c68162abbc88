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
