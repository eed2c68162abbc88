-- After sessions were inserted, changed or deleted: the progress of the users concerned is counted anew.
-- Statement-level with transition tables, so that ten thousand sessions ended at once are one count per user.
-- Only ended sessions count, so a statement that touches none of them does nothing.
-- Not guarded: a progress that silently stops counting would be worse than a statement that fails. A transaction of
-- several such statements can deadlock with another one (40P01); it is to be retried like any deadlock.
-- Definer: nobody else may write the rolled-up columns.
create or replace function profiles_internal.roll_up_sessions()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $roll_up_sessions$
declare
  concerned uuid[];
begin
  if tg_op = 'INSERT' then
    concerned := array(
      select distinct n.user_id from new_sessions as n where n.ended_at is not null and n.user_id is not null order by 1
    );
  elsif tg_op = 'DELETE' then
    concerned := array(
      select distinct o.user_id from old_sessions as o where o.ended_at is not null and o.user_id is not null order by 1
    );
  else
    concerned := array(
      select changed.user_id
      from (
        (
          select o.id, o.user_id, to_jsonb(o) as session from old_sessions as o where o.ended_at is not null
          except
          select n.id, n.user_id, to_jsonb(n) from new_sessions as n where n.ended_at is not null
        )
        union
        (
          select n.id, n.user_id, to_jsonb(n) from new_sessions as n where n.ended_at is not null
          except
          select o.id, o.user_id, to_jsonb(o) from old_sessions as o where o.ended_at is not null
        )
      ) as changed
      where changed.user_id is not null
      group by changed.user_id
      order by changed.user_id
    );
  end if;

  if cardinality(concerned) > 0 then
    perform profiles_internal.recount_progress(concerned);
  end if;
  return null;
end
$roll_up_sessions$;

-- Recounts one user whose sessions were there before: after a change of the time zone, and after a progress row was made, by
-- backfill, say. At sign-up nobody has any.
create or replace function profiles_internal.roll_up_user()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $roll_up_user$
begin
  if (select 1 from public.sessions as s where s.user_id = new.user_id and s.ended_at is not null limit 1) is not null then
    perform profiles_internal.recount_progress(array[new.user_id]);
  end if;
  return null;
end
$roll_up_user$;

revoke all on function profiles_internal.roll_up_user() from public, anon, authenticated, service_role;
revoke all on function profiles_internal.roll_up_sessions() from public, anon, authenticated, service_role;

create or replace trigger roll_up_inserted_sessions
  after insert on public.sessions
  referencing new table as new_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_changed_sessions
  after update on public.sessions
  referencing old table as old_sessions new table as new_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_deleted_sessions
  after delete on public.sessions
  referencing old table as old_sessions
  for each statement
  execute function profiles_internal.roll_up_sessions();

create or replace trigger roll_up_in_new_timezone
  after update on public.user_profiles
  for each row
  when (old.timezone is distinct from new.timezone)
  execute function profiles_internal.roll_up_user();

create or replace trigger roll_up_new_progress
  after insert on public.user_progress
  for each row
  when (current_setting('profiles_internal.signing_up', true) is distinct from 'yes')
  execute function profiles_internal.roll_up_user();
