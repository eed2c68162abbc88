-- The SQL that turns a column's value into the JSON that stands for it; NULL stays NULL, and becomes an absent key.
-- JSON numbers know neither NaN nor infinities nor a negative zero: those are strings.
create or replace function profiles_internal.trait_to_json(p_data_type text, p_expression text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $trait_to_json$
  select format(
    case
      when p_data_type = 'jsonb' then '%1$s'
      when p_data_type in ('real', 'double precision')
        then 'case when %1$s::text = ''-0'' then ''"-0"''::jsonb else to_jsonb(%1$s) end'
      else 'to_jsonb(%1$s)'
    end,
    p_expression
  )
$trait_to_json$;

revoke all on function profiles_internal.trait_to_json(text, text) from public, anon, authenticated, service_role;
