-- What the operator answered to a question of the plan; null without an answer.
-- A question is a step of action 'question' with "id" (stable text), "found" (the evidence) and "answers" (an object:
-- each possible answer, and what it leads to). A function with a question always returns it, and asks here only to know
-- what else to return: adoption_plan() marks those that are answered, and so knows which answers no question needs.
-- Once an upgrade has begun, the answers that it began with count: they are kept in profiles_internal.adopted.
create or replace function profiles_internal.answer(p_id text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $answer$
declare
  kept text;
begin
  if to_regclass('profiles_internal.adopted') is not null then
    select a.data #>> '{}' into kept
    from profiles_internal.adopted as a where a.object_type = 'answer' and a.object_name = p_id;
  end if;
  return nullif(coalesce(kept, nullif(current_setting('profiles_schema.answers', true), '')::jsonb ->> p_id), '');
end
$answer$;

revoke all on function profiles_internal.answer(text) from public, anon, authenticated, service_role;
