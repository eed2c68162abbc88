-- What a user row says about its profile. The row comes as JSON, so that a column which this auth server does not
-- have yet reads as null instead of failing. Nothing in the metadata decides authority, and nothing in it can fail:
-- a value of the wrong type or shape is as good as none.
create or replace function profiles_internal.profile_values(
  p_user jsonb,
  out username_base text,
  out email text,
  out phone text,
  out email_verified boolean,
  out is_anonymous boolean,
  out last_login timestamptz,
  out display_name text,
  out first_name text,
  out last_name text,
  out avatar_url text,
  out timezone text,
  out language text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $profile_values$
declare
  metadata jsonb := p_user -> 'raw_user_meta_data';
begin
  email := nullif(p_user ->> 'email', '');
  phone := nullif(p_user ->> 'phone', '');
  if length(phone) > 40 then
    phone := null;
  end if;
  email_verified := email is not null and p_user ->> 'email_confirmed_at' is not null;
  is_anonymous := coalesce((p_user ->> 'is_anonymous')::boolean, false);
  last_login := (p_user ->> 'last_sign_in_at')::timestamptz;
  username_base := profiles_internal.username_base(email);
  timezone := 'UTC';
  language := 'en';

  if jsonb_typeof(metadata) = 'object' and metadata <> '{}' then
    display_name := profiles_internal.first_text(metadata, array['full_name', 'name', 'preferred_username', 'user_name'], 200);
    first_name := profiles_internal.first_text(metadata, array['first_name', 'given_name'], 200);
    last_name := profiles_internal.first_text(metadata, array['last_name', 'family_name'], 200);

    -- A URL is whole or worthless, so the limit is one character more than a good one has.
    avatar_url := profiles_internal.first_text(metadata, array['avatar_url', 'picture'], 2049);
    if length(avatar_url) > 2048 or avatar_url !~ '^https?://\S+$' then
      avatar_url := null;
    end if;

    language := replace(profiles_internal.first_text(metadata, array['language', 'locale'], 36), '_', '-');
    if language is null or length(language) > 35 or language !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' then
      language := 'en';
    end if;

    timezone := coalesce(
      (select zone.name from profiles_internal.timezones as zone where zone.name = metadata ->> 'timezone'),
      'UTC'
    );
  end if;
end
$profile_values$;

revoke all on function profiles_internal.profile_values(jsonb) from public, anon, authenticated, service_role;
