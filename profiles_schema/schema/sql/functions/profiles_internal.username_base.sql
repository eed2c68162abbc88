-- The name an email address suggests: its local part, lower-cased, cleaned to [a-z0-9_.-], cut to 32 characters.
-- 'user' where nothing usable is left: no address, fewer than three characters, or a name that would
-- pass for somebody in charge. "C" makes lower() ASCII-only and the same on every server.
create or replace function profiles_internal.username_base(p_email text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $username_base$
declare
  base text := left(regexp_replace(lower(left(split_part(p_email, '@', 1), 1000) collate "C"), '[^a-z0-9_.-]', '', 'g'), 32);
begin
  if base is null or length(base) < 3 or base = any (array[
    'abuse', 'admin', 'administrator', 'anonymous', 'api', 'billing', 'contact', 'deleted', 'help', 'helpdesk', 'hostmaster',
    'info', 'mail', 'mailer-daemon', 'me', 'moderator', 'news', 'no-reply', 'nobody', 'noreply', 'null', 'official', 'operator',
    'owner', 'postmaster', 'privacy', 'root', 'security', 'service', 'staff', 'superuser', 'support', 'sysadmin', 'system',
    'team', 'undefined', 'user', 'webmaster', 'www'
  ]) then
    return 'user';
  end if;
  return base;
end
$username_base$;

revoke all on function profiles_internal.username_base(text) from public, anon, authenticated, service_role;
