-- One group of traits with one path set to a value, or without that path for null. Missing parents are made; a parent that
-- is no object would be lost, and goes to profiles_internal.kept_json, as it does when the dual write meets one.
create or replace function profiles_internal.set_trait(
  p_user_id uuid,
  p_jsonb_column text,
  p_document jsonb,
  p_path text[],
  p_value jsonb
)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $set_trait$
declare
  document jsonb := coalesce(p_document, '{}');
  parent jsonb := document -> p_path[1];
begin
  if p_value is null then
    if document #> p_path is not null then
      document := document #- p_path;
    end if;
    return case when p_document is null then null else document end;
  end if;
  if cardinality(p_path) = 2 and jsonb_typeof(parent) is distinct from 'object' then
    if parent is not null then
      insert into profiles_internal.kept_json (user_id, jsonb_column, path, value)
      values (p_user_id, p_jsonb_column, p_path[1], parent);
    end if;
    document := document || jsonb_build_object(p_path[1], '{}'::jsonb);
  end if;
  return jsonb_set(document, p_path, p_value);
end
$set_trait$;

revoke all on function profiles_internal.set_trait(uuid, text, jsonb, text[], jsonb) from public, anon, authenticated, service_role;
