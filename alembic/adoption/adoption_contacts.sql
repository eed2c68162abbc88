-- Addresses, what is said of their proof, and who is anonymous, where the auth server contradicts it: the profile
-- follows the auth server from the user's next sign-in on, so what the application had is kept, and comes back with a
-- downgrade. A phone is the person's own, and stays; so does an address where the auth server has none.
create or replace function profiles_internal.adoption_contacts(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_contacts$
declare
  target constant text := p_context ->> 'target';
  proved constant text := case
    when exists (
      select from pg_attribute as a
      where a.attrelid = to_regclass('auth.users') and a.attname = 'email_confirmed_at' and not a.attisdropped
    ) then '(coalesce(u.email, '''') <> '''' and u.email_confirmed_at is not null)'
    else 'false'
  end;
  anonymous constant text := case
    when exists (
      select from pg_attribute as a
      where a.attrelid = to_regclass('auth.users') and a.attname = 'is_anonymous' and not a.attisdropped
    ) then 'coalesce(u.is_anonymous, false)'
    else 'false'
  end;
  contact record;
  hits bigint;
begin
  if p_context ->> 'table' <> 'user_profiles' or (p_context ->> 'makes_users')::boolean
    or to_regclass('auth.users') is null then
    return;
  end if;
  for contact in
    select c.name, c.known, c.contradicted,
      replace(coalesce(x.column ->> 'source', '{column}'), '{column}', 't.' || quote_ident(x.column ->> 'found_name'))
        as found
    from (values
      ('email', 'u.email', '{value}::text <> u.email::text and u.email <> '''''),
      ('email_verified', proved, '{value} is distinct from ' || proved),
      ('is_anonymous', anonymous, '{value} is distinct from ' || anonymous)
    ) as c (name, known, contradicted)
    cross join lateral (select p_context -> 'by_name' -> c.name) as x ("column")
    where x.column ->> 'found_name' is not null
  loop
    execute format('select count(*) from %s as t join auth.users as u on u.id = %s where %s',
      p_context ->> 'found', p_context ->> 'user', replace(contact.contradicted, '{value}', contact.found)) into hits;
    continue when hits = 0;
    return next jsonb_build_object('phase', 'keep_contacts', 'kind', 'keep_values', 'action', 'note',
      'object', format('%s.%s', target, contact.name),
      'found', 'not what auth.users says', 'wanted', 'what auth.users says, from the next sign-in on', 'rows', hits,
      'remedy', format('%s %s: %s follows auth.users. What the application has is kept in profiles_internal.adopted '
        '(object_type ''kept value''), and comes back with a downgrade.',
        hits, case hits when 1 then 'row' else 'rows' end, contact.name),
      'statement', format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %1$L, ''kept value'', %2$L, jsonb_build_object(''key'', t.id::text, ''old'', t.%3$I::text, ''new'', '
          '(%4$s)::text) '
        'from %5$s as t join auth.users as u on u.id = t.user_id where %6$s',
        p_context ->> 'by', format('%s.%s', target, contact.name), contact.name, contact.known, target,
        replace(contact.contradicted, '{value}', 't.' || contact.name)),
      'undo', format('select profiles_internal.restore_values(%L, %L, ''kept value'')', p_context ->> 'by', target));
  end loop;
end
$adoption_contacts$;

revoke all on function profiles_internal.adoption_contacts(jsonb) from public, anon, authenticated, service_role;
