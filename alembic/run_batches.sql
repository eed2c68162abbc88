-- Works through a table in batches, each a transaction of its own. A revision creates this, calls it outside a transaction,
-- and drops it again: no database keeps it.
--
-- p_find gives the keys of the next rows, in order, at most $2 of them; $1 is the last key that is done (null at first). If
-- it gives fewer, the key up to which it has looked comes second: null at the end of the table. It looks at $3 rows. Without
-- it, all profiles are done.
-- p_do does the rows with the keys $1; the numbers that it gives are added up.
-- p_skip puts on record that the row with the key $1 failed with SQLSTATE $2; it gives a row if that counts as a failure.
-- Without it the first failure ends the work.
--
-- Guarantees: a lock that is missing costs one batch, which is tried again; a row that fails keeps no other back, for its
-- batch is halved until it is alone. All of it can run twice.
-- Never: takes long for a batch, once it has measured one (50 to 100 ms): a sign-up waits 250 ms for a row.
-- No SET clause: with one, a procedure cannot commit. Revisions run with the search path pg_catalog, pg_temp.
create or replace procedure profiles_internal.run_batches(
  p_find text,
  p_do text,
  p_skip text,
  out done bigint,
  out failed bigint
)
language plpgsql
as $run_batches$
declare
  least_rows constant integer := 10;
  most_rows constant integer := 1000;
  most_window_rows constant integer := 20000;
  most_attempts constant integer := 200;
  every_profile constant text := 'select array(select p.user_id::text from public.user_profiles as p'
    ' where $1 is null or p.user_id > $1::uuid order by p.user_id limit $2), null';
  batch_rows integer := 100;
  window_rows integer := batch_rows;
  last_key text;
  keys text[];
  reached text;
  started timestamptz;
  changed bigint;
  counted bigint;
  attempts integer := 0;
  over boolean;
  is_full boolean;
begin
  done := 0;
  failed := 0;
  loop
    started := clock_timestamp();
    keys := null;
    over := false;
    -- One block per batch; the commit must stand outside a block with an exception handler.
    begin
      execute coalesce(p_find, every_profile) into keys, reached using last_key, batch_rows, window_rows;
      if cardinality(keys) = batch_rows then
        reached := keys[batch_rows];
      end if;
      if cardinality(keys) > 0 then
        execute p_do into changed using keys;
        done := done + changed;
      end if;
      over := true;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        attempts := attempts + 1;
        if attempts > most_attempts then
          raise;
        end if;
      when others then
        if keys is null or p_skip is null then
          raise;
        end if;
        attempts := 0;
        over := cardinality(keys) = 1;
        if over then
          execute p_skip using keys[1], sqlstate;
          get diagnostics counted = row_count;
          failed := failed + counted;
        else
          batch_rows := cardinality(keys) / 2;
        end if;
    end;
    commit;

    if over then
      exit when reached is null;
      attempts := 0;
      last_key := reached;
      is_full := cardinality(keys) = batch_rows;
      batch_rows := case
        when clock_timestamp() > started + interval '100 ms' then greatest(batch_rows / 2, least(batch_rows, least_rows))
        when is_full and clock_timestamp() < started + interval '50 ms' then least(2 * batch_rows, most_rows)
        else batch_rows
      end;
      -- Where little is left to do, in larger steps.
      window_rows := case when is_full then batch_rows else least(2 * window_rows, most_window_rows) end;
    elsif attempts > 0 then
      perform pg_sleep(least(0.05 * attempts, 1));
    end if;
  end loop;
end
$run_batches$;

revoke all on procedure profiles_internal.run_batches(text, text, text) from public, anon, authenticated, service_role;
