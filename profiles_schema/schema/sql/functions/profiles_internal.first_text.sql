-- The first of some keys that holds a usable text, trimmed and cut; null where none does.
-- Metadata comes from identity providers and from clients: any key may hold any JSON at all.
create or replace function profiles_internal.first_text(p_metadata jsonb, p_keys text[], p_max_characters integer)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $first_text$
declare
  key text;
  found_text text;
begin
  foreach key in array p_keys loop
    if jsonb_typeof(p_metadata -> key) = 'string' then
      found_text := nullif(btrim(left(btrim(p_metadata ->> key, E' \t\r\n'), p_max_characters), E' \t\r\n'), '');
      if found_text is not null then
        return found_text;
      end if;
    end if;
  end loop;
  return null;
end
$first_text$;

revoke all on function profiles_internal.first_text(jsonb, text[], integer) from public, anon, authenticated, service_role;
