-- Who may do what with user_progress. The rolled-up columns are nobody's: only the trigger on sessions writes them.
revoke all on table public.user_progress from public, anon, authenticated, service_role;

grant select on table public.user_progress to authenticated;
grant insert (user_id) on table public.user_progress to authenticated;
grant update (total_points, mastered_words_count, learning_words_count, new_words_count)
  on table public.user_progress to authenticated;
grant select, delete on table public.user_progress to service_role;
grant insert (id, user_id, total_points, mastered_words_count, learning_words_count, new_words_count, created_at, updated_at)
  on table public.user_progress to service_role;
grant update (total_points, mastered_words_count, learning_words_count, new_words_count)
  on table public.user_progress to service_role;

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
