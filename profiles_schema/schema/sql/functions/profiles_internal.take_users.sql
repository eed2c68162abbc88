-- Makes our users be as rows of the application's table say, and returns how many were made or changed. Sign-up and sign-in
-- triggers of auth.users do the rest. The key of a row and its user are a row in identity_links: a uuid is the user's id,
-- any other key gets a new one and is the profile's external_id.
-- A user who already has this external_id (create_user) or this uuid is adopted unchanged.
-- Errors are the caller's business.
create or replace function profiles_internal.take_users(p_rows jsonb[], p_key text, p_by_uuid boolean)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $take_users$
declare
  made integer;
  changed integer;
begin
  if not p_by_uuid then
    insert into profiles_internal.identity_links (external_id, user_id)
    select p.external_id, p.user_id
    from unnest(p_rows) as r (source)
    join public.user_profiles as p on p.external_id = r.source ->> p_key
    where (select 1 from profiles_internal.identity_links as k where k.external_id = p.external_id) is null
    on conflict do nothing;
  end if;

  with person as materialized (
    select v.*, case when p_by_uuid then v.external_id::uuid else gen_random_uuid() end as user_id
    from profiles_internal.identity_users(p_rows, p_key) as v
    where (select 1 from profiles_internal.identity_links as k where k.external_id = v.external_id) is null
  ),
  mapped as (
    insert into profiles_internal.identity_links (external_id, user_id)
    select p.external_id, p.user_id from person as p order by p.external_id
    on conflict do nothing
    returning identity_links.user_id
  )
  insert into auth.users (
    id, email, phone, email_confirmed_at, last_sign_in_at, created_at, deleted_at, raw_user_meta_data, raw_app_meta_data
  )
  select
    p.user_id, p.email, p.phone, p.email_confirmed_at, p.last_sign_in_at, coalesce(p.created_at, now()), p.deleted_at,
    p.user_metadata, p.app_metadata
  from person as p
  join mapped as m on m.user_id = p.user_id
  on conflict (id) do nothing;
  get diagnostics made = row_count;
  if made = cardinality(p_rows) then
    return made;
  end if;

  update auth.users as u
  set
    email = w.email, phone = w.phone, email_confirmed_at = w.email_confirmed_at, last_sign_in_at = w.last_sign_in_at,
    created_at = w.created_at, deleted_at = w.deleted_at, raw_user_meta_data = w.user_metadata,
    raw_app_meta_data = w.app_metadata, updated_at = now()
  from profiles_internal.identity_wanted(p_rows, p_key, p_by_uuid) as w
  where u.id = w.user_id and w.differs;
  get diagnostics changed = row_count;
  if not p_by_uuid then
    update public.user_profiles as p
    set external_id = k.external_id
    from profiles_internal.identity_links as k
    where k.external_id = any (array(select r.source ->> p_key from unnest(p_rows) as r (source)))
      and p.user_id = k.user_id and p.is_active and p.external_id is distinct from k.external_id;
  end if;
  return made + changed;
end
$take_users$;

revoke all on function profiles_internal.take_users(jsonb[], text, boolean) from public, anon, authenticated, service_role;
