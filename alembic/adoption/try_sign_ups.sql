-- Whether sign-ups work with a table that was just taken over: makes three rows as the sign-up trigger will, without
-- claims, changes and deletes them, and takes all of it back. What would refuse them would leave every new user without
-- a profile; it is raised here, with the name of the column, before anything of the revision counts.
-- The rows belong to three new users. Where a trigger of auth.users would act on those, or their making is not allowed,
-- to no user: then only a foreign key to auth.users may refuse them, with any name and column, and what runs
-- after it stays untried.
create or replace function profiles_internal.try_sign_ups(p_table text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $try_sign_ups$
declare
  undo constant text := 'PRTRY';
  users uuid[] := array[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()];
  made integer;
  error_code text;
  error_message text;
  error_detail text;
  failed_table text;
  failed_column text;
  failed_constraint text;
  failed_in text;
  changing boolean := false;
begin
  begin
    perform set_config(c.name, '', true) from pg_settings as c
      where c.name in ('request.jwt.claims', 'request.jwt.claim.sub');
    if not exists (
      select from pg_trigger as t
      where t.tgrelid = 'auth.users'::regclass and not t.tgisinternal and t.tgtype & 4 <> 0 and t.tgenabled <> 'D'
    ) then
      begin
        insert into auth.users (id) select u.id from unnest(users) as u (id);
      exception when others then
        null;
      end;
    end if;
    if p_table = 'user_profiles' then
      insert into public.user_profiles (
        id, user_id, username, display_name, first_name, last_name, email, phone, avatar_url, timezone, language,
        email_verified, is_anonymous, last_login, login_count
      )
      select u.id, u.id, replace(u.id::text, '-', ''), null, null, null, null, null, null, 'UTC', 'en', false, false,
        null, 0
      from unnest(users) as u (id)
      on conflict do nothing;
    else
      insert into public.user_progress (user_id) select u.id from unnest(users) as u (id) on conflict do nothing;
    end if;
    get diagnostics made = row_count;
    if made < 3 then
      raise exception 'a unique index leaves no room for a row per user' using errcode = 'unique_violation';
    end if;
    if p_table = 'user_profiles' then
      -- A trigger of the application may refuse who asks. What does not fit the columns of today is what counts.
      begin
        update public.user_profiles set bio = 'tried' where user_id = any (users);
        delete from public.user_profiles where user_id = any (users);
      exception
        when insufficient_privilege then
          null;
        when syntax_error_or_access_rule_violation then
          changing := true;
          raise;
        when others then
          null;
      end;
    end if;
    raise exception 'tried' using errcode = undo;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, error_message = message_text, error_detail = pg_exception_detail,
        failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name, failed_in = pg_exception_context;
  end;

  if error_code in ('55P03', '40P01', '57014') then
    raise exception '%', error_message using errcode = error_code;
  end if;
  if changing then
    raise exception 'every change of a profile, or its deletion, would fail in function %: %',
      coalesce(substring(failed_in from 'function ([a-zA-Z0-9_.]+)[(]'), 'of the application'), error_message
      using errcode = error_code,
        hint = 'Nothing of this revision was changed. The table has more columns from now on: let the function name '
        'the columns that it means.';
  end if;
  if error_code = undo or error_code = '23503' and exists (
    select from pg_constraint as k
    where k.confrelid = 'auth.users'::regclass and k.conname = failed_constraint
      -- Another user than one of the three would be missing at every sign-up.
      and error_detail ~ array_to_string(users, '|')
  ) then
    return;
  end if;
  raise exception 'every sign-up would be left without a row in public.%, because of % (SQLSTATE %): %',
    p_table, coalesce('column ' || nullif(failed_column, ''), 'constraint ' || nullif(failed_constraint, ''),
      'a rule of the application'),
    error_code, error_message
    using errcode = error_code, table = p_table, column = failed_column, constraint = failed_constraint,
      detail = concat_ws(' ', 'Tried with three rows, as the sign-up trigger makes them.',
        'It failed in ' || nullif(failed_table, '') || '.'),
      hint = 'Nothing of this revision was changed. A sign-up leaves columns of the application at their defaults, and '
        'has no claims: auth.uid() is null.';
end
$try_sign_ups$;

revoke all on function profiles_internal.try_sign_ups(text) from public, anon, authenticated, service_role;
