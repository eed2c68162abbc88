-- Keys of users whose row in the application's table is gone, among the next p_window known keys behind p_after; how far the
-- look reached (null: to the end), and how many it saw. Without a chosen table, or where that is gone: nothing.
create or replace function profiles_internal.gone_identities(
  p_after text,
  p_window integer,
  out keys text[],
  out reached text,
  out looked_at integer
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $gone_identities$
declare
  identity record;
  known text[];
begin
  keys := '{}';
  looked_at := 0;
  select i.* into identity from profiles_internal.identity_table() as i;
  if not found then
    return;
  end if;
  -- Who does not see a row must not take it for gone.
  if row_security_active(identity.relation) then
    raise exception 'role % does not see all rows of %: row level security hides them', current_user, identity.relation
      using errcode = 'insufficient_privilege';
  end if;
  known := array(
    select k.external_id
    from profiles_internal.identity_links as k
    where p_after is null or k.external_id > p_after
    order by k.external_id
    limit p_window
  );
  looked_at := cardinality(known);
  execute format(
    'select array(select k.key from unnest($1) as k (key) where (select 1 from %s as t where t.%I = k.key::%s) is null)',
    identity.relation, identity.key_name, identity.key_type
  )
  into keys
  using known;
  if looked_at = p_window then
    reached := known[looked_at];
  end if;
end
$gone_identities$;

revoke all on function profiles_internal.gone_identities(text, integer) from public, anon, authenticated, service_role;
