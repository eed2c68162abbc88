-- The plan by which an upgrade takes over tables that are there already: a row per step, in the order of the phases in
-- which they are done (adoption_phases), the reasons against it first. "kind" is what a step does, "data" the details
-- for a program, and "seq" its place in the plan. `profiles-schema adopt --dry-run` prints it, 0002_look_at_what_exists
-- refuses by it, and the revisions carry it out (profiles_internal.adopt).
-- Tables that the revisions have made or taken over already are left out: they bear our comment.
-- A question stands in the way until it is answered (profiles_internal.answer); then its action is 'answered', and its
-- "wanted" the answer. It is one to what was asked alone: "evidence" is the text of what the question is about, "asked"
-- its fingerprint, and an answer that was given to another one is none (profiles_internal.asked).
create or replace function profiles_internal.adoption_plan(p_revision text default null)
returns table (
  seq integer, revision text, phase text, kind text, object text, found text, wanted text, action text, lock text,
  "rows" bigint, seconds double precision, statement text, undo text, remedy text, id text, answers jsonb, asked text,
    data jsonb
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_plan$
declare
  other_name constant text := nullif(current_setting('profiles_schema.adopt_table', true), '');
  steps jsonb := '[]';
  taken text[] := '{}';
  planned record;
  relation regclass;
begin
  for planned in
    select w.name as table_name, w.definition as our_comment, r.revision
    from profiles_internal.wanted_shape() as w
    join profiles_internal.adopting_revisions() as r on r.table_name = w.name
    where w.kind = 'comment' and (p_revision is null or p_revision = r.revision)
    order by r.place
  loop
    relation := profiles_internal.table_to_adopt(planned.table_name);
    if planned.table_name = 'user_profiles' and other_name is not null and (
      relation is null and obj_description(to_regclass('public.user_profiles'), 'pg_class')
        is distinct from planned.our_comment
      or relation is not null and relation is distinct from to_regclass('public.' || quote_ident(other_name))
    ) then
      steps := steps || jsonb_build_object('phase', 'look', 'kind', 'refuse', 'revision', planned.revision,
        'action', 'stop', 'object', 'public.' || other_name,
        'found', case when to_regclass('public.' || quote_ident(other_name)) is null then 'no such table'
          else 'public.user_profiles exists, too' end,
        'wanted', 'one table of profiles', 'remedy', 'Correct -x adopt-table, or leave it away.');
    elsif relation is not null then
      taken := taken || ('public.' || planned.table_name);
      steps := steps || coalesce(
        (
          -- What is to be mended now is called as it is called now.
          select jsonb_agg(case when step ->> 'action' in ('stop', 'question') then step || (
            select jsonb_object_agg(t.key,
              regexp_replace(t.value, '\mpublic\.' || planned.table_name || '\M', relation::text, 'g'))
            from jsonb_each_text(step) as t where t.key in ('object', 'found', 'remedy')
          ) else step end)
          from profiles_internal.adoption_of_table(planned.table_name, relation) as step
        ), '[]'
      );
    end if;
  end loop;

  -- A table of ours that is never taken over: only the name can be in the way.
  if p_revision is null and to_regclass('public.user_provider_keys') is not null and not exists (
    select from pg_constraint as k
    where k.conrelid = to_regclass('public.user_provider_keys')
      and k.conname = 'ck_user_provider_keys_envelope_is_encrypted'
  ) then
    steps := steps || jsonb_build_object('phase', 'look', 'kind', 'refuse', 'revision', '0008_create_user_api_keys',
      'action', 'stop', 'object', 'public.user_provider_keys', 'found', 'a relation of that name',
      'wanted', 'free, for the API keys of users at any provider', 'remedy', 'Rename it: that name is needed.');
  end if;

  -- A revision that takes a table over has locked it, and has none of these.
  if p_revision is null or p_revision not in (select r.revision from profiles_internal.adopting_revisions() as r) then
    steps := steps || coalesce((
      select jsonb_agg(step) from profiles_internal.adoption_of_objects(p_revision) as step
      where p_revision is null or step ->> 'revision' = p_revision
    ), '[]');
  end if;

  -- An answer is for a question of the whole plan, before the first change. One about a lock may have become needless:
  -- it depends on a forecast. So may one about a column that is still nullable after a way back.
  if p_revision is null then
    steps := steps || coalesce((
      select jsonb_agg(jsonb_build_object('phase', 'look', 'kind', 'refuse',
        'revision', '0005_create_sign_up_functions', 'action', 'stop', 'id', g.id, 'object', format('answer %I', g.id),
        'found', g.answer, 'wanted', 'no answer',
          'remedy', 'No question needs it. Remove it from the file of answers.') order by g.id)
      from jsonb_each_text(coalesce(nullif(current_setting('profiles_schema.answers', true), ''), '{}')::jsonb)
        as g (id, answer)
      -- What stands in the way may hide a question.
      where not jsonb_path_exists(steps, '$[*] ? (@.id == $id || @.action == "stop")', jsonb_build_object('id', g.id))
        and g.answer <> ''
        and regexp_replace(g.id, '^required:(.*)[.][^.]*$',
          'lock:\1') <> all (array(select 'lock:' || t.name from unnest(taken) as t (name)))
    ), '[]');
  end if;
  -- What has been done by an answer is done.
  steps := steps || coalesce((
    select jsonb_agg(jsonb_build_object('phase', 'look', 'kind', 'refuse',
      'revision', coalesce(p_revision, '0014_create_sign_up_triggers'), 'action', 'stop', 'id', g.id,
      'object', format('answer %I', g.id), 'found', g.answer, 'wanted', profiles_internal.answer(g.id),
      'remedy', format('The upgrade began with the answer "%s". Give that one again, or go back first: profiles-schema '
        'downgrade base',
        profiles_internal.answer(g.id))) order by g.id)
    from jsonb_each_text(coalesce(nullif(current_setting('profiles_schema.answers', true), ''), '{}')::jsonb)
      as g (id, answer)
    where g.answer <> '' and g.answer <> profiles_internal.answer(g.id)
  ), '[]');

  return query
  select (row_number() over (order by q.action not in ('stop', 'question'), x.revision,
      array_position(profiles_internal.adoption_phases(), x.phase), x.ordinality))::integer,
    x.revision, x.phase, x.kind, x.object, x.found,
    case q.action when 'question' then 'an answer' when 'answered' then q.given else x.wanted end, q.action, x.lock,
      x."rows", x.seconds, x.statement, x.undo,
    case q.action when 'question' then format('%sAnswer %I with %s.',
      case when q.has_changed then format('What is asked about has changed since "%s" was written. ', q.given)
        when q.given is not null then format('"%s" is no answer to it. ', q.given) end,
      x.id, (select string_agg(format('"%s" (%s)', a.key, split_part(a.value, E'\n', 1)), ' or ')
        from jsonb_each_text(x.answers) as a)) else x.remedy end,
    x.id, x.answers, q.asked, x.data
  from rows from (jsonb_to_recordset(steps) as (
    revision text, phase text, kind text, object text, found text, wanted text, action text, lock text, "rows" bigint,
    seconds double precision, statement text, undo text, remedy text, id text, answers jsonb, evidence text, data jsonb
  )) with ordinality as x
  cross join lateral (
    select g.given, g.asked, c.has_changed,
      case when x.action = 'question' and x.answers ? g.given and not c.has_changed then 'answered'
        else x.action end as action
    from (
      select case when x.action = 'question' then profiles_internal.answer(x.id) end as given,
        case when x.action = 'question' then left(md5(x.evidence), 12) end as asked
    ) as g
    cross join lateral (
      select coalesce(g.given is not null and g.asked <> profiles_internal.asked(x.id), false) as has_changed
    ) as c
  ) as q
  order by 1;
end
$adoption_plan$;

revoke all on function profiles_internal.adoption_plan(text) from public, anon, authenticated, service_role;
