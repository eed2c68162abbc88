-- Gives every profile of an adopted table a username that keeps our rule and is its own. One that keeps the rule stays,
-- reserved or not. Another is made by the rule of sign-up (profile_values) from the old one, or from the email.
-- If several profiles want one name, the one that already has it keeps it, otherwise the oldest; the others get the
-- choices that a sign-up has when a name is taken, and in the end a random one.
create or replace function profiles_internal.fit_usernames(p_revision text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $fit_usernames$
declare
  renamed bigint;
  -- The profiles' own come later, together with our policies.
  email_waits constant boolean := exists (select from profiles_internal.adopted as a where a.object_type = 'fill'
    and a.data ? 'email');
begin
  with wish as materialized (
    select
      p.id, p.created_at, p.username as old,
      case when p.username ~ '^[a-z0-9_.-]{3,32}$' then p.username else v.first_username end as name,
      v.second_username, v.third_username
    from public.user_profiles as p
    -- The addresses of the auth server come into the table later, together with the policies that guard them.
    left join auth.users as u on email_waits and u.id = p.user_id
    cross join lateral profiles_internal.profile_values(array[
      jsonb_build_object('id', p.user_id, 'email',
        coalesce(split_part(p.username, '@', 1), split_part(coalesce(p.email, u.email), '@', 1)) || '@')
    ]) as v
  ),
  first as materialized (
    select w.*, row_number() over (partition by w.name order by w.old is not distinct from w.name desc, w.created_at,
      w.id) as nth
    from wish as w
  ),
  -- Joins, since a sub-select over names that no longer fit into work_mem would be read once per row.
  second as materialized (
    select f.*, x.name is not null
      or row_number() over (partition by f.second_username order by f.created_at, f.id) > 1 as taken
    from first as f
    left join first as x on x.nth = 1 and x.name = f.second_username
    where f.nth > 1
  ),
  third as materialized (
    select s.*, x.name is not null or y.id is not null
      or row_number() over (partition by s.third_username order by s.created_at, s.id) > 1 as taken_too
    from second as s
    left join first as x on x.nth = 1 and x.name = s.third_username
    left join second as y on not y.taken and y.second_username = s.third_username
    where s.taken
  ),
  chosen as (
    select f.id, f.old, f.name from first as f where f.nth = 1
    union all
    select s.id, s.old, s.second_username from second as s where not s.taken
    union all
    select t.id, t.old, case when t.taken_too then replace(gen_random_uuid()::text, '-', '') else t.third_username end
      from third as t
  ),
  done as (
    update public.user_profiles as p
    set username = c.name
    from chosen as c
    where p.id = c.id and p.username is distinct from c.name
    returning p.id, c.old, p.username as new
  )
  insert into profiles_internal.adopted (revision, object_type, object_name, data)
  select p_revision, 'value', 'public.user_profiles.username',
    jsonb_build_object('key', d.id, 'old', d.old, 'new', d.new)
  from done as d;
  get diagnostics renamed = row_count;
  return renamed;
end
$fit_usernames$;

revoke all on function profiles_internal.fit_usernames(text) from public, anon, authenticated, service_role;
