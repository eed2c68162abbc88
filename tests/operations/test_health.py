"""health: what it finds, what it says, and how it exits."""

import json
import uuid

import pytest

from profiles_schema.operations.health import Health, examine
from profiles_schema.operations.repair import repair
from support import drift, profiles_schema
from support.health import finding_codes, look, monitored


def codes(health: Health) -> set[str]:
    return {finding.code for finding in health.problems}


def test_a_database_at_head_is_healthy(database):
    database.sign_up("ada@example.org")
    health = look(database)
    assert health.findings == []
    assert (health.users, health.missing, health.coverage) == (1, 0, 1.0)
    assert set(health.triggers.values()) == {"INSTALLED"}
    assert len(health.triggers) == 31


def test_a_hosted_project_at_head_is_healthy(supabase):
    supabase.sign_up("ada@example.org")
    health = look(supabase, full=True)
    assert health.findings == []
    assert health.users == 1


def test_a_database_that_was_never_migrated_is_a_problem_with_its_remedy(empty):
    health = look(empty)
    assert codes(health) == {"not_migrated"}
    assert health.problems[0].remedy == "profiles-schema upgrade"


def test_an_older_revision_is_a_problem(database):
    database.downgrade("-1")
    assert codes(look(database)) == {"not_at_head"}


@pytest.mark.parametrize("full", [False, True])
def test_missing_profiles_are_counted(database, full):
    users = [database.sign_up(f"u{n}@example.org") for n in range(5)]
    database.run("delete from public.user_profiles where user_id = :id", id=users[0])
    database.run("delete from public.user_progress where user_id = :id", id=users[1])
    health = look(database, full=full)
    assert (health.users, health.missing) == (5, 2)
    assert codes(health) == {"missing"}
    assert codes(look(database, full=full, fail_under=0.6)) == set()


def test_soft_deleted_users_are_not_missing(database):
    user = database.sign_up("ada@example.org")
    database.run("update auth.users set deleted_at = now() where id = :id", id=user)
    database.run("delete from public.user_profiles where user_id = :id", id=user)
    assert look(database, full=True).findings == []


def test_the_bounded_look_finds_a_missing_profile_wherever_it_is(database):
    database.script(
        "insert into auth.users (email) select 'u' || g || '@example.org' from generate_series(1, 1500) as g;"
        "delete from public.user_profiles where user_id = (select max(id::text)::uuid from auth.users)"
    )
    # A window of a thousand from a random point and one from the start: any single look may miss it, many do not.
    assert any(look(database).missing == 1 for _ in range(40))
    assert look(database, full=True).missing == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "state"),
    [
        ("alter table auth.users disable trigger profiles_on_auth_user_created", "DISABLED"),
        ("drop trigger profiles_on_auth_user_created on auth.users", "MISSING"),
        (
            "create or replace trigger profiles_on_auth_user_created after insert on auth.users"
            " referencing new table as other for each statement execute function profiles_internal.on_auth_user_created()",
            "CHANGED",
        ),
        (
            "create or replace function profiles_internal.on_auth_user_created() returns trigger language plpgsql"
            " as 'begin return null; end'",
            "CHANGED",
        ),
    ],
)
def test_a_damaged_trigger_is_named_and_repaired(database, damage, state):
    database.script(damage)
    health = look(database)
    assert health.triggers["auth.users.profiles_on_auth_user_created"] == state
    finding = next(f for f in health.problems if f.code == "trigger")
    assert state in finding.message
    assert finding.remedy == "profiles-schema repair"
    with database.engine.connect() as connection:
        assert repair(connection).left == []
    assert look(database).findings == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            'drop policy "Owners can read their own profile" on public.user_profiles',
            'The policy "Owners can read their own profile" of public.user_profiles is missing.',
        ),
        (
            "grant update on public.user_profiles to anon",
            "anon has rights on public.user_profiles that are not declared: update.",
        ),
        (
            "grant execute on function profiles_internal.create_profiles(jsonb[], integer) to public",
            "PUBLIC may execute profiles_internal.create_profiles",
        ),
        (
            "grant select on profiles_internal.settings to authenticated",
            "authenticated has rights on profiles_internal.settings that are not declared: select.",
        ),
        (
            "revoke delete on public.user_api_keys from authenticated",
            "authenticated has other rights on public.user_api_keys than declared: select.",
        ),
        (
            "revoke update (bio) on public.user_profiles from authenticated",
            "authenticated has lost its rights on the column bio of public.user_profiles.",
        ),
        (
            "alter table public.user_api_keys disable row level security",
            "Row level security is off on public.user_api_keys.",
        ),
        (
            "alter table public.user_profiles drop constraint ck_user_profiles_bio_up_to_4000_characters",
            "The constraint ck_user_profiles_bio_up_to_4000_characters of public.user_profiles is missing.",
        ),
        (
            "drop index public.idx_export_history_status",
            "The index idx_export_history_status of public.export_history is missing.",
        ),
        (
            "alter table public.user_profiles alter column bio set default 'x'",
            "The column bio of public.user_profiles is not as declared, but text default 'x'::text.",
        ),
        ("alter table public.user_profiles drop column bio", "The column bio of public.user_profiles is missing."),
        ("drop function public.get_my_profile_v2()", "The function public.get_my_profile_v2() is missing."),
    ],
)
def test_drift_is_named_in_words(database, damage, named):
    database.script(damage)
    (finding,) = (finding for finding in look(database).problems if finding.code == "drift")
    assert named in finding.message
    assert finding.remedy == "profiles-schema repair"


def test_what_the_application_adds_is_no_drift(database):
    database.script(
        "alter table public.user_profiles add column favourite_colour text;"
        "create index on public.user_profiles (favourite_colour);"
        "grant update (favourite_colour) on public.user_profiles to authenticated;"
        "create table public.orders (id int primary key, user_id uuid references auth.users);"
        "create function public.theirs() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger theirs before update on public.user_profiles for each row execute function public.theirs();"
        'create policy "Only the living" on public.user_profiles as restrictive for select to authenticated using (is_active)'
    )
    # Named, because a trigger that runs before can refuse rows.
    assert [(f.code, f.severity) for f in look(database).findings] == [("foreign_trigger", "notice")]


def test_an_invalid_index_is_named(database):
    database.run(
        "update pg_index set indisvalid = false where indexrelid = 'public.idx_export_history_status'::regclass"
    )
    health = look(database)
    assert codes(health) == {"invalid_index"}
    assert health.problems[0].remedy == "profiles-schema repair"


def test_a_recorded_failure_stays_until_it_is_repaired(database):
    database.script(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$begin raise exception 'no %', new.email using errcode = '23514'; end$$;"
        "create trigger refuse before insert on public.user_profiles for each row execute function public.refuse();"
    )
    database.sign_up("secret.name@example.org")
    health = look(database)
    assert codes(health) == {"missing", "failures"}
    failure = next(f for f in health.problems if f.code == "failures")
    assert "23514 (1)" in failure.message
    assert failure.remedy == "profiles-schema backfill"

    failed = profiles_schema(database.url, "backfill")
    assert failed.returncode == 1
    assert "failed for 1 user: SQLSTATE 23514" in failed.stdout
    assert "secret" not in failed.stdout + failed.stderr
    database.run("drop trigger refuse on public.user_profiles")
    assert profiles_schema(database.url, "backfill").returncode == 0
    assert look(database).findings == []
    assert "repaired" in [a for (a,) in database.run("select action from public.user_profile_audit_logs")]


def test_the_flag_is_a_notice(database):
    database.run("update profiles_internal.settings set value = 'false' where key = 'auto_create_profiles'")
    health = look(database)
    assert [(f.code, f.severity) for f in health.findings] == [("flag", "notice")]


def test_jobs_show(database):
    database.run("insert into profiles_internal.jobs (kind) values ('backfill')")
    database.run(
        "insert into profiles_internal.jobs (kind, state, heartbeat_at) values ('backfill', 'running', now() - interval '1 hour')"
    )
    assert [f.severity for f in look(database).findings if f.code == "job"] == ["notice", "problem"]


def test_a_blind_role_is_told_so(hosted):
    hosted.upgrade()
    hosted.sign_up("ada@example.org")
    superuser = type(hosted)(hosted.server, hosted.name)
    superuser.run("alter role project_owner nobypassrls")
    try:
        assert "blind" in codes(look(hosted))
        refused = profiles_schema(hosted.url, "backfill")
        assert refused.returncode == 1
        assert "row level security hides auth.users" in refused.stderr
        assert "bypassrls" in refused.stderr
    finally:
        superuser.run("alter role project_owner bypassrls")


def test_health_only_reads(database):
    database.sign_up("ada@example.org")
    with database.engine.connect() as connection:
        connection.exec_driver_sql("set transaction read only")
        assert examine(connection).findings == []
        modes = connection.exec_driver_sql("select distinct mode from pg_locks where pid = pg_backend_pid()").scalars()
        assert set(modes) <= {"AccessShareLock", "ExclusiveLock"}  # the latter is the one on its own transaction id


@pytest.mark.slow
def test_a_locked_table_is_said_instead_of_waited_for(database):
    with database.engine.connect() as holder:
        holder.exec_driver_sql("lock table public.user_profiles in access exclusive mode")
        said = profiles_schema(database.url, "health")
    assert said.returncode == 1
    assert said.stderr.startswith("error: Another session holds a lock on one of our tables.")


def test_the_command_says_it_in_lines_and_in_json(database):
    database.sign_up("ada@example.org")
    fine = profiles_schema(database.url, "health")
    assert fine.returncode == 0
    assert fine.stdout.splitlines()[-1] == "health: fine"

    database.run("delete from public.user_profiles")
    bad = profiles_schema(database.url, "health", "--full", "--json")
    assert bad.returncode == 1
    found = json.loads(bad.stdout)
    assert found["healthy"] is False
    assert (found["users"], found["missing"]) == (1, 1)
    assert [f["code"] for f in found["findings"]] == ["missing"]
    assert profiles_schema(database.url, "health", "--fail-under", "0").returncode == 0
    assert profiles_schema(database.url, "health", "--fail-under", "2").returncode == 2


def test_a_role_whose_sessions_fire_no_triggers_is_a_problem(database):
    database.script("create role loader_of_health; create role backup_of_health")
    try:
        database.script(
            f'alter role loader_of_health in database "{database.name}" set session_replication_role = replica;'
            # For a role that makes backups, row_security off is right.
            "alter role backup_of_health set row_security = off; alter role anon set row_security = off"
        )
        found = look(database).problems
        assert [finding.code for finding in found] == ["server_setting"] * 2
        assert "The role anon sets row_security to off" in found[0].message
        for finding in found:
            database.script(finding.remedy)
        assert look(database).findings == []
    finally:
        database.script("alter role anon reset row_security; drop role loader_of_health, backup_of_health")


def test_a_lost_table_of_users_is_named_by_health_and_repair(database):
    database.script("alter schema auth rename to identity")
    found = json.loads(profiles_schema(database.url, "health", "--json").stdout)
    (finding,) = found["findings"]
    assert (finding["code"], finding["remedy"]) == ("schema_renamed", "alter schema identity rename to auth")
    refused = profiles_schema(database.url, "repair")
    assert refused.returncode == 1
    assert "Run: alter schema identity rename to auth" in refused.stderr


def test_while_the_backfill_is_paused_the_way_to_resume_it_comes_first(database):
    database.sign_up("ada@example.org")
    database.run("delete from public.user_progress")
    number = database.value(
        "insert into profiles_internal.jobs (kind, state) values ('backfill', 'paused') returning id"
    )
    job, missing = look(database).findings
    assert (job.code, job.remedy) == ("job", f"profiles-schema jobs resume {number}")
    assert (missing.code, missing.remedy) == (
        "missing",
        f"profiles-schema jobs resume {number} && profiles-schema backfill",
    )
    for command in missing.remedy.split(" && "):
        assert profiles_schema(database.url, *command.split()[1:]).returncode == 0
    assert look(database).findings == []


@pytest.mark.parametrize("full", [False, True])
def test_a_role_that_may_only_read_looks_at_a_standby(project, full):
    project.sign_up("ada@example.org")
    with monitored(project) as monitor:
        health = look(monitor, full=full)
        assert health.findings == []
        assert (health.users, health.missing) == (1, 0)
        assert profiles_schema(monitor.url, "health").returncode == 0


def test_it_finds_what_the_owner_finds(database):
    users = [database.sign_up(f"u{n}@example.org") for n in range(3)]
    database.run("delete from public.user_profiles where user_id = :id", id=users[0])
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        'drop policy "Owners can read their own profile" on public.user_profiles;'
        "grant select on profiles_internal.jobs to anon"
    )
    found = look(database, full=True)
    assert codes(found) == {"missing", "trigger", "drift"}
    with monitored(database) as monitor:
        assert look(monitor, full=True) == found


def test_a_role_that_row_level_security_binds_counts_nobody_as_missing(project):
    project.sign_up("ada@example.org")
    with monitored(project, "nobypassrls") as monitor:
        health = look(monitor, full=True)
        assert codes(health) == {"blind"}
        assert "alter role monitor_of_health bypassrls" in health.problems[0].remedy
    project.administrator.script("set transaction read write; alter table auth.users disable row level security")
    with monitored(project, "nobypassrls") as monitor:
        assert "hides public.user_profiles" in next(f for f in look(monitor).problems if f.code == "blind").message


@pytest.mark.slow
def test_a_role_that_may_only_read_looks_at_wide_columns(wide):
    found = look(wide, full=True)
    with monitored(wide) as monitor:
        assert look(monitor, full=True) == found
        assert drift(monitor) == []
    wide.script("set transaction read write; alter table public.user_profiles disable trigger zz_dual_write")
    with monitored(wide) as monitor:
        assert "dual_write" in codes(look(monitor))
        assert len(drift(monitor)) == 1


def test_health_finds_the_newest_users_of_ids_that_grow_with_time(database):
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        "insert into auth.users (id, email)"
        " select ('01900000-0000-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, g || '@example.org' from generate_series(1, 3500) as g;"
        "alter table auth.users enable trigger profiles_on_auth_user_created;"
        "select profiles_internal.create_profiles(array(select to_jsonb(u) from auth.users as u order by id limit 3000))"
    )
    assert all("missing" in finding_codes(database) for _ in range(3))


def test_a_foreign_policy_and_a_foreign_owner_are_said(database):
    database.script(
        "create policy leak on public.user_profiles for select to authenticated using (true);"
        "create role stranger_of_definers; grant all on schema profiles_internal to stranger_of_definers;"
        "alter function profiles_internal.on_auth_user_created() owner to stranger_of_definers"
    )
    try:
        assert {"policy", "owner"} <= finding_codes(database)
    finally:
        database.script(
            "reassign owned by stranger_of_definers to postgres; drop owned by stranger_of_definers; drop role stranger_of_definers"
        )


def test_quoted_identifiers_are_no_drift(database):
    database.script(f'alter database "{database.name}" set quote_all_identifiers = on')
    assert finding_codes(database) == set()


def test_sessions_with_other_types_get_no_roll_up(empty):
    empty.script(
        "create table public.sessions (id bigserial, user_id bigint, started_at timestamptz, ended_at timestamptz,"
        " duration_minutes int, descriptions_generated int, images_processed int, qa_attempts int, vocabulary_learned int)"
    )
    empty.upgrade()
    empty.run("insert into public.sessions (user_id) values (7)")
    empty.run("update public.sessions set ended_at = now()")
    assert "sessions" in finding_codes(empty)


# PostgreSQL 15 asks the role whether it inherits, later ones the grant, which asked the role when it was made.
INHERIT = "revoke service_role from {app}; alter role {app} inherit; grant service_role to {app}"


@pytest.fixture
def app(database):
    """A role that the application logs in as."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    database.script(f"create role {role} login noinherit; grant anon, authenticated, service_role to {role}")
    yield role
    database.script(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("alter role {app} bypassrls", "has BYPASSRLS."),
        (INHERIT, "inherits the rights of service_role."),
        ("alter role {app} bypassrls;" + INHERIT, "BYPASSRLS, and inherits"),
    ],
)
def test_a_role_of_the_application_that_bypasses_row_level_security_is_a_notice_whose_remedy_works(
    database, app, change, words
):
    assert look(database).findings == []
    database.script(change.format(app=app))
    (found,) = look(database).findings
    assert (found.code, found.severity) == ("application_role", "notice")
    assert f"does not bind the role {app}: it " in found.message
    assert words in found.message
    named = profiles_schema(database.url, "health", "--app-role", app)
    assert (named.returncode, f"problem    {found.message}" in named.stdout) == (1, True)
    database.script(found.remedy)
    assert look(database).findings == []
    assert profiles_schema(database.url, "health", "--app-role", app).returncode == 0


def test_the_remedy_works_where_others_granted_the_role(database, app):
    administrator = f"{app} Admin"
    database.script(
        f'create role "{administrator}"; grant service_role to "{administrator}" with admin option;'
        f'{INHERIT.format(app=app)}; set role "{administrator}"; grant service_role to {app}'
    )
    try:
        (found,) = look(database).findings
        database.script(found.remedy)
        assert look(database).findings == []
    finally:
        database.script(f'revoke service_role from {app} granted by "{administrator}"; drop role "{administrator}"')


def test_the_owner_and_a_role_that_inherits_by_another_need_a_role_instead(database, app):
    database.script(
        f"create role {app}_group in role service_role; revoke service_role from {app}; alter role {app} inherit;"
        f" grant {app}_group to {app}"
    )
    try:
        (found,) = look(database).findings
    finally:
        database.script(f"drop role {app}_group")
    assert found.remedy.startswith("create role app login noinherit")
    named = profiles_schema(database.url, "health", "--app-role", "postgres", "--app-role", "nosuch")
    assert named.returncode == 1
    assert "There is no role nosuch." in named.stdout
    assert "does not bind the role postgres: it is a superuser." in named.stdout
    assert "next: create role app login noinherit" in named.stdout
