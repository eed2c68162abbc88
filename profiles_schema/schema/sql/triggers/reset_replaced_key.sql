-- Before an API key is replaced: what was known of the old one (its hint, its validation, that it was disabled, its last
-- use) is not true of the new one and goes, except what the same statement sets.
-- A writer says by the setting profiles_internal.api_keys what it does: 'hinted' (the hint belongs to the new key, also
-- where it reads like the old one) or 'rotated' (another envelope of the same key, and nothing changes).
create or replace function profiles_internal.reset_replaced_key()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $reset_replaced_key$
declare
  hinted constant boolean := coalesce(current_setting('profiles_internal.api_keys', true), '') = 'hinted';
  provider text;
begin
  if tg_table_name = 'user_provider_keys' then
    if new.envelope is not distinct from old.envelope then
      return new;
    end if;
    new.hint := case when hinted or new.hint is distinct from old.hint then new.hint end;
    new.validation := case when new.validation is distinct from old.validation then new.validation else '{}' end;
    new.is_active := new.is_active or new.is_active is not distinct from old.is_active;
    new.last_used_at := case when new.last_used_at is distinct from old.last_used_at then new.last_used_at end;
    return new;
  end if;

  foreach provider in array array['openai', 'unsplash', 'anthropic'] loop
    continue when to_jsonb(new) -> (provider || '_api_key') is not distinct from to_jsonb(old) -> (provider || '_api_key');
    if to_jsonb(new) ->> (provider || '_api_key') is null
      or not hinted and new.hints -> provider is not distinct from old.hints -> provider
    then
      new.hints := new.hints - provider;
    end if;
    if new.validation -> provider is not distinct from old.validation -> provider then
      new.validation := new.validation - provider;
    end if;
  end loop;
  return new;
end
$reset_replaced_key$;

revoke all on function profiles_internal.reset_replaced_key() from public, anon, authenticated, service_role;

create or replace trigger reset_replaced_key
  before update on public.user_api_keys
  for each row
  when (current_setting('profiles_internal.api_keys', true) is distinct from 'rotated')
  execute function profiles_internal.reset_replaced_key();

create or replace trigger reset_replaced_key
  before update on public.user_provider_keys
  for each row
  when (current_setting('profiles_internal.api_keys', true) is distinct from 'rotated')
  execute function profiles_internal.reset_replaced_key();
