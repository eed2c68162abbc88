-- The columns of adopted tables that a trigger function of the application fills at sign-up and ours does not, each
-- with what a new row has there: "public.user_profiles.referral (null)". What the texts say is all there is to go by.
create or replace function profiles_internal.columns_left_unfilled(p_function oid)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $columns_left_unfilled$
  with written as (
    select t.relation, t.name as table_name, w.is_insert, w.words
    from profiles_internal.functions_called_by(p_function) as f
    cross join (
      select r.table_name as name, profiles_internal.table_to_adopt(r.table_name) as relation
        from profiles_internal.adopting_revisions() as r
    ) as t
    join pg_class as c on c.oid = t.relation
    cross join lateral (
      select format('\s+(?:\monly\s+)?(?:"?public"?\s*\.\s*)?"?%s"?(?![\w".])',
        regexp_replace(c.relname, '(\W)', '\\\1', 'g')) as pattern
    ) as n
    cross join lateral (
      -- Without a list of columns all are meant.
      select true as is_insert, coalesce(m.words[1], '') as words
      from regexp_matches(f.body, '\minsert\s+into' || n.pattern || '\s*(?:\mas\s+\w+\s*)?(\((?!\s*select\M)[^)]*\))?',
        'gi') as m (words)
      union all
      select false, regexp_replace(m.words[1], '\mwhere\M.*', '', 'i')
      from regexp_matches(f.body, '\mupdate' || n.pattern || '([^;]*)', 'gi') as m (words)
    ) as w
  ),
  -- Finding the column that says whose row it is reads the table.
  owner as materialized (
    select w.table_name, profiles_internal.adoption_context(w.table_name, w.relation) ->> 'owner' as name
    from (select distinct w.table_name, w.relation from written as w) as w
  )
  select coalesce(array_agg(x.shown order by x.shown), '{}')
  from (
    select distinct format('%s.%I (%s)', w.relation, c.found_name,
      coalesce(case when c.wanted_type is null then c.found_default else c.wanted_default end, 'null')) as shown
    from written as w
    cross join lateral profiles_internal.adoption_columns(w.table_name, w.relation) as c
    cross join lateral (select regexp_replace(c.found_name, '(\W)', '\\\1', 'g') as pattern) as n
    where c.found_name is not null and not c.found_generated
      and (w.is_insert and w.words = ''
        or w.words ~* format(case when w.is_insert then '[(,]\s*"?%s"?\s*[,)]' else '\m%s"?\s*=' end, n.pattern))
      -- What create_profiles fills, or keep_updated_at.
      and not (c.wanted_type is not null
        and (c.name in ('created_at', 'updated_at') or w.table_name = 'user_progress' and c.name in ('id', 'user_id')
        or w.table_name = 'user_profiles' and c.name in (
          'id', 'user_id', 'username', 'display_name', 'first_name', 'last_name', 'email', 'phone', 'avatar_url',
            'timezone', 'language',
          'email_verified', 'is_anonymous', 'last_login', 'login_count'
        )))
      and not exists (select from owner as o where o.table_name = w.table_name and o.name = c.found_name)
  ) as x
$columns_left_unfilled$;

revoke all on function profiles_internal.columns_left_unfilled(oid) from public, anon, authenticated, service_role;
