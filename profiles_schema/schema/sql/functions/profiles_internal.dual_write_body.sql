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
