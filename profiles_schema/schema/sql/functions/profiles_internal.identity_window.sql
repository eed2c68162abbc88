-- The keys behind p_after of rows in the application's table whose user is missing or differs: at most p_most of them, from
-- the next p_window rows; how far the look reached (null: to the end), and how many rows it saw. Without a chosen table: nothing.
create or replace function profiles_internal.identity_window(
  p_after text,
  p_most integer,
  p_window integer,
  out keys text[],
  out reached text,
  out looked_at integer
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $identity_window$
declare
  identity record;
  sources jsonb[];
begin
  keys := '{}';
  looked_at := 0;
  select i.* into identity from profiles_internal.identity_table() as i;
  if not found then
    return;
  end if;
  if row_security_active(identity.relation) then
    raise exception 'role % does not see all rows of %: row level security hides them', current_user, identity.relation
      using errcode = 'insufficient_privilege';
  end if;
  execute format(
    'select array(select to_jsonb(t) from %s as t where $1 is null or t.%2$I > $1::%s order by t.%2$I limit $2)',
    identity.relation, identity.key_name, identity.key_type
  )
  into sources
  using p_after, p_window;
  looked_at := cardinality(sources);
  keys := array(
    select w.external_id
    from profiles_internal.identity_wanted(sources, identity.key_name, identity.by_uuid) as w
    where w.differs
    order by w.place
    limit p_most
  );
  if cardinality(keys) = p_most then
    reached := keys[p_most];
  elsif looked_at = p_window then
    reached := sources[looked_at] ->> identity.key_name;
  end if;
end
$identity_window$;

revoke all on function profiles_internal.identity_window(text, integer, integer) from public, anon, authenticated, service_role;
