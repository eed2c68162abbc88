-- Where another column than user_id says whose row of user_profiles it is: user_id is filled from it, and from then on
-- a trigger gives each of the two what the other one says (carry_user_id).
create or replace function profiles_internal.adoption_owner_steps(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_owner_steps$
declare
  target constant text := p_context ->> 'target';
  owner constant text := p_context ->> 'owner';
  found constant jsonb := p_context -> 'by_name' -> 'user_id';
begin
  if p_context ->> 'table' <> 'user_profiles' or owner is null or owner = 'user_id' then
    return;
  end if;
  -- A user_id that is there and says nothing.
  if found ->> 'found_name' is not null then
    return next jsonb_build_object('phase', 'fill_user_ids', 'kind', 'fill_columns', 'action', 'convert',
      'object', target || '.user_id', 'found', 'no user', 'wanted', 'the user of ' || owner,
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format(
        'with done as (update %1$s as t set user_id = %2$s where t.user_id is null returning t.id, t.user_id) '
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %3$L, ''value'', %4$L, jsonb_build_object(''key'', d.id, ''old'', null, ''new'', d.user_id) from done '
          'as d',
        target, p_context ->> 'user', p_context ->> 'by', target || '.user_id'),
      'undo', format('select profiles_internal.restore_values(%L, %L, ''value'')', p_context ->> 'by', target));
  end if;
  return next jsonb_build_object('phase', 'create_triggers', 'kind', 'create_triggers', 'action', 'create',
    'object', target, 'found', null, 'wanted', format('triggers that fill user_id from %s', owner),
    'lock', 'SHARE ROW EXCLUSIVE',
    'statement', format('select profiles_internal.install_carry_user_id(%L)', owner),
    'undo', format('drop trigger if exists carry_user_id on %1$s; drop trigger if exists carry_user_id_change on %1$s',
      target),
    'remedy', format('A statement that writes %s and knows no user_id works as before; a value that is no user of '
      'auth.users fails (23503), and so does a username that breaks our rule (23514).', owner));
end
$adoption_owner_steps$;

revoke all on function profiles_internal.adoption_owner_steps(jsonb) from public, anon, authenticated, service_role;
