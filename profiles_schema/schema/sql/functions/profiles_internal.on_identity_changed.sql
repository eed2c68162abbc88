-- After rows came, changed or went in the application's own table of users (-x identity): auth.users follows, and by its
-- triggers the profiles.
--
-- Guarantees: the application's statement commits, even if this fails. A failure is recorded; health finds it, and
-- backfill repairs it. Never waits longer for a lock than 250 ms at a time.
-- Definer: a role that may write that table needs no right on our objects. It reads only what the statement wrote, so row
-- level security there does not affect it.
-- Statement-level, a thousand rows at a time. No column is named in the trigger's definition: the application's own
-- migrations are not blocked. The arguments are the name of the key and whether it is a uuid.
-- Old and new rows of an update come in the same order, which is how a changed key is told.
create or replace function profiles_internal.on_identity_changed()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '250ms'
as $on_identity_changed$
declare
  batch_rows constant integer := 1000;
  read_columns constant text[] := array[
    'email', 'phone', 'phone_number', 'email_confirmed_at', 'email_verified_at', 'email_verified', 'last_sign_in_at',
    'last_login_at', 'last_login', 'created_at', 'date_joined', 'deleted_at', 'username', 'full_name', 'display_name', 'name',
    'first_name', 'last_name', 'avatar_url', 'picture', 'timezone', 'language', 'locale', 'metadata'
  ];
  key_name constant text := tg_argv[0];
  by_uuid constant boolean := tg_argv[1] = 'uuid';
  batch record;
  error_code text;
begin
  begin
    if tg_op = 'INSERT' then
      for batch in
        select array_agg(n.source) as sources
        from (select to_jsonb(r) as source, (row_number() over () - 1) / batch_rows as number from new_rows as r) as n
        group by n.number
        order by n.number
      loop
        perform profiles_internal.follow_identity('insert', null, batch.sources, key_name, by_uuid);
      end loop;
    elsif tg_op = 'UPDATE' then
      for batch in
        select array_agg(o.source ->> key_name order by o.place) as keys, array_agg(n.source order by o.place) as sources
        from (select to_jsonb(r) as source, row_number() over () as place from old_rows as r) as o
        join (select to_jsonb(r) as source, row_number() over () as place from new_rows as r) as n on n.place = o.place
        where o.source -> key_name <> n.source -> key_name
          or exists (select from unnest(read_columns) as c (name) where o.source -> c.name is distinct from n.source -> c.name)
          or (select 1 from profiles_internal.identity_links as k where k.external_id = n.source ->> key_name) is null
        group by (o.place - 1) / batch_rows
        order by min(o.place)
      loop
        perform profiles_internal.follow_identity('update', batch.keys, batch.sources, key_name, by_uuid);
      end loop;
    elsif tg_op = 'DELETE' then
      for batch in
        select array_agg(o.key) as keys
        from (select to_jsonb(r) ->> key_name as key, (row_number() over () - 1) / batch_rows as number from old_rows as r) as o
        group by o.number
        order by o.number
      loop
        perform profiles_internal.follow_identity('delete', batch.keys, null, key_name, by_uuid);
      end loop;
    else
      for batch in
        select array_agg(k.external_id) as keys
        from (select i.external_id, (row_number() over () - 1) / batch_rows as number from profiles_internal.identity_links as i) as k
        group by k.number
        order by k.number
      loop
        perform profiles_internal.follow_identity('delete', batch.keys, null, key_name, by_uuid);
      end loop;
    end if;
    return null;
  exception when query_canceled or assert_failure or others then
    error_code := sqlstate;
  end;

  begin
    perform profiles_internal.record_events(
      array[null::uuid], 'failed', 'trigger', error_code, 'the table of users', jsonb_build_object('identity', lower(tg_op))
    );
  exception when query_canceled or assert_failure or others then
    raise warning 'profiles-schema: users were not followed (SQLSTATE %), and no record of it (SQLSTATE %)', error_code, sqlstate
      using hint = 'Run: profiles-schema backfill';
  end;
  return null;
end
$on_identity_changed$;

revoke all on function profiles_internal.on_identity_changed() from public, anon, authenticated, service_role;
