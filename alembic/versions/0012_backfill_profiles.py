"""Users who were there before get their profile and progress.

Why: triggers see only what comes after them.
Locks: rows that it inserts; one batch at a time, committed each.
Beside it: any code may run; a sign-up waits at most for one batch that wants the same name.
Back: nothing to do: the rows are the users', and stay.
"""

from alembic import op

revision = "0012_backfill_profiles"
down_revision = "0011_create_sign_up_triggers"
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
  batch_rows constant integer := 1000;
  waiting bigint;
  most_window_rows constant integer := 20000;
  window_rows integer := batch_rows;
  ids uuid[];
  end_id uuid;
  users jsonb[];
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
      if cardinality(ids) = batch_rows then
        end_id := ids[batch_rows];
      end if;
      -- Offset 0: made into JSON once, not again to look at deleted_at.
      users := array(
        select r.user_row
        from (select u.id, to_jsonb(u) as user_row from auth.users as u where u.id = any (ids) offset 0) as r
        where r.user_row ->> 'deleted_at' is null
        order by r.id
      );
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
        for i in 1 .. cardinality(users) loop
          begin
            created := created + profiles_internal.create_profiles(users[i:i]);
          exception when others then
            -- Unless the user has gone in the meantime.
            if exists (select from auth.users as u where u.id = (users[i] ->> 'id')::uuid) then
              failed := failed + 1;
              perform profiles_internal.record_events(array[(users[i] ->> 'id')::uuid], 'failed', 'backfill', sqlstate);
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
      -- Where little is left to do, in larger steps.
      window_rows := case
        when cardinality(ids) = batch_rows then batch_rows
        else least(2 * window_rows, most_window_rows)
      end;
    end if;
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
