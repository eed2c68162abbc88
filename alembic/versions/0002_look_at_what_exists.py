"""The roles of the API, and a look at what is here already.

Why: all else hangs on the roles. What cannot be taken over, or is a question, ends the upgrade here, with nothing changed.
Locks: each table that is taken over, for a moment: functions and triggers are tried with its new columns. Else nothing.
Compatible with: any code.
Back: drops the functions that planned it. Roles stay: they belong to the whole server.
"""

from pathlib import Path

from alembic import op

revision = "0002_look_at_what_exists"
down_revision = "0001_default_profile_id"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    # What takes over tables that are here already. It stays until 0014_create_sign_up_triggers; a body may name what only
    # later revisions make.
    op.execute("set local check_function_bodies = off")
    for function in planner():
        op.execute(function.read_text(encoding="utf-8"))
    op.execute("set local check_function_bodies = on")
    op.execute(
        r"""
-- Nothing is changed before this has looked. All that came before it goes with this transaction.
do $preflight$
declare
  problems text;
  questions text;
begin
  -- What exists already is taken over. What stands against that, all of it, and before anything else:
  select
    string_agg(format(E'\n  %s: %s. Wanted: %s. %s', s.object, s.found, s.wanted, s.remedy), '' order by s.seq) filter (where s.action = 'stop'),
    string_agg(format(E'\n  %s: %s. %s', s.object, s.found, s.remedy), '' order by s.seq) filter (where s.action = 'question')
  into problems, questions
  from profiles_internal.adoption_plan() as s;
  if problems is not null then
    raise exception 'what exists already cannot be taken over as it is:%', concat_ws(E'\nQuestions that are open, too:', problems, questions)
      using hint = 'Nothing was changed. The whole plan: profiles-schema adopt --dry-run';
  elsif questions is not null then
    raise exception 'questions about what exists already are open:%', questions
      using hint = 'Nothing was changed. Write them to a file, and answer them there: profiles-schema adopt --dry-run --write-answers '
        'adopt.toml; then: profiles-schema upgrade -x answers=adopt.toml';
  end if;

  -- What only shows when it runs, while the triggers of the application are what they are.
  select string_agg(format(E'\n  %s: %s.', t.relation, t.refusal), '' order by t.place) into problems
  from (
    select r.place, f.relation, profiles_internal.try_adoption(r.table_name, f.relation) as refusal
    from profiles_internal.adopting_revisions() as r
    cross join lateral (select profiles_internal.table_to_adopt(r.table_name) as relation) as f
    where f.relation is not null
  ) as t
  where t.refusal is not null;
  if problems is not null then
    raise exception 'what exists already cannot be taken over as it is:%', problems
      using hint = 'Nothing was changed. The table has other columns from then on: adapt or drop what would fail, then run the '
        'upgrade again.';
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


def downgrade() -> None:
    drop_planner()


def planner() -> list[Path]:
    """The functions that plan an adoption and carry it out."""
    return sorted((Path(__file__).parents[1] / "adoption").glob("*.sql"))


def drop_planner() -> None:
    """Drop the functions of the planner."""
    op.execute(
        f"""
do $drop_planner$
declare
  ours record;
begin
  for ours in
    select p.oid::regprocedure as name
    from pg_proc as p
    where p.pronamespace = 'profiles_internal'::regnamespace
      and p.proname = any (string_to_array('{" ".join(function.stem for function in planner())}', ' '))
  loop
    execute format('drop function %s', ours.name);
  end loop;
end
$drop_planner$
"""
    )
