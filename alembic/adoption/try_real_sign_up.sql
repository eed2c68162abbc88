-- Whether a user can still sign up where the application has triggers of its own on auth.users: inserts one as an auth
-- server does, takes it back, and returns why it failed (null where it did not). Without an address, or with one, or
-- with metadata, too: the first form that worked before the upgrade is noted, and has to work at its end; where none
-- did, nothing is tried.
create or replace function profiles_internal.try_real_sign_up(p_form integer)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $try_real_sign_up$
declare
  undo constant text := 'PRTRY';
  form jsonb := jsonb_build_object('id', gen_random_uuid());
  error_code text;
  error_message text;
  error_context text;
begin
  if p_form > 1 then
    form := form || jsonb_build_object('email', format('%s@profiles-schema.invalid', form ->> 'id'));
  end if;
  if p_form > 2 then
    form := form || jsonb_build_object('aud', 'authenticated', 'role', 'authenticated', 'raw_app_meta_data',
      '{"provider": "email"}'::jsonb,
      'raw_user_meta_data', '{"full_name": "Trial", "name": "Trial"}'::jsonb);
  end if;
  begin
    perform set_config(c.name, '', true) from pg_settings as c
      where c.name in ('request.jwt.claims', 'request.jwt.claim.sub');
    perform set_config('search_path', 'auth', true);
    execute (
      select format('insert into auth.users (%s) select %1$s from jsonb_populate_record(null::auth.users, $1)',
        string_agg(quote_ident(a.attname), ', '))
      from pg_attribute as a
      where a.attrelid = 'auth.users'::regclass and a.attnum > 0 and not a.attisdropped and form ? a.attname
    ) using form;
    -- What would only be checked at the end.
    set constraints all immediate;
    raise exception 'tried' using errcode = undo;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics error_code = returned_sqlstate, error_message = message_text,
      error_context = pg_exception_context;
  end;
  if error_code in ('55P03', '40P01', '57014') then
    raise exception '%', error_message using errcode = error_code;
  end if;
  if error_code = undo then
    return null;
  end if;
  return format('%s (SQLSTATE %s), %s', error_message, error_code, coalesce((
    select 'in trigger ' || string_agg(quote_ident(t.tgname), ', ' order by t.tgname)
    from pg_trigger as t
    where t.tgrelid = 'auth.users'::regclass and not t.tgisinternal
      and error_context ~ ('\m' || regexp_replace(t.tgfoid::regproc::text, '(\W)', '\\\1', 'g') || '\(')
  ), 'in no trigger that is known'));
end
$try_real_sign_up$;

revoke all on function profiles_internal.try_real_sign_up(integer) from public, anon, authenticated, service_role;
