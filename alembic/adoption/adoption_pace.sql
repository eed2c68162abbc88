-- How much slower than the machine on which adoption was measured this server is: up to two thousand rows of the table
-- go through the very conversion three times, into a table of our own that is rolled back each time (written,
-- rewritten, indexed). Null where that says nothing or cannot be had: fewer than a thousand rows, a read-only
-- transaction. Zero under the lock of the table: others wait for it, and no question is asked any more.
create or replace function profiles_internal.adoption_pace(p_context jsonb, p_counts jsonb)
returns double precision
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_pace$
declare
  table_found constant regclass := p_context ->> 'found';
  total constant bigint := p_counts ->> 'total';
  -- Seconds for a row and a byte, where adoption was measured, by this very sample.
  reference constant double precision := 0.00005 + (p_counts ->> 'bytes')::bigint * 0.00000005 / greatest(total, 1);
  converted constant text := (
    select string_agg(
      format('%s as %I',
        case when c.value ->> 'found_name' is null then 'null::' || (c.value ->> 'wanted_type')
          else replace(coalesce(c.value ->> 'source', '{column}'), '{column}',
            't.' || quote_ident(c.value ->> 'found_name')) end,
        c.value ->> 'name'), ', ')
    from jsonb_array_elements(p_context -> 'columns') as c
  );
  whole constant double precision := 3.6;
  sampled bigint;
  began timestamptz;
  took double precision[] := '{}';
begin
  if (p_context ->> 'locked')::boolean then
    return 0;
  elsif total < 1000 or current_setting('transaction_read_only') = 'on' then
    return null;
  end if;
  for n in 1..3 loop
    begin
      began := clock_timestamp();
      execute format('create table profiles_internal.adoption_sample as select t.* from %s as t limit 2000',
        table_found);
      get diagnostics sampled = row_count;
      execute format('create table profiles_internal.adoption_sample_converted as select t.ctid::text as row_key, %s '
        'from profiles_internal.adoption_sample as t', converted);
      update profiles_internal.adoption_sample_converted set row_key = row_key || ' ';
      create unique index on profiles_internal.adoption_sample_converted (row_key);
      took := took || (extract(epoch from clock_timestamp() - began)::double precision / sampled);
      raise exception 'sampled' using errcode = 'PRTRY';
    exception
      when sqlstate 'PRTRY' then
        null;
      when others then
        return null;
    end;
  end loop;
  -- The middle one: the first meets cold buffers, another one a checkpoint. With all indexes, CHECKs and counts a row
  -- takes that many times what it takes here (benchmarks/adopt.py).
  return whole * (select t.took from unnest(took) as t (took) order by t.took offset 1 limit 1) / reference;
end
$adoption_pace$;

revoke all on function profiles_internal.adoption_pace(jsonb, jsonb) from public, anon, authenticated, service_role;
