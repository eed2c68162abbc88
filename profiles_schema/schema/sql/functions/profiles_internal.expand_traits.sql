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
