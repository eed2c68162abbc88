"""Users who were there before get their profile and progress.

Why: triggers see only what comes after them.
Locks: the rows that it inserts, and their users; in batches of a tenth of a second, committed each.
Compatible with: any code; a sign-up waits for one batch at most; a change that waited longer is repaired at the end.
Back: nothing to do: the rows are the users', and stay.
"""

from pathlib import Path

from alembic import op

revision = "0015_backfill_profiles"
down_revision = "0014_create_sign_up_triggers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(run_batches())
        op.execute(
            r"""
do $backfill$
declare
  mode constant text := coalesce(nullif(current_setting('profiles_schema.backfill', true), ''), 'auto');
  inline_limit constant bigint := 100000;
  waiting bigint;
  user_id uuid;
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
    -- While a table was taken over, its own trigger was off and ours was not there yet. Users who signed up then wait for
    -- no job.
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
  if waiting > 0 then
    call profiles_internal.run_batches(
      -- The window reads the index of the keys alone. With the filter next to the limit, the planner overestimates the
      -- filter and sorts the table for every batch.
      format(
        $find$
        with looked_at as materialized (
          select u.id from auth.users as u where $1 is null or u.id > $1::uuid order by u.id limit $3
        )
        select
          array(
            select u.id::text
            from looked_at as u
            where (select 1 from public.user_profiles as p where p.user_id = u.id) is null
              or not %L::boolean and (select 1 from public.user_progress as g where g.user_id = u.id) is null
            order by u.id
            limit $2
          ),
          (select u.id::text from looked_at as u order by u.id offset $3 - 1)
        $find$,
        only_profiles
      ),
      'select profiles_internal.create_profiles(profiles_internal.living_users($1::uuid[]))',
      -- Unless the user has gone in the meantime.
      $skip$
      select profiles_internal.record_events(array[u.id], 'failed', 'backfill', $2) from auth.users as u where u.id = $1::uuid
      $skip$,
      created,
      failed
    );
  end if;

  -- A change of a user that could not wait for a batch reached no profile: these are repaired. The records of an adopted
  -- table have no SQLSTATE.
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
        op.execute("drop procedure profiles_internal.run_batches")


def downgrade() -> None:
    # The rows stay: they are the users' own.
    pass


def run_batches() -> str:
    """The procedure that works in batches."""
    return (Path(__file__).parents[1] / "run_batches.sql").read_text(encoding="utf-8")
