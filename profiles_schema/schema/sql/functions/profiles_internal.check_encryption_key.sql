-- Is this the encryption key that has always had this id? 'same', 'other', or 'new' where none is recorded. The check
-- value is a short fingerprint that tells nothing about the key.
-- service_role and the owner of this schema record a new one; a user who could do that could lock all others out.
-- Definer: users may not read the table.
create or replace function profiles_internal.check_encryption_key(p_key_id text, p_check_value text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $check_encryption_key$
declare
  caller constant text := coalesce(nullif(current_setting('role', true), 'none'), session_user);
  recorded text := (select k.check_value from profiles_internal.encryption_keys as k where k.key_id = p_key_id);
begin
  if recorded is null and caller not in ('anon', 'authenticated')
    and (pg_has_role(caller, 'service_role', 'member') or pg_has_role(caller, current_user, 'member'))
  then
    insert into profiles_internal.encryption_keys (key_id, check_value)
    values (p_key_id, p_check_value)
    on conflict do nothing;
    -- Another process may have been first.
    select k.check_value into recorded from profiles_internal.encryption_keys as k where k.key_id = p_key_id;
  end if;
  return case when recorded is null then 'new' when recorded = p_check_value then 'same' else 'other' end;
end
$check_encryption_key$;

revoke all on function profiles_internal.check_encryption_key(text, text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.check_encryption_key(text, text) to authenticated, service_role;
