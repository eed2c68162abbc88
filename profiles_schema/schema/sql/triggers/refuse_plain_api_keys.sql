-- Before API keys are stored: refuses one that is not encrypted, and a hint that is more than its last four characters,
-- in an error that does not quote it. The CHECKs of the tables say the same, and they remain the law; but their error
-- quotes the whole row, in the server's log too. The trigger names the columns of envelopes, the column of hints last.
create or replace function profiles_internal.refuse_plain_api_keys()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $refuse_plain_api_keys$
declare
  envelope constant text := '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$';
  longest constant integer := 4096;
  stored constant jsonb := to_jsonb(new);
  hints_column constant text := tg_argv[tg_nargs - 1];
  place integer;
  column_name text;
begin
  for place in 0 .. tg_nargs - 2 loop
    column_name := tg_argv[place];
    if not (stored ->> column_name ~ envelope and char_length(stored ->> column_name) <= longest) then
      raise exception '% must be encrypted: an envelope psk1.KEYID.DATA of up to % characters, or null', column_name, longest
        using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, column = column_name,
          constraint = format('ck_%s_%s_is_encrypted', tg_table_name, column_name),
          hint = 'Encrypt the key in the application, with profiles_schema.encryption.KeyRing; store null where there is no key.';
    end if;
  end loop;
  if stored -> hints_column @? '$.** ? (@.type() != "object" && @.type() != "null" && (@.type() != "string" || !(@ like_regex "^[!-~]{4}$")))' then
    raise exception '% holds more than the last four characters of a key', hints_column
      using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, column = hints_column,
        constraint = format('ck_%s_%s_four_characters', tg_table_name, hints_column),
        hint = 'Store null where the key is too short to show a part of it.';
  end if;
  return new;
end
$refuse_plain_api_keys$;

revoke all on function profiles_internal.refuse_plain_api_keys() from public, anon, authenticated, service_role;

create or replace trigger refuse_plain_api_keys
  before insert or update on public.user_api_keys
  for each row
  execute function profiles_internal.refuse_plain_api_keys('openai_api_key', 'unsplash_api_key', 'anthropic_api_key', 'hints');

create or replace trigger refuse_plain_api_keys
  before insert or update on public.user_provider_keys
  for each row
  execute function profiles_internal.refuse_plain_api_keys('envelope', 'hint');
