-- What an earlier downgrade kept comes back into the JSON groups of some users, unless something newer stands there:
--   a value that its column could not hold     while the column is NULL
--   a value that its column held less exactly  while the column still holds that
--   a key that belongs to no column            while the path is free
-- What cannot come back stays in profiles_internal.kept_json as superseded: it would be wrong to bring it back later, when what
-- stands there now has been removed on purpose.
create or replace function profiles_internal.bring_back_kept_json(p_users uuid[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bring_back_kept_json$
declare
  kept record;
  document jsonb;
  fits boolean;
begin
  for kept in
    select k.id, k.user_id, k.jsonb_column, k.path, profiles_internal.split_path(k.path) as keys, k.value, t.attribute, t.data_type
    from profiles_internal.kept_json as k
    left join profiles_internal.traits_in_place() as t
      on t.jsonb_column = k.jsonb_column and array_to_string(t.path, '.') = k.path
    where k.user_id = any (p_users) and k.superseded_at is null
    -- Of two that cannot both come back the newer one does.
    order by k.user_id, k.jsonb_column, k.kept_at desc, k.id desc
  loop
    execute format('select p.%I from public.user_profiles as p where p.user_id = $1 for update', kept.jsonb_column)
    into document using kept.user_id;
    fits := document #> kept.keys is null;
    if kept.attribute is not null then
      execute format(
        'select (%1$s)::text is not distinct from p.%2$I::text from public.user_profiles as p where p.user_id = $2',
        profiles_internal.trait_from_json(kept.data_type, '$1'), kept.attribute
      )
      into fits using kept.value, kept.user_id;
    end if;
    -- Parents are made; one that is something else is in the way.
    for depth in 1 .. cardinality(kept.keys) - 1 loop
      document := coalesce(document, '{}');
      if document #> kept.keys[1 : depth] is null and jsonb_typeof(document #> kept.keys[1 : depth - 1]) = 'object' then
        document := jsonb_set(document, kept.keys[1 : depth], '{}');
      elsif jsonb_typeof(document #> kept.keys[1 : depth]) is distinct from 'object' then
        fits := false;
      end if;
    end loop;
    if fits then
      execute format('update public.user_profiles as p set %I = $1 where p.user_id = $2', kept.jsonb_column)
      using jsonb_set(coalesce(document, '{}'), kept.keys, kept.value), kept.user_id;
      delete from profiles_internal.kept_json as k where k.id = kept.id;
    else
      update profiles_internal.kept_json as k set superseded_at = now() where k.id = kept.id;
    end if;
  end loop;
end
$bring_back_kept_json$;

revoke all on function profiles_internal.bring_back_kept_json(uuid[]) from public, anon, authenticated, service_role;
