-- Carries out what the plan says for one revision, in its transaction, and notes how each step is taken back.
-- The plan is made anew, under the locks: what the rows need is known only then.
create or replace function profiles_internal.adopt(p_revision text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
as $adopt$
declare
  relation constant regclass := profiles_internal.table_to_adopt((
    select r.table_name from profiles_internal.adopting_revisions() as r where r.revision = p_revision
  ));
  step record;
  refusals text;
  questions text;
  objects oid[];
  failing oid[];
begin
  -- What is checked at commit would stand in the way of the next change of the table.
  set constraints all immediate;
  -- No user signs up while the trigger of a sign-up changes.
  if p_revision in ('0005_create_sign_up_functions', '0014_create_sign_up_triggers') and exists (
    select from profiles_internal.adoption_of_objects(p_revision) as planned
    where planned ->> 'revision' = p_revision and planned ->> 'kind' in ('empty_function', 'drop_trigger')
  ) then
    begin
      lock table auth.users in share row exclusive mode;
    exception when insufficient_privilege then
      null;
    end;
  end if;
  if relation is not null then
    -- What reads the table, or has values of its types, has to run afterwards. Looked up before the lock: it takes a
    -- while.
    objects := profiles_internal.objects_to_try(relation);
    failing := array(select f.object from profiles_internal.find_failing_objects(objects) as f);
    execute format('lock table %s in access exclusive mode', relation);
  end if;

  -- From here on the answers are the ones that the whole plan was looked at with.
  if p_revision = '0005_create_sign_up_functions' then
    insert into profiles_internal.adopted (revision, object_type, object_name, data)
    select p_revision, 'answer', g.key, g.value
    from jsonb_each(coalesce(nullif(current_setting('profiles_schema.answers', true), ''), '{}')::jsonb) as g
      where g.value <> '""';
    insert into profiles_internal.adopted (revision, object_type, object_name, data)
    select p_revision, 'asked', g.key, g.value
    from jsonb_each(coalesce(nullif(current_setting('profiles_schema.asked', true), ''), '{}')::jsonb) as g;
  end if;

  -- Tried again at the end, by 0014. Triggers of the application can need only a table that is taken over.
  if p_revision = '0005_create_sign_up_functions' and exists (
    select from profiles_internal.adopting_revisions() as r
      where profiles_internal.table_to_adopt(r.table_name) is not null
  ) and exists (
    select from pg_trigger as t where t.tgrelid = to_regclass('auth.users') and not t.tgisinternal
      and t.tgtype & 4 <> 0 and t.tgenabled <> 'D'
  ) then
    insert into profiles_internal.adopted (revision, object_type, object_name, data)
    select p_revision, 'sign-up', 'auth.users', to_jsonb(f.form)
    from generate_series(1, 3) as f (form) where profiles_internal.try_real_sign_up(f.form) is null limit 1;
  end if;

  for step in select * from profiles_internal.adoption_plan(p_revision) as p order by p.seq loop
    if step.action = 'stop' then
      refusals := concat_ws('; ', refusals, format('%s (%s): %s', step.object, step.found, step.remedy));
    elsif step.action = 'question' then
      questions := concat_ws('; ', questions, format('%s (%s): %s', step.object, step.found, step.remedy));
    end if;
    continue when refusals is not null or questions is not null;
    if step.undo is not null then
      insert into profiles_internal.adopted (revision, object_type, object_name, data, definition)
      values (p_revision, step.action, step.object, jsonb_build_object('kind', step.kind), step.undo);
    end if;
    begin
      execute coalesce(step.statement, 'select 1');
    exception when others then
      if sqlstate in ('55P03', '40P01', '57014') then
        raise;
      end if;
      raise exception 'adopting % failed at "%" (%): %', step.object, step.action, coalesce(step.wanted, step.found),
        sqlerrm
        using errcode = sqlstate,
          hint = 'Nothing of this revision was changed. The whole plan: profiles-schema adopt --dry-run';
    end;
  end loop;
  if refusals is not null then
    raise exception 'this cannot be taken over as it is: %',
      concat_ws('; questions that are open, too: ', refusals, questions)
      using hint = 'Nothing of this revision was changed. The whole plan: profiles-schema adopt --dry-run';
  elsif questions is not null then
    raise exception 'questions are open: %', questions
      using hint = 'Nothing of this revision was changed. Write them to a file, and answer them there: '
        'profiles-schema adopt --dry-run --write-answers adopt.toml; then go on with: profiles-schema upgrade -x '
          'answers=adopt.toml';
  end if;

  if relation is not null then
    select string_agg(format('%s (%s)', f.name, f.error), '; ' order by f.name) into refusals
    from profiles_internal.find_failing_objects(objects) as f where f.object <> all (failing);
    if refusals is not null then
      raise exception 'these would no longer run: %', refusals
        using hint = 'Nothing of this revision was changed. Adapt or drop them, then run the upgrade again.';
    end if;
  end if;
  if relation is not null and p_revision in ('0006_create_user_profiles', '0007_create_user_progress') then
    perform profiles_internal.try_sign_ups(regexp_replace(p_revision, '^\d+_create_', ''));
  end if;

  for step in
    select a.object_name as name, a.data -> 'rows' as found_rows,
      (select count(*) from profiles_internal.adopted as v where v.revision = p_revision
        and v.object_type in ('value', 'found value')) as changed,
      (select count(*) from profiles_internal.quarantine as q where q.table_name = a.object_name) as aside
    from profiles_internal.adopted as a
    where a.revision = p_revision and a.object_type = 'table'
  loop
    raise notice '%: % rows taken over, % values changed (the old ones are in profiles_internal.adopted), % rows in '
      'quarantine',
      step.name, step.found_rows, step.changed, step.aside;
  end loop;
end
$adopt$;

revoke all on function profiles_internal.adopt(text) from public, anon, authenticated, service_role;
