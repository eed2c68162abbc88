-- Follows the table that -x identity names, and remembers it; without the option, the one that was chosen before, if any.
-- Returns its name, or null.
create or replace function profiles_internal.choose_identity()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $choose_identity$
declare
  asked constant text := nullif(current_setting('profiles_schema.identity', true), '');
begin
  perform profiles_internal.refuse_identity();
  if asked is not null then
    insert into profiles_internal.settings (key, value)
    values ('identity', to_jsonb(format('%I.%I', (parse_ident(asked))[1], (parse_ident(asked))[2])))
    on conflict (key) do nothing;
  end if;
  perform profiles_internal.install_identity();
  return (select i.table_name from profiles_internal.identity_table() as i);
end
$choose_identity$;

revoke all on function profiles_internal.choose_identity() from public, anon, authenticated, service_role;
