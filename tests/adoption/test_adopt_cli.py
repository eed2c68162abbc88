"""adopt --dry-run: what a person sees of an adoption before it, and what health says of it afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from profiles_schema import cli, local
from profiles_schema.errors import MigrationFailed
from profiles_schema.migrations.locking import LOCK_CLASS
from profiles_schema.operations import adopt, health
from profiles_schema.operations.health import adoption
from support import REPOSITORY, answers_file, dumped, profiles_schema

DEMO = REPOSITORY / "examples" / "adopt"
FIELDS = {
    "seq", "revision", "phase", "kind", "object", "found", "wanted", "action", "lock", "rows", "seconds", "statement",
    "undo", "remedy", "id", "answers", "asked", "data",
}  # fmt: skip
PARTITIONED = (
    "create table public.user_progress (id uuid, user_id uuid) partition by hash (user_id);"
    "create table public.user_api_keys (id uuid primary key, user_id uuid, openai_api_key text);"
    "insert into public.user_api_keys select gen_random_uuid(), id, 'sk-plain' from auth.users limit 2"
)


PLANNER = REPOSITORY / "alembic" / "adoption"
ADOPTED = ("user_profiles", "user_progress", "user_api_keys", "export_history", "user_profile_audit_logs")
QUARANTINE = "quarantine:public.user_profiles"
VISIBLE = "visible:public.user_profiles"


@pytest.fixture
def old(hosted, tmp_path):
    """A hosted project whose application has a table of profiles, and other things, of its own."""
    hosted.script((DEMO / "application.sql").read_text(encoding="utf-8"))
    # So that nothing else is asked.
    hosted.script('alter policy "Profiles are for everybody" on public.user_profiles using (auth.uid() = id)')
    hosted.administrator.script("analyze")
    hosted.x = [f"answers={answers_file(tmp_path / 'old.toml', {QUARANTINE: 'quarantine', VISIBLE: 'accept'})}"]
    hosted.answering = ("quarantine", "accept")
    return hosted


def planned(database, *x):
    with database.engine.connect() as connection:
        return adopt.plan(connection, x=[*getattr(database, "x", ()), *x])


def shown(database, *arguments, columns=80):
    """What the command prints on a terminal of so many columns."""
    x = [part for option in getattr(database, "x", ()) for part in ("-x", option)]
    return profiles_schema(database.url, "adopt", "--dry-run", *x, *arguments, environment={"COLUMNS": str(columns)})


def said(capsys, monkeypatch, database, *arguments):
    """Exit code and stderr of the command, run in this process."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    code = cli.main(["adopt", "--dry-run", *arguments])
    return code, capsys.readouterr().err


def of(steps, **wanted):
    return [step for step in steps if all(getattr(step, name) == value for name, value in wanted.items())]


# The plan


def test_the_plan_says_what_becomes_of_everything_that_is_there(old):
    plan = planned(old)
    assert plan.stoppers == []
    assert plan.tables == {"public.user_profiles": 6}
    assert (plan.rows, plan.quarantined) == (5, 1)
    assert {step.action for step in plan.steps} >= {
        "rename",
        "add",
        "convert",
        "fit",
        "quarantine",
        "create",
        "replace",
    }
    assert of(plan.steps, object="public.user_profiles.id") == []
    assert "triggers that fill user_id from id" in [step.wanted for step in plan.steps]
    assert {step.object for step in of(plan.steps, action="set aside")} >= {
        "function public.handle_new_user()",
        "trigger on_auth_user_created on auth.users",
        'policy "Profiles are for everybody" on public.user_profiles',
    }
    reasons = [step.found for step in of(plan.steps, action="quarantine", statement=None)]
    assert reasons == ["no user in auth.users"]
    assert [step.seq for step in plan.steps] == sorted(step.seq for step in plan.steps)


def test_each_step_says_its_phase_and_its_kind_and_the_phases_have_one_order(old):
    plan = planned(old)
    phases = adoption_phases()
    for revision in {step.revision for step in plan.steps}:
        places = [phases.index(step.phase) for step in plan.steps if step.revision == revision]
        assert places == sorted(places)
    assert {step.kind for step in plan.steps if step.phase == "retype_columns"} <= {"retype_columns"}
    assert {step.kind for step in of(plan.steps, action="set aside") if step.object.startswith("policy ")} == {
        "drop_policy"
    }
    assert all(step.phase and step.kind for step in (*plan.steps, *plan.notes, *plan.answered))
    (kept,) = [step for step in plan.notes if step.kind == "keep_rights"]
    assert set(kept.data) == {"inserts", "rights"}


def adoption_phases():
    body = (PLANNER / "adoption_phases.sql").read_text(encoding="utf-8").partition("select array[")[2].partition("]")[0]
    return re.findall(r"'(\w+)'", body)


def test_the_phases_are_listed_once_and_used():
    head = re.match(r"(?:--.*\n)+", (PLANNER / "adoption_phases.sql").read_text(encoding="utf-8"))[0]
    listed = "".join(head.partition("Before anything changes:")[2].splitlines(keepends=True))
    positions = [re.search(rf"\b{phase}\b", listed).start() for phase in adoption_phases()]
    assert positions == sorted(positions)
    used = set()
    for path in PLANNER.glob("*.sql"):
        for word in re.findall(r"'phase',\s*('\w+'|case.*?\bend\b)", path.read_text(encoding="utf-8"), re.DOTALL):
            used |= set(re.findall(r"(?:^|then |else )'(\w+)'", word))
    assert used == set(adoption_phases())


def test_the_planner_has_no_line_that_is_too_long():
    for path in PLANNER.glob("*.sql"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if len(line) > 120], path


def test_the_planner_knows_what_our_rights_let_users_write(hosted):
    hosted.upgrade("0005_create_sign_up_functions")
    known = {
        (table, right): set(hosted.value("select profiles_internal.writable_columns(:table, :right)", table=table, right=right))
        for table in ADOPTED for right in ("insert", "update")
    }  # fmt: skip
    hosted.upgrade()
    granted = dict.fromkeys(known, frozenset())
    for table, right, columns in hosted.run(
        "select table_name, lower(privilege_type), array_agg(column_name::text) from information_schema.column_privileges"
        " where table_schema = 'public' and grantee = 'authenticated' and privilege_type in ('INSERT', 'UPDATE') group by 1, 2"
    ):
        granted[table, right] = set(columns)
    assert {key: granted[key] for key in known} == known


@pytest.mark.slow
def test_what_is_planned_is_what_is_done(old):
    plan = planned(old)
    old.upgrade()
    kept = "from profiles_internal.adopted where definition is not null order by id"
    assert [(step.revision, step.action, step.object) for step in plan.steps if step.undo] == [
        tuple(row) for row in old.run(f"select revision, object_type, object_name {kept}")
    ]
    # Policies are set aside later, when the column that they read has its new name.
    assert [step.undo for step in of(plan.steps, revision="0006_create_user_profiles") if step.undo] == [
        row.definition for row in old.run(f"select revision, definition {kept}") if row.revision.startswith("0006")
    ]
    assert old.value("select count(*) from profiles_internal.quarantine") == plan.quarantined
    for column in ("username", "bio"):
        name = f"public.user_profiles.{column}"
        changed = old.value(
            "select count(*) from profiles_internal.adopted where object_type = 'value' and object_name = :n", n=name
        )
        assert [step.rows for step in of(plan.steps, object=name, action="fit")] == [changed]


def test_the_plan_leaves_nothing_behind(old):
    before = dumped(old)
    planned(old)
    assert shown(old).returncode == 0
    assert shown(old, "--json").returncode == 0
    assert dumped(old) == before


def locks(database, look):
    """The locks of another session, asked for from here when `look` says so: (relation or None, mode)."""
    found = []

    def ask(connection, cursor, statement, parameters, context, many):
        if "adoption_plan() as p" in statement:
            pid = connection.connection.dbapi_connection.get_backend_pid()
            found.extend(
                database.administrator.run(
                    "select l.locktype, c.relnamespace::regnamespace::text as schema, l.mode, l.classid"
                    " from pg_locks as l left join pg_class as c on c.oid = l.relation and l.locktype = 'relation'"
                    " where l.pid = :pid",
                    pid=pid,
                )
            )

    event.listen(database.engine, "after_cursor_execute", ask)
    try:
        look()
    finally:
        event.remove(database.engine, "after_cursor_execute", ask)
    return found


def test_tables_are_read_under_access_share_and_migrators_wait(old):
    found = locks(old, lambda: planned(old))
    assert {lock.mode for lock in found if lock.schema in {"public", "auth"}} == {"AccessShareLock"}
    assert LOCK_CLASS in {lock.classid for lock in found if lock.locktype == "advisory"}


@pytest.mark.slow
def test_a_database_on_its_way_is_asked_by_its_own_function_in_a_read_only_transaction(old):
    old.upgrade("0005_create_sign_up_functions")
    before = planned(old)
    assert before.tables == {"public.user_profiles": 6}
    assert "advisory" not in {lock.locktype for lock in locks(old, lambda: planned(old))}
    old.upgrade("0006_create_user_profiles")
    after = planned(old)
    assert after.tables == {}
    assert {step.revision for step in after.steps} == {"0012_create_policies", "0014_create_sign_up_triggers"}

    old.administrator.script(
        "create or replace function profiles_internal.adoption_plan(p_revision text default null)"
        " returns table (seq integer, revision text, phase text, kind text, object text, found text, wanted text, action text,"
        ' lock text, "rows" bigint, seconds double precision, statement text, undo text, remedy text, id text, answers jsonb,'
        " asked text, data jsonb) language plpgsql"
        " as $$ begin create table public.written (); return; end $$"
    )
    refused = shown(old)
    assert refused.returncode == 1
    assert "read-only transaction" in refused.stderr


@pytest.mark.slow
def test_after_the_upgrade_nothing_is_left_to_adopt(old):
    old.upgrade()
    old.script('create policy "Added since" on public.user_profiles for select to anon using (true)')
    plan = planned(old)
    assert plan == adopt.Plan(finished=True)
    done = shown(old)
    assert done.returncode == 0
    assert done.stdout == (
        "There is nothing to adopt: this database is past the revisions that take tables\nover.\nnext: profiles-schema health\nNothing changes meaning.\n"
    )


@pytest.mark.slow
def test_a_history_kept_by_the_application_is_known_by_the_log(old):
    old.upgrade()
    old.run("update profiles_internal.alembic_version set version_num = 'app_0007_of_theirs'")
    assert planned(old).finished
    old.run("drop table profiles_internal.alembic_version")
    assert planned(old).finished


def test_an_empty_database_has_nothing_to_adopt(empty):
    before = dumped(empty)
    done = shown(empty)
    assert done.returncode == 0
    assert done.stdout == (
        "There is nothing to adopt: nothing here stands where the upgrade puts its own.\nnext: profiles-schema upgrade\nNothing changes meaning.\n"
    )
    assert dumped(empty) == before


# Options


def test_a_table_of_another_name_is_pointed_out_and_taken_over_when_asked(old):
    old.script('alter table public.user_profiles rename to "old profiles"')
    old.script('alter table public."old profiles" add foreign key (id) references auth.users not valid')
    given, old.x = old.x, []
    without = planned(old)
    assert without.tables == {}
    assert [note.remedy for note in without.notes if note.object == 'public."old profiles"'] == [
        "If it is the table of profiles, it can be taken over: -x 'adopt-table=old profiles'"
    ]
    assert [note.wanted for note in planned(old).notes] == ["left alone"]
    old.x = given
    plan = planned(old, "adopt-table=old profiles")
    assert [
        note for note in plan.notes if note.object.endswith(".id")
    ] == []  # statements go through the view of the old name
    assert plan.tables == {"public.user_profiles": 6}
    done = shown(old, "-x", "adopt-table=old profiles")
    assert [line for line in done.stdout.splitlines()[-4:] if line.endswith("-x 'adopt-table=old profiles'")]


def test_a_table_that_is_not_there_is_a_stopper(old):
    plan = planned(old, "adopt-table=misspelt")
    assert [stopper.object for stopper in plan.stoppers] == ["public.misspelt"]


PACE = (
    "create or replace function profiles_internal.adoption_pace(p_context jsonb, p_counts jsonb) returns double precision"
    " language sql as 'select {}::double precision'"
)


@pytest.mark.slow
def test_a_lock_of_more_than_two_seconds_is_a_question_and_a_shorter_one_is_none(old, tmp_path):
    old.upgrade("0005_create_sign_up_functions")
    old.script(PACE.format(0.001))
    assert [question.id for question in planned(old).questions] == []
    old.script(PACE.format(1_000_000))
    (question,) = planned(old).questions
    assert (question.id, question.rows, list(question.answers)) == ("lock:public.user_profiles", 6, ["accept"])
    assert re.search(r"^6 rows, locked for about \d+ seconds, .* timed on this server$", question.found)
    given = {QUARANTINE: "quarantine", "lock:public.user_profiles": "accept"}
    plan = planned(old, f"answers={answers_file(tmp_path / 'answers.toml', given)}")
    assert (plan.stoppers, plan.questions) == ([], [])


@pytest.mark.slow
def test_the_forecast_is_timed_on_rows_of_the_table_and_not_under_its_lock(old):
    old.administrator.script(
        "set local session_replication_role = replica;"
        "insert into public.user_profiles (id, username) select md5(g::text)::uuid, 'name' || g from generate_series(1, 2000) as g"
    )
    old.upgrade("0005_create_sign_up_functions", answers={QUARANTINE: "quarantine"})
    pace = (
        "select profiles_internal.adoption_pace(c.c, profiles_internal.adoption_counts(c.c))"
        " from profiles_internal.adoption_context('user_profiles', 'public.user_profiles') as c (c)"
    )
    assert old.value(pace) > 0
    with old.engine.begin() as connection:
        connection.execute(text("lock table public.user_profiles"))
        assert connection.scalar(text(pace)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "-x", "adopt-everything=yes"], 'Unknown option -x "adopt-everything"'),
        (["--dry-run", "-x", "adopt-rewrite=yes"], 'Unknown option -x "adopt-rewrite"'),
        (["--dry-run", "-x", "adopt-table="], "-x adopt-table takes the name of a table"),
        (["--dry-run", "-x", "adopt-table=a\nb"], "-x adopt-table takes the name of a table"),
        (["--dry-run", "--force"], "--force belongs to --write-answers FILE"),
        (["--dry-run", "--write-answers", ""], "--write-answers needs the name of a file, not an empty text"),
        (["--dry-run", "--write-answers", "/", "--force"], "--write-answers needs the name of a file, not /"),
        ([], "adopt only shows the plan (--dry-run); the work itself is: profiles-schema upgrade"),
    ],
)
def test_a_wrong_call_is_a_usage_error(arguments, message):
    refused = profiles_schema("postgresql://nobody@127.0.0.1:1/none", "adopt", *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {message}")
    assert refused.stdout == ""


# Stoppers


def test_stoppers_come_first_with_their_remedy_and_the_command_on_a_line_of_its_own(old):
    old.script(PARTITIONED)
    done = shown(old)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "2 things stand in the way:"
    assert lines[2] == " 1. public.user_progress: no ordinary table; wanted: an ordinary table."
    assert "    Rename public.user_progress, or move it to another schema." in lines
    assert lines[5:7] == [" 2. public.user_api_keys: API keys in plain text, 2 rows; wanted: encrypted", "    ones."]
    assert "      profiles-schema keys encrypt" in lines
    assert lines.index("      profiles-schema keys encrypt") < next(i for i, x in enumerate(lines) if "action" in x)
    assert lines[-2].startswith("next: mend that, then profiles-schema adopt --dry-run")


def test_what_row_level_security_hides_is_not_taken_for_missing(old):
    """Without this, every profile would seem to be without a user, and go to quarantine."""
    old.script("alter table public.user_profiles force row level security")
    old.administrator.run("alter role project_owner nobypassrls")
    try:
        stoppers = planned(old).stoppers
        refused = shown(old).stdout
    finally:
        old.administrator.run("alter role project_owner bypassrls")
    assert [(stopper.found, stopper.remedy) for stopper in stoppers] == [
        (
            "row level security hides rows from project_owner",
            "Let the owner see them: alter table public.user_profiles no force row level security;",
        ),
        (
            "row level security hides auth.users from project_owner",
            "An administrator runs: alter role project_owner bypassrls;",
        ),
    ]
    assert "\n      alter role project_owner bypassrls;\n" in refused
    assert planned(old).stoppers == []


@pytest.mark.slow
def test_what_stops_the_plan_stops_the_upgrade(old):
    old.script(PARTITIONED)
    found = json.loads(shown(old, "--json").stdout)["stoppers"]
    with pytest.raises(MigrationFailed) as refused:
        old.upgrade()
    for stopper in found:
        assert f"{stopper['object']}: {stopper['found']}. Wanted: {stopper['wanted']}. {stopper['remedy']}" in str(
            refused.value
        )


# What it prints


def test_json_holds_every_field_of_the_plan(old):
    done = shown(old, "--json")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert set(result) == {
        "stoppers",
        "questions",
        "answered",
        "verdict",
        "steps",
        "notes",
        "finished",
        "rows",
        "quarantined",
        "seconds",
    }
    assert (result["stoppers"], result["rows"], result["quarantined"]) == ([], 5, 1)
    assert result["seconds"] > 0
    for step in [*result["steps"], *result["notes"]]:
        assert set(step) == FIELDS
    assert len(result["steps"]) == len(planned(old).steps)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_person_can_read_it_at(old, columns):
    done = shown(old, columns=columns)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    titles = [line for line in lines if re.search(r", in 00\d\d_\w+[:;]", line)]
    assert [title.partition(",")[0] for title in titles] == [
        "First",
        "public.user_profiles",
        "Afterwards",
        "Afterwards",
    ]
    assert titles[1].startswith("public.user_profiles, 6 rows, in 0006_create_user_profiles; locked for")
    heads = [line.split() for line in lines if line.startswith("action")]
    assert heads == [["action", "object", "found", "wanted", "lock", "rows", "about"]] * 4
    commands = [line for line in lines if line.startswith(("next: ", "try it on a copy: "))]
    assert max(len(line) for line in lines if line not in commands) <= columns
    assert re.search(r"^quarantine +the table +no user in +.*\b1$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^rename +user_", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^create +2(?: constraints)? +UNIQUE +all", done.stdout, flags=re.MULTILINE)
    assert "lock all: ACCESS EXCLUSIVE, readers and writers wait" in lines
    closing = " ".join(lines[-8:])
    assert "5 rows to change, less than 0.1 s in all" in closing
    assert re.search(
        r'Can be taken over, by your answers; this changes statements of yours \(\d+ under "Worth knowing"\),'
        r" values that break a rule \(\d+\), rows that cannot stay \(1, to quarantine\)\.$",
        closing,
    )
    order = [done.stdout.index(word) for word in ("action", "Worth knowing:", "steps, 5 rows", "next: ")]
    assert order == sorted(order)


def test_no_step_is_lost_on_the_way_to_the_terminal(old):
    """Steps that differ in the object alone share a line, which names or counts them all."""
    from profiles_schema.cli.plan_steps import merge_alike, without_summaries

    steps = of(planned(old).steps, revision="0006_create_user_profiles")
    merged = merge_alike(without_summaries(steps), "public.user_profiles")
    assert [line.lock for line in merged if line.found in {"no user in auth.users", "rights and comments"}] == [
        None,
        "ACCESS EXCLUSIVE",
    ]
    counted = sum(
        int(line.object.split()[0])
        if re.match(r"\d+ (?:constraints|indexes|policies)", line.object)
        else line.object.count(", ") + 1
        for line in merged
    )
    summaries = [
        step for step in steps if step.found in {
            "rows that cannot stay", "values that break a rule", "defaults and NOT NULL of theirs"
        }
    ]  # fmt: skip
    assert len(summaries) == 3
    assert counted == len(steps) - len(summaries) - 1, [line.object for line in merged]  # and the record of the table


@pytest.mark.slow
def test_what_stops_working_is_said(old):
    old.script(
        "grant all on public.user_profiles to authenticated;"
        "comment on constraint posts_author_fkey on public.posts is 'Who wrote it';"
        "create function public.gen_available_username(p_email text) returns text language sql as 'select p_email'"
    )
    plan = planned(old)
    assert plan.tables == {"public.user_profiles": 6}
    assert "comments on foreign keys of other tables" in [note.found for note in plan.notes]
    notes = shown(old, columns=120).stdout.partition("Worth knowing:\n")[2]
    assert "comments on" not in notes  # nobody has to do anything
    assert "Filled together with our policies: until then others may read the rows." in notes
    assert "A statement that writes id and knows no user_id works as before" in notes
    assert "2 policies on public.user_profiles (of the application; set aside)" in notes
    assert "Users go on writing these columns: favourite_colour." in notes
    assert "function public.gen_available_username(text) (called while the upgrade runs" in notes
    assert "Answer this question: function:public.gen_available_username(text)" in notes
    old.upgrade()
    with old.acting_as("authenticated", "00000000-0000-4000-8000-000000000001") as connection:
        assert connection.scalar(text("select count(*) from public.user_profiles")) == 1
    for column, may in {"favourite_colour": True, "role": False}.items():
        assert may == old.value(
            f"select has_column_privilege('authenticated', 'public.user_profiles', '{column}', 'update')"
        )


# Refusals


def test_without_a_database_it_says_so():
    for url in (None, "postgresql://nobody@127.0.0.1:1/none"):
        refused = profiles_schema(url, "adopt", "--dry-run")
        assert refused.returncode == 3
        assert refused.stderr.startswith("error: ")
        assert len(refused.stderr.splitlines()) == 1


@contextmanager
def visitor(database, rights=""):
    """A role that may connect, and what `rights` grants."""
    database.administrator.script(f"create role visitor login; {rights}")
    try:
        yield type(database)(database.server, database.name, "visitor")
    finally:
        database.administrator.script("drop owned by visitor; drop role visitor")


def test_a_role_that_may_not_create_a_schema_is_told_what_to_ask_for(old):
    before = dumped(old)
    with visitor(old) as other:
        refused = shown(other)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: Role visitor may not create schema profiles_internal in database {old.name}, which the plan and the upgrade"
        f" need. Let an administrator run: grant create on database {old.name} to visitor;\n"
    )
    assert dumped(old) == before


def test_a_role_that_does_not_own_the_tables_is_stopped(old):
    with visitor(
        old, f'grant create on database "{old.name}" to visitor; grant usage on schema auth to visitor'
    ) as other:
        done = shown(other, "--json")
        assert done.stderr == ""
        found = json.loads(done.stdout)
    assert "owned by project_owner" in [stopper["found"] for stopper in found["stoppers"]]


def test_a_locked_table_is_said_instead_of_waited_for(old, capsys, monkeypatch):
    monkeypatch.setattr(adopt, "LOCK_TIMEOUT_MS", 200)
    with old.engine.connect() as holder:
        holder.exec_driver_sql("lock table public.user_profiles in access exclusive mode")
        started = time.monotonic()
        code, stderr = said(capsys, monkeypatch, old)
    assert time.monotonic() - started < 5
    assert code == 1
    assert stderr.startswith("error: Another session holds a lock on one of our tables")


@pytest.mark.slow
def test_a_migration_that_runs_is_said_instead_of_waited_for(old, capsys, monkeypatch):
    monkeypatch.setattr(adopt, "LOCK_TIMEOUT_MS", 200)
    with old.engine.connect() as migrator:
        migrator.exec_driver_sql(f"select pg_advisory_lock({LOCK_CLASS}, 1)")
        code, stderr = said(capsys, monkeypatch, old)
    assert code == 1
    assert stderr.startswith("error: A migration is running, or another plan of one.")


@pytest.mark.slow
def test_ctrl_c_ends_it_at_once_and_frees_what_it_held(old):
    old.upgrade("0005_create_sign_up_functions")
    old.administrator.script(
        "create or replace function profiles_internal.adoption_plan(p_revision text default null)"
        " returns table (seq integer, revision text, phase text, kind text, object text, found text, wanted text, action text,"
        ' lock text, "rows" bigint, seconds double precision, statement text, undo text, remedy text, id text, answers jsonb,'
        " asked text, data jsonb) language plpgsql"
        " as $$ begin perform count(*) from public.user_profiles; perform pg_sleep(60); return; end $$"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "adopt", "--dry-run"],
        env=os.environ | {"DATABASE_URL": old.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    sleeping = "select count(*) from pg_stat_activity where datname = :name and query like '%adoption_plan() as p%' and pid <> pg_backend_pid()"
    try:
        while not old.administrator.value(sleeping, name=old.name):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, stderr.strip()) == (130, "error: interrupted")
    assert old.administrator.value(sleeping, name=old.name) == 0


# What health says afterwards


def look(database, **options):
    with database.engine.connect() as connection:
        return health.examine(connection, **options)


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_health_says_what_adoption_left_and_calls_none_of_it_a_problem(old, full):
    old.upgrade()
    result = look(old, full=full)
    assert result.problems == []
    assert [(finding.code, finding.severity, finding.count) for finding in result.findings] == [
        ("quarantine", "notice", 1),
        ("foreign_key", "notice", None),
        ("adopted", "notice", 7),
    ]
    quarantine, foreign_key, adopted = result.findings
    assert quarantine.message == (
        "1 row of public.user_profiles in profiles_internal.quarantine: no user in auth.users (1)."
    )
    assert "docs/how-to/adopt-existing-tables.md" in quarantine.remedy
    assert foreign_key.message.startswith("The foreign key posts_author_fkey of posts is NOT VALID")
    assert "public.user_profiles" in adopted.message

    old.run("delete from public.posts where id = 3")
    old.script(foreign_key.remedy)
    old.run("delete from profiles_internal.quarantine")
    assert [finding.code for finding in look(old, full=full).findings] == ["adopted"]


def test_health_counts_quarantined_rows_by_reason_and_no_more_of_them_than_it_says(database, monkeypatch):
    monkeypatch.setattr(adoption, "SET_ASIDE_LOOKED_AT", 10)
    database.run(
        "insert into profiles_internal.quarantine (table_name, row_data, reason)"
        " select 'public.user_profiles', '{}', case when g <= 9 then 'no user in auth.users' else 'no user_id' end"
        " from generate_series(1, 12) as g"
    )
    assert [f.message for f in look(database, full=True).findings] == [
        "12 rows of public.user_profiles in profiles_internal.quarantine: no user in auth.users (9), no user_id (3)."
    ]
    assert "10 or more rows of " in look(database).findings[0].message


def section(heading):
    page = (REPOSITORY / "docs" / "how-to" / "adopt-existing-tables.md").read_text(encoding="utf-8")
    return re.findall(
        r"^ *```sql\n(.*?)^ *```",
        page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0],
        flags=re.DOTALL | re.MULTILINE,
    )


@pytest.mark.slow
def test_what_the_docs_say_about_what_was_changed_runs(old):
    old.upgrade()
    counts, column, done, erased = [
        part for block in section("What was changed") for part in re.findall(r"[^;]+;", block)
    ]
    assert dict(map(tuple, old.run(counts)))["public.user_profiles.username"] == 4
    assert ("00000000-0000-4000-8000-000000000002", "Ada", "ada_00000002") in [tuple(row) for row in old.run(column)]
    assert all(row.definition for row in old.run(done))
    old.run(erased)
    assert ("Ada",) not in [(row.old,) for row in old.run(column)]


@pytest.mark.slow
def test_a_quarantined_profile_comes_back_as_the_docs_say(old):
    old.upgrade()
    shows, brings_back, validates = section("Rows in quarantine")
    assert [row.reason for row in old.run(shows)] == ["no user in auth.users"]
    old.sign_up("ghost@example.org", id="00000000-0000-4000-8000-000000000009")
    old.script(brings_back.replace("begin;", "").replace("commit;", ""))
    old.script(validates)
    assert (
        old.value("select bio from public.user_profiles where id::text like '%9'")
        == "Whose account was deleted last year"
    )
    assert [finding.code for finding in look(old).findings] == ["adopted"]
    old.downgrade("base", allow_data_loss="yes")
    assert old.value("select count(*) from public.user_profiles where id::text like '%9'") == 1


@pytest.mark.slow
def test_old_statements_do_what_the_docs_say(old):
    user = "00000000-0000-4000-8000-000000000001"
    old.upgrade()
    old.run(f"update public.user_profiles set bio = 'New' where id = '{user}'")
    assert old.value(f"select bio from public.user_profiles where id = '{user}'") == "New"
    assert old.value("select count(*) from public.bylines") == 2
    assert (
        old.run(
            "select p.id from public.posts as o join public.user_profiles as p on p.id = o.author where p.id = auth.uid()"
        )
        == []
    )
    old.run(
        "insert into public.user_profiles (id, username) values (cast(:id as uuid), 'somebody')"
        " on conflict (id) do update set username = excluded.username",
        id=user,
    )
    assert old.value("select username from public.user_profiles where id = cast(:id as uuid)", id=user) == "somebody"
    for statement, sqlstate in (
        ("insert into public.user_profiles (id, username) values (gen_random_uuid(), 'nobody')", "23503"),
        ("update public.user_profiles set created_at = 1700000000", "42804"),
    ):
        with pytest.raises(DBAPIError) as refused:
            old.run(statement)
        assert refused.value.orig.pgcode == sqlstate, statement
    with old.acting_as("authenticated", user) as connection:
        assert connection.scalar(text("select count(*) from public.user_profiles")) == 1
        connection.execute(text("update public.user_profiles set favourite_colour = 'red'"))
        with pytest.raises(DBAPIError) as refused:
            connection.execute(text("update public.user_profiles set role = 'admin'"))
        assert refused.value.orig.pgcode == "42501"


# The demonstration


@pytest.fixture
def place(monkeypatch):
    base = Path(tempfile.mkdtemp(prefix="profiles-demo-"))
    base.chmod(0o755)
    monkeypatch.setenv(local.DIRECTORY_VARIABLE, str(base))
    yield base
    for lock in [*base.glob("adopt-demo-*.lock")]:
        lock.touch()
    local.remove_leftovers("adopt-demo")
    shutil.rmtree(base, ignore_errors=True)


def left(place):
    return [path.name for path in place.iterdir() if path.name.startswith("adopt-demo")]


@pytest.mark.slow
def test_the_demonstration_shows_one_adoption_and_leaves_nothing(place):
    done = subprocess.run(
        [sys.executable, str(DEMO / "demo.py")],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.findall(r"^(\d+)\. ", done.stdout, flags=re.MULTILINE) == [str(n) for n in range(1, 11)]
    assert "Done: the database is at the newest revision" in done.stdout
    assert "…0002  profile_visibility  friends" in done.stdout
    assert "profiles-schema rehearse --source" in done.stdout
    assert left(place) == []


@pytest.mark.slow
def test_an_interrupted_demonstration_leaves_nothing(place):
    process = subprocess.Popen([sys.executable, str(DEMO / "demo.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        for line in process.stdout:
            if b"What is there" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode not in {0, -signal.SIGTERM, -signal.SIGKILL}
    assert left(place) == []
