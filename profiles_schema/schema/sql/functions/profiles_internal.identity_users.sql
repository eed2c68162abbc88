-- What rows of an application's own table of users say: one row per row, in their order. The rule stands here alone.
--
-- A row comes as JSON and its columns are known by name, so that one which this table does not have reads as null, and the
-- application may add, drop and retype columns as it likes. Nothing but the key can fail, and nothing decides authority.
-- Who is soft-deleted leaves nothing personal.
create or replace function profiles_internal.identity_users(p_rows jsonb[], p_key text)
returns table (
  place integer,
  external_id text,
  source jsonb,
  email text,
  phone text,
  email_confirmed_at timestamptz,
  last_sign_in_at timestamptz,
  created_at timestamptz,
  deleted_at timestamptz,
  user_metadata jsonb,
  app_metadata jsonb
)
language plpgsql
stable
rows 10
set search_path = pg_catalog, pg_temp
as $identity_users$
declare
  person jsonb;
begin
  place := 0;
  foreach source in array p_rows loop
    place := place + 1;
    external_id := source ->> p_key;
    if external_id is null then
      raise exception 'a user without a key' using errcode = 'not_null_violation', column = p_key;
    end if;
    created_at := profiles_internal.read_time(coalesce(source -> 'created_at', source -> 'date_joined'));
    deleted_at := case
      when source ->> 'deleted_at' is null or source ->> 'deleted_at' in ('0', 'false', '') then null
      else coalesce(profiles_internal.read_time(source -> 'deleted_at'), created_at, to_timestamp(0))
    end;
    last_sign_in_at := profiles_internal.read_time(
      coalesce(source -> 'last_sign_in_at', source -> 'last_login_at', source -> 'last_login')
    );
    if deleted_at is not null then
      email := null;
      phone := null;
      email_confirmed_at := null;
      user_metadata := '{}';
      app_metadata := '{"provider": "identity"}';
      return next;
      continue;
    end if;

    email := nullif(btrim(source ->> 'email'), '');
    phone := nullif(btrim(coalesce(source ->> 'phone', source ->> 'phone_number')), '');
    email_confirmed_at := coalesce(
      profiles_internal.read_time(coalesce(source -> 'email_confirmed_at', source -> 'email_verified_at')),
      profiles_internal.read_time(source -> 'email_verified'),
      case when source -> 'email_verified' = 'true' then coalesce(created_at, to_timestamp(0)) end
    );
    person := source;
    if jsonb_typeof(source -> 'metadata') = 'object' then
      person := (source -> 'metadata') || jsonb_strip_nulls(source - 'metadata');
    end if;
    user_metadata := jsonb_strip_nulls(jsonb_build_object(
      'full_name', coalesce(person ->> 'full_name', person ->> 'display_name', person ->> 'name'),
      'first_name', person ->> 'first_name',
      'last_name', person ->> 'last_name',
      'user_name', source ->> 'username',
      'avatar_url', coalesce(person ->> 'avatar_url', person ->> 'picture'),
      'timezone', person ->> 'timezone',
      'language', coalesce(person ->> 'language', person ->> 'locale')
    ));
    app_metadata := jsonb_strip_nulls(
      jsonb_build_object('provider', 'identity', 'identity_username', nullif(btrim(source ->> 'username'), ''))
    );
    return next;
  end loop;
end
$identity_users$;

revoke all on function profiles_internal.identity_users(jsonb[], text) from public, anon, authenticated, service_role;
