"""Everything inside the sign-up triggers is made to fail in turn. Each time: the sign-up and the sign-in commit, the
failure is on record wherever a record can be written, health has a problem, and once the fault is gone both the next
sign-in and `backfill` repair what was lost."""

import re
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.operations import backfill
from profiles_schema.operations import repair as repairs
from profiles_schema.operations.health import examine
from support import insert_user, profiles_schema

SHORT_SECONDS = 2.5


@dataclass(frozen=True)
class Fault:
    """What is broken and how it is mended, both by the owner of the tables.

    ``code`` is the SQLSTATE on record; None where the profile is made all the same. ``recorded`` is false where no
    record can be written. ``says`` is in a problem of health while the fault lasts; ``drift`` is false where that is
    the application's own affair, ``blind`` true where the owner cannot look (the command line says so).
    """

    break_it: str
    mend_it: str
    code: str | None
    recorded: bool = True
    says: str = ""
    drift: bool = True
    blind: bool = False


def raising(code_of_body, table="user_profiles", when="before insert or update"):
    """An application's own trigger beside ours, and a row in it that goes wrong."""
    return (
        f"create function public.own() returns trigger language plpgsql as $own$begin {code_of_body} return new; end$own$;"
        f"create trigger own {when} on public.{table} for each row execute function public.own()"
    )


def raised(code, **options):
    return Fault(
        raising(f"raise exception using errcode = '{code}';", **options),
        UNDO.format("user_profiles"),
        code,
        drift=False,
    )


def renamed(table, schema="public", **options):
    away = f"alter table {schema}.{table} rename to away"
    return Fault(away, f"alter table {schema}.away rename to {table}", "42P01", says=table, **options)


def renamed_column(table, column, **options):
    return Fault(
        f"alter table public.{table} rename {column} to away", f"alter table public.{table} rename away to {column}", "42703",
        says=f"{table}", **options,
    )  # fmt: skip


UNDO = "drop trigger own on public.{}; drop function public.own()"
AUDIT_AWAY = renamed("user_profile_audit_logs").break_it
AUDIT_BACK = "alter table public.away rename to user_profile_audit_logs"

FAULTS = {
    # constraints that somebody has added
    "a CHECK": Fault(
        "alter table public.user_profiles add constraint own_rule check (email is null or email like '%@kept') not valid",
        "alter table public.user_profiles drop constraint own_rule", "23514", drift=False,
    ),
    "a CHECK on progress": Fault(
        "alter table public.user_progress add constraint own_rule check (total_points > 0) not valid",
        "alter table public.user_progress drop constraint own_rule", "23514", drift=False,
    ),
    "a column without default": Fault(
        "alter table public.user_profiles add column tenant text; alter table public.user_profiles add constraint t check (tenant is not null) not valid",
        "alter table public.user_profiles drop column tenant", "23514", drift=False,
    ),
    "a deferrable unique constraint": Fault(
        "alter table public.user_profiles add constraint own_rule unique (bio) deferrable initially deferred",
        "alter table public.user_profiles drop constraint own_rule", "55000", drift=False,
    ),
    # tables and columns that are gone
    "user_profiles is away": renamed("user_profiles"),
    "user_progress is away": renamed("user_progress"),
    "settings is away": Fault(**{**vars(renamed("settings", "profiles_internal")), "code": None}),
    "timezones is away": Fault(**{**vars(renamed("timezones", "profiles_internal")), "code": None}),
    "the audit log is away": Fault(AUDIT_AWAY, AUDIT_BACK, None, says="user_profile_audit_logs"),
    "the audit log is away, and profiles fail": Fault(
        f"{AUDIT_AWAY}; {raising('raise exception using errcode = $$P0001$$;')}", f"{AUDIT_BACK}; {UNDO.format('user_profiles')}",
        "P0001", recorded=False, says="user_profile_audit_logs",
    ),
    "the audit log lacks a column": Fault(
        f"alter table public.user_profile_audit_logs rename error_code to away; {raising('raise exception using errcode = $$P0001$$;')}",
        f"alter table public.user_profile_audit_logs rename away to error_code; {UNDO.format('user_profiles')}",
        "P0001", recorded=False, says="user_profile_audit_logs",
    ),
    "a profile column is away": renamed_column("user_profiles", "email_verified"),
    "a progress column is away": renamed_column("user_progress", "user_id"),
    # rights
    # (from service_role too, of which the owner is a member)
    "the owner may not write profiles": Fault(
        "revoke insert, update on public.user_profiles from project_owner, service_role",
        "grant insert, update on public.user_profiles to project_owner, service_role",
        "42501",
        says="user_profiles",
    ),
    "the owner may not read settings": Fault(
        "revoke select on profiles_internal.settings from project_owner",
        "grant select on profiles_internal.settings to project_owner",
        None,
        blind=True,
    ),
    "the owner may not write the log": Fault(
        "revoke insert on public.user_profile_audit_logs from project_owner, service_role",
        "grant insert on public.user_profile_audit_logs to project_owner, service_role",
        None,
        says="user_profile_audit_logs",
    ),
    # triggers of the application's own
    **{f"a trigger that raises {code}": raised(code) for code in ("P0001", "53100", "40001", "40P01", "57014", "57P01", "XX000")},
    "a trigger that asserts": Fault(raising("assert false;"), UNDO.format("user_profiles"), "P0004", drift=False),
    "a trigger that divides by zero": Fault(
        raising("perform 1 / (length(new.username) - length(new.username));"), UNDO.format("user_profiles"), "22012", drift=False
    ),
    "a trigger that recurses": Fault(
        "create function public.deep(n integer) returns integer language plpgsql as $$begin return public.deep(n + 1); end$$;"
        + raising("perform public.deep(1);"),
        UNDO.format("user_profiles") + "; drop function public.deep(integer)", "54001", drift=False,
    ),
    "a trigger behind the insert": Fault(
        raising("raise exception 'no';", when="after insert or update"), UNDO.format("user_profiles"), "P0001", drift=False
    ),
    "a trigger on progress": Fault(
        raising("raise exception 'no';", "user_progress"), UNDO.format("user_progress"), "P0001", drift=False
    ),
    "a trigger on the log": Fault(
        raising("raise exception 'no';", "user_profile_audit_logs"), UNDO.format("user_profile_audit_logs"), None, drift=False,
    ),
}  # fmt: skip

# Functions that a sign-up calls: with which the profile is made, and those only a failure needs.
HELPERS = {
    "create_profiles": True,
    "profile_values": True,
    "record_events": False,
    "rescue_sign_ups": False,
    "describe_failure": False,
}


def sign_up(database, email, **columns):
    with database.auth_server() as connection:
        return insert_user(connection, email=email, **columns)


def change(database, user_id, assignments):
    with database.auth_server() as connection:
        changed = connection.execute(text(f"update auth.users set {assignments} where id = :id"), {"id": user_id})
    assert changed.rowcount == 1


def sign_in(database, user_id):
    change(database, user_id, "last_sign_in_at = clock_timestamp()")


def problems(database):
    with database.engine.connect() as connection:
        return [finding.message for finding in examine(connection).problems]


def repair(database):
    with database.engine.connect() as connection:
        return list(backfill.backfill(connection))[-1]


def repair_triggers(database):
    with database.engine.connect() as connection:
        assert repairs.repair(connection).left == []


def recorded(database, user_id):
    """SQLSTATE of each failure on record for a user, oldest first."""
    rows = database.administrator.run(
        "select error_code from public.user_profile_audit_logs where user_id = :id and action in ('failed', 'skipped') order by created_at",
        id=user_id,
    )
    return [row.error_code for row in rows]


def is_complete(database, user_id):
    return database.administrator.value(
        "select exists (select from public.user_profiles where user_id = :id) and exists (select from public.user_progress where user_id = :id)",
        id=user_id,
    )


@pytest.fixture
def project(hosted_at_head):
    return hosted_at_head


@contextmanager
def broken(database, fault):
    database.script(fault.break_it)
    try:
        yield
    finally:
        database.script(fault.mend_it)


# The INSERT trigger ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_a_sign_up_commits_is_on_record_and_is_repaired(project, name):
    fault = FAULTS[name]
    ids = {}
    for road, repaired_by in (("sign-in", sign_in), ("backfill", lambda database, _: repair(database))):
        with broken(project, fault):
            ids[road] = user_id = sign_up(
                project, f"{road}@example.org", raw_user_meta_data={"timezone": "Europe/Berlin"}
            )
            found = [] if fault.blind else problems(project)
            assert found or fault.blind or not (fault.drift or fault.code), "the fault lasts, and health found nothing"
            assert any(fault.says in problem for problem in found) or not found, found
        assert project.value("select count(*) from auth.users where id = :id", id=user_id) == 1
        if fault.recorded and fault.code:
            assert recorded(project, user_id) == [fault.code]
            assert any(fault.code in problem for problem in problems(project))
        if fault.code:
            assert not is_complete(project, user_id)
            assert problems(project)
        repaired_by(project, user_id)
        assert is_complete(project, user_id)
        assert project.profile(user_id).username == road
        assert problems(project) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dropped", "replaced by one that raises"])
@pytest.mark.parametrize("helper", HELPERS)
def test_a_sign_up_survives_a_helper_function(project, helper, how):
    needed = HELPERS[helper]
    (signature, definition) = project.run(
        "select oid::regprocedure::text, pg_get_functiondef(oid) from pg_proc"
        " where proname = :name and pronamespace = 'profiles_internal'::regnamespace",
        name=helper,
    )[0]
    body = "begin raise exception using errcode = 'XX001'; end"
    breakage = (
        f"drop function {signature}"
        if how == "dropped"
        else re.sub(r"(AS \$function\$).*(\$function\$)", rf"\1{body}\2", definition, flags=re.DOTALL)
    )
    project.script(breakage)
    # What only a failure calls is broken while there is one.
    if not needed:
        project.script(raising("raise exception using errcode = '22012';", when="before insert"))
    lost = [sign_up(project, f"{name}@example.org") for name in ("ada", "eve")]
    sign_in(project, lost[0])
    assert project.value("select count(*) from auth.users where last_sign_in_at is not null") == 1
    assert not any(is_complete(project, user_id) for user_id in lost)
    assert any(helper in problem for problem in problems(project))
    if needed:
        assert {code for user_id in lost for code in recorded(project, user_id)} == {
            "42883" if how == "dropped" else "XX001"
        }
    else:
        project.script("drop trigger own on public.user_profiles; drop function public.own()")

    repair_triggers(project)  # puts back what is missing or changed
    sign_in(project, lost[0])
    assert project.profile(lost[0]).username == "ada"
    repair(project)
    assert project.profile(lost[1]).username == "eve"
    assert problems(project) == []


def test_a_lock_of_another_session_costs_the_profile_for_a_while(project):
    lost = []
    with project.administrator.engine.connect() as holder, holder.begin() as transaction:
        holder.exec_driver_sql("lock table public.user_progress in access exclusive mode")
        started = time.monotonic()
        lost += [sign_up(project, "ada@example.org"), sign_up(project, "eve@example.org")]
        assert time.monotonic() - started < 2 * SHORT_SECONDS
        transaction.rollback()
    assert [recorded(project, user_id) for user_id in lost] == [["55P03"], ["55P03"]]
    assert any("55P03 (2)" in problem for problem in problems(project))
    sign_in(project, lost[0])
    assert any("55P03 (1)" in problem for problem in problems(project))
    assert repair(project).counts["created"] == 1
    assert problems(project) == []


def test_a_statement_timeout_costs_the_profile_for_a_while(project):
    project.script(raising("perform pg_sleep(20);"))
    with project.auth_server() as connection:
        connection.exec_driver_sql("set local statement_timeout = '200ms'")
        user_id = insert_user(connection, email="ada@example.org")
    assert recorded(project, user_id) == ["57014"]
    assert any("57014" in problem for problem in problems(project))
    project.script(UNDO.format("user_profiles"))
    repair(project)
    assert problems(project) == []


def test_a_backfill_meets_the_same_fault_and_says_so_without_stopping(project):
    project.script(raising("if new.username = 'bad' then raise exception 'no'; end if;"))
    bad, good = sign_up(project, "bad@example.org"), sign_up(project, "good@example.org")
    project.administrator.run("delete from public.user_profiles where user_id = :id", id=good)
    progress = repair(project)
    assert (progress.counts["created"], progress.failed) == (1, {"P0001": 1})
    assert is_complete(project, good)
    assert any("P0001" in problem for problem in problems(project))
    project.script(UNDO.format("user_profiles"))
    repair(project)
    assert project.profile(bad).username == "bad"
    assert problems(project) == []


# The UPDATE trigger ---------------------------------------------------------------------------------------------------

LOSING = [
    "a CHECK", "user_profiles is away", "a profile column is away", "the owner may not write profiles", "a trigger that raises 53100",
    "a trigger that raises 57014", "a trigger that asserts", "a trigger that divides by zero", "a trigger behind the insert",
]  # fmt: skip
CHANGES = {
    "the address": (
        "email = 'new@example.org', email_confirmed_at = now()",
        ("email", "new@example.org"),
        ("email_verified", True),
        ("username", "new"),
    ),
    "the confirmation": ("email_confirmed_at = now()", ("email_verified", True)),
    "the sign-in": ("last_sign_in_at = '2026-02-03T04:05:06Z'", ("last_login.year", 2026)),
}


def value(profile, path):
    for name in path.split("."):
        profile = getattr(profile, name, None)
    return profile


@pytest.mark.parametrize("name", LOSING)
def test_a_lost_change_is_on_record_and_repaired_by_either_road(project, name):
    for road, email in (("backfill", "ada@example.org"), ("sign-in", "eve@example.org")):
        user_id = sign_up(project, email)
        with broken(project, FAULTS[name]):
            change(
                project,
                user_id,
                f"email = 'new-{road}@example.org', email_confirmed_at = now()",
            )
        assert project.profile(user_id).email == email
        assert len(recorded(project, user_id)) == 1
        assert any("recorded failure" in problem for problem in problems(project))
        if road == "backfill":
            assert repair(project).counts["repaired"] == 1
        else:
            sign_in(project, user_id)
        profile = project.profile(user_id)
        assert (profile.email, profile.email_verified) == (f"new-{road}@example.org", True)
        assert problems(project) == []


@pytest.mark.parametrize("road", ["backfill", "sign-in"])
@pytest.mark.parametrize("what", CHANGES)
def test_whatever_change_was_lost_is_seen_by_health_and_repaired(project, what, road):
    assignments, *expected = CHANGES[what]
    user_id = sign_up(project, "ada@example.org", phone="+49")
    with broken(project, FAULTS["a trigger that asserts"]):
        change(project, user_id, assignments)
    assert [(column, value(project.profile(user_id), column)) for column, _ in expected] != expected
    assert problems(project), "a change was lost, and health found nothing"
    if road == "backfill":
        repair(project)
    else:
        change(project, user_id, "last_sign_in_at = '2026-05-06T07:08:09Z'")
    assert [(column, value(project.profile(user_id), column)) for column, _ in expected] == expected
    assert problems(project) == []


@pytest.mark.parametrize("road", ["backfill", "sign-in"])
def test_a_lost_change_from_anonymous_to_permanent_is_repaired_with_its_username(project, road):
    user_id = sign_up(project, None, is_anonymous=True)
    with broken(project, FAULTS["a trigger that divides by zero"]):
        change(project, user_id, "email = 'ada@example.org', email_confirmed_at = now(), is_anonymous = false")
    assert project.profile(user_id).is_anonymous
    assert problems(project)
    repair(project) if road == "backfill" else sign_in(project, user_id)
    profile = project.profile(user_id)
    assert (profile.is_anonymous, profile.email, profile.email_verified, profile.username) == (
        False,
        "ada@example.org",
        True,
        "ada",
    )
    assert problems(project) == []


@pytest.mark.parametrize("name", ["a CHECK", "a trigger that asserts", "user_profiles is away"])
def test_a_lost_erasure_is_seen_by_health_and_made_up_for(project, name):
    user_id = sign_up(project, "ada@example.org", raw_user_meta_data={"full_name": "Ada"})
    project.administrator.run("update public.user_profiles set bio = 'born 1815' where user_id = :id", id=user_id)
    fault = FAULTS[name] if name != "a CHECK" else Fault(
        "alter table public.user_profiles add constraint own_rule check (bio is not null) not valid",
        "alter table public.user_profiles drop constraint own_rule", "23514",
    )  # fmt: skip
    with broken(project, fault):
        change(project, user_id, "deleted_at = now(), email = 'HASH', raw_user_meta_data = '{}'")
    assert len(recorded(project, user_id)) == 1
    assert any("recorded failure" in problem for problem in problems(project))
    assert repair(project).counts["erased"] == 1
    profile = project.profile(user_id)
    assert (profile.email, profile.display_name, profile.bio, profile.is_active) == (None, None, None, False)
    assert problems(project) == []


@pytest.mark.slow
@pytest.mark.parametrize("helper", ["follow_user", "erase_profile"])
def test_a_sign_in_survives_a_missing_helper_function(project, helper):
    user_id = sign_up(project, "ada@example.org")
    signature = project.value("select oid::regprocedure::text from pg_proc where proname = :name", name=helper)
    project.script(f"drop function {signature}")
    if helper == "follow_user":
        change(project, user_id, "email = 'new@example.org', last_sign_in_at = now()")
    else:
        change(project, user_id, "deleted_at = now(), email = 'HASH'")
    assert recorded(project, user_id) == ["42883"]
    assert any(helper in problem for problem in problems(project))
    repair_triggers(project)
    repair(project)
    assert project.profile(user_id).email == ("new@example.org" if helper == "follow_user" else None)
    assert problems(project) == []


# The command line -----------------------------------------------------------------------------------------------------


def command(database, *arguments):
    return profiles_schema(database.url, *arguments)


def test_an_operator_finds_and_repairs_a_failed_sign_up_from_the_command_line(project):
    with broken(project, FAULTS["a trigger that raises 53100"]):
        user_id = sign_up(project, "ada@example.org")
        assert command(project, "health").returncode == 1
    sick = command(project, "health")
    assert sick.returncode == 1, sick.stdout + sick.stderr
    assert "53100 (1)" in sick.stdout
    assert "next: profiles-schema backfill" in sick.stdout
    assert command(project, "backfill").returncode == 0
    well = command(project, "health")
    assert (well.returncode, well.stdout.splitlines()[-1]) == (0, "health: fine")
    assert is_complete(project, user_id)


@pytest.mark.parametrize(
    "name",
    [
        "user_profiles is away",
        "user_progress is away",
        "the audit log is away",
        "settings is away",
        "the owner may not read settings",
    ],
)
def test_health_of_a_damaged_database_is_a_finding_and_no_traceback(project, name):
    sign_up(project, "ada@example.org")
    with broken(project, FAULTS[name]):
        for verb in (["health"], ["health", "--full"], ["health", "--json"]):
            found = command(project, *verb)
            output = found.stdout + found.stderr
            assert found.returncode == 1, output
            assert "Traceback" not in output
            assert FAULTS[name].says in output
    assert command(project, "health").returncode == 0


def test_a_sign_up_without_profile_and_without_record_is_still_found(project):
    with broken(project, FAULTS["the audit log is away, and profiles fail"]):
        user_id = sign_up(project, f"{uuid.uuid4().hex}@example.org")
    assert recorded(project, user_id) == []
    found = command(project, "health")
    assert found.returncode == 1
    assert "have no profile" in found.stdout


def test_every_fault_of_the_list_really_is_one(project):
    """Without the guard each of them, the harmless ones aside, would fail the sign-up."""
    user_id = sign_up(project, "ada@example.org")
    project.administrator.run("delete from public.user_profiles")
    user = f"(select to_jsonb(u) from auth.users as u where u.id = '{user_id}')"
    for name, fault in FAULTS.items():
        if fault.code is None:
            continue
        with broken(project, fault), project.engine.connect() as connection, pytest.raises(DBAPIError) as error:
            connection.exec_driver_sql(f"select profiles_internal.create_profiles(array[{user}])")
        assert error.value.orig.pgcode == fault.code, name
