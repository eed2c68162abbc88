-- get_my_progress(): the caller's own row of user_progress, with the streak as it stands today: 0 once a day was missed.
-- Today is that of the caller's time zone. Columns of the application that users may not read are null in it.
-- Errors: 42501 without a signed-in user, or for an erased or inactive one.
create or replace function public.get_my_progress()
returns public.user_progress
language plpgsql
set search_path = pg_catalog, pg_temp
as $get_my_progress$
declare
  progress public.user_progress;
  today date;
begin
  for attempt in 1 .. 2 loop
    execute (
      select format('select %s from public.user_progress as p where p.user_id = auth.uid()', string_agg(
        case when has_column_privilege(a.attrelid, a.attnum, 'select') then 'p.' || quote_ident(a.attname) else 'null' end, ', ' order by a.attnum))
      from pg_attribute as a
      where a.attrelid = 'public.user_progress'::regclass and a.attnum > 0 and not a.attisdropped
    ) into progress;
    exit when progress.user_id is not null or attempt = 2;
    perform profiles_internal.ensure_profile(auth.uid());
    insert into public.user_progress (user_id) values (auth.uid()) on conflict do nothing;
  end loop;
  select (now() at time zone p.timezone)::date into today from public.user_profiles as p where p.user_id = auth.uid();
  if progress.last_active_on < coalesce(today, (now() at time zone 'UTC')::date) - 1 then
    progress.current_streak_days := 0;
  end if;
  return progress;
end
$get_my_progress$;

revoke all on function public.get_my_progress() from public, anon, authenticated, service_role;
grant execute on function public.get_my_progress() to authenticated;
comment on function public.get_my_progress() is 'The caller''s own row of user_progress, with the streak as it stands today: 0 once a day was missed';
