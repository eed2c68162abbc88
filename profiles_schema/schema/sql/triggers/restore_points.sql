-- After a progress row is made: its points are the sum of the ledger. A role that may delete the row and make it again would
-- set the points to 0 otherwise, while the keys of old awards stay used.
-- Definer: nobody else may read the ledger or write the points.
create or replace function profiles_internal.restore_points()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $restore_points$
begin
  update public.user_progress as p
  set total_points = a.points
  from (select sum(a.amount) as points from profiles_internal.point_awards as a where a.user_id = new.user_id) as a
  where p.user_id = new.user_id and p.total_points <> a.points;
  return null;
end
$restore_points$;

revoke all on function profiles_internal.restore_points() from public, anon, authenticated, service_role;

create or replace trigger restore_points
  after insert on public.user_progress
  for each row
  when (current_setting('profiles_internal.signing_up', true) is distinct from 'yes')
  execute function profiles_internal.restore_points();
