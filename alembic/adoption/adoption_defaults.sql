-- Types and defaults of the application that stay on our columns. They are recorded, so that a comparison with
-- what is declared accepts them; defaults that cannot stay are named.
create or replace function profiles_internal.adoption_defaults(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_defaults$
declare
  target constant text := p_context ->> 'target';
  constant_function constant text := 'create or replace function profiles_internal.default_%s() returns text language '
    'plpgsql immutable '
    'set search_path = pg_catalog, pg_temp as $default$' || E'\nbegin\n  return %s;\nend\n' || '$default$';
begin
  return query
  select jsonb_build_object('phase', 'keep_defaults', 'kind', 'keep_default', 'action', 'note',
    'object', format('%s.%s', target, c.value ->> 'name'),
    'found', concat_ws(' ', nullif(c.value ->> 'wanted_type', w.definition),
      'default ' || (c.value ->> 'found_default')),
    'wanted', case when d.hides then 'default ' || (c.value ->> 'wanted_default') when k.stays then 'stays'
      else coalesce('default ' || w.default_value, 'no default') end,
    'remedy', case when d.hides
      then 'No one sees a new profile until its user, or the application, makes it public.'
      when d.same then null when k.stays then 'New profiles get the default of the application, not ours: '
        || w.default_value
      else 'New profiles get our default. That of the application is no constant, or breaks a rule of this column; a '
        'downgrade brings it back.' end,
    'statement', case when k.stays then format(
      'insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''kept column'', '
        '%L, %L)',
      p_context ->> 'by', format('%s.%s', target, c.value ->> 'name'), jsonb_build_object(
        'found', concat_ws(' ', c.value ->> 'wanted_type', case when w.not_null then 'not null' end,
          'default ' || (c.value ->> 'wanted_default')),
        'declared', concat_ws(' ', w.definition, case when w.not_null then 'not null' end,
          'default ' || w.default_value)))
      || case when w.name in ('language', 'timezone')
        then '; ' || format(constant_function, w.name, c.value ->> 'wanted_default') else '' end end,
    'undo', case when k.stays and w.name in ('language', 'timezone')
      then format(constant_function, w.name, w.default_value) end)
  from jsonb_array_elements(p_context -> 'columns') as c
  join profiles_internal.wanted_shape() as w
    on w.table_name = p_context ->> 'table' and w.kind = 'column' and w.name = c.value ->> 'name'
  cross join lateral (
    select c.value ->> 'wanted_type' <> w.definition
      or c.value ->> 'wanted_default' is distinct from w.default_value as stays
  ) as k
  cross join lateral (
    select coalesce(w.default_value is null
      or c.value ->> 'found_default' in ('identity', 'NULL::' || (c.value ->> 'found_type'))
      or regexp_replace(c.value ->> 'found_default', '::.*$', '') = regexp_replace(w.default_value, '::.*$', ''), true)
        as same,
      w.name = 'profile_visibility' and c.value ->> 'found_default' is null as hides
  ) as d
  where p_context ->> 'table' = 'user_profiles' and w.name <> 'id' and (
    c.value ->> 'wanted_type' <> w.definition or d.hides
    or not d.same and w.name in ('role', 'language', 'timezone', 'profile_visibility', 'avatar_emoji', 'preferences',
      'notification_settings', 'key_metrics')
  );
end
$adoption_defaults$;

revoke all on function profiles_internal.adoption_defaults(jsonb) from public, anon, authenticated, service_role;
