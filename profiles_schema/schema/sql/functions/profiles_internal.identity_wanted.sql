-- Rows of the application's table of users, compared with our users: for each row the user it is (null where there is none yet),
-- what that user's row is to hold, and whether it differs from what it holds. A column that the application's table does
-- not have is left as it is. Names that are no longer sent stay, as at any other provider.
create or replace function profiles_internal.identity_wanted(p_rows jsonb[], p_key text, p_by_uuid boolean)
returns table (
  place integer,
  external_id text,
  user_id uuid,
  email text,
  phone text,
  email_confirmed_at timestamptz,
  last_sign_in_at timestamptz,
  created_at timestamptz,
  deleted_at timestamptz,
  user_metadata jsonb,
  app_metadata jsonb,
  differs boolean
)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $identity_wanted$
begin
  return query
    select
      v.place, v.external_id, u.id, w.email, w.phone, w.email_confirmed_at, w.last_sign_in_at, w.created_at, v.deleted_at,
      w.user_metadata, w.app_metadata,
      u.id is null
        or (u.email, u.phone, u.email_confirmed_at, u.last_sign_in_at, u.created_at, u.deleted_at, u.raw_user_meta_data, u.raw_app_meta_data)
          is distinct from
          (w.email, w.phone, w.email_confirmed_at, w.last_sign_in_at, w.created_at, v.deleted_at, w.user_metadata, w.app_metadata)
        or (not p_by_uuid and (
          select 1 from public.user_profiles as p
          where p.user_id = u.id and p.is_active and p.external_id is distinct from v.external_id
        ) is not null)
    from profiles_internal.identity_users(p_rows, p_key) as v
    left join profiles_internal.identity_links as k on k.external_id = v.external_id
    left join auth.users as u on u.id = k.user_id
    cross join lateral (
      select
        case when v.source ? 'email' or v.deleted_at is not null then v.email else u.email end as email,
        case when v.source ?| array['phone', 'phone_number'] or v.deleted_at is not null then v.phone else u.phone end as phone,
        case when v.source ?| array['email_confirmed_at', 'email_verified_at', 'email_verified'] or v.deleted_at is not null
          then v.email_confirmed_at else u.email_confirmed_at end as email_confirmed_at,
        coalesce(v.last_sign_in_at, u.last_sign_in_at) as last_sign_in_at,
        coalesce(v.created_at, u.created_at) as created_at,
        case when v.deleted_at is not null then v.user_metadata
          else coalesce(u.raw_user_meta_data, '{}') || v.user_metadata end as user_metadata,
        case when v.deleted_at is not null then v.app_metadata
          else (coalesce(u.raw_app_meta_data, '{}') - 'identity_username') || v.app_metadata end as app_metadata
    ) as w;
end
$identity_wanted$;

revoke all on function profiles_internal.identity_wanted(jsonb[], text, boolean) from public, anon, authenticated, service_role;
