"""Wide columns of user_profiles are recorded, and from here on they and the JSON groups follow each other.

Why: they become JSON; until they are dropped, old and new code must see the same values.
Locks: user_profiles in SHARE ROW EXCLUSIVE mode where it has wide columns, for milliseconds; otherwise nothing.
Compatible with: code that uses the columns, and code that uses the groups.
Back: the groups are emptied into the columns' world: what has no column is kept in kept_json; one batch at a time.
"""

from pathlib import Path

from alembic import op

revision = "0016_expand_traits"
down_revision = "0015_backfill_profiles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
do $only_where$
begin
  if not (exists (select from profiles_internal.legacy_columns) or exists (
    select
    from profiles_internal.known_traits() as k
    join pg_attribute as a
      on a.attrelid = 'public.user_profiles'::regclass and a.attname = k.column_name and not a.attisdropped
  ) or exists (
    -- The view of the old shape reads them (0022).
    select from profiles_internal.adopted as a
    where a.object_type = 'table' and a.object_name = 'public.user_profiles'
      and a.data -> 'columns' @> '[{"name": "user_id", "now": "external_id"}]'
  )) then
    return;
  end if;
  execute $frozen$
-- The wide columns that are recorded and (still) in the table, with the attribute that holds each: while columns come back, they
-- stand under a name of their own until all of them are filled.
create or replace function profiles_internal.traits_in_place()
returns table (column_name text, attribute text, data_type text, jsonb_column text, path text[])
language sql
stable
set search_path = pg_catalog, pg_temp
as $traits_in_place$
  select
    l.column_name,
    a.attname::text,
    l.data_type,
    l.jsonb_column,
    string_to_array(l.path, '.')
  from profiles_internal.legacy_columns as l
  join pg_attribute as a
    on a.attrelid = to_regclass('public.user_profiles') and not a.attisdropped
    and a.attname = case l.state when 'restoring' then 'restoring_' || l.column_name else l.column_name end
  where l.table_name = 'user_profiles' and l.state <> 'contracted'
  order by l.jsonb_column, l.path
$traits_in_place$;

revoke all on function profiles_internal.traits_in_place() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
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
$frozen$;
  execute $frozen$
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
$frozen$;
  execute $frozen$
-- The SQL that reads a path of a JSON document: doc -> 'bigFive' -> 'openness'.
create or replace function profiles_internal.trait_at(p_document text, p_path text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $trait_at$
  select '(' || p_document || string_agg(format(' -> %L', k.key), '' order by k.place) || ')'
  from unnest(p_path) with ordinality as k (key, place)
$trait_at$;

revoke all on function profiles_internal.trait_at(text, text[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The SQL that builds one group's JSON document from the columns of a row: only the keys whose columns hold something,
-- NULL where none does. A JSON null in a jsonb column is a value and stays one.
create or replace function profiles_internal.trait_document(p_jsonb_column text, p_row text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $trait_document$
  with trait as (
    select
      t.path,
      format('%s.%I', p_row, t.attribute) as value,
      profiles_internal.trait_to_json(t.data_type, format('%s.%I', p_row, t.attribute)) as json
    from profiles_internal.traits_in_place() as t
    where t.jsonb_column = p_jsonb_column
  ),
  member as (
    select t.path[1] as key, t.json, format('num_nulls(%s) = 1', t.value) as is_empty
    from trait as t
    where cardinality(t.path) = 1
    union all
    -- An object one level below, made the same way. num_nulls, because a composite's IS NULL is another question.
    select
      t.path[1],
      format(
        'jsonb_build_object(%s) - array[%s]',
        string_agg(format('%L, %s', t.path[2], t.json), ', ' order by t.path),
        string_agg(format('case when num_nulls(%s) = 1 then %L end', t.value, t.path[2]), ', ' order by t.path)
      ),
      format('num_nonnulls(%s) = 0', string_agg(t.value, ', '))
    from trait as t
    where cardinality(t.path) = 2
    group by t.path[1]
  )
  select format(
    'nullif(jsonb_build_object(%s) - array[%s], ''{}'')',
    string_agg(format('%L, %s', m.key, m.json), ', ' order by m.key),
    string_agg(format('case when %s then %L end', m.is_empty, m.key), ', ' order by m.key)
  )
  from member as m
$trait_document$;

revoke all on function profiles_internal.trait_document(text, text) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
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
$frozen$;
  execute $frozen$
-- Every path in which a wide column and the JSON disagree: the user, the column, the old value (of the column) and the new one (of the
-- JSON), cut to 80 characters. Reads
-- all profiles, or those behind one user up to another; stops after p_most differences. Locks nothing.
-- A JSON value that the column cannot hold is no difference if the column is NULL.
create or replace function profiles_internal.trait_differences(
  p_after uuid default null,
  p_up_to uuid default null,
  p_most integer default null
)
returns table (user_id uuid, column_name text, old_value text, new_value text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $trait_differences$
declare
  comparison record;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return;
  end if;
  return query execute format(
$differences$
select p.user_id, i.column_name, left(i.old_value, 80), left(i.new_value, 80)
from public.user_profiles as p
cross join lateral (select %1$s offset 0) as d
cross join lateral (select %2$s offset 0) as o
cross join lateral (
  values %3$s
) as i (column_name, old_value, new_value, differs)
where ($1 is null or p.user_id > $1) and ($2 is null or p.user_id <= $2)
  and (%4$s)
  and i.differs
limit $3
$differences$,
    comparison.documents,
    comparison.objects,
    (
      select string_agg(format('(%L, %s::text, (%s)::text, %s)', c.name, c.value, c.json, c.differs), E',\n    ')
      from unnest(comparison.column_names, comparison.column_values, comparison.json_values, comparison.differ)
        as c (name, value, json, differs)
    ),
    array_to_string(comparison.differ, E'\n    or ')
  )
  using p_after, p_up_to, p_most;
end
$trait_differences$;

revoke all on function profiles_internal.trait_differences(uuid, uuid, integer) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The users behind one up to another in whose profiles column and JSON disagree, in order; the first p_most of them. For a
-- conversion: a row is left at its first difference, and none is spelled out, as trait_differences does.
create or replace function profiles_internal.differing_profiles(p_after uuid, p_up_to uuid, p_most integer)
returns setof uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $differing_profiles$
declare
  comparison record;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return;
  end if;
  return query execute format(
$differing$
select p.user_id
from public.user_profiles as p
cross join lateral (select %s offset 0) as d
cross join lateral (select %s offset 0) as o
where p.user_id > $1 and p.user_id <= $2 and (%s)
order by p.user_id
limit $3
$differing$,
    comparison.documents, comparison.objects, array_to_string(comparison.differ, E'\n    or ')
  )
  using p_after, p_up_to, p_most;
end
$differing_profiles$;

revoke all on function profiles_internal.differing_profiles(uuid, uuid, integer) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Drops the dual-write trigger of user_profiles and its function.
create or replace function profiles_internal.remove_dual_write()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $remove_dual_write$
  drop trigger if exists zz_dual_write on public.user_profiles;
  drop function if exists profiles_internal.dual_write_traits()
$remove_dual_write$;

revoke all on function profiles_internal.remove_dual_write() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The body of dual_write_traits, the function by which the wide columns of user_profiles and the JSON groups follow each
-- other, written for the columns that are there; NULL without any.
--
-- The rules, per path:
--   The JSON at the path changed         the column gets what it can hold of it, else NULL. JSON wins over a column that
--                                        the same statement changed.
--   Only the column changed              the JSON gets its value; NULL takes the key away. Missing parents are made.
--   Neither, and the JSON lacks it yet   the JSON gets the column's value: the first touch converts the whole row. Left out
--                                        once every row is converted.
-- What would be lost by that (a JSON value where the column disagrees on first sight, or a parent that is no object) goes
-- to profiles_internal.kept_json.
--
-- The setting profiles_internal.normalizing lets the conversion itself through: 'skip' leaves the row as it is, 'touch'
-- settles every path of an unchanged row. It counts from a role that owns the table only.
--
-- Columns are compared by their image, because 0 is not -0.
create or replace function profiles_internal.dual_write_body()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $dual_write_body$
declare
  json_group record;
  trait record;
  filling constant boolean := exists (
    select from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles' and l.state in ('expanded', 'restoring')
  );
  body text := '';
  any_changed text := '';
  group_changed text;
  found text;
  make_parent text;
  keep constant text := '
        insert into profiles_internal.kept_json (user_id, jsonb_column, path, value)
        values (new.user_id, %L, %L, %s);';
begin
  if not exists (select from profiles_internal.traits_in_place()) then
    return null;
  end if;

  for json_group in
    select
      t.jsonb_column as name,
      format(
        'row(%s)::record *<> row(%s)::record',
        string_agg(format('old.%I', t.attribute), ', ' order by t.path) || format(', old.%I', t.jsonb_column),
        string_agg(format('new.%I', t.attribute), ', ' order by t.path) || format(', new.%I', t.jsonb_column)
      ) as changed
    from profiles_internal.traits_in_place() as t
    group by t.jsonb_column
    order by t.jsonb_column
  loop
    any_changed := any_changed || E'\n    or ' || json_group.changed;
    group_changed := case when filling then 'any_changed' else json_group.changed end;
    body := body || format(
$group$

  if %1$s then
    -- Joined with nothing, so that a large document is read once.
    was := old.%2$I || '{}';
    doc := new.%2$I || '{}';
    json_changed := doc is distinct from was;
    doc_changed := false;
    if jsonb_typeof(doc) <> 'object' then
      return new;  -- the CHECK of the column refuses it
    end if;$group$,
      group_changed, json_group.name
    );

    for trait in
      select
        t.*,
        format('new.%I', t.attribute) as value,
        profiles_internal.trait_to_json(t.data_type, format('new.%I', t.attribute)) as json,
        profiles_internal.trait_from_json(t.data_type, profiles_internal.trait_at('doc', t.path)) as held,
        case
          when t.data_type in ('real', 'double precision') then format('new.%1$I::text is distinct from old.%1$I::text', t.attribute)
          else format('new.%1$I is distinct from old.%1$I', t.attribute)
        end as changed
      from profiles_internal.traits_in_place() as t
      where t.jsonb_column = json_group.name
    loop
      found := profiles_internal.trait_at('doc', trait.path);
      make_parent := case when cardinality(trait.path) = 2 then format(
$parent$
        if jsonb_typeof(doc -> %1$L) is distinct from 'object' then
          if doc -> %1$L is not null then%2$s
          end if;
          doc := coalesce(doc, '{}') || jsonb_build_object(%1$L, '{}'::jsonb);
        end if;$parent$,
        trait.path[1], replace(format(keep, json_group.name, trait.path[1], format('doc -> %L', trait.path[1])), E'\n', E'\n    ')
      ) end;

      body := body || format(
$path$

    if json_changed and %1$s is distinct from %2$s then
      %3$s := %4$s;
    elsif %5$s%6$s then
      doc_changed := true;
      if num_nulls(%3$s) = 1 then
        if %1$s is not null then
          doc := doc #- %7$L;
        end if;
      else%8$s
        doc := jsonb_set(coalesce(doc, '{}'), %7$L, %9$s);
      end if;$path$,
        found, profiles_internal.trait_at('was', trait.path), trait.value, trait.held, trait.changed,
        case when filling then format(' or (num_nulls(%s) = 0 and %s is null)', trait.value, found) end,
        trait.path::text, make_parent, trait.json
      );
      if filling then
        body := body || format(
$touch$
    elsif touching and (%1$s)::text is distinct from (%2$s)::text then
      if num_nulls(%1$s) = 1 then
        %1$s := %2$s;
      else%3$s
        doc := jsonb_set(doc, %4$L, %5$s);
        doc_changed := true;
      end if;$touch$,
          trait.value, trait.held, format(keep, json_group.name, array_to_string(trait.path, '.'), found), trait.path::text, trait.json
        );
      end if;
      body := body || E'\n    end if;';
    end loop;

    body := body || format(
$end_of_group$

    if doc_changed then
      new.%1$I := doc;
    end if;
  end if;$end_of_group$,
      json_group.name
    );
  end loop;

  return format(
$function$
-- Written by profiles_internal.dual_write_body, which says by which rules.
declare
  -- Anybody can set it. This runs as the owner: who asked is the role that was set, or else the session's.
  normalizing constant text := case
    when coalesce(current_setting('profiles_internal.normalizing', true), '') = '' then ''
    when pg_has_role(
      coalesce(nullif(current_setting('role'), 'none'), session_user)::name,
      (select c.relowner from pg_class as c where c.oid = tg_relid), 'member'
    ) then current_setting('profiles_internal.normalizing', true)
    else ''
  end;
  touching constant boolean := normalizing = 'touch';%1$s
  was jsonb;
  doc jsonb;
  json_changed boolean;
  doc_changed boolean;
begin
  if normalizing = 'skip' then
    return new;
  end if;
  -- Of an upsert that will update: the update comes here by itself, and what is filled in here would overwrite it.
  if tg_op = 'INSERT' and exists (select from public.user_profiles as p where p.user_id = new.user_id or p.id = new.id) then
    return new;
  end if;%2$s

  return new;
end
$function$,
    case when filling then E'\n  any_changed constant boolean := touching' || any_changed || ';' end,
    body
  );
end
$dual_write_body$;

revoke all on function profiles_internal.dual_write_body() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Whether user_profiles has its dual-write trigger, switched on and with the body that the columns ask for; or
-- no wide columns.
create or replace function profiles_internal.dual_write_is_whole()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $dual_write_is_whole$
  select not exists (select from profiles_internal.traits_in_place()) or exists (
    select
    from pg_trigger as t
    join pg_proc as f on f.oid = t.tgfoid
    where t.tgrelid = to_regclass('public.user_profiles') and t.tgname = 'zz_dual_write' and t.tgenabled in ('O', 'A')
      -- before, insert or update, for each row, without a condition
      and t.tgtype = 23 and t.tgqual is null and cardinality(t.tgattr::smallint[]) = 0
      and f.oid = to_regproc('profiles_internal.dual_write_traits')
      and f.prosrc = profiles_internal.dual_write_body()
  )
$dual_write_is_whole$;

revoke all on function profiles_internal.dual_write_is_whole() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Makes the trigger zz_dual_write on user_profiles and its function (see dual_write_body) for the wide columns that are
-- there; without any, both are dropped. Locks user_profiles in SHARE ROW EXCLUSIVE mode, for as long as that takes.
--
-- One trigger that compares in its body: a WHEN clause over a hundred columns is read and prepared anew by every statement,
-- which costs an update of anything else several times as much; UPDATE OF misses what other triggers change. Its name
-- sorts last. Definer: a role that writes a profile may not write kept_json.
create or replace function profiles_internal.install_dual_write()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_dual_write$
begin
  if not exists (select from profiles_internal.traits_in_place()) then
    perform profiles_internal.remove_dual_write();
    return;
  end if;
  execute format(
    'create or replace function profiles_internal.dual_write_traits() returns trigger language plpgsql security definer'
    ' set search_path = pg_catalog, pg_temp as %L',
    profiles_internal.dual_write_body()
  );
  revoke all on function profiles_internal.dual_write_traits() from public, anon, authenticated, service_role;
  if not profiles_internal.dual_write_is_whole() then
    create or replace trigger zz_dual_write
      before insert or update on public.user_profiles
      for each row
      execute function profiles_internal.dual_write_traits();
    alter table public.user_profiles enable trigger zz_dual_write;
  end if;
end
$install_dual_write$;

revoke all on function profiles_internal.install_dual_write() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Puts back what one step set aside in profiles_internal.adopted, newest first. What cannot come back (a CHECK that rows
-- written since do not keep comes back NOT VALID) is a warning, and its entry stays, as that of "STEP (refused)".
create or replace function profiles_internal.restore_set_aside(p_revision text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $restore_set_aside$
declare
  thing record;
begin
  for thing in
    select a.* from profiles_internal.adopted as a where a.revision = p_revision order by a.id desc
  loop
    begin
      execute thing.definition;
    exception
      when check_violation then
        execute thing.definition || ' not valid';
        raise warning 'constraint % came back NOT VALID: rows written since do not keep it', thing.object_name;
      when lock_not_available or deadlock_detected then
        raise;
      when others then
        update profiles_internal.adopted as a set revision = p_revision || ' (refused)' where a.id = thing.id;
        raise warning '% % could not come back (SQLSTATE %): %', thing.object_type, thing.object_name, sqlstate, thing.definition;
    end;
    delete from profiles_internal.adopted as a where a.id = thing.id and a.revision = p_revision;
  end loop;
end
$restore_set_aside$;

revoke all on function profiles_internal.restore_set_aside(text) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Records the wide columns that user_profiles has, and lets writes to them and to the JSON groups follow each other from
-- here on. Can run again at any time: columns that came since are recorded, too. Returns how many were new.
--
-- A JSON write must not fail because of a rule that a column carries: NOT NULL and CHECK constraints on these columns are
-- set aside in profiles_internal.adopted, and come back with the columns' own world.
create or replace function profiles_internal.expand_traits()
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $expand_traits$
declare
  refused text;
  recorded integer;
  found record;
begin
  select string_agg(
    format('%s %s%s', a.attname, format_type(a.atttypid, a.atttypmod), case when a.attgenerated <> '' then ' (generated)' end),
    ', ' order by a.attnum
  )
  into refused
  from profiles_internal.known_traits() as k
  join pg_attribute as a on a.attrelid = 'public.user_profiles'::regclass and a.attname = k.column_name and not a.attisdropped
  where profiles_internal.trait_from_json(format_type(a.atttypid, a.atttypmod), 'x') is null or a.attgenerated <> '';
  if refused is not null then
    raise exception 'columns of user_profiles have a type that cannot become JSON and come back: %', refused
      using errcode = 'feature_not_supported',
        hint = 'Rename these columns, or change them to text, an integer type, real, double precision, numeric, boolean or jsonb.';
  end if;

  insert into profiles_internal.legacy_columns (table_name, column_name, data_type, column_default, jsonb_column, path)
  select
    'user_profiles', k.column_name, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), k.jsonb_column, k.path
  from profiles_internal.known_traits() as k
  join pg_attribute as a on a.attrelid = 'public.user_profiles'::regclass and a.attname = k.column_name and not a.attisdropped
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
  order by a.attnum
  on conflict (table_name, column_name) do update
  set
    data_type = excluded.data_type, column_default = excluded.column_default, state = 'expanded',
    recorded_at = now(), converted_at = null, contracted_at = null
  where legacy_columns.state = 'contracted';
  get diagnostics recorded = row_count;
  if recorded = 0 and not exists (select from profiles_internal.traits_in_place()) then
    return 0;
  end if;

  for found in
    select a.attname as column_name
    from profiles_internal.traits_in_place() as t
    join pg_attribute as a on a.attrelid = 'public.user_profiles'::regclass and a.attname = t.attribute and not a.attisdropped
    where a.attnotnull
  loop
    insert into profiles_internal.adopted (revision, object_type, object_name, definition)
    values (
      'expand_traits', 'not null', 'public.user_profiles.' || found.column_name,
      format('alter table public.user_profiles alter column %I set not null', found.column_name)
    );
    execute format('alter table public.user_profiles alter column %I drop not null', found.column_name);
  end loop;

  for found in
    select c.conname, pg_get_constraintdef(c.oid) as definition
    from pg_constraint as c
    where c.conrelid = 'public.user_profiles'::regclass and c.contype = 'c'
      and exists (
        select
        from unnest(c.conkey) as k (attnum)
        join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
        join profiles_internal.traits_in_place() as t on t.attribute = a.attname
      )
  loop
    insert into profiles_internal.adopted (revision, object_type, object_name, definition)
    values (
      'expand_traits', 'constraint', 'public.user_profiles.' || found.conname,
      format('alter table public.user_profiles add constraint %I %s', found.conname, found.definition)
    );
    execute format('alter table public.user_profiles drop constraint %I', found.conname);
  end loop;

  perform profiles_internal.install_dual_write();
  return recorded;
end
$expand_traits$;

revoke all on function profiles_internal.expand_traits() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- A path as kept_json stores it: keys separated by dots; a dot or a backslash within a key has a backslash before it.
create or replace function profiles_internal.join_path(p_path text[])
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $join_path$
  select string_agg(replace(replace(k.key, '\', '\\'), '.', '\.'), '.' order by k.place)
  from unnest(p_path) with ordinality as k (key, place)
$join_path$;

revoke all on function profiles_internal.join_path(text[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The keys of a path that join_path joined.
create or replace function profiles_internal.split_path(p_path text)
returns text[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $split_path$
declare
  keys text[] := '{}';
  key text := '';
  sign text;
  escaped boolean := false;
begin
  foreach sign in array string_to_array(p_path, null) loop
    if escaped or sign not in ('.', '\') then
      key := key || sign;
      escaped := false;
    elsif sign = '\' then
      escaped := true;
    else
      keys := keys || key;
      key := '';
    end if;
  end loop;
  return keys || key;
end
$split_path$;

revoke all on function profiles_internal.split_path(text) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The leaves of a JSON document, with their paths: values that are no object, and empty objects.
create or replace function profiles_internal.json_leaves(p_document jsonb)
returns table (path text[], value jsonb)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $json_leaves$
  with recursive walk (path, value) as (
    select array[]::text[], p_document
    union all
    select w.path || e.key, e.value
    from walk as w
    cross join lateral jsonb_each(case when jsonb_typeof(w.value) = 'object' then w.value else '{}' end) as e
  )
  select w.path, w.value
  from walk as w
  where jsonb_typeof(w.value) <> 'object' or w.value = '{}'
$json_leaves$;

revoke all on function profiles_internal.json_leaves(jsonb) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- A JSON document without some paths, which are given as the texts of text arrays. A path that is not there, or leads
-- through something that is no object, takes nothing away.
create or replace function profiles_internal.without_paths(p_document jsonb, p_paths text[])
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $without_paths$
declare
  path text;
begin
  foreach path in array p_paths loop
    if jsonb_typeof(p_document #> (path::text[])[1 : cardinality(path::text[]) - 1]) = 'object' then
      p_document := p_document #- path::text[];
    end if;
  end loop;
  return p_document;
end
$without_paths$;

revoke all on function profiles_internal.without_paths(jsonb, text[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- What an earlier downgrade kept comes back into the JSON groups of some users, unless something newer stands there:
--   a value that its column could not hold     while the column is NULL
--   a value that its column held less exactly  while the column still holds that
--   a key that belongs to no column            while the path is free
-- What cannot come back stays in profiles_internal.kept_json as superseded: it would be wrong to bring it back later, when what
-- stands there now has been removed on purpose.
create or replace function profiles_internal.bring_back_kept_json(p_users uuid[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bring_back_kept_json$
declare
  kept record;
  document jsonb;
  fits boolean;
begin
  for kept in
    select k.id, k.user_id, k.jsonb_column, k.path, profiles_internal.split_path(k.path) as keys, k.value, t.attribute, t.data_type
    from profiles_internal.kept_json as k
    left join profiles_internal.traits_in_place() as t
      on t.jsonb_column = k.jsonb_column and array_to_string(t.path, '.') = k.path
    where k.user_id = any (p_users) and k.superseded_at is null
    -- Of two that cannot both come back the newer one does.
    order by k.user_id, k.jsonb_column, k.kept_at desc, k.id desc
  loop
    execute format('select p.%I from public.user_profiles as p where p.user_id = $1 for update', kept.jsonb_column)
    into document using kept.user_id;
    fits := document #> kept.keys is null;
    if kept.attribute is not null then
      execute format(
        'select (%1$s)::text is not distinct from p.%2$I::text from public.user_profiles as p where p.user_id = $2',
        profiles_internal.trait_from_json(kept.data_type, '$1'), kept.attribute
      )
      into fits using kept.value, kept.user_id;
    end if;
    -- Parents are made; one that is something else is in the way.
    for depth in 1 .. cardinality(kept.keys) - 1 loop
      document := coalesce(document, '{}');
      if document #> kept.keys[1 : depth] is null and jsonb_typeof(document #> kept.keys[1 : depth - 1]) = 'object' then
        document := jsonb_set(document, kept.keys[1 : depth], '{}');
      elsif jsonb_typeof(document #> kept.keys[1 : depth]) is distinct from 'object' then
        fits := false;
      end if;
    end loop;
    if fits then
      execute format('update public.user_profiles as p set %I = $1 where p.user_id = $2', kept.jsonb_column)
      using jsonb_set(coalesce(document, '{}'), kept.keys, kept.value), kept.user_id;
      delete from profiles_internal.kept_json as k where k.id = kept.id;
    else
      update profiles_internal.kept_json as k set superseded_at = now() where k.id = kept.id;
    end if;
  end loop;
end
$bring_back_kept_json$;

revoke all on function profiles_internal.bring_back_kept_json(uuid[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Brings the JSON of some users' profiles in step with the wide columns; returns how many rows were changed. Rows that
-- are in step already are not written. updated_at stays, and no audit row is left: nothing that means anything changes.
--
-- A group that is still NULL is built in one go from the row as it is when the update reaches it, so that a write that
-- comes in between is not lost. A group that holds something already (an application's own JSON, or what came back from
-- kept_json) is settled path by path by the dual-write triggers.
create or replace function profiles_internal.convert_traits(p_users uuid[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $convert_traits$
declare
  comparison record;
  partly uuid[];
  built integer;
  settled integer;
  differs boolean;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return 0;
  end if;

  perform set_config('profiles_internal.normalizing', 'skip', true);
  perform profiles_internal.bring_back_kept_json(p_users);
  execute format(
    'select array(select p.user_id from public.user_profiles as p where p.user_id = any ($1) and num_nonnulls(%s) > 0)',
    (select string_agg(distinct format('p.%I', t.jsonb_column), ', ') from profiles_internal.traits_in_place() as t)
  )
  into partly using p_users;
  execute (
    select format(
      'update public.user_profiles as p set %s where p.user_id = any ($1) and (%s)',
      string_agg(
        format('%1$I = case when p.%1$I is null then %2$s else p.%1$I end', g.name, profiles_internal.trait_document(g.name, 'p')), ', '
      ),
      string_agg(format('(p.%I is null and num_nonnulls(%s) > 0)', g.name, g.attributes), ' or ')
    )
    from (
      select t.jsonb_column as name, string_agg(format('p.%I', t.attribute), ', ') as attributes
      from profiles_internal.traits_in_place() as t
      group by 1
    ) as g
  )
  using p_users;
  get diagnostics built = row_count;

  perform set_config('profiles_internal.normalizing', 'touch', true);
  execute format(
    'update public.user_profiles as p set user_id = p.user_id where p.user_id = any ($1) and exists ('
    'select from (select %s offset 0) as d cross join lateral (select %s offset 0) as o where %s)',
    comparison.documents, comparison.objects, array_to_string(comparison.differ, ' or ')
  )
  using partly;
  get diagnostics settled = row_count;
  if settled > 0 then
    execute format(
      'select exists (select from public.user_profiles as p cross join lateral (select %s offset 0) as d'
      ' cross join lateral (select %s offset 0) as o where p.user_id = any ($1) and (%s))',
      comparison.documents, comparison.objects, array_to_string(comparison.differ, ' or ')
    )
    into differs
    using partly;
    if differs then
      raise exception 'a profile cannot be brought in step: something else changes it as well'
        using errcode = 'data_exception', hint = 'Look for a trigger that runs after zz_dual_write.';
    end if;
  end if;
  perform set_config('profiles_internal.normalizing', '', true);
  return greatest(built, settled);
end
$convert_traits$;

revoke all on function profiles_internal.convert_traits(uuid[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Every row is converted, as the caller has found by comparing: says so in legacy_columns, from which the verification
-- period counts, and lets the dual-write trigger look only at what a statement changed.
create or replace function profiles_internal.finish_conversion()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $finish_conversion$
begin
  update profiles_internal.legacy_columns
  set state = 'converted', converted_at = clock_timestamp()
  where table_name = 'user_profiles' and state = 'expanded';
  if found then
    perform profiles_internal.install_dual_write();
  end if;
end
$finish_conversion$;

revoke all on function profiles_internal.finish_conversion() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Drops the wide columns whose values the JSON holds, with the triggers that kept both in step; returns how many. The
-- caller has compared every row; this refuses what that cannot see: triggers that were away meanwhile, and views or
-- functions that hang on a column. Indexes and constraints of the columns are kept in profiles_internal.adopted.
-- Locks user_profiles in ACCESS EXCLUSIVE mode, for as long as changing the catalog takes.
create or replace function profiles_internal.contract_traits()
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $contract_traits$
declare
  dependents text;
  dropped integer;
begin
  if not exists (select from profiles_internal.traits_in_place()) then
    return 0;
  end if;
  if not profiles_internal.dual_write_is_whole() then
    raise exception 'the dual-write trigger of user_profiles is missing or disabled: rows may have changed behind them'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Run: profiles-schema normalize run';
  end if;

  -- A view of the old shape reads the JSON from here on. First, because a reader locks the view before the table.
  if to_regprocedure('profiles_internal.install_old_profiles(boolean)') is not null then
    perform profiles_internal.install_old_profiles(true);
  end if;
  lock table public.user_profiles in access exclusive mode;
  if exists (
    select from profiles_internal.legacy_columns as l
    where l.table_name = 'user_profiles' and l.state not in ('converted', 'contracted')
  ) then
    raise exception 'not all wide columns of user_profiles are converted'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Run: profiles-schema normalize run';
  end if;
  -- As they are now: a default may have changed since they were recorded.
  update profiles_internal.legacy_columns as l
  set data_type = format_type(a.atttypid, a.atttypmod), column_default = pg_get_expr(d.adbin, d.adrelid)
  from pg_attribute as a
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = 'public.user_profiles'::regclass and a.attname = l.column_name and not a.attisdropped
    and l.table_name = 'user_profiles' and l.state = 'converted';
  select string_agg(distinct pg_describe_object(coalesce(r.classid, d.classid), coalesce(r.objid, d.objid), 0), ', ')
  into dependents
  from profiles_internal.traits_in_place() as t
  join pg_attribute as a on a.attrelid = 'public.user_profiles'::regclass and a.attname = t.attribute and not a.attisdropped
  join pg_depend as d
    on d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype = 'n'
  -- A view depends by way of its rule.
  left join lateral (
    select v.classid, v.refobjid as objid
    from (select 'pg_class'::regclass::oid as classid, w.ev_class as refobjid from pg_rewrite as w where w.oid = d.objid) as v
    where d.classid = 'pg_rewrite'::regclass
  ) as r on true
  where d.classid not in ('pg_constraint'::regclass, 'pg_attrdef'::regclass)
    -- Our own trigger goes first.
    and not exists (
      select from pg_trigger as g
      where d.classid = 'pg_trigger'::regclass and g.oid = d.objid and g.tgname = 'zz_dual_write'
    );
  if dependents is not null then
    raise exception 'wide columns of user_profiles are still used by: %', dependents
      using errcode = 'dependent_objects_still_exist', hint = 'Drop or change these, then run: profiles-schema normalize contract';
  end if;

  insert into profiles_internal.adopted (revision, object_type, object_name, definition)
  select distinct on (what, name) 'contract_traits', what, name, definition
  from (
    select
      case when c.oid is null then 'index' else 'constraint' end as what,
      x.indexrelid::regclass::text as name,
      case when c.oid is null then pg_get_indexdef(x.indexrelid)
        else format('alter table public.user_profiles add constraint %I %s', c.conname, pg_get_constraintdef(c.oid)) end as definition
    from pg_index as x
    left join pg_constraint as c on c.conindid = x.indexrelid and c.conrelid = x.indrelid
    where x.indrelid = 'public.user_profiles'::regclass
      and exists (
        -- Columns of the index, and those of its expressions and its predicate.
        select
        from pg_depend as d
        join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        join profiles_internal.traits_in_place() as t on t.attribute = a.attname
        where d.refclassid = 'pg_class'::regclass and d.refobjid = x.indrelid
          and (d.classid, d.objid) in (('pg_class'::regclass, x.indexrelid), ('pg_constraint'::regclass, c.oid))
      )
    union all
    select
      'constraint', format('public.user_profiles.%I', c.conname),
      format('alter table public.user_profiles add constraint %I %s', c.conname, pg_get_constraintdef(c.oid))
    from pg_constraint as c
    join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
    join profiles_internal.traits_in_place() as t on t.attribute = a.attname
    where c.conrelid = 'public.user_profiles'::regclass and c.contype in ('f', 'c')
    union all
    select
      'comment', format('public.user_profiles.%I', a.attname),
      format('comment on column public.user_profiles.%I is %L', a.attname, d.description)
    from pg_description as d
    join pg_attribute as a on a.attrelid = d.objoid and a.attnum = d.objsubid
    join profiles_internal.traits_in_place() as t on t.attribute = a.attname
    where d.classoid = 'pg_class'::regclass and d.objoid = 'public.user_profiles'::regclass
    union all
    select
      'grant', format('public.user_profiles.%I.%s.%s', a.attname, lower(e.privilege_type), e.grantee),
      format('grant %s (%I) on public.user_profiles to %s', lower(e.privilege_type), a.attname,
        case when e.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(e.grantee)) end)
    from pg_attribute as a
    join profiles_internal.traits_in_place() as t on t.attribute = a.attname
    cross join lateral aclexplode(a.attacl) as e
    where a.attrelid = 'public.user_profiles'::regclass
  ) as going;

  perform profiles_internal.remove_dual_write();
  execute (
    select 'alter table public.user_profiles ' || string_agg(format('drop column %I', t.attribute), ', ')
    from profiles_internal.traits_in_place() as t
  );
  update profiles_internal.legacy_columns
  set state = 'contracted', contracted_at = clock_timestamp()
  where table_name = 'user_profiles' and state <> 'contracted';
  get diagnostics dropped = row_count;
  return dropped;
end
$contract_traits$;

revoke all on function profiles_internal.contract_traits() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Restores the wide columns: adds them, empty and under temporary names, and lets the dual-write triggers fill them for
-- every row that is written from here on. No session sees a column before finish_trait_restore, when it is complete.
-- Returns how many. Locks user_profiles in ACCESS EXCLUSIVE mode, for as long as changing the catalog takes.
create or replace function profiles_internal.begin_trait_restore()
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $begin_trait_restore$
declare
  restored integer;
  taken text;
begin
  select string_agg(l.column_name, ', ') into taken
  from profiles_internal.legacy_columns as l
  join pg_attribute as a on a.attrelid = 'public.user_profiles'::regclass and a.attname = l.column_name and not a.attisdropped
  where l.table_name = 'user_profiles' and l.state = 'contracted';
  if taken is not null then
    raise exception 'user_profiles has columns of the same names again: %', taken
      using errcode = 'duplicate_column', hint = 'Rename or drop them first.';
  end if;

  update profiles_internal.legacy_columns
  set state = 'restoring'
  where table_name = 'user_profiles' and state = 'contracted';
  get diagnostics restored = row_count;
  if restored > 0 then
    execute (
      select 'alter table public.user_profiles '
        || string_agg(format('add column %I %s', 'restoring_' || l.column_name, l.data_type), ', ' order by l.recorded_at, l.column_name)
      from profiles_internal.legacy_columns as l
      where l.table_name = 'user_profiles' and l.state = 'restoring'
    );
    perform profiles_internal.install_dual_write();
  end if;
  return restored;
end
$begin_trait_restore$;

revoke all on function profiles_internal.begin_trait_restore() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Fills the wide columns of some users' profiles from the JSON while they come back; returns how many rows were changed.
-- updated_at stays.
create or replace function profiles_internal.restore_traits(p_users uuid[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $restore_traits$
declare
  comparison record;
  changed integer;
begin
  select * into comparison from profiles_internal.trait_comparisons();
  if comparison.column_names is null then
    return 0;
  end if;
  perform set_config('profiles_internal.normalizing', 'skip', true);
  -- Of the row as it is when the update reaches it: the documents are read in the update's own row.
  execute format(
    'update public.user_profiles as p set (%s) = (select %s from (select %s offset 0) as d cross join lateral (select %s offset 0) as o)'
    ' where p.user_id = any ($1) and exists (select from (select %s offset 0) as d cross join lateral (select %s offset 0) as o where %s)',
    (select string_agg(substr(v, 3), ', ' order by n) from unnest(comparison.column_values) with ordinality as c (v, n)),
    array_to_string(comparison.held_values, ', '),
    comparison.documents, comparison.objects, comparison.documents, comparison.objects,
    array_to_string(comparison.differ, ' or ')
  )
  using p_users;
  get diagnostics changed = row_count;
  perform set_config('profiles_internal.normalizing', '', true);
  return changed;
end
$restore_traits$;

revoke all on function profiles_internal.restore_traits(uuid[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- The wide columns are filled: gives them their names, defaults, indexes, constraints, comments and rights back, in one
-- transaction, so that a session that sees a column sees it complete. Refuses while a row differs. Returns how many.
create or replace function profiles_internal.finish_trait_restore()
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $finish_trait_restore$
declare
  found record;
  restored integer;
begin
  if not exists (select from profiles_internal.legacy_columns where table_name = 'user_profiles' and state = 'restoring') then
    return 0;
  end if;
  if not profiles_internal.dual_write_is_whole() then
    raise exception 'the dual-write trigger of user_profiles is missing or disabled: rows may have changed behind them'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Run: profiles-schema normalize restore';
  end if;
  if exists (select from profiles_internal.trait_differences(p_most => 1)) then
    raise exception 'rows of user_profiles are not restored yet'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Run: profiles-schema normalize restore';
  end if;

  for found in
    select l.column_name, l.column_default
    from profiles_internal.legacy_columns as l
    where l.table_name = 'user_profiles' and l.state = 'restoring'
    order by l.recorded_at, l.column_name
  loop
    execute format('alter table public.user_profiles rename column %I to %I', 'restoring_' || found.column_name, found.column_name);
    if found.column_default is not null then
      begin
        execute format('alter table public.user_profiles alter column %I set default %s', found.column_name, found.column_default);
      exception
        when lock_not_available or deadlock_detected then
          raise;
        when others then
          raise warning 'the default of % could not come back (SQLSTATE %): %', found.column_name, sqlstate, found.column_default;
      end;
    end if;
  end loop;
  -- In step, but not verified yet: the period begins again.
  update profiles_internal.legacy_columns
  set state = 'converted', converted_at = clock_timestamp(), contracted_at = null
  where table_name = 'user_profiles' and state = 'restoring';
  get diagnostics restored = row_count;
  perform profiles_internal.install_dual_write();
  perform profiles_internal.restore_set_aside('contract_traits');
  return restored;
end
$finish_trait_restore$;

revoke all on function profiles_internal.finish_trait_restore() from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Before the JSON groups of some users' profiles are emptied: keeps what no wide column can hold in
-- profiles_internal.kept_json, then empties the groups. Returns how many rows were emptied.
--   keys that belong to no column, at any depth, empty objects too
--   values that the column does not hold, or holds less precisely
create or replace function profiles_internal.keep_json(p_users uuid[])
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $keep_json$
declare
  json_group record;
  emptied integer;
begin
  -- All of them first: a group that is filled while the others are kept would be emptied unseen.
  perform from public.user_profiles as p where p.user_id = any (p_users) order by p.user_id for update;
  perform set_config('profiles_internal.normalizing', 'skip', true);
  for json_group in
    select
      t.jsonb_column as name,
      string_agg(
        format(
          '(%L, %s, %s)', array_to_string(t.path, '.'), profiles_internal.trait_at('g.document', t.path),
          profiles_internal.trait_to_json(t.data_type, format('g.%I', t.attribute))
        ),
        ', '
      ) as held,
      string_agg(format(' #- %L', t.path::text), '') as taken_away,
      array_agg(distinct t.path[1]) filter (where cardinality(t.path) = 2) as parents
    from profiles_internal.traits_in_place() as t
    group by t.jsonb_column
  loop
    execute format(
$keep$
with g as materialized (
  select p.*, p.%1$I || '{}' as document
  from public.user_profiles as p
  where p.user_id = any ($1) and p.%1$I is not null
),
kept as (
  select g.user_id, h.path, h.json as value
  from g cross join lateral (values %2$s) as h (path, json, held)
  where h.json is not null and h.held is distinct from h.json
  union all
  select g.user_id, profiles_internal.join_path(l.path), l.value
  from g cross join lateral profiles_internal.json_leaves(profiles_internal.without_paths(g.document, $2)) as l
  where cardinality(l.path) > 0
    -- Not an object that is empty only because its columns hold what was in it.
    and not (l.value = '{}' and g.document #> l.path <> '{}')
)
insert into profiles_internal.kept_json (user_id, jsonb_column, path, value)
select k.user_id, %3$L, k.path, k.value
from kept as k
$keep$,
      json_group.name, json_group.held, json_group.name
    )
    using p_users, array(
      select t.path::text from profiles_internal.traits_in_place() as t where t.jsonb_column = json_group.name
    );
  end loop;

  execute (
    select format(
      'update public.user_profiles as p set %s where p.user_id = any ($1) and num_nonnulls(%s) > 0',
      string_agg(format('%I = null', g.name), ', '), string_agg(format('p.%I', g.name), ', ')
    )
    from (select distinct t.jsonb_column as name from profiles_internal.traits_in_place() as t) as g
  )
  using p_users;
  get diagnostics emptied = row_count;
  perform set_config('profiles_internal.normalizing', '', true);
  return emptied;
end
$keep_json$;

revoke all on function profiles_internal.keep_json(uuid[]) from public, anon, authenticated, service_role;
$frozen$;
  execute $frozen$
-- Back to a table whose wide columns are its own affair: puts constraints back that were set aside for the dual write, and
-- forgets what was recorded.
create or replace function profiles_internal.forget_traits()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $forget_traits$
begin
  perform profiles_internal.remove_dual_write();
  perform profiles_internal.restore_set_aside('expand_traits');
  delete from profiles_internal.legacy_columns where table_name = 'user_profiles';
end
$forget_traits$;

revoke all on function profiles_internal.forget_traits() from public, anon, authenticated, service_role;
$frozen$;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $expand$
declare
  recorded integer;
begin
  if to_regproc('profiles_internal.expand_traits') is null then
    return;
  end if;
  recorded := profiles_internal.expand_traits();
  if recorded > 0 then
    raise notice '% wide columns of user_profiles and the JSON groups follow each other from here on', recorded;
  end if;
end
$expand$;
"""
    )


def downgrade() -> None:
    # Outside a transaction, because it commits after every batch; all of it can run twice.
    with op.get_context().autocommit_block():
        op.execute(
            r"""
do $stop$
begin
  if to_regproc('profiles_internal.remove_dual_write') is not null then
    perform profiles_internal.remove_dual_write();
  end if;
end
$stop$;
-- Should somebody upgrade instead of going on: nothing counts as converted any more.
update profiles_internal.legacy_columns set state = 'expanded', converted_at = null where state = 'converted';
"""
        )
        op.execute(run_batches())
        op.execute(
            r"""
do $keep$
declare
  done bigint;
  failed bigint;
begin
  if to_regproc('profiles_internal.traits_in_place') is null then
    return;
  end if;
  if not exists (select from profiles_internal.traits_in_place()) then
    return;
  end if;
  call profiles_internal.run_batches(
    null, 'select profiles_internal.keep_json($1::uuid[])', null, done, failed
  );
end
$keep$;
"""
        )
        op.execute("drop procedure profiles_internal.run_batches")
    op.execute(
        r"""
do $forget$
begin
  if to_regproc('profiles_internal.forget_traits') is not null then
    perform profiles_internal.forget_traits();
  end if;
end
$forget$;
"""
    )
    op.execute(
        r"""
drop function if exists profiles_internal.forget_traits();
drop function if exists profiles_internal.keep_json(uuid[]);
drop function if exists profiles_internal.finish_trait_restore();
drop function if exists profiles_internal.restore_traits(uuid[]);
drop function if exists profiles_internal.begin_trait_restore();
drop function if exists profiles_internal.contract_traits();
drop function if exists profiles_internal.finish_conversion();
drop function if exists profiles_internal.convert_traits(uuid[]);
drop function if exists profiles_internal.bring_back_kept_json(uuid[]);
drop function if exists profiles_internal.without_paths(jsonb, text[]);
drop function if exists profiles_internal.json_leaves(jsonb);
drop function if exists profiles_internal.split_path(text);
drop function if exists profiles_internal.join_path(text[]);
drop function if exists profiles_internal.expand_traits();
drop function if exists profiles_internal.restore_set_aside(text);
drop function if exists profiles_internal.install_dual_write();
drop function if exists profiles_internal.dual_write_is_whole();
drop function if exists profiles_internal.dual_write_body();
drop function if exists profiles_internal.remove_dual_write();
drop function if exists profiles_internal.differing_profiles(uuid, uuid, integer);
drop function if exists profiles_internal.trait_differences(uuid, uuid, integer);
drop function if exists profiles_internal.trait_comparisons();
drop function if exists profiles_internal.trait_document(text, text);
drop function if exists profiles_internal.trait_at(text, text[]);
drop function if exists profiles_internal.trait_from_json(text, text);
drop function if exists profiles_internal.trait_to_json(text, text);
drop function if exists profiles_internal.traits_in_place();
"""
    )


def run_batches() -> str:
    """The procedure that works in batches."""
    return (Path(__file__).parents[1] / "run_batches.sql").read_text(encoding="utf-8")
