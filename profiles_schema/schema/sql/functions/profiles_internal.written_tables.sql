-- The tables that a function's text inserts into, updates or deletes from: those of ours, or all others.
create or replace function profiles_internal.written_tables(p_function oid, p_ours boolean)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $written_tables$
  select coalesce(array_agg(distinct w.name order by w.name), '{}')
  from pg_proc as f
  cross join lateral regexp_matches(
    regexp_replace(f.prosrc, '--[^\n]*', '', 'g'),
    '\m(insert\s+into|delete\s+from|update)\s+(only\s+)?("?\w+"?(\."?\w+"?)?)(?=[\s(;])', 'gi'
  ) as m (words)
  cross join lateral (select regexp_replace(replace(lower(m.words[3]), '"', ''), '^public\.', '')) as w (name)
  where f.oid = p_function
    and w.name not in ('set', 'of', 'or', 'skip', 'nowait')
    and p_ours = (w.name = any (array[
      'user_profiles', 'user_progress', 'user_api_keys', 'export_history', 'user_profile_audit_logs',
      coalesce(current_setting('profiles_schema.adopt_table', true), '')
    ]))
$written_tables$;

revoke all on function profiles_internal.written_tables(oid, boolean) from public, anon, authenticated, service_role;
