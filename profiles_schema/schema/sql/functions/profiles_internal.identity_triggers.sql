-- The triggers that following the application's own table takes: where, name, the statement that makes each, and its state:
-- INSTALLED, MISSING, CHANGED or DISABLED. No rows where no such table was chosen, or it is gone.
create or replace function profiles_internal.identity_triggers()
returns table (relation regclass, table_name text, trigger_name text, definition text, state text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $identity_triggers$
  select
    w.relation, w.relation::text, w.trigger_name, w.definition,
    case
      when t.oid is null then 'MISSING'
      when t.tgenabled not in ('O', 'A') then 'DISABLED'
      when pg_get_triggerdef(t.oid) <> w.definition then 'CHANGED'
      else 'INSTALLED'
    end
  from profiles_internal.identity_table() as i
  cross join lateral (
    select
      i.relation, 'profiles_identity_' || e.happened,
      format(
        'CREATE TRIGGER %s AFTER %s ON %s %sFOR EACH STATEMENT EXECUTE FUNCTION profiles_internal.on_identity_changed(%L, %L)',
        'profiles_identity_' || e.happened, e.event, i.relation, e.referencing, i.key_name,
        case when i.by_uuid then 'uuid' else 'other' end
      )
    from (values
      ('inserted', 'INSERT', 'REFERENCING NEW TABLE AS new_rows '),
      ('updated', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '),
      ('deleted', 'DELETE', 'REFERENCING OLD TABLE AS old_rows '),
      ('truncated', 'TRUNCATE', '')
    ) as e (happened, event, referencing)
    union all
    select
      to_regclass('public.user_profiles'), 'fill_external_id',
      'CREATE TRIGGER fill_external_id BEFORE INSERT ON public.user_profiles FOR EACH ROW WHEN ((new.external_id IS NULL))'
        ' EXECUTE FUNCTION profiles_internal.fill_external_id()'
    where not i.by_uuid
  ) as w (relation, trigger_name, definition)
  left join pg_trigger as t on t.tgrelid = w.relation and t.tgname = w.trigger_name and not t.tgisinternal
$identity_triggers$;

revoke all on function profiles_internal.identity_triggers() from public, anon, authenticated, service_role;
