-- Before API keys are stored: refuses one that is not encrypted, in an error that does not quote it. The CHECKs of the table
-- say the same, and they remain the law; but their error quotes the whole row, in the server's log too.
create or replace function profiles_internal.refuse_plain_api_keys()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse_plain_api_keys$
declare
  envelope constant text := '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$';
  longest constant integer := 4096;
  refused constant text := case
    when not (new.openai_api_key ~ envelope and char_length(new.openai_api_key) <= longest) then 'openai_api_key'
    when not (new.unsplash_api_key ~ envelope and char_length(new.unsplash_api_key) <= longest) then 'unsplash_api_key'
    when not (new.anthropic_api_key ~ envelope and char_length(new.anthropic_api_key) <= longest) then 'anthropic_api_key'
  end;
begin
  if refused is not null then
    raise exception '% must be encrypted: an envelope psk1.KEYID.DATA of up to % characters, or null', refused, longest
      using errcode = 'check_violation', schema = 'public', table = 'user_api_keys', column = refused,
        constraint = format('ck_user_api_keys_%s_is_encrypted', refused),
        hint = 'Encrypt the key in the application, with profiles_schema.encryption.KeyRing; store null where there is no key.';
  end if;
  return new;
end
$refuse_plain_api_keys$;

revoke all on function profiles_internal.refuse_plain_api_keys() from public, anon, authenticated, service_role;

create or replace trigger refuse_plain_api_keys
  before insert or update on public.user_api_keys
  for each row
  execute function profiles_internal.refuse_plain_api_keys();
