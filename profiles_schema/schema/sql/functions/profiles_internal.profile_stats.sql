-- The work of get_user_profile_stats. Keys:
--   users, profiles            counts; users without the soft-deleted ones
--   missing                    users without a profile
--   active, anonymous, public  profiles
--   new_per_day, active_per_day  {"2026-01-31": count} of the last 30 days (UTC), by created_at and by last_login
--   failures_by_sqlstate       {"55P03": count} of recorded failures whose user still exists, last 30 days
--   completion                 {"0-24", "25-49", "50-74", "75-100": count}: per cent of display_name, first_name,
--                              last_name, a picture, bio and a verified email that are there
-- Reads every profile: for a dashboard, not for a request path.
-- Definer: reads auth.users.
create or replace function profiles_internal.profile_stats()
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $profile_stats$
  with living_user as (
    select u.id
    from auth.users as u
    where to_jsonb(u) ->> 'deleted_at' is null
  ),
  profile as (
    select
      p.*,
      100 * ((p.display_name is not null)::integer + (p.first_name is not null)::integer + (p.last_name is not null)::integer
        + (coalesce(p.profile_picture_url, p.avatar_url) is not null)::integer + (p.bio is not null)::integer
        + p.email_verified::integer) / 6 as completion
    from public.user_profiles as p
  )
  select jsonb_build_object(
    'users', (select count(*) from living_user),
    'profiles', (select count(*) from profile),
    'missing', (select count(*) from living_user as u where not exists (select from public.user_profiles as p where p.user_id = u.id)),
    'active', (select count(*) from profile as p where p.is_active),
    'anonymous', (select count(*) from profile as p where p.is_anonymous),
    'public', (select count(*) from profile as p where p.profile_visibility = 'public'),
    'new_per_day', (
      select coalesce(jsonb_object_agg(d.day, d.profiles), '{}')
      from (
        select (p.created_at at time zone 'UTC')::date as day, count(*) as profiles
        from profile as p where p.created_at > now() - interval '30 days' group by 1
      ) as d
    ),
    'active_per_day', (
      select coalesce(jsonb_object_agg(d.day, d.profiles), '{}')
      from (
        select (p.last_login at time zone 'UTC')::date as day, count(*) as profiles
        from profile as p where p.last_login > now() - interval '30 days' group by 1
      ) as d
    ),
    'failures_by_sqlstate', (
      select coalesce(jsonb_object_agg(f.error_code, f.failures), '{}')
      from (
        select coalesce(a.error_code, 'unknown') as error_code, count(*) as failures
        from public.user_profile_audit_logs as a
        where a.action = 'failed' and a.created_at > now() - interval '30 days' group by 1
      ) as f
    ),
    'completion', (
      select jsonb_build_object(
        '0-24', count(*) filter (where p.completion < 25),
        '25-49', count(*) filter (where p.completion >= 25 and p.completion < 50),
        '50-74', count(*) filter (where p.completion >= 50 and p.completion < 75),
        '75-100', count(*) filter (where p.completion >= 75)
      )
      from profile as p
    )
  )
$profile_stats$;

revoke all on function profiles_internal.profile_stats() from public, anon, authenticated, service_role;
grant execute on function profiles_internal.profile_stats() to service_role;
