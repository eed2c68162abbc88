"""repair: what differs is put back, what is the application's is not touched, what needs a decision is named."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from profiles_schema.migrations import foreign_keys
from profiles_schema.operations.repair import Result, repair
from profiles_schema.schema.catalog import Key
from support import drift, profiles_schema, snapshot
from support.damages import APPLICATIONS_OWN, DAMAGES, compatible_damages
from support.health import look

# SQLAlchemy 2.1 warns of an option that it made itself, when it reads a CHECK that is not validated.
pytestmark = pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")


def put_back(database, **options) -> Result:
    with database.engine.connect() as connection:
        return repair(connection, **options)


@pytest.mark.parametrize(
    "damages",
    # The first group holds one damage to each thing.
    [
        pytest.param(group, marks=[pytest.mark.slow] if number else [])
        for number, group in enumerate(compatible_damages())
    ],
    ids=len,
)
def test_what_differs_is_put_back(database, damages):
    head = snapshot(database)
    for damage in damages:
        database.script(DAMAGES[damage][0])
    assert snapshot(database) != head
    result = put_back(database)
    assert result.left == []
    assert snapshot(database) == head
    assert drift(database) == []
    assert look(database, full=True).findings == []
    assert put_back(database) == Result()


@pytest.mark.parametrize(
    "damage",
    [
        "sign-up trigger disabled",
        "policy using",
        pytest.param("sign-up trigger missing", marks=pytest.mark.slow),
        pytest.param("foreign key action", marks=pytest.mark.slow),
    ],
)
def test_what_differs_in_a_hosted_project_is_put_back_by_its_owner(supabase, damage):
    head = snapshot(supabase)
    supabase.administrator.script(DAMAGES[damage][0])
    assert put_back(supabase).left == []
    assert snapshot(supabase) == head
    assert look(supabase).findings == []


@pytest.mark.slow
def test_a_dry_run_shows_the_sql_and_changes_nothing(database):
    database.script("alter table public.user_api_keys disable row level security")
    damaged = snapshot(database)
    shown = profiles_schema(database.url, "repair", "--dry-run")
    assert shown.returncode == 0
    assert (
        "-- Row level security is off on public.user_api_keys.\nalter table public.user_api_keys enable" in shown.stdout
    )
    assert shown.stdout.endswith("would be repaired\n")
    assert snapshot(database) == damaged

    done = profiles_schema(database.url, "repair", "--json")
    assert done.returncode == 0
    steps = json.loads(done.stdout)["repaired"]
    assert steps[0]["what"] == "Row level security is off on public.user_api_keys."
    again = profiles_schema(database.url, "repair")
    assert (again.returncode, again.stdout) == (
        0,
        "Nothing to repair: the database is as this version declares it.\n",
    )


@pytest.mark.slow
def test_what_is_the_applications_stays_as_it_is(database):
    database.script(APPLICATIONS_OWN)
    database.script("alter table public.user_profiles disable trigger on_profile")
    try:
        own = snapshot(database)
        assert put_back(database) == Result()
        for damage in max(compatible_damages(), key=len):
            if damage != "CHECK not validated":
                database.script(DAMAGES[damage][0])
        assert put_back(database).left == []
        assert snapshot(database) == own
    finally:
        database.script("drop owned by application_reader; drop role application_reader;")


# Foreign keys that a data load has switched off


def disabled_internal_triggers(database):
    return database.value("select count(*) from pg_trigger where tgisinternal and tgenabled = 'D'")


DISABLED = (
    "alter table auth.users disable trigger all; alter table public.user_profiles disable trigger all;"
    "alter table public.user_progress disable trigger all"
)


def test_foreign_keys_that_are_switched_off_are_found_and_switched_on(database):
    user = database.sign_up("ada@example.org")
    database.script(DISABLED)
    found = look(database)
    off = [f.message for f in found.problems if f.code == "foreign_key_off"]
    assert "The foreign key fk_user_profiles_user_id_users of public.user_profiles is switched off" in " ".join(off)
    assert any("switched off" in line for line in drift(database))

    assert put_back(database).left == []
    assert disabled_internal_triggers(database) == 0
    assert look(database, full=True).findings == []
    assert drift(database) == []
    database.run("delete from auth.users where id = :id", id=user)
    assert database.value("select count(*) from public.user_profiles") == 0


@pytest.mark.slow
def test_foreign_keys_are_switched_on_without_a_superuser(supabase):
    supabase.sign_up("ada@example.org")
    supabase.administrator.script(DISABLED)
    assert put_back(supabase).left == []
    assert disabled_internal_triggers(supabase) == 0
    assert look(supabase, full=True).findings == []


def test_a_trigger_and_a_foreign_key_of_the_application_stay_switched_off(database):
    database.script(
        "create table public.orders (id int primary key, user_id uuid references public.user_profiles (user_id));"
        "create function public.theirs() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger theirs before update on public.user_profiles for each row execute function public.theirs();"
        "alter table public.user_profiles disable trigger theirs; alter table public.orders disable trigger all"
    )
    assert {finding.code for finding in look(database, full=True).findings} == {"switched_off"}
    database.script("alter table public.user_profiles disable trigger all")
    assert put_back(database).left == []
    states = dict(
        map(tuple, database.run("select coalesce(k.conname, t.tgname), min(t.tgenabled) from pg_trigger as t"
        " left join pg_constraint as k on k.oid = t.tgconstraint where t.tgenabled = 'D' group by 1"))
    )  # fmt: skip
    assert set(states) == {"theirs", "orders_user_id_fkey"}

    found = look(database, full=True)
    assert [(finding.code, finding.severity) for finding in found.findings] == [("switched_off", "notice")] * 2
    for finding in found.findings:
        database.script(finding.remedy)
    assert [finding.code for finding in look(database).findings] == ["foreign_trigger"]


@pytest.mark.slow
def test_rows_of_users_deleted_meanwhile_are_named_with_the_statement_that_removes_them(database):
    ada, bob = database.sign_up("ada@example.org"), database.sign_up("bob@example.org")
    database.script(DISABLED)
    database.run("delete from auth.users where id = :id", id=ada)
    result = put_back(database)
    assert "1 rows of public.user_profiles refer to what is not in auth.users." in [left.what for left in result.left]
    assert disabled_internal_triggers(database) == 0

    found = look(database)
    assert {f.code for f in found.problems} == {"orphans", "drift"}
    for finding in found.problems:
        if finding.code == "orphans":
            database.run(finding.remedy)
    assert put_back(database).left == []
    assert look(database, full=True).findings == []
    assert database.run("select user_id from public.user_profiles") == [(bob,)]


def test_a_role_that_row_level_security_binds_is_not_told_to_delete_everything(hosted):
    hosted.upgrade()
    hosted.sign_up("ada@example.org")
    hosted.administrator.run("alter role project_owner nobypassrls")
    try:
        with hosted.engine.connect() as connection:
            assert {key.count_orphans(connection) for key in foreign_keys.our_foreign_keys(connection)} == {0}
    finally:
        hosted.administrator.run("alter role project_owner bypassrls")


# What takes a decision


@pytest.mark.slow
def test_a_dropped_column_that_held_data_is_named_and_the_rest_is_repaired(database):
    head = snapshot(database)
    database.sign_up("ada@example.org")
    database.script(
        "alter table public.user_profiles drop column bio, disable row level security;"
        "drop index public.idx_user_profiles_updated_at"
    )
    (left,) = put_back(database).left
    assert left.what == "The column bio of public.user_profiles is missing."
    assert left.why == "public.user_profiles holds rows, whose values in it are gone."
    assert left.remedy.endswith("profiles-schema repair --recreate-dropped")
    assert "row security" in snapshot(database)[Key("table", "public", "user_profiles")]
    assert Key("index", "public", "user_profiles", "idx_user_profiles_updated_at") in snapshot(database)

    assert put_back(database, recreate_dropped=True).left == []
    assert snapshot(database) == head
    assert look(database, full=True).findings == []


DECISIONS = {
    "duplicates prevent a unique index": (
        "drop index public.idx_user_profiles_username_lower; update public.user_profiles set username = 'same'",
        "Rows with equal values prevent it.",
        "update public.user_profiles set username = replace(user_id::text, '-', '')",
    ),
    "duplicates prevent a unique constraint": (
        "alter table public.user_profiles drop constraint uq_user_profiles_referral_code;"
        " update public.user_profiles set referral_code = 'same'",
        "Rows with equal values prevent it.",
        "update public.user_profiles set referral_code = null",
    ),
    "rows break a CHECK": (
        "alter table public.user_profiles drop constraint ck_user_profiles_bio_up_to_4000_characters;"
        " update public.user_profiles set bio = repeat('x', 5000)",
        "2 rows of public.user_profiles break it.",
        "update public.user_profiles set bio = null",
    ),
    "rows without a value prevent NOT NULL": (
        "alter table public.user_profiles alter column language drop not null;"
        " update public.user_profiles set language = null",
        "Rows of public.user_profiles have no value there.",
        "update public.user_profiles set language = 'en'",
    ),
    "values that a conversion would change": (
        "alter table public.user_profiles alter column message_count type numeric;"
        " update public.user_profiles set message_count = 1.5",
        "The conversion would change 2 values.",
        "update public.user_profiles set message_count = 1",
    ),
    "a view depends on a column whose type differs": (
        "alter table public.user_profiles alter column referral_code type varchar(90);"
        " create view public.codes as select referral_code from public.user_profiles",
        "The database refused: cannot alter type of a column used by a view or rule (SQLSTATE 0A000).",
        "drop view public.codes",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("decision", DECISIONS)
def test_what_takes_a_decision_is_named_and_the_rest_is_repaired(database, decision):
    damage, why, correction = DECISIONS[decision]
    head = snapshot(database)
    for name in "ada", "bob":
        database.sign_up(f"{name}@example.org")
    database.script(f"{damage}; alter table public.user_progress disable row level security")
    (left,) = put_back(database).left
    assert left.why == why
    assert "row security" in snapshot(database)[Key("table", "public", "user_progress")]
    assert not [key for key, value in snapshot(database).items() if value.endswith(" INVALID")]
    if "this shows: " in left.remedy:
        shows = left.remedy.partition("this shows: ")[2].rpartition("; then")[0]
        assert database.run(shows.replace(":", "\\:"))

    database.script(correction)
    assert put_back(database).left == []
    assert snapshot(database) == head


# Tables, the schema and the version row


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        ('alter table public.user_progress rename to "User progress"', 'public."User progress"'),
        ("create schema old; alter table public.user_progress set schema old", "old.user_progress"),
    ],
)
def test_a_table_that_was_renamed_or_moved_is_named_first_and_alone_and_comes_back(database, damage, where):
    database.sign_up("ada@example.org")
    database.script(damage)
    (finding,) = look(database).findings
    assert finding.message == f"The table user_progress is missing: it is called {where} now."
    refused = profiles_schema(database.url, "backfill")
    assert refused.returncode == 1
    assert refused.stderr == f"error: {finding.message} Run: {finding.remedy}\n"
    assert finding.message in [left.what for left in put_back(database, recreate_dropped=True).left]
    database.script(finding.remedy)
    assert look(database, full=True).findings == []


@pytest.mark.slow
def test_a_dropped_table_is_made_anew_when_that_is_asked_for(database):
    head = snapshot(database)
    database.sign_up("ada@example.org")
    database.script("drop table public.user_progress cascade")
    (finding,) = look(database).findings
    assert finding.message.startswith("The table user_progress is missing.")
    assert [left.what for left in put_back(database).left] == ["The table user_progress is missing."]
    assert finding.remedy == "profiles-schema repair --recreate-dropped"
    assert profiles_schema(database.url, *finding.remedy.split()[1:]).returncode == 0
    assert snapshot(database) == head
    assert [f.remedy for f in look(database).findings] == ["profiles-schema backfill"]


def test_an_internal_schema_under_another_name_is_no_database_that_was_never_migrated(database):
    database.sign_up("ada@example.org")
    database.script('alter schema profiles_internal rename to "Set aside"')
    (finding,) = look(database).findings
    sentence = 'The schema profiles_internal is missing; "Set aside" holds its tables.'
    assert (finding.message, finding.remedy) == (sentence, 'alter schema "Set aside" rename to profiles_internal')
    for verb in "upgrade", "backfill", "repair", "stamp", "check":
        refused = profiles_schema(database.url, verb)
        assert (refused.returncode, refused.stderr) == (1, f"error: {sentence} Run: {finding.remedy}\n"), verb
    database.script(finding.remedy)
    assert look(database, full=True).findings == []


@pytest.mark.parametrize(
    "loss", ["delete from profiles_internal.alembic_version", "drop table profiles_internal.alembic_version"]
)
def test_a_lost_version_row_is_written_again_when_the_catalog_proves_it(database, loss):
    database.script(loss)
    (finding,) = look(database).findings
    assert (finding.code, finding.remedy) == ("version_lost", "profiles-schema stamp")
    for verb in "upgrade", "check":
        refused = profiles_schema(database.url, verb)
        assert refused.returncode == 1
        assert refused.stderr == f"error: {finding.message} Run: profiles-schema stamp\n"

    only_verified = profiles_schema(database.url, "stamp", "--verify")
    assert only_verified.returncode == 0
    assert "nothing is recorded" in only_verified.stdout
    assert [f.code for f in look(database).findings] == ["version_lost"]
    assert profiles_schema(database.url, "stamp").returncode == 0
    assert look(database, full=True).findings == []
    assert drift(database) == []


@pytest.mark.slow
def test_no_revision_is_written_without_proof(database):
    database.script(
        "delete from profiles_internal.alembic_version; alter table public.user_api_keys disable row level security"
    )
    refused = profiles_schema(database.url, "stamp")
    assert refused.returncode == 1
    assert "Row level security is off on public.user_api_keys." in refused.stderr
    assert "Put it back with: profiles-schema repair; then: profiles-schema stamp." in refused.stderr
    assert [f.code for f in look(database).findings] == ["version_lost"]
    assert put_back(database).left == []
    assert profiles_schema(database.url, "stamp").returncode == 0
    assert look(database, full=True).findings == []


def test_an_older_revision_is_not_proven_and_not_repaired(database):
    database.downgrade("0019_contract_traits")
    database.run("delete from profiles_internal.alembic_version")
    database.run("delete from profiles_internal.migration_log where revision >= '0020'")
    refused = profiles_schema(database.url, "stamp")
    assert refused.returncode == 1
    assert "only this version's newest revision can be proven" in refused.stderr
    assert profiles_schema(database.url, "repair").returncode == 1


@pytest.mark.parametrize("verb", ["repair", "stamp"])
def test_a_database_that_was_never_migrated_is_refused(empty, verb):
    refused = profiles_schema(empty.url, verb)
    assert refused.returncode == 1
    assert "Run: profiles-schema upgrade" in refused.stderr


def test_a_recorded_revision_that_is_not_the_newest_is_corrected_only_when_the_newest_is_proven(database):
    head = database.value("select version_num from profiles_internal.alembic_version")
    database.run("update profiles_internal.alembic_version set version_num = '0021_backfill_identity'")
    assert profiles_schema(database.url, "stamp").returncode == 0
    assert database.run("select version_num from profiles_internal.alembic_version") == [(head,)]


# Under load, and as whom


@pytest.mark.slow
def test_repair_waits_for_a_lock_with_patience_and_keeps_nobody_waiting(database):
    database.script("alter table public.user_profiles disable row level security")
    with database.engine.connect() as holder, database.engine.connect() as connection:
        holder.exec_driver_sql("lock table public.user_profiles in row exclusive mode")
        with ThreadPoolExecutor() as pool:
            working = pool.submit(repair, connection)
            for _ in range(20):
                # A reader does not queue behind the waiting ALTER TABLE for longer than its lock_timeout.
                started = time.monotonic()
                database.value("select count(*) from public.user_profiles")
                assert time.monotonic() - started < 2
                time.sleep(0.05)
            assert not working.done()
            holder.rollback()
            assert working.result(timeout=60).left == []
    assert look(database).findings == []


def test_a_role_that_owns_nothing_is_told_whom_to_connect_as(database):
    database.script("alter table public.user_profiles disable row level security")
    database.run("create role passer_by login")
    database.run(
        "grant usage on schema profiles_internal to passer_by; grant select on all tables in schema profiles_internal to passer_by"
    )
    try:
        refused = profiles_schema(database.server.url(database.name, "passer_by"), "repair")
        assert refused.returncode == 1
        assert refused.stderr == "error: The role passer_by owns none of the tables. Connect as postgres, which does.\n"
    finally:
        database.script("drop owned by passer_by; drop role passer_by")


@pytest.mark.slow
def test_a_function_of_another_owner_comes_back_to_the_owner_of_the_tables(database):
    database.script("create role owner_of_one; grant create on schema profiles_internal to owner_of_one")
    try:
        definer = database.value("select oid::regprocedure::text from pg_proc where prosecdef order by 1 limit 1")
        database.script(f"alter function {definer} owner to owner_of_one")
        assert "owner" in {f.code for f in look(database).problems}
        assert put_back(database).left == []
        assert look(database).findings == []
    finally:
        database.script("drop owned by owner_of_one; drop role owner_of_one")


def test_an_invalid_index_is_built_anew_also_where_it_backs_a_constraint(database):
    database.run(
        "update pg_index set indisvalid = false where indexrelid in ('public.idx_export_history_status'::regclass,"
        " 'public.uq_user_profiles_referral_code'::regclass)"
    )
    assert [f.remedy for f in look(database).problems] == ["profiles-schema repair"] * 2
    assert put_back(database).left == []
    assert look(database).findings == []


def test_the_triggers_that_the_database_writes_itself_are_put_back(wide):
    wide.script("alter table public.user_profiles disable trigger zz_dual_write")
    assert "dual_write" in {f.code for f in look(wide).problems}
    assert put_back(wide).left == []
    assert "dual_write" not in {f.code for f in look(wide).problems}


def test_internal_tables_that_were_dropped_are_made_anew_with_what_they_hold_from_the_beginning(database):
    """health prints that command for each of them."""
    settings = "select key, value from profiles_internal.settings order by key"
    zones = "select count(*) from profiles_internal.timezones"
    before = database.run(settings), database.value(zones)
    tables = [
        row[0]
        for row in database.run(
            "select oid::regclass::text from pg_class where relnamespace = 'profiles_internal'::regnamespace"
            " and relkind = 'r' and relname <> 'alembic_version'"
        )
    ]
    database.script(f"drop table {', '.join(tables)} cascade")
    done = profiles_schema(database.url, "repair", "--recreate-dropped")
    assert (done.returncode, done.stderr) == (0, "")
    assert look(database).findings == []
    assert (database.run(settings), database.value(zones)) == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--recreate-dropped"]])
def test_no_twin_is_made_of_a_column_that_was_renamed(database, options):
    database.sign_up("ada@example.org")
    database.script(
        "alter table public.user_profiles rename column bio to biography;"
        "alter table public.export_history rename column filters to filter"  # that table is empty
    )
    done = profiles_schema(database.url, "repair", *options)
    assert done.returncode == 1
    twins = "select count(*) from information_schema.columns where table_schema = 'public' and column_name in ('bio', 'filters')"
    assert database.value(twins) == 0
    for rename in (
        "alter table public.user_profiles rename column biography to bio",
        "alter table public.export_history rename column filter to filters",
    ):
        assert f"next: {rename}; then: profiles-schema repair" in done.stdout
        database.script(rename)
    assert put_back(database).left == []
    assert look(database).findings == []


@pytest.mark.slow
def test_a_dry_run_names_the_rows_that_repair_would_stumble_over(database):
    for name in ("ada", "bob", "eve"):
        database.sign_up(f"{name}@example.org")
    database.script(
        "alter table public.user_profiles drop constraint ck_user_profiles_bio_up_to_4000_characters;"
        "update public.user_profiles set bio = repeat('x', 4001) where username = 'eve';"
        "drop index public.idx_user_profiles_username_lower;"
        "update public.user_profiles set username = 'bob' where username = 'ada';"
        "alter table public.user_progress drop constraint fk_user_progress_user_id_users;"
        "update public.user_progress set user_id = gen_random_uuid()"
        "  where user_id = (select user_id from public.user_profiles where username = 'eve')"
    )
    damaged = snapshot(database)
    told = profiles_schema(database.url, "repair", "--dry-run")
    assert (told.returncode, told.stdout.splitlines()[-1]) == (1, "repair: 0 would be repaired, 3 left")
    assert "Rows with equal values prevent it." in told.stdout
    assert "Rows that refer to nothing prevent it." in told.stdout
    assert "1 row of public.user_profiles break it." in told.stdout
    for query in re.findall(r"that this shows: (.*); then: ", told.stdout):
        assert len(database.run(query)) == 1, query
    assert snapshot(database) == damaged
    assert put_back(database).left != []
