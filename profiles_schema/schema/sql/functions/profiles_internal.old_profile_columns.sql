-- The columns of user_profiles as it was found, in their order, for a view of that shape: "reads" is the SQL of the old
-- value over the row p of today, "writes" the statements that take new.<column> over into the row "kept" of today (null
-- where nothing may be written), and "holds" the column of today that then changes.
-- A trait is read from its wide column while that is there, and else from the JSON at its path; with p_from_json always.
-- Types go back the way adoption brought them. What the rules of today refuse is made to fit as adoption does.
create or replace function profiles_internal.old_profile_columns(p_from_json boolean default false)
returns table (place integer, name text, reads text, writes text, holds text, default_value text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $old_profile_columns$
  with found as (
    select c.value ->> 'name' as name, c.value ->> 'now' as now, c.value ->> 'type' as type, c.value ->> 'default' as default_value,
      (c.value ->> 'position')::integer as place
    from (
      select a.data -> 'columns' as columns
      from profiles_internal.adopted as a
      where a.object_type = 'table' and a.object_name = 'public.user_profiles'
      order by a.id desc limit 1
    ) as t
    cross join lateral jsonb_array_elements(t.columns) as c
  ),
  today as (
    select
      f.*, a.attname is not null as is_there, format_type(a.atttypid, a.atttypmod) as type_now, a.attnotnull as required,
      a.attgenerated <> '' or a.attidentity = 'a' as is_made, l.data_type, l.jsonb_column, string_to_array(l.path, '.') as path,
      l.column_name is not null and (p_from_json or a.attname is null or l.state in ('contracted', 'restoring')) as in_json,
      f.type in ('smallint', 'integer', 'bigint') as whole,
      f.type ~ '^(smallint|integer|bigint|real|double precision|numeric)' as number,
      format('p.%I', f.now) as value, format('new.%I', f.name) as given, format('kept.%I', f.now) as target
    from found as f
    left join pg_attribute as a
      on a.attrelid = to_regclass('public.user_profiles') and a.attname = f.now and a.attnum > 0 and not a.attisdropped
    left join profiles_internal.legacy_columns as l on l.table_name = 'user_profiles' and l.column_name = f.name
  ),
  rule as (
    select r.key as column_name, r.value as cases
    from (
      select a.data -> 'rules' as rules
      from profiles_internal.adopted as a
      where a.object_type = 'table' and a.object_name = 'public.user_profiles'
      order by a.id desc limit 1
    ) as t
    cross join lateral jsonb_each_text(t.rules) as r
  )
  select
    t.place, t.name,
    case
      when t.in_json then format('(%s)::%s',
        profiles_internal.trait_from_json(t.data_type, profiles_internal.trait_at(format('p.%I', t.jsonb_column), t.path)), t.type)
      when t.type = t.type_now or t.type ~ '^character' and t.type_now = 'text' then t.value
      when t.type_now = 'timestamp with time zone' and t.type = 'timestamp without time zone' then format('(%s at time zone ''UTC'')', t.value)
      when t.type_now = 'timestamp with time zone' and t.type = 'date' then format('(%s at time zone ''UTC'')::date', t.value)
      -- A number that no time can hold became an infinite one, and is still on record.
      when t.type_now = 'timestamp with time zone' and t.number then format(
        'case when isfinite(%1$s) then %2$s(extract(epoch from %1$s))::%3$s when %1$s is not null then ('
        'select (k.data ->> ''old'')::%3$s from profiles_internal.adopted as k where k.object_type = ''found value'''
        ' and k.object_name = %4$L and k.data ->> ''key'' = p.id::text order by k.id desc limit 1) end',
        t.value, case when t.whole then 'floor' else '' end, t.type, 'public.user_profiles.' || t.now)
      when t.type_now = 'boolean' and t.number then format('%s::integer::%s', t.value, t.type)
      else format('%s::text::%s', t.value, t.type)
    end,
    case
      when t.is_made and not t.in_json then null
      when t.in_json then format('kept.%1$I := profiles_internal.set_trait(kept.user_id, %1$L, kept.%1$I, %2$L, %3$s);',
        t.jsonb_column, t.path::text, profiles_internal.trait_to_json(t.data_type, t.given))
      when t.now = 'username' then format(
        'kept.username := case when tg_op = ''INSERT'' and %1$s is null then kept.username else profiles_internal.fit_username(%1$s, kept.user_id) end;',
        t.given)
      else
        format('%s := ', t.target)
        || format(
          case when t.required then 'coalesce(%1$s, %2$s);' else '%1$s;' end,
          case
            -- A view knows no lock: what another statement has added meanwhile is added to.
            when t.whole and t.type = t.type_now and t.now like '%\_count'
              then format('coalesce(case when tg_op = ''UPDATE'' then %1$s + (%2$s - old.%3$I) end, %2$s)', t.target, t.given, t.name)
            when t.type = t.type_now then t.given
            when t.type_now = 'timestamp with time zone' and t.type in ('timestamp without time zone', 'date')
              then format('%s::timestamp at time zone ''UTC''', t.given)
            when t.type_now = 'timestamp with time zone' and t.number then format(
              'case when %1$s > 9224318015999 then ''infinity'' when %1$s < -210866803200 then ''-infinity'''
              ' else to_timestamp(%1$s::double precision) end', t.given)
            when t.type_now = 'boolean' and t.number then format('%s <> 0', t.given)
            when t.type_now = 'jsonb' and t.type !~ '^(text|character)' then format('to_jsonb(%s)', t.given)
            else format('%s::text::%s', t.given, t.type_now)
          end,
          t.target
        )
        || case when r.cases is null then ''
          else format(' %1$s := (select case %2$s else %3$I end from (select %1$s as %3$I) as fitted);', t.target, r.cases, t.now) end
    end,
    case when t.in_json then t.jsonb_column else t.now end,
    t.default_value
  from today as t
  left join rule as r on r.column_name = t.now
  where t.is_there or t.in_json
  order by t.place
$old_profile_columns$;

revoke all on function profiles_internal.old_profile_columns(boolean) from public, anon, authenticated, service_role;
