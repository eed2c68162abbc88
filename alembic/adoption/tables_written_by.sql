-- The tables that a function writes, itself or through functions that it calls: ours, or all others. It can only read
-- their texts.
create or replace function profiles_internal.tables_written_by(p_function oid, p_ours boolean)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $tables_written_by$
  select coalesce(array_agg(distinct w.name order by w.name), '{}')
  from profiles_internal.functions_called_by(p_function) as f
  cross join lateral regexp_matches(
    f.body,
    '\m(insert\s+into|delete\s+from|merge\s+into|truncate(?:\s+table)?|update)\s+(only\s+)?'
      '((?:"[^"]+"|\w+)(?:\s*\.\s*(?:"[^"]+"|\w+))?)(?=[\s(;]|$)', 'gi'
  ) as m (words)
  cross join lateral (select regexp_replace(regexp_replace(replace(lower(m.words[3]), '"', ''), '\s*\.\s*', '.'),
    '^public\.', '')) as w (name)
  where w.name not in ('set', 'of', 'or', 'on', 'skip', 'nowait', 'loop', 'into', 'limit', 'returning', 'then')
    and p_ours = (w.name = any (array[
      'user_profiles', 'user_progress', 'user_api_keys', 'export_history', 'user_profile_audit_logs',
      lower(coalesce(current_setting('profiles_schema.adopt_table', true), ''))
    ]))
$tables_written_by$;

revoke all on function profiles_internal.tables_written_by(oid, boolean) from public, anon, authenticated, service_role;
