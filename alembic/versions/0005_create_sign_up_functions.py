"""How a user becomes a profile, as functions. Triggers of the application that did it are emptied.

Why: sign-up, sign-in, the API and backfill share one rule, in one place; while tables change, no old trigger may write them.
Locks: auth.users in SHARE ROW EXCLUSIVE mode, where a trigger of the application is emptied: its writers wait for milliseconds.
Compatible with: any code; a user who signs up meanwhile gets a profile at the end of the upgrade.
Back: gives the triggers back, and drops the functions.
"""

from alembic import op

revision = "0005_create_sign_up_functions"
down_revision = "0004_create_internal_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
-- The language of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_language()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_language$
begin
  return 'en'::text;
end
$default_language$;

revoke all on function profiles_internal.default_language() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The timezone of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_timezone()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_timezone$
begin
  return 'UTC'::text;
end
$default_timezone$;

revoke all on function profiles_internal.default_timezone() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
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
"""
    )
    op.execute(
        r"""
-- The rows of these users, as create_profiles takes them; deleted users are left out.
-- For a caller that makes profiles of users who were there before. It locks each row as the profile's foreign key will, so
-- that what it returns stays true until the caller commits: an erasure, and a change that finds no profile and makes none,
-- wait for the commit, and then see the profile (on_auth_user_updated).
create or replace function profiles_internal.living_users(p_user_ids uuid[])
returns jsonb[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $living_users$
begin
  if not has_any_column_privilege('auth.users', 'update') then
    -- A row lock needs the right to UPDATE. Without it the next sign-in, or backfill, makes up for what is missed here.
    null;
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- One snapshot for all statements: a row that has changed since is an error (40001), not an old row.
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for share;
  else
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for key share;
  end if;
  -- A statement of its own, which sees what the lock had to wait for. Offset 0: made into JSON once, not again to look at deleted_at.
  return array(
    select r.user_row
    from (select u.id, to_jsonb(u) as user_row from auth.users as u where u.id = any (p_user_ids) offset 0) as r
    where r.user_row ->> 'deleted_at' is null
    order by r.id
  );
end
$living_users$;

revoke all on function profiles_internal.living_users(uuid[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The id of a user's profile, in the type of p_like: id is text, or uuid in a table that came with uuid. A statement that
-- writes or compares it names the column's type so: key_of(user_id, (null::public.user_profiles).id).
create or replace function profiles_internal.key_of(p_user_id uuid, p_like anyelement)
returns anyelement
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $key_of$
begin
  return p_user_id;
end
$key_of$;

revoke all on function profiles_internal.key_of(uuid, anyelement) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Gives every user of the array a profile and a progress row, and returns how many profiles it made.
-- The one place where a profile comes into being: sign-up, sign-in, ensure_user_profile and backfill all call it.
--
-- Names are inserted in order, so that two imports meet each name in the same order; an import that finds the name taken
-- (by an older row or by a concurrent one) uses the next choice. ON CONFLICT has no target on purpose:
-- a target would cover one unique index and let the others fail.
-- If all three are taken, a person took them on purpose (public profiles show ids): then a random one.
-- At audit level 'all' it records the creation itself, which is cheaper than a trigger call per row
-- (record_profile_creation stands back while `profiles_internal.creating` is set).
-- Generic plans: planning anew for every array would cost as much as the inserts.
-- Errors are the caller's business. Runs with the rights of its caller, which is always one of our definer functions.
create or replace function profiles_internal.create_profiles(p_users jsonb[], p_first_choice integer default 1)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $create_profiles$
declare
  asked jsonb[];
  made uuid[];
  created uuid[] := '{}';
  everybody_served boolean;
  creating text := set_config('profiles_internal.creating', 'yes', true);
begin
  for choice in p_first_choice .. 4 loop
    with candidate as materialized (
      select
        v.*,
        case choice
          when 1 then v.first_username
          when 2 then v.second_username
          when 3 then v.third_username
          else replace(gen_random_uuid()::text, '-', '')
        end as username
      from profiles_internal.profile_values(p_users) as v
    ),
    profile as (
      insert into public.user_profiles (
        id, user_id, username, display_name, first_name, last_name, email, phone, avatar_url, timezone, language,
        email_verified, is_anonymous, last_login, login_count
      )
      select
        profiles_internal.key_of(c.user_id, (null::public.user_profiles).id), c.user_id, c.username, c.display_name, c.first_name, c.last_name, c.email, c.phone, c.avatar_url,
        c.timezone, c.language, c.email_verified, c.is_anonymous, c.last_login, (c.last_login is not null)::integer
      from candidate as c
      -- Held for a former owner: as good as taken.
      where (
        select 1 from profiles_internal.held_usernames as h
        where h.username = c.username and h.user_id <> c.user_id and h.held_until > now()
      ) is null
      order by c.username
      on conflict do nothing
      returning user_id
    ),
    progress as (
      insert into public.user_progress (user_id)
      select p.user_id from profile as p
      on conflict do nothing
    )
    select array_agg(p.user_id) into made from profile as p;

    created := created || made;
    everybody_served := coalesce(cardinality(made), 0) = cardinality(p_users);
    exit when everybody_served;

    -- The scalar sub-select keeps the planner on the index: a NOT EXISTS makes it hash the whole profile table.
    asked := coalesce(asked, p_users);
    p_users := array(
      select u.user_row
      from unnest(p_users) as u (user_row)
      where (select 1 from public.user_profiles as p where p.user_id = (u.user_row ->> 'id')::uuid) is null
    );
    everybody_served := p_users = '{}';
    exit when everybody_served;
  end loop;

  if asked is not null then
    -- A user had a profile already, and perhaps no progress.
    insert into public.user_progress (user_id)
    select p.user_id
    from unnest(asked) as u (user_row)
    join public.user_profiles as p on p.user_id = (u.user_row ->> 'id')::uuid
    on conflict do nothing;
    if not everybody_served then
      -- Not a name, then: some unique index of the application's own.
      raise exception 'a unique index leaves no room for a profile'
        using errcode = 'unique_violation', schema = 'public', table = 'user_profiles';
    end if;
  end if;

  begin
    if (select s.value from profiles_internal.settings as s where s.key = 'audit_level') = '"all"' then
      perform profiles_internal.record_events(
        created, 'created', coalesce(nullif(current_setting('profiles_internal.origin', true), ''), 'trigger')
      );
    end if;
  exception when query_canceled or assert_failure or others then
    raise warning 'profiles-schema: the creation of profiles was not recorded (SQLSTATE %)', sqlstate;
  end;
  creating := set_config('profiles_internal.creating', '', true);
  return cardinality(created);
end
$create_profiles$;

revoke all on function profiles_internal.create_profiles(jsonb[], integer) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Writes one audit row per user of the array: what happened, from where, and the SQLSTATE where something failed.
-- The message names objects only. The server's own message is never kept: it quotes personal values.
-- The time is that of the event, not the start of its transaction: a failure counts as repaired only by what came later.
create or replace function profiles_internal.record_events(
  p_user_ids uuid[],
  p_action text,
  p_origin text,
  p_error_code text default null,
  p_error_message text default null,
  p_metadata jsonb default '{}'
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $record_events$
begin
  insert into public.user_profile_audit_logs (user_id, action, origin, error_code, error_message, metadata, created_at)
  select u.id, p_action, p_origin, p_error_code, p_error_message, p_metadata, clock_timestamp()
  from unnest(p_user_ids) as u (id);
end
$record_events$;

revoke all on function profiles_internal.record_events(uuid[], text, text, text, text, jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What failed, by the names of the objects involved: table, column, constraint, and the function of the innermost line
-- of the context. Never the server's own message, which quotes personal values.
create or replace function profiles_internal.describe_failure(p_table text, p_column text, p_constraint text, p_context text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $describe_failure$
begin
  return concat_ws(
    ' ', nullif(p_table, ''), nullif(p_column, ''), nullif(p_constraint, ''),
    'in ' || substring(p_context from 'function ([a-zA-Z0-9_.]+)[(]')
  );
end
$describe_failure$;

revoke all on function profiles_internal.describe_failure(text, text, text, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Who acts in this transaction, from where, and what the application says of the request (acting_as): for a row of the
-- audit log.
create or replace function profiles_internal.audit_source(out actor uuid, out origin text, out context jsonb)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $audit_source$
declare
  known_origins constant text[] := array['trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize'];
begin
  origin := nullif(current_setting('profiles_internal.origin', true), '');
  if origin is null or origin <> all (known_origins) then
    origin := case when pg_trigger_depth() > 1 then 'trigger' else 'manual' end;
  end if;

  -- Kept as it is said, if it is short.
  context := '{}';
  begin
    if octet_length(current_setting('profiles_schema.context', true)) between 3 and 2000 then
      context := jsonb_build_object('context', current_setting('profiles_schema.context', true)::jsonb);
    end if;
  exception when others then
    null;
  end;

  -- The token of a service may name a subject that is no user.
  begin
    actor := auth.uid();
  exception when others then
    actor := null;
  end;
end
$audit_source$;

revoke all on function profiles_internal.audit_source() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What the sign-up trigger does once creating the profiles of a statement has failed: save every profile that can be
-- saved, record the others, and let the sign-up commit in any case.
--
--   A lock (55P03, 40P01; 40001 in a transaction with one snapshot): either another transaction is taking the same name, and none
--   waits for the second name; or the table itself is locked, and a further wait would delay the sign-up. So: one more
--   short wait, with the second name. If that fails too, the rest of this transaction no longer tries (`profiles_internal.gave_up`): the
--   auth server follows its INSERT with two UPDATEs, and an import may have a statement per user.
--   A cancel (57014): the statement has to end. Nothing more is tried.
--   Anything else: row by row, so that one bad row costs one profile and not the batch.
--
-- What is recorded here is found by `profiles-schema health` and repaired by the next sign-in or by `backfill`.
create or replace function profiles_internal.rescue_sign_ups(p_users jsonb[], p_error_code text, p_error_message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $rescue_sign_ups$
declare
  lock_errors constant text[] := array['55P03', '40P01', '40001'];
  ids uuid[] := array(select (u.user_row ->> 'id')::uuid from unnest(p_users) as u (user_row));
  first_choice integer := case when cardinality(p_users) = 1 and p_error_code = any (lock_errors) then 2 else 1 end;
  lock_failures integer := 0;
  user_row jsonb;
  i integer := 0;
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  if p_error_code = '57014' then
    perform profiles_internal.record_events(ids, 'failed', 'trigger', p_error_code, p_error_message);
    return;
  end if;

  foreach user_row in array p_users loop
    i := i + 1;
    for choice in first_choice .. 2 loop
      error_code := null;
      begin
        perform profiles_internal.create_profiles(array[user_row], choice);
      exception when query_canceled or assert_failure or others then
        get stacked diagnostics
          error_code = returned_sqlstate, failed_table = table_name,
          failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
      end;
      exit when error_code is null or error_code <> all (lock_errors);
      lock_failures := lock_failures + 1;
    end loop;

    if error_code = any (lock_errors || '57014'::text) then
      perform set_config('profiles_internal.gave_up', 'yes', true);
      perform profiles_internal.record_events(ids[i:], 'failed', 'trigger', error_code, 'waited for a lock and did not get it');
      return;
    elsif error_code is not null then
      perform profiles_internal.record_events(
        ids[i:i], 'failed', 'trigger', error_code, profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
      );
    end if;

    -- After three names that other transactions were taking, the rest of the batch no longer competes for any.
    if lock_failures >= 3 then
      first_choice := 2;
    end if;
  end loop;
end
$rescue_sign_ups$;

revoke all on function profiles_internal.rescue_sign_ups(jsonb[], text, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Gives new users their profiles, and never raises: what fails is rescued row by row, and recorded.
-- The guard stands here and not around the whole import, so that one bad row costs its thousand a second try, no more.
-- Plain OTHERS would let a cancelled statement and a failed ASSERT through.
create or replace function profiles_internal.sign_up(p_users jsonb[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $sign_up$
declare
  error_code text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_context text;
begin
  begin
    perform profiles_internal.create_profiles(p_users);
    return;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_context = pg_exception_context;
  end;

  begin
    perform profiles_internal.rescue_sign_ups(
      p_users, error_code,
      profiles_internal.describe_failure(failed_table, failed_column, failed_constraint, failed_context)
    );
  exception when query_canceled or assert_failure or others then
    -- Not even the record could be written. The server's log is all that is left; backfill still finds the user.
    perform set_config('profiles_internal.gave_up', 'mute', true);
    raise warning 'profiles-schema: no profile for a new user (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
end
$sign_up$;

revoke all on function profiles_internal.sign_up(jsonb[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Before tables change: sign-up triggers of the application that write them are emptied, while nobody signs up.
select profiles_internal.adopt('0005_create_sign_up_functions');
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
select profiles_internal.undo_adoption('0005_create_sign_up_functions');
drop function profiles_internal.sign_up(jsonb[]);
drop function profiles_internal.rescue_sign_ups(jsonb[], text, text);
drop function profiles_internal.audit_source();
drop function profiles_internal.describe_failure(text, text, text, text);
drop function profiles_internal.record_events(uuid[], text, text, text, text, jsonb);
drop function profiles_internal.create_profiles(jsonb[], integer);
drop function profiles_internal.key_of(uuid, anyelement);
drop function profiles_internal.living_users(uuid[]);
drop function profiles_internal.profile_values(jsonb[]);
drop function profiles_internal.default_timezone();
drop function profiles_internal.default_language();
"""
    )
