-- Counts the progress of an adopted table anew where there are sessions to count from: sums kept by hand drift. Figures
-- that change are kept in profiles_internal.adopted. Users without any ended session keep theirs.
create or replace function profiles_internal.recount_adopted(p_revision text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
as $recount_adopted$
declare
  users uuid[];
  before jsonb;
  figure record;
  changed bigint := 0;
  hits bigint;
begin
  if to_regproc('profiles_internal.roll_up_sessions') is null or not exists (
    select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_progress'
  ) then
    return 0;
  end if;
  users := array(select distinct s.user_id from public.sessions as s where isfinite(s.ended_at)
    and s.user_id is not null);
  select jsonb_object_agg(p.id, to_jsonb(p)) into before from public.user_progress as p where p.user_id = any (users);
  -- This is not an edit.
  alter table public.user_progress disable trigger keep_updated_at;
  perform profiles_internal.recount_progress(users);
  alter table public.user_progress enable trigger keep_updated_at;
  for figure in
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type
    from pg_attribute as a
    where a.attrelid = 'public.user_progress'::regclass and a.attnum > 0 and not a.attisdropped
  loop
    execute format(
      'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
      'select $1, ''value'', %1$L, jsonb_build_object(''key'', p.id, ''old'', (b.value ->> %2$L)::%3$s::text, ''new'', '
        'p.%2$I::text) '
      'from public.user_progress as p join jsonb_each($2) as b on b.key = p.id::text where (b.value ->> %2$L)::%3$s is '
        'distinct from p.%2$I',
      'public.user_progress.' || figure.name, figure.name, figure.type
    ) using p_revision, before;
    get diagnostics hits = row_count;
    changed := changed + hits;
  end loop;
  insert into profiles_internal.adopted (revision, object_type, object_name, definition)
  values (p_revision, 'convert', 'public.user_progress',
    format('select profiles_internal.restore_values(%L, %L, %L)', p_revision, 'public.user_progress', 'value'));
  return changed;
end
$recount_adopted$;

revoke all on function profiles_internal.recount_adopted(text) from public, anon, authenticated, service_role;
