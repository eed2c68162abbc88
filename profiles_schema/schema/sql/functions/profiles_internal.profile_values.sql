-- What user rows say about their profiles: one row per user row, in their order. The rule stands here alone; sign-up,
-- sign-in, backfill and gen_available_username all ask this.
--
-- A user row comes as JSON, so that a column which this auth server does not have yet reads as null instead of failing.
-- Nothing in the metadata decides authority, and nothing in it can fail: any key may hold any JSON at all, and a value of
-- the wrong type or shape is as good as none.
--
-- Usernames: the email's local part, lower-cased ("C": ASCII only, the same on every server), cleaned to [a-z0-9_.-], cut
-- to 32 characters; or, made alike, the username that an application's own table of users gives. The first choice is that
-- name; the second adds the last eight hex digits of the user id; the third is all 32 of them. No chance and no loop: the
-- thousandth ada@… costs what the second did. 'user' replaces what leaves nothing usable: no address, fewer than three
-- characters, or a reserved name, which suggests authority. A name is reserved too if it only looks like one
-- of the list: without _ . - and with look-alikes read as one letter (adm1n, -admin-, supp0rt). No profile is called just 'user'.
--
-- Names lose control characters and what hides or turns text around, as their CHECK demands; a line end becomes a space.
-- An address of more than 320 characters is not copied. The phone is a contact number: that of the user row, else the
-- metadata's.
--
-- Nothing but simple expressions, which plpgsql evaluates without starting the executor: a call, or a query, per value
-- costs more than the insert that it prepares.
create or replace function profiles_internal.profile_values(p_users jsonb[])
returns table (
  user_id uuid,
  first_username text,
  second_username text,
  third_username text,
  email text,
  phone text,
  email_verified boolean,
  is_anonymous boolean,
  last_login timestamptz,
  display_name text,
  first_name text,
  last_name text,
  avatar_url text,
  timezone text,
  language text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $profile_values$
declare
  blanks constant text := E' \t\r\n';
  -- Words between spaces, not an array: that would be copied at every call.
  reserved constant text := ' '
    'abuse admin administrator anon anonymous api authenticated authenticator billing contact deleted help '
    'helpdesk hostmaster info mail mailerdaemon me moderator news nobody noreply null official operator owner '
    'pgbouncer postgres postgresql postmaster privacy root security service servicerole staff supabase '
    'supabaseadmin superadmin superuser support sysadmin system team undefined user webmaster www ';
  default_timezone constant text := profiles_internal.default_timezone();
  default_language constant text := profiles_internal.default_language();
  user_row jsonb;
  metadata jsonb;
  base text;
begin
  foreach user_row in array p_users loop
    user_id := (user_row ->> 'id')::uuid;
    email := case when length(user_row ->> 'email') between 1 and 320 then user_row ->> 'email' end;
    phone := case when length(user_row ->> 'phone') between 1 and 40 then user_row ->> 'phone' end;
    email_verified := email is not null and user_row ->> 'email_confirmed_at' is not null;
    is_anonymous := coalesce((user_row ->> 'is_anonymous')::boolean, false);
    last_login := (user_row ->> 'last_sign_in_at')::timestamptz;

    base := coalesce(user_row -> 'raw_app_meta_data' ->> 'identity_username', split_part(email, '@', 1));
    base := left(regexp_replace(lower(left(base, 1000) collate "C"), '[^a-z0-9_.-]', '', 'g'), 32);
    if base is null or length(base) < 3
      or strpos(reserved, ' ' || translate(base, '0345789_.-', 'oeastbg') || ' ') > 0
      -- The digit 1 may be an i or an l: where a name holds one, both are written as i.
      or strpos(base, '1') > 0
        and strpos(translate(reserved, 'l', 'i'), ' ' || translate(base, 'l10345789_.-', 'iioeastbg') || ' ') > 0
    then
      base := 'user';
    end if;
    third_username := replace(user_row ->> 'id', '-', '');
    second_username := left(base, 23) || '_' || right(third_username, 8);
    first_username := case when base = 'user' then second_username else base end;

    display_name := null;
    first_name := null;
    last_name := null;
    avatar_url := null;
    timezone := default_timezone;
    language := null;
    metadata := user_row -> 'raw_user_meta_data';
    if jsonb_typeof(metadata) = 'object' and metadata <> '{}' then
      if jsonb_typeof(metadata -> 'full_name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'full_name', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'name', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'preferred_username') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'preferred_username', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'user_name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'user_name', blanks), 200), blanks), '');
      end if;
      if metadata ?| '{first_name,given_name,last_name,family_name}' then
        if jsonb_typeof(metadata -> 'first_name') = 'string' then
          first_name := nullif(btrim(left(btrim(metadata ->> 'first_name', blanks), 200), blanks), '');
        end if;
        if first_name is null and jsonb_typeof(metadata -> 'given_name') = 'string' then
          first_name := nullif(btrim(left(btrim(metadata ->> 'given_name', blanks), 200), blanks), '');
        end if;
        if jsonb_typeof(metadata -> 'last_name') = 'string' then
          last_name := nullif(btrim(left(btrim(metadata ->> 'last_name', blanks), 200), blanks), '');
        end if;
        if last_name is null and jsonb_typeof(metadata -> 'family_name') = 'string' then
          last_name := nullif(btrim(left(btrim(metadata ->> 'family_name', blanks), 200), blanks), '');
        end if;
      end if;
      if concat(display_name, first_name, last_name) ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]' then
        display_name := nullif(btrim(regexp_replace(translate(display_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
        first_name := nullif(btrim(regexp_replace(translate(first_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
        last_name := nullif(btrim(regexp_replace(translate(last_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
      end if;
      -- A URL is whole or worthless, so the cut is one character behind the longest good one.
      if jsonb_typeof(metadata -> 'avatar_url') = 'string' then
        avatar_url := nullif(btrim(left(btrim(metadata ->> 'avatar_url', blanks), 2049), blanks), '');
      end if;
      if avatar_url is null and jsonb_typeof(metadata -> 'picture') = 'string' then
        avatar_url := nullif(btrim(left(btrim(metadata ->> 'picture', blanks), 2049), blanks), '');
      end if;
      if length(avatar_url) > 2048 or avatar_url !~ '^(https?://\S|/[^/\\\s])\S*$' then
        avatar_url := null;
      end if;
      if phone is null and jsonb_typeof(metadata -> 'phone') = 'string' then
        phone := nullif(btrim(left(btrim(metadata ->> 'phone', blanks), 41), blanks), '');
        if length(phone) > 40 or phone ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]' then
          phone := null;
        end if;
      end if;
      if metadata ?| '{language,locale,timezone}' then
        if jsonb_typeof(metadata -> 'language') = 'string' then
          language := nullif(btrim(left(btrim(metadata ->> 'language', blanks), 36), blanks), '');
        end if;
        if language is null and jsonb_typeof(metadata -> 'locale') = 'string' then
          language := nullif(btrim(left(btrim(metadata ->> 'locale', blanks), 36), blanks), '');
        end if;
        language := replace(language, '_', '-');
        if jsonb_typeof(metadata -> 'timezone') = 'string' then
          timezone := coalesce(
            (select z.name from profiles_internal.timezones as z where z.name = metadata ->> 'timezone'), default_timezone
          );
        end if;
      end if;
    end if;
    if language is null or length(language) > 35 or language !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' then
      language := default_language;
    end if;
    return next;
  end loop;
end
$profile_values$;

revoke all on function profiles_internal.profile_values(jsonb[]) from public, anon, authenticated, service_role;
