-- The columns of a table that is taken over: what each is called afterwards, and how its values get there and back.
-- "source" is an expression over {column} as found, "back" one over {column} as it is afterwards; both are null for a
-- column that keeps its type. A wanted column that was not found has no found_name; one of the application's own has no
-- wanted_type.
--
-- The id of a profile keeps its type if that is uuid, with everything on it; so does a role of any kind of text or
-- enum; and so does a text by another name (varchar, citext, a domain without rules) that holds all that we write: a
-- sign-up must not lose its profile to a long name. is_theirs: only the application writes the column, so its own
-- limits stay, too.
-- Only these columns get another name, and take their foreign keys, views and policies along:
--   a user_id that is no uuid is the id of an outside system, and becomes external_id;
--   a key of another type than ours that something hangs on becomes legacy_id;
--   full_name becomes display_name where a view keeps the old name of the table.
create or replace function profiles_internal.adoption_columns(p_table text, p_found regclass)
returns table (
  name text, found_name text, found_type text, found_not_null boolean, found_default text, found_generated boolean,
  wanted_type text, wanted_not_null boolean, wanted_default text, source text, back text, found_position integer,
    is_theirs boolean
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_columns$
declare
  types jsonb;
  renames jsonb := '{}';
  user_type text;
  id_type text;
  all_uuids boolean := false;
begin
  select jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) into types
  from pg_attribute as a
  where a.attrelid = p_found and a.attnum > 0 and not a.attisdropped;
  user_type := types ->> 'user_id';
  id_type := types ->> 'id';

  if p_table = 'user_profiles' then
    if user_type <> 'uuid' and not types ? 'external_id' then
      execute format(
        'select coalesce(bool_and(t.user_id::text ~* ''^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$''), false) from '
          '%s as t where t.user_id is not null',
        p_found
      ) into all_uuids;
      if not all_uuids then
        renames := renames || '{"user_id": "external_id"}';
      end if;
    end if;
    -- Only where a view keeps the old name: everywhere else statements of the application would miss it.
    if types ? 'full_name' and not types ? 'display_name' and p_found::text <> 'public.user_profiles' then
      renames := renames || '{"full_name": "display_name"}';
    end if;
  end if;
  if id_type <> 'uuid' and not types ? 'legacy_id' and (
    (p_table = 'user_profiles' and id_type !~ '^(text|character)' and (
      cardinality(profiles_internal.column_readers(p_found, 'id')) > 0
      or exists (select from pg_attribute as a where a.attrelid = p_found and a.attname = 'id' and a.attidentity <> '')
    ))
    or (p_table <> 'user_profiles' and (
      id_type !~ '^(text|character)' or cardinality(profiles_internal.column_readers(p_found, 'id')) > 0
    ))
  ) then
    renames := renames || '{"id": "legacy_id"}';
  end if;

  return query
  with found as (
    select
      a.attname::text as found_name, coalesce(renames ->> a.attname, a.attname) as name,
        a.attnum::integer as found_position,
      format_type(a.atttypid, a.atttypmod) as found_type, a.attnotnull as not_null, a.attgenerated <> '' as generated,
      case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end as found_default,
      a.attidentity <> '' as has_identity, y.typcategory as category, y.typtype in ('e', 'd') as is_narrow,
      (select e.enumlabel::text from pg_enum as e where e.enumtypid = a.atttypid order by e.enumsortorder limit 1)
        as first_label,
      case when a.attcollation <> y.typcollation then ' collate ' || a.attcollation::regcollation
        else '' end as collated,
      -- Our rules are regular expressions, which other collations do not allow.
      (b.oid in ('text'::regtype, 'varchar'::regtype) or b.typname = 'citext' and b.typcategory = 'S')
        and not exists (select from pg_collation as o where o.oid = a.attcollation and not o.collisdeterministic)
        and not (y.typtype = 'd'
          and (y.typnotnull or exists (select from pg_constraint as k where k.contypid = y.oid))) as is_text,
      nullif(case when y.typtype = 'd' then y.typtypmod else a.atttypmod end, -1) - 4 as room
    from pg_attribute as a
    join pg_type as y on y.oid = a.atttypid
    join pg_type as b on b.oid = case when y.typtype = 'd' then y.typbasetype else y.oid end
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = p_found and a.attnum > 0 and not a.attisdropped
  ),
  -- The most that our CHECK of a column admits.
  limits as (
    select coalesce(l.parts[1], l.parts[3]) as name, max(coalesce(l.parts[2], l.parts[4])::integer) as characters
    from profiles_internal.wanted_shape() as c
    cross join lateral regexp_matches(
      c.definition, 'char_length\((\w+)\) <= (\d+)|^CHECK \(\((\w+) ~ ''[^'']*,(\d+)\}\$''', 'g'
    ) as l (parts)
    where c.table_name = p_table and c.kind = 'check'
    group by 1
  ),
  wanted as (
    select w.name, case when k.keeps then f.found_type else w.definition end as wanted_type, w.not_null, k.keeps,
      t.is_theirs,
      case
        when k.keeps and w.default_value is not null then f.found_default
        -- No one has agreed to be shown if no one was asked.
        when p_table = 'user_profiles' and w.name = 'profile_visibility' and f.found_default is null
          then '''private''::text'
        else w.default_value
      end as default_value
    from profiles_internal.wanted_shape() as w
    left join found as f on f.name = w.name
    cross join lateral (
      select p_table = 'user_profiles' and w.name in (
        'avatar_emoji', 'bio', 'business_context', 'company_name', 'logo_url', 'master_system_prompt',
          'profile_picture_url', 'role', 'target_audience'
      ) as is_theirs
    ) as t
    left join limits as m on m.name = w.name
    cross join lateral (
      select p_table = 'user_profiles' and coalesce(
        w.name = 'id' and f.found_type = 'uuid'
        -- Our code writes no role, so any type serves that has a default for new profiles.
        or w.name = 'role' and f.category in ('S', 'E') and f.found_default is not null
        or w.name <> 'id' and w.definition = 'text' and f.is_text and f.name = f.found_name
          and (f.room is null or t.is_theirs or f.room >= m.characters)
          and (w.default_value is null
            or profiles_internal.kept_default(p_table, w.name, f.found_type, f.found_default) is not null),
        false
      ) as keeps
    ) as k
    where w.table_name = p_table and w.kind = 'column'
  )
  select
    coalesce(f.name, w.name), f.found_name,
    -- A type that is changed loses its collation, and has to find it again.
    f.found_type || case when f.found_type <> w.wanted_type then f.collated else '' end, f.not_null,
    coalesce(f.found_default, case when f.has_identity then 'identity' end), f.generated,
    w.wanted_type, w.not_null,
    case when w.keeps then w.default_value
      else coalesce(profiles_internal.kept_default(p_table, w.name, w.wanted_type, f.found_default),
      w.default_value) end,
    case
      when f.found_type = w.wanted_type or f.name is null then null
      when w.wanted_type = 'timestamp with time zone' then case
        when f.found_type = 'timestamp without time zone' then '{column} at time zone ''UTC'''
        when f.found_type = 'date' then '{column}::timestamp at time zone ''UTC'''
        when f.category = 'N'
          then 'case when {column} > 9224318015999 then ''infinity'' when {column} < -210866803200 then ''-infinity'' '
          'else to_timestamp({column}::double precision) end'
        else '{column}::timestamp with time zone'
      end
      when w.wanted_type = 'boolean' and f.category = 'N' then '({column} <> 0)'
      when w.wanted_type = 'jsonb' and f.category not in ('S', 'U') then 'to_jsonb({column})'
      when w.wanted_type ~ '^character varying' then '{column}::text::' || w.wanted_type
      else '{column}::' || w.wanted_type
    end,
    case
      when f.found_type = w.wanted_type or f.name is null then null
      when w.wanted_type = 'timestamp with time zone' then case
        when f.found_type = 'timestamp without time zone' then '{column} at time zone ''UTC'''
        when f.found_type = 'date' then '({column} at time zone ''UTC'')::date'
        when f.category = 'N' then 'case when isfinite({column}) then extract(epoch from {column}) end::'
          || f.found_type
        else '{column}::' || f.found_type
      end
      when w.wanted_type = 'boolean' and f.category = 'N' then '{column}::integer::' || f.found_type
      when w.wanted_type = 'jsonb' and f.category not in ('S', 'U') then null
      when f.is_narrow then format('profiles_internal.fit_narrower_type({column}::text, %L, %s)::%s', f.found_type,
        case when f.not_null then coalesce('(' || f.found_default || ')::text', quote_literal(f.first_label), 'null')
          else 'null' end, f.found_type)
      else '{column}::text::' || f.found_type
    end,
    f.found_position, coalesce(w.is_theirs, false)
  from found as f
  full join wanted as w on w.name = f.name
  order by f.found_position nulls last, w.name;
end
$adoption_columns$;

revoke all on function profiles_internal.adoption_columns(text, regclass) from public, anon, authenticated,
  service_role;
