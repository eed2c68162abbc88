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
