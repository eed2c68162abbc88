"""Users who were there before get their profile and progress.

Why: triggers see only what comes after them.
Locks: the rows that it inserts, and their users; in batches of a tenth of a second, committed each.
Beside it: any code may run; a sign-up waits for one batch at most; a change that waited longer is repaired at the end.
Back: nothing to do: the rows are the users', and stay.
"""

from alembic import op

revision = "0015_backfill_profiles"
down_revision = "0014_create_sign_up_triggers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(
            r"""
do $backfill$
declare
  mode constant text := coalesce(nullif(current_setting('profiles_schema.backfill', true), ''), 'auto');
  inline_limit constant bigint := 100000;
  most_rows constant integer := 1000;
  batch_rows integer := 200;
  batch_started timestamptz;
  batch_is_full boolean;
  waiting bigint;
  most_window_rows constant integer := 20000;
  window_rows integer := batch_rows;
  ids uuid[];
  end_id uuid;
  users jsonb[];
  user_id uuid;
  last_id uuid := '00000000-0000-0000-0000-000000000000';
  attempts integer := 0;
  created bigint := 0;
  failed bigint := 0;
  only_profiles boolean := false;
begin
  if row_security_active('auth.users') then
    raise exception 'role % reads no users: row level security hides auth.users from it', current_user
      using errcode = 'insufficient_privilege',
        hint = format('An administrator runs: alter role %I bypassrls;', current_user);
  end if;

  select count(*) into waiting
  from (
    select
    from auth.users as u
    where to_jsonb(u) ->> 'deleted_at' is null
      and not (
        exists (select from public.user_profiles as p where p.user_id = u.id)
        and exists (select from public.user_progress as g where g.user_id = u.id)
      )
    limit inline_limit + 1
  ) as w;

  if mode = 'defer' or (mode = 'auto' and waiting > inline_limit) then
    if waiting > 0 and not exists (select from profiles_internal.jobs as j where j.kind = 'backfill' and j.state in ('pending', 'running', 'paused')) then
      insert into profiles_internal.jobs (kind, rows_total) values ('backfill', nullif(waiting, inline_limit + 1));
    end if;
    raise notice '% users wait for a profile; create them with: profiles-schema backfill',
      case when waiting > inline_limit then 'more than ' || inline_limit else waiting::text end;
    -- Who signed up while a table was taken over, from when its own trigger rested until ours came, waits for no job.
    if mode = 'defer' or not exists (
      select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_profiles'
    ) then
      return;
    end if;
    select count(*) into waiting
    from (
      select
      from auth.users as u
      where to_jsonb(u) ->> 'deleted_at' is null and not exists (select from public.user_profiles as p where p.user_id = u.id)
      limit inline_limit + 1
    ) as w;
    if waiting > inline_limit then
      return;
    end if;
    only_profiles := true;
  end if;

  perform set_config('profiles_internal.origin', 'backfill', false);
  while waiting > 0 loop
    batch_started := clock_timestamp();
    -- One block per batch: a lock that cannot be had costs one batch, which is tried again.
    begin
      users := null;
      -- The window comes from the index of the keys alone. With the filter beside the limit, the planner takes the filter
      -- for far more selective than it is, and sorts the table for every batch.
      with looked_at as materialized (
        select id
        from auth.users
        where id > last_id
        order by id
        limit window_rows
      )
      select
        array(
          select u.id
          from looked_at as u
          where (select 1 from public.user_profiles as p where p.user_id = u.id) is null
            or not only_profiles and (select 1 from public.user_progress as g where g.user_id = u.id) is null
          order by u.id
          limit batch_rows
        ),
        (select id from looked_at order by id offset window_rows - 1)
      into ids, end_id;
      batch_is_full := cardinality(ids) = batch_rows;
      if batch_is_full then
        end_id := ids[batch_rows];
      end if;
      users := profiles_internal.living_users(ids);
      if cardinality(users) > 0 then
        created := created + profiles_internal.create_profiles(users);
      end if;
      attempts := 0;
    exception
      when lock_not_available or deadlock_detected then
        attempts := attempts + 1;
        if attempts > 200 then
          raise;
        end if;
      when others then
        if users is null then
          raise;
        end if;
        -- One bad row must not keep the others back.
        foreach user_id in array ids loop
          begin
            created := created + profiles_internal.create_profiles(profiles_internal.living_users(array[user_id]));
          exception when others then
            -- Unless the user has gone in the meantime.
            if exists (select from auth.users as u where u.id = user_id) then
              failed := failed + 1;
              perform profiles_internal.record_events(array[user_id], 'failed', 'backfill', sqlstate);
            end if;
          end;
        end loop;
        attempts := 0;
    end;
    commit;
    if attempts > 0 then
      perform pg_sleep(least(0.05 * attempts, 1));
    else
      exit when end_id is null;
      last_id := end_id;
      if clock_timestamp() > batch_started + interval '100 ms' then
        batch_rows := greatest(batch_rows / 2, 50);
      elsif clock_timestamp() < batch_started + interval '50 ms' then
        batch_rows := least(batch_rows * 2, most_rows);
      end if;
      -- Where little is left to do, in larger steps.
      window_rows := case
        when batch_is_full then batch_rows
        else least(2 * window_rows, most_window_rows)
      end;
    end if;
  end loop;

  -- A change of a user that waited for a batch in vain reached no profile. The records of an adopted table have
  -- no SQLSTATE.
  foreach user_id in array array(
    select distinct f.user_id
    from (
      select a.user_id, a.created_at
      from public.user_profile_audit_logs as a
      where a.action in ('failed', 'skipped')
        and a.error_code is not null
      order by a.created_at desc
      limit 10000
    ) as f
    where f.user_id is not null and not exists (
      select from public.user_profile_audit_logs as r
      where r.user_id = f.user_id and r.action = 'repaired' and r.created_at > f.created_at
    )
  ) loop
    begin
      perform profiles_internal.repair_profile(user_id);
    exception when others then
      raise warning 'a profile is not brought up to date yet (SQLSTATE %); run: profiles-schema backfill', sqlstate;
    end;
    commit;
  end loop;
  perform set_config('profiles_internal.origin', '', false);

  select count(*) into waiting
  from auth.users as u
  where to_jsonb(u) ->> 'deleted_at' is null
    and not exists (select from public.user_profiles as p where p.user_id = u.id);
  if waiting > failed then
    raise exception '% users are still without a profile', waiting
      using hint = 'Run: profiles-schema backfill';
  elsif failed > 0 then
    raise warning '% users could not be given a profile; see them with: profiles-schema health', failed;
  elsif created > 0 then
    raise notice 'profiles created: %', created;
  end if;
end
$backfill$;
"""
        )


def downgrade() -> None:
    # The rows stay: they are the users' own.
    pass
