-- award_points(…): gives a user points, or takes some (a negative amount), and returns the new total.
-- The same key counts once: a repeated call changes nothing, and returns the total as it is.
-- Errors: 22023 without an amount, reason or key; P0002 no such user; 23514 the total would fall below zero; 22003 it is too high.
create or replace function public.award_points(p_user_id uuid, p_amount integer, p_reason text, p_key text)
returns integer
language sql
set search_path = pg_catalog, pg_temp
as $award_points$
  select profiles_internal.award_points(p_user_id, p_amount, p_reason, p_key)
$award_points$;

revoke all on function public.award_points(uuid, integer, text, text) from public, anon, authenticated, service_role;
grant execute on function public.award_points(uuid, integer, text, text) to service_role;
comment on function public.award_points(uuid, integer, text, text) is 'Gives a user points, or takes some (a negative amount), and returns the new total';
