-- The SQL by which rows of user_profiles "p" are compared, column against JSON, for differences and for the conversion:
--   documents   a list for LATERAL (select ...) as d: each group's document, read once, and each object in it once
--   items       per column: its name, the SQL of its value, of the JSON at its path, and of the question whether they differ
-- A column holds what it can of the JSON (see trait_from_json); more than that is no difference.
create or replace function profiles_internal.trait_comparisons(
  out documents text, out objects text, out column_names text[], out groups text[], out paths text[],
  out column_values text[], out json_values text[], out held_values text[], out differ text[]
)
returns record
language sql
stable
set search_path = pg_catalog, pg_temp
as $trait_comparisons$
  with trait as (
    select
      t.*,
      format('p.%I', t.attribute) as value,
      case
        when cardinality(t.path) = 1 then profiles_internal.trait_at(format('d.%I', t.jsonb_column), t.path)
        else profiles_internal.trait_at(format('o.%I', t.jsonb_column || '.' || t.path[1]), t.path[2:])
      end as json
    from profiles_internal.traits_in_place() as t
  ),
  compared as (
    select
      t.*,
      profiles_internal.trait_from_json(t.data_type, t.json) as held
    from trait as t
  )
  select
    -- Joined with nothing, so that a large document is read once.
    (select string_agg(distinct format('p.%1$I || ''{}'' as %1$I', t.jsonb_column), ', ') from trait as t),
    coalesce(
      (
        select string_agg(distinct format('d.%I -> %L as %I', t.jsonb_column, t.path[1], t.jsonb_column || '.' || t.path[1]), ', ')
        from trait as t
        where cardinality(t.path) = 2
      ),
      'null as nothing'
    ),
    array_agg(c.column_name order by c.jsonb_column, c.path),
    array_agg(c.jsonb_column order by c.jsonb_column, c.path),
    array_agg(array_to_string(c.path, '.') order by c.jsonb_column, c.path),
    array_agg(c.value order by c.jsonb_column, c.path),
    array_agg(c.json order by c.jsonb_column, c.path),
    array_agg(c.held order by c.jsonb_column, c.path),
    array_agg(
      -- The image of a float: 0 is not -0.
      case
        when c.data_type in ('real', 'double precision') then format('(%s)::text is distinct from %s::text', c.held, c.value)
        else format('(%s) is distinct from %s', c.held, c.value)
      end
      order by c.jsonb_column, c.path
    )
  from compared as c
$trait_comparisons$;

revoke all on function profiles_internal.trait_comparisons() from public, anon, authenticated, service_role;
