-- The SQL that turns JSON into the value of a column. What the column cannot hold becomes NULL: a string where a number
-- belongs, 1.5 for an integer, 1e40 for a real, a JSON null for anything but jsonb. A real holds the nearest one.
-- NULL for a type that no rule is written for. json is one: jsonb keeps neither its spelling nor its duplicate keys.
create or replace function profiles_internal.trait_from_json(p_data_type text, p_expression text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $trait_from_json$
  select format(
    case
      when p_data_type = 'jsonb' then '%1$s'
      when p_data_type in ('text', 'character varying')
        then 'case jsonb_typeof(%1$s) when ''string'' then %1$s #>> ''{}'' end'
      when p_data_type ~ '^character varying\(\d+\)$'
        then 'case jsonb_typeof(%1$s) when ''string'' then case when char_length(%1$s #>> ''{}'') <= %3$s then %1$s #>> ''{}'' end end'
      when p_data_type = 'boolean' then 'case jsonb_typeof(%1$s) when ''boolean'' then (%1$s)::boolean end'
      when p_data_type = 'numeric' then
        'case jsonb_typeof(%1$s) when ''number'' then (%1$s)::numeric'
        ' when ''string'' then case when %1$s #>> ''{}'' in (''NaN'', ''Infinity'', ''-Infinity'') then (%1$s #>> ''{}'')::numeric end end'
      when bounds.least_integer is not null then
        'case jsonb_typeof(%1$s) when ''number'' then case when (%1$s)::numeric between %4$s and %5$s'
        ' and (%1$s)::numeric %% 1 = 0 then (%1$s)::%2$s end end'
      when bounds.smallest is not null then
        'case jsonb_typeof(%1$s)'
        ' when ''number'' then case when (%1$s)::numeric = 0 or abs((%1$s)::numeric) between %6$s and %7$s then (%1$s)::numeric::%2$s end'
        ' when ''string'' then case when %1$s #>> ''{}'' in (''NaN'', ''Infinity'', ''-Infinity'', ''-0'') then (%1$s #>> ''{}'')::%2$s end end'
    end,
    p_expression, p_data_type, substring(p_data_type from '\((\d+)\)'),
    bounds.least_integer, bounds.greatest_integer, bounds.smallest, bounds.greatest
  )
  from (select) as one_row
  left join (
    values
      ('smallint', '-32768', '32767', null, null),
      ('integer', '-2147483648', '2147483647', null, null),
      ('bigint', '-9223372036854775808', '9223372036854775807', null, null),
      -- What the type prints as its smallest and its greatest value.
      ('real', null, null, '1e-45', '3.4028235e38'),
      ('double precision', null, null, '5e-324', '1.7976931348623157e308')
  ) as bounds (data_type, least_integer, greatest_integer, smallest, greatest) on bounds.data_type = p_data_type
$trait_from_json$;

revoke all on function profiles_internal.trait_from_json(text, text) from public, anon, authenticated, service_role;
