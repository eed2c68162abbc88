-- A point in time, as an application may write it: a timestamp (without a zone: UTC), or seconds or milliseconds since 1970.
-- Zero, false and values that cannot be read are null.
create or replace function profiles_internal.read_time(p_value jsonb)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $read_time$
declare
  written constant text := p_value #>> '{}';
  seconds numeric;
begin
  if jsonb_typeof(p_value) = 'number' or written ~ '^[0-9]{9,16}$' then
    seconds := written::numeric;
    seconds := case when seconds > 100000000000 then seconds / 1000 else seconds end;
    return case when seconds between 1 and 100000000000 then to_timestamp(seconds) end;
  elsif written ~ '^[0-9]{4,6}-[0-9]{2}-[0-9]{2}' then
    return written::timestamptz;
  end if;
  return null;
exception when data_exception then
  return null;
end
$read_time$;

revoke all on function profiles_internal.read_time(jsonb) from public, anon, authenticated, service_role;
