"""Each index earns its keep: the query it is documented for uses it, at a size where the planner has a choice."""

import re
import uuid

import pytest
from sqlalchemy import text

from profiles_schema import metadata
from support import REPOSITORY

USERS = 5_000
SOMEBODY = uuid.UUID(int=2_500)

# {index: (role, query)}: what each index is for. As the owner of the row where users ask, under row level security;
# as service_role where the application does.
DOCUMENTED = {
    "pk_user_profiles": ("service_role", "select * from public.user_profiles where id = '{somebody}'"),
    "idx_user_profiles_user_id": ("authenticated", "select * from public.user_profiles"),
    "idx_user_profiles_username_lower": (
        "service_role", "select * from public.user_profiles where lower(username) = 'user2500'",
    ),
    "uq_user_profiles_external_id": ("service_role", "select * from public.user_profiles where external_id = 'x2500'"),
    "uq_user_profiles_referral_code": ("service_role", "select * from public.user_profiles where referral_code = 'r2500'"),
    "idx_user_profiles_updated_at": (
        "service_role", "select * from public.user_profiles order by updated_at desc limit 50",
    ),
    "idx_user_profiles_last_analyzed": (
        "service_role",
        "select user_id from public.user_profiles where last_analyzed_at < 1000020 order by last_analyzed_at limit 50",
    ),
    "idx_user_profiles_preferences_gin": (
        "service_role", "select user_id from public.user_profiles where preferences @> '{{\"theme\": \"dark\"}}'",
    ),
    "idx_user_profiles_personality_gin": (
        "service_role", "select user_id from public.user_profiles where personality_traits @> '{{\"attachmentStyle\": \"secure\"}}'",
    ),
    "idx_user_profiles_appearance_gin": (
        "service_role", "select user_id from public.user_profiles where appearance_traits @> '{{\"hair\": {{\"color\": \"brown\"}}}}'",
    ),
    "idx_user_profiles_behavioral_gin": (
        "service_role", "select user_id from public.user_profiles where behavioral_metrics @> '{{\"social\": {{\"humorStyle\": \"dry\"}}}}'",
    ),
    "pk_user_progress": ("service_role", "select * from public.user_progress where id = '{somebody}'"),
    "idx_user_progress_user_id": ("authenticated", "select * from public.user_progress"),
    "idx_user_progress_last_activity": (
        "service_role", "select user_id from public.user_progress order by last_activity_at desc limit 50",
    ),
    "pk_user_api_keys": ("service_role", "select * from public.user_api_keys where id = '{somebody}'"),
    "idx_user_api_keys_user_id": ("authenticated", "select * from public.user_api_keys"),
    "pk_user_provider_keys": ("service_role", "select * from public.user_provider_keys where id = '{somebody}'"),
    "idx_user_provider_keys_user_id": ("authenticated", "select * from public.user_provider_keys order by provider, label"),
    "pk_export_history": ("service_role", "select * from public.export_history where id = '{somebody}'"),
    "idx_export_history_user_id": (
        "authenticated", "select * from public.export_history order by created_at desc limit 20",
    ),
    "idx_export_history_status": (
        "service_role", "select id from public.export_history where status = 'processing'",
    ),
    "idx_export_history_created_at": (
        "service_role", "select * from public.export_history order by created_at desc limit 50",
    ),
    "idx_export_history_export_type": (
        "service_role", "select id from public.export_history where export_type = 'audit'",
    ),
    "idx_export_history_expires_at": (
        "service_role", "select id from public.export_history where expires_at < '2020-01-02'",
    ),
    "pk_user_profile_audit_logs": (
        "service_role", "select * from public.user_profile_audit_logs where id = '{somebody}'",
    ),
    "idx_user_profile_audit_logs_user_id": (
        "authenticated", "select * from public.user_profile_audit_logs order by created_at desc limit 20",
    ),
    "idx_user_profile_audit_logs_actor": (
        "service_role",
        "select * from public.user_profile_audit_logs where actor = '{somebody}' and actor is distinct from user_id",
    ),
    "idx_user_profile_audit_logs_failures": (
        "service_role",
        "select * from public.user_profile_audit_logs where action in ('failed', 'skipped') order by created_at desc limit 50",
    ),
    "pk_sessions": ("service_role", "select * from public.sessions where id = '{somebody}'"),
    "idx_sessions_user_id": ("authenticated", "select * from public.sessions where ended_at is not null"),
    "idx_sessions_described": ("service_role", "select max(ended_at) from public.sessions where user_id = '{somebody}' and descriptions_generated > 0"),
    "idx_sessions_answered": ("service_role", "select max(ended_at) from public.sessions where user_id = '{somebody}' and qa_attempts > 0"),
    "idx_sessions_practised": ("service_role", "select max(ended_at) from public.sessions where user_id = '{somebody}' and vocabulary_learned > 0"),
}  # fmt: skip

# Triggers are off: what is wanted is rows, not their history.
FILL = f"""
set local session_replication_role = replica;
create temporary table person on commit drop as
  select n, lpad(to_hex(n), 32, '0')::uuid as id from generate_series(1, {USERS}) as n;
insert into auth.users (id, email) select id, 'user' || n || '@example.org' from person;
insert into public.user_profiles (
  id, user_id, username, external_id, referral_code, updated_at, last_analyzed_at, preferences, personality_traits,
  appearance_traits, behavioral_metrics
)
select
  id::text, id, 'user' || n, 'x' || n, 'r' || n, timestamptz '2026-01-01' + n * interval '1 minute', 1000000 + n,
  jsonb_build_object('theme', case n % 500 when 7 then 'dark' else 't' || n % 500 end),
  jsonb_build_object(
    'attachmentStyle', case n % 500 when 7 then 'secure' else 'a' || n % 500 end,
    'bigFive', jsonb_build_object('openness', n % 500 + 64)
  ),
  jsonb_build_object('hair', jsonb_build_object('color', case n % 500 when 7 then 'brown' else 'c' || n % 500 end)),
  jsonb_build_object(
    'social', jsonb_build_object('humorStyle', case n % 500 when 7 then 'dry' else 'h' || n % 500 end),
    'interests', jsonb_build_object('primary', jsonb_build_array('i' || n % 400, case n % 500 when 7 then 'chess' else 'i' || n % 500 end))
  )
from person;
insert into public.user_progress (id, user_id, last_activity_at)
  select id, id, timestamptz '2026-01-01' + n * interval '1 minute' from person;
insert into public.user_api_keys (id, user_id) select id, id from person;
insert into public.user_provider_keys (id, user_id, provider, envelope) select id, id, 'deepl', 'psk1.k.' || repeat('A', 60) from person;
insert into public.export_history (id, user_id, export_type, export_format, status, created_at, expires_at)
  select
    case when k = 1 then id else gen_random_uuid() end, id, case when n % 500 = 7 then 'audit' else 'profile' end, 'json',
    case when n % 500 = 8 then 'processing' else 'completed' end, timestamptz '2026-01-01' + n * interval '1 minute',
    case when k = 1 then timestamptz '2020-01-01' + n * interval '1 hour' end
  from person, generate_series(1, 2) as k;
insert into public.user_profile_audit_logs (id, user_id, actor, action, origin, created_at)
  select
    case when k = 1 then id else gen_random_uuid() end, id, case when n % 2 = 0 then id else gen_random_uuid() end, case when n % 500 = 9 then 'failed' else 'updated' end, 'manual',
    timestamptz '2026-01-01' + n * interval '1 minute'
  from person, generate_series(1, 2) as k;
insert into public.sessions (id, user_id, ended_at, descriptions_generated, qa_attempts, vocabulary_learned)
  select case when k = 1 then id else gen_random_uuid() end, id, now(), (n % 9 = 0)::int, (n % 9 = 1)::int, (n % 9 = 2)::int
  from person, generate_series(1, 2) as k;
"""


TABLES = (REPOSITORY / "docs" / "reference" / "tables.md").read_text(encoding="utf-8")
# [(GIN index, WHERE clause)], as docs/reference/tables.md names them.
SEARCHES = [
    (index, clause)
    for index, serves in re.findall(r"^\| `(\w+_gin)` \| (.*) \|$", TABLES, re.MULTILINE)
    for clause in re.findall(r"`(where [^`]*)`", serves)
]


def index_names(plan):
    """The indexes that a plan uses."""
    names = {plan["Index Name"]} if "Index Name" in plan else set()
    return names.union(*(index_names(below) for below in plan.get("Plans", [])))


@pytest.fixture
def full(database):
    """A database with enough rows that reading all of them is dearer than an index."""
    database.script(FILL)
    for table in {table.name for table in metadata.tables.values() if table.schema is None}:
        database.script(f"analyze public.{table}")
    return database


def test_every_index_serves_the_query_it_is_documented_for(full):
    used = {}
    for index, (role, query) in DOCUMENTED.items():
        with full.acting_as(role, SOMEBODY) as connection:
            plan = connection.scalar(
                text("explain (format json) " + query.format(somebody=SOMEBODY).replace(":", r"\:"))
            )
        used[index] = index_names(plan[0]["Plan"])
    assert {index: names for index, names in used.items() if index not in names} == {}


def test_every_index_is_documented(database):
    rows = database.run(
        "select c.relname::text from pg_index as i join pg_class as c on c.oid = i.indexrelid"
        " join pg_class as t on t.oid = i.indrelid"
        " where t.relnamespace = 'public'::regnamespace"
    )
    assert {row[0] for row in rows} == set(DOCUMENTED)


def test_the_probe_for_a_taken_name_uses_the_index(full):
    """A probe of username = candidate would read every profile at every sign-up."""
    with full.engine.connect() as connection:
        plan = connection.scalar(
            text("explain (format json) select 1 from public.user_profiles as p where lower(p.username) = 'user7'")
        )
    assert index_names(plan[0]["Plan"]) == {"idx_user_profiles_username_lower"}


def test_row_level_security_leaves_a_users_update_on_the_index(full):
    with full.acting_as("authenticated", SOMEBODY) as connection:
        plan = connection.scalar(text("explain (format json) update public.user_profiles set bio = 'x'"))
    assert index_names(plan[0]["Plan"]) == {"idx_user_profiles_user_id"}


def explain(connection, query):
    (plan,) = connection.exec_driver_sql("explain (format json) " + query).scalar()
    return index_names(plan["Plan"])


def test_every_search_in_json_that_is_documented_uses_its_index_and_finds_what_is_there(full):
    assert {index for index, _ in SEARCHES} == {index for index in DOCUMENTED if index.endswith("_gin")}
    assert {("@>" in clause, "@?" in clause) for _, clause in SEARCHES} == {(True, False), (False, True)}
    used, found = {}, {}
    with full.acting_as("service_role") as connection:
        for index, clause in SEARCHES:
            query = f"select user_id from public.user_profiles {clause}"
            used[clause] = (index, explain(connection, query))
            found[clause] = len(connection.exec_driver_sql(query).all())
    assert {clause: names for clause, (index, names) in used.items() if names != {index}} == {}
    assert set(found.values()) == {USERS // 500}, found


def test_a_search_for_more_than_equality_reads_every_profile(full):
    """The documentation says so, for whoever expects an index to help there."""
    with full.acting_as("service_role") as connection:
        query = "select user_id from public.user_profiles where personality_traits @? '$.bigFive ? (@.openness > 70)'"
        assert explain(connection, query) == set()


def test_a_users_search_in_json_stays_on_the_users_own_row(full):
    with full.acting_as("authenticated", SOMEBODY) as connection:
        used = {
            clause: explain(connection, f"select user_id from public.user_profiles {clause}") for _, clause in SEARCHES
        }
    assert set(map(frozenset, used.values())) == {frozenset({"idx_user_profiles_user_id"})}, used


@pytest.mark.parametrize(
    ("call", "rows", "read"),
    [
        # Once more: whether a profile has the name, which otherwise leads to a former owner.
        ("public.get_public_profile('user2500')", 1, 2),
        (
            "public.get_public_profiles(array(select lpad(to_hex(n), 32, '0')::uuid from generate_series(1, 100) as n))",
            100,
            100,
        ),
    ],
)
def test_the_functions_that_everybody_may_call_read_no_more_profiles_than_they_return(full, call, rows, read):
    with full.acting_as("anon", None) as connection:
        assert len(connection.execute(text(f"select * from {call}")).all()) == rows
        connection.exec_driver_sql("reset role")
        counts = "select seq_tup_read, idx_tup_fetch from pg_stat_xact_user_tables where relid = 'public.user_profiles'::regclass"
        assert tuple(connection.exec_driver_sql(counts).one()) == (0, read)
