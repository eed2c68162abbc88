-- The work of award_points. The progress row is locked first, so that awards of a user come one after the other and the total is
-- the sum of the ledger. Definer: no other role may write them.
create or replace function profiles_internal.award_points(p_user_id uuid, p_amount integer, p_reason text, p_key text)
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $award_points$
declare
  total bigint;
begin
  if p_amount is null or coalesce(btrim(p_reason), '') = '' or coalesce(btrim(p_key), '') = '' or length(p_reason) > 200 or length(p_key) > 200 then
    raise exception 'an award needs a user, an amount, a reason and a key; reason and key have 1 to 200 characters'
      using errcode = 'invalid_parameter_value';
  end if;
  select p.total_points into total from public.user_progress as p where p.user_id = p_user_id for no key update;
  if not found then
    raise exception 'there is no progress of such a user' using errcode = 'no_data_found', hint = 'profiles-schema backfill makes what is missing.';
  end if;
  insert into profiles_internal.point_awards (user_id, key, amount, reason) values (p_user_id, p_key, p_amount, p_reason)
  on conflict do nothing;
  if not found then
    return total;
  end if;
  total := total + p_amount;
  if total < 0 then
    raise exception 'there are not enough points' using errcode = 'check_violation', schema = 'public', table = 'user_progress', column = 'total_points';
  end if;
  update public.user_progress as p set total_points = total where p.user_id = p_user_id;
  return total;
end
$award_points$;

revoke all on function profiles_internal.award_points(uuid, integer, text, text) from public, anon, authenticated, service_role;
grant execute on function profiles_internal.award_points(uuid, integer, text, text) to service_role;
