"""rehearse: a copy goes up, down and up again; the source is only read, and nothing is left behind."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from profiles_schema import local
from profiles_schema.errors import CopyFailed, NotEnoughSpace, SourceUnreadable, UsageError
from profiles_schema.migrations import paths
from profiles_schema.operations.rehearse import copy, dump, rehearse
from profiles_schema.operations.rehearse.source import inspect_source
from profiles_schema.operations.rehearse.stages import Stages
from support import REPOSITORY, Database, answers_file, dumped, in_terminal, profiles_schema

APPLICATIONS = REPOSITORY / "examples"
REVISIONS = len(list(paths.versions().glob("0*.py")))

APPLICATION = """
create schema app;
create type app.mood as enum ('calm', 'stormy');
create table public.posts (
  id integer generated always as identity primary key, title text not null, mood app.mood default 'calm', score numeric(10, 4)
);
create table public.votes (post_id integer references public.posts, "by %s" text);
create view public.titles as select id, title from public.posts where score > 1;
create function public.shout(what text) returns text language sql immutable as $$ select upper(what) $$;
insert into public.posts (title, score) select 'grüße ' || g, g * 1.10 from generate_series(1, 300) as g;
insert into public.votes select 1 + g % 300, 'somebody' from generate_series(1, 500) as g;
comment on table public.posts is 'what people write';
"""


@pytest.fixture(autouse=True)
def place(monkeypatch):
    """Where the copies live: a directory of this test's; nothing may be left in it."""
    base = Path(tempfile.mkdtemp(prefix="profiles-rehearsal-"))
    base.chmod(0o755)
    monkeypatch.setenv(local.DIRECTORY_VARIABLE, str(base))
    yield base
    for lock in [*base.glob("rehearsal-*.lock")]:
        lock.touch()
    local.remove_leftovers("rehearsal")
    shutil.rmtree(base, ignore_errors=True)


def left(place):
    return [path.name for path in place.iterdir() if path.name.startswith("rehearsal")]


def messages(result):
    return [f"{finding.step}: {finding.message}" for finding in result.findings]


def step(result, name):
    found = result.step(name)
    assert found is not None, name
    return found


@pytest.mark.slow
def test_an_application_that_was_never_migrated_would_go_well(empty, place):
    empty.script(APPLICATION)
    before = dumped(empty)
    done = profiles_schema(None, "rehearse", "--source", empty.url, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"] == "rehearsal: would go well"
    assert [s["name"] for s in told["steps"]] == [
        "copy", "before", "upgrade", "finish", "verify", "sign-up", "downgrade", "compare", "upgrade again",
    ]  # fmt: skip
    assert {s["outcome"] for s in told["steps"]} == {"done"}
    steps = {s["name"]: s for s in told["steps"]}
    assert steps["copy"]["data"]["rows"] == 800
    assert steps["before"]["data"]["tables"]["public.posts"]["rows"] == 300
    assert len(steps["upgrade"]["data"]["revisions"]) == len(steps["downgrade"]["data"]["revisions"]) == REVISIONS
    assert all(s["seconds"] > 0 for s in told["steps"])
    assert told["source"]["further"] == ["app"]
    assert "postgres" in told["role"]
    assert dumped(empty) == before
    assert left(place) == []


PROBES = """
-- name: the posts
select title, score from posts where id < 4;
-- name: what is in the way
select relname from pg_class where relname in ('posts', 'user_progress');
insert into posts (title) values ('a secret of a row') returning id;
-- as anon
-- name: a role that comes with the upgrade
select 1 / 0;
"""


@pytest.mark.slow
def test_probes_that_differ_are_findings_with_both_sides(empty, place, tmp_path):
    empty.script(APPLICATION)
    (tmp_path / "app.sql").write_text(PROBES, encoding="utf-8")
    done = profiles_schema(
        None, "rehearse", "--source", empty.url, "--probe", str(tmp_path / "app.sql"), "--verbose",
        environment={"COLUMNS": "90"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^probe before +\d+\.\d\d s  4 probes, \d of them refused$", done.stdout, re.MULTILINE)
    assert re.search(r"^probe after +\d+\.\d\d s  FAILED  \d of 4 probes differ$", done.stdout, re.MULTILINE)
    assert (
        "attention      probe after: app.sql:5 what is in the way as owner: 1 row before, 2 rows after\n" in done.stdout
    )
    assert re.search(r"^ +1 row +\| 2 rows\n +\| user_progress$", done.stdout, re.MULTILINE)
    assert "secret" not in done.stdout + done.stderr
    assert "would need attention" in done.stdout
    assert left(place) == []


@pytest.mark.slow
def test_probes_are_in_the_json_and_equal_ones_change_no_verdict(empty, tmp_path):
    empty.script(APPLICATION)
    (tmp_path / "a.sql").write_text("select title, score from posts", encoding="utf-8")
    (tmp_path / "b.sql").write_text(
        "insert into posts (title) values ('x') returning id; select 1 / 0", encoding="utf-8"
    )
    files = [argument for name in "ab" for argument in ("--probe", str(tmp_path / f"{name}.sql"))]
    done = profiles_schema(None, "rehearse", "--source", empty.url, "--json", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["verdict"], told["differences"]) == ("rehearsal: would go well", [])
    (after,) = [s for s in told["steps"] if s["name"] == "probe after"]
    assert after["data"] == {"probes": 3, "refused": 1, "differences": 0}


@pytest.mark.slow
def test_what_a_person_reads(empty):
    empty.script(APPLICATION)
    done = profiles_schema(None, "rehearse", "--source", empty.url)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "rehearsal: would go well"
    assert re.search(rf"^upgrade +\d+\.\d\d s  {REVISIONS} revisions; the longest 00", done.stdout, re.MULTILINE)
    assert re.search(r"^copy +\d+\.\d\d s  2 tables, 800 rows, ", done.stdout, re.MULTILINE)
    assert "upgrade again: done" in done.stderr
    # One line as each of nine steps begins and ends, and one for the source.
    assert len(done.stderr.splitlines()) == 19


@pytest.mark.slow
@pytest.mark.parametrize("columns", [50, 140])
def test_a_terminal_shows_one_line_of_progress_which_is_gone_before_the_report(empty, columns):
    shown = in_terminal("", "rehearse", "--source", empty.url, columns=columns)
    progress, _, report = shown.rpartition("\x1b[2K")
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part) for part in progress.split("\r")]
    assert any(line.startswith("upgrade 0010_") for line in lines)
    assert max(map(len, lines)) <= columns
    assert progress.count("\n") == 1  # at the end, before the line is removed
    assert report.startswith("source  ")
    assert report.endswith("rehearsal: would go well\x1b[0m\n")


@pytest.mark.slow
def test_the_verdict_counts_changed_values_and_rows_in_quarantine(hosted, tmp_path):
    hosted.script((APPLICATIONS / "adopt" / "application.sql").read_text(encoding="utf-8"))
    answers = answers_file(tmp_path / "adopt.toml", hosted.answers("keep"))
    result = rehearse(hosted.url, x=[f"answers={answers}"])
    assert re.search(r"; public\.user_profiles: 1 row to quarantine, \d+ values changed$", result.verdict), (
        result.verdict
    )
    (taken,) = step(result, "upgrade").data["adopted"]
    assert (taken["table"], taken["rows"], taken["quarantined"]) == ("public.user_profiles", 6, 1)
    assert str(taken["changed"]) in result.verdict


@pytest.mark.slow
def test_an_open_question_is_the_verdict(hosted):
    hosted.script((APPLICATIONS / "adopt" / "application.sql").read_text(encoding="utf-8"))
    result = rehearse(hosted.url)
    assert messages(result) == [
        "upgrade: Answer these 2 questions: quarantine:public.user_profiles, policy:public.user_profiles:Profiles are for everybody."
        " To write the file of answers: profiles-schema adopt --dry-run --write-answers adopt.toml"
    ]
    assert (
        result.verdict
        == "rehearsal: would need 2 answers: quarantine:public.user_profiles, policy:public.user_profiles:Profiles are for everybody"
    )


@pytest.mark.slow
def test_a_migrated_database_with_users_keeps_its_rows(empty):
    empty.upgrade("0015_backfill_profiles")
    for name in ("ada", "grace"):
        empty.sign_up(f"{name}@example.org")
    before = dumped(empty)
    result = rehearse(empty.url)
    assert messages(result) == []
    assert result.revision == "0015_backfill_profiles"
    assert step(result, "before").data["profiles"] == 2
    assert len(step(result, "upgrade").data["revisions"]) == REVISIONS - 15
    assert step(result, "downgrade").detail == "to 0015_backfill_profiles"
    assert any("migration_log" in note for note in result.notes)
    assert dumped(empty) == before


@pytest.mark.slow
def test_at_the_newest_revision_there_is_nothing_to_do(database):
    database.sign_up("ada@example.org")
    result = rehearse(database.url)
    assert messages(result) == []
    assert step(result, "upgrade").detail == "nothing to do: the source is at the newest revision"
    assert result.step("downgrade") is None
    assert step(result, "verify").data["users"] == 1


@pytest.mark.slow
def test_a_hosted_project_is_upgraded_as_its_owner(hosted_open):
    hosted_open.administrator.run(
        "insert into auth.users (id, email) select gen_random_uuid(), 'usr' || g || '@example.org' from generate_series(1, 20) as g"
    )
    before = dumped(hosted_open)
    result = rehearse(hosted_open.url)
    assert messages(result) == []
    assert result.role == "project_owner"
    assert step(result, "before").data["users"] == 20
    assert step(result, "verify").data == step(result, "verify").data | {"users": 20, "profiles": 20, "smoke": [23, 23]}
    assert any("public.user_profiles (20 rows)" in note for note in result.notes)
    assert "allow-data-loss" in step(result, "downgrade").detail
    assert dumped(hosted_open) == before


@pytest.mark.slow
def test_a_right_that_the_owner_lacks_shows_as_it_would(hosted):
    hosted.administrator.script("revoke trigger on auth.users from project_owner")
    result = rehearse(hosted.url)
    assert any(finding.step == "upgrade" and "project_owner" in finding.message for finding in result.findings)
    assert step(result, "upgrade").outcome == "failed"
    assert step(result, "compare").outcome == "done"


@pytest.mark.slow
def test_a_refusal_is_a_finding_with_the_upgrades_own_words(empty, place):
    empty.script(
        "create table public.user_profiles (id integer primary key, nickname text); insert into user_profiles values (1, 'a')"
    )
    before = dumped(empty)
    done = profiles_schema(None, "rehearse", "--source", empty.url)
    assert done.returncode == 1, done.stderr
    assert "attention      upgrade: " in done.stdout
    assert "public.user_profiles: no column user_id" in done.stdout
    assert done.stdout.splitlines()[-1] == "rehearsal: would need attention: 1"
    assert dumped(empty) == before
    assert left(place) == []


@pytest.mark.slow
def test_a_sign_up_that_fails_on_the_copy_is_a_finding(hosted):
    hosted.administrator.script(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$begin raise exception 'no more users'; end$$;"
        "create constraint trigger refuse after insert on auth.users deferrable initially deferred"
        " for each row execute function public.refuse()"
    )
    found = messages(rehearse(hosted.url))
    assert any(line.startswith("sign-up: no more users") for line in found), found


@pytest.mark.slow
def test_what_differs_after_the_way_back_is_named(empty, monkeypatch):
    empty.script(APPLICATION)
    downgrade = Stages._downgrade

    def damaging(self, step):
        downgrade(self, step)
        with self._worker() as connection:
            connection.exec_driver_sql("update public.posts set score = 0 where id <= 3")
            connection.exec_driver_sql("delete from public.votes where ctid in (select ctid from public.votes limit 7)")
            connection.exec_driver_sql("drop view public.titles")
            connection.exec_driver_sql("insert into public.posts (title) values ('new')")

    monkeypatch.setattr(Stages, "_downgrade", damaging)
    result = rehearse(empty.url)
    found = messages(result)
    assert "compare: not as it was: public.posts: 3 rows changed, 1 rows more" in found
    assert "compare: not as it was: public.votes: 7 rows missing" in found
    assert "compare: not as it was: view public.titles: missing" in found
    assert result.verdict == f"rehearsal: would need attention: {len(found)}"


@pytest.mark.slow
def test_much_work_is_done_as_its_own_command_would(hosted):
    hosted.administrator.run(
        "insert into auth.users (id, email) select gen_random_uuid(), 'usr' || g || '@example.org' from generate_series(1, 20) as g"
    )
    result = rehearse(hosted.url, x=["backfill=defer"])
    assert messages(result) == []
    assert any(note.startswith("the upgrade leaves 20 profiles to `profiles-schema backfill`") for note in result.notes)


@pytest.mark.slow
def test_wide_columns_are_converted_and_come_back(empty):
    empty.upgrade("0015_backfill_profiles")
    for name in ("ada", "grace"):
        empty.sign_up(f"{name}@example.org")
    empty.script(
        "alter table public.user_profiles add column openness integer, add column profession text;"
        "update public.user_profiles set openness = 70, profession = 'engineer'"
    )
    before = dumped(empty)
    result = rehearse(empty.url)
    assert messages(result) == []
    assert dumped(empty) == before


@pytest.fixture
def vectors(empty):
    """A database on a server that has the one extension of the embedded server."""
    if not empty.value("select count(*) from pg_available_extensions where name = 'vector'"):
        pytest.skip("this server has no extension vector")
    return empty


@pytest.mark.slow
def test_extensions_of_the_embedded_server_come_along(vectors):
    vectors.script(
        "create extension vector; create table public.looks (id integer, v vector(3)); insert into looks values (1, '[1,2,3]')"
    )
    result = rehearse(vectors.url)
    assert messages(result) == []
    assert step(result, "copy").data["rows"] == 1


@pytest.mark.slow
def test_a_table_that_cannot_be_copied_is_a_finding_and_the_rest_is_rehearsed(vectors, monkeypatch):
    vectors.script(
        "create extension vector; create table public.looks (id integer primary key, v vector(3));"
        "insert into looks values (1, '[1,2,3]'); create table public.posts (id integer); insert into posts values (1)"
    )
    monkeypatch.setattr(copy, "_make_extensions", lambda *_: ["extension vector"])
    result = rehearse(vectors.url)
    assert messages(result) == ['copy: not copied, so not rehearsed: TABLE looks: type "public.vector" does not exist']
    assert result.not_copied[0] == "extension vector"
    assert step(result, "copy").data["rows"] == 1


def test_functions_of_an_absent_extension_are_stand_ins(empty):
    with empty.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name, arguments, returns in (
            ("uuid_generate_v4", "", "uuid"), ("gen_random_bytes", "integer", "bytea"), ("hstore", "text", "public.hstore"),
        ):  # fmt: skip
            row = {"name": name, "signature": f"public.{name}({arguments}) returns {returns}"}
            made = copy._attempt(connection, copy._stand_in(row))
            assert made is (name != "hstore")
    empty.script(
        "create table public.things (id uuid default public.uuid_generate_v4(), t bytea default public.gen_random_bytes(8))"
    )
    empty.run("insert into public.things (t) values ('x')")
    with pytest.raises(Exception, match="gen_random_bytes is a stand-in"):
        empty.run("insert into public.things default values")


def test_an_encrypted_source_is_never_read_in_the_clear(empty, monkeypatch, tmp_path):
    found = inspect_source(empty.url)
    encrypted = dataclasses.replace(found, parameters={**found.parameters, "sslmode": "require"})
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(CopyFailed, match="cannot encrypt"):
        dump.dump(encrypted, tmp_path / "archive", tmp_path)
    assert (tmp_path / "archive").stat().st_size == 0
    assert not (tmp_path / "service").exists()


@pytest.mark.slow
def test_a_reader_is_enough_and_what_is_not_rehearsed_is_said(database):
    database.sign_up("ada@example.org")
    database.script(
        "do $$ begin create role reader login bypassrls; exception when duplicate_object then null; end $$;"
        "grant usage on schema auth, public, profiles_internal to reader;"
        "grant select on all tables in schema auth, public, profiles_internal to reader;"
        "grant select on all sequences in schema auth, public, profiles_internal to reader"
    )
    result = rehearse(Database(database.server, database.name, "reader").url)
    assert messages(result) == []
    assert any("rights are not rehearsed" in note for note in result.notes)


def test_tables_that_may_not_be_read_are_named_with_the_right(empty, place):
    empty.script(APPLICATION)
    empty.script("do $$ begin create role stranger login; exception when duplicate_object then null; end $$")
    done = profiles_schema(None, "rehearse", "--source", Database(empty.server, empty.name, "stranger").url)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "public.posts, " in done.stderr
    assert "grant select on public.posts, public.votes to stranger" in done.stderr
    assert left(place) == []


def test_rows_hidden_by_policies_are_refused(empty):
    empty.script(
        "do $$ begin create role stranger login; exception when duplicate_object then null; end $$;"
        "create table public.notes (id integer); alter table public.notes enable row level security;"
        "grant select on public.notes to stranger"
    )
    with pytest.raises(SourceUnreadable, match=r"hides rows of public\.notes(.|\n)*bypassrls"):
        inspect_source(Database(empty.server, empty.name, "stranger").url)


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("postgresql://ada:s3cret@127.0.0.1:1/app", 3, "127.0.0.1, port 1 does not answer"),
        ("mysql://ada:s3cret@localhost/app", 2, "--source names mysql://"),
        ("nonsense", 2, "--source does not begin with a scheme"),
        ("", 3, "--source is not set"),
    ],
)
def test_a_source_that_cannot_be_reached_is_one_error(source, code, said, place):
    done = profiles_schema(None, "rehearse", "--source", source)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr + done.stdout
    assert "DATABASE_URL" not in done.stderr
    assert left(place) == []


def test_a_database_that_does_not_exist_is_no_database(server):
    done = profiles_schema(None, "rehearse", "--source", server.url("nowhere"))
    assert done.returncode == 3
    assert 'has no database "nowhere"' in done.stderr


def test_without_a_source_it_is_called_wrongly():
    assert profiles_schema(None, "rehearse").returncode == 2


def test_what_cannot_be_set_up_is_one_error(empty, place, monkeypatch):
    monkeypatch.setattr(copy, "_make_roles", lambda connection, _: connection.exec_driver_sql("select 1 / 0"))
    with pytest.raises(CopyFailed, match="division by zero"):
        rehearse(empty.url)
    assert left(place) == []


@pytest.mark.parametrize("option", ["nonsense=1", "lock-timeout=soon", "local=yes"])
def test_an_option_that_is_wrong_ends_it_before_anything(empty, option):
    with pytest.raises(UsageError):
        rehearse(empty.url, x=[option])


def test_a_disk_without_room_is_refused_before_the_copy(empty, monkeypatch, place):
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(NotEnoughSpace, match="has 1 MB free"):
        rehearse(empty.url)
    assert left(place) == []


@pytest.mark.slow
def test_the_password_is_in_no_list_of_processes_and_in_no_output(empty, monkeypatch):
    seen = []
    run = dump.run_program

    def record(command, environment):
        seen.append((command, environment))
        return run(command, environment)

    monkeypatch.setattr(dump, "run_program", record)
    monkeypatch.setattr(copy, "run_program", record)
    url = empty.url.replace("postgres@", "postgres:s3cret@")
    result = rehearse(url)
    dumped_with = next(e for c, e in seen if str(c[0]).endswith("pg_dump"))
    assert dumped_with["PGPASSWORD"] == "s3cret"
    assert not [c for c, _ in seen if "s3cret" in " ".join(map(str, c))]
    assert "s3cret" not in json.dumps(result.source) + repr(inspect_source(url))


@pytest.mark.slow
def test_a_table_that_somebody_has_locked_is_named(empty, monkeypatch):
    empty.script(APPLICATION)
    monkeypatch.setattr(dump, "_LOCK_TIMEOUT", "300ms")
    with empty.engine.connect() as holder, holder.begin():
        holder.exec_driver_sql("lock table public.posts")
        with pytest.raises(Exception, match=r"holds a lock on public\.posts"):
            rehearse(empty.url)


def started(url, *arguments, **options):
    environment = {**os.environ}
    environment.pop("DATABASE_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", "rehearse", "--source", url, "--verbose", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    )  # fmt: skip


def until(process, words):
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"never said {words!r}")


def servers(place):
    """Processes that work below a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(str(place)):
                found.append(entry.parent.name)
    return found


@pytest.mark.slow
def test_ctrl_c_reaches_the_programs_too_and_a_second_one_changes_nothing(empty, place):
    empty.script(APPLICATION)
    for moment, pause in (("Source:", 0.1), ("Source:", 0.5), ("copy ...", 0.05), ("upgrade 0010", 0.0)):
        with started(empty.url, start_new_session=True) as process:
            until(process, moment)
            time.sleep(pause)
            for _ in range(2):
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.15)
            said = process.stderr.read()
            # The second one may meet the interpreter on its way out.
            assert process.wait(60) in {130, -signal.SIGINT}, said
        assert "The copy is removed" in said
        assert left(place) == [], moment
        assert servers(place) == [], moment


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        pytest.param(signal.SIGINT, 130, "Source:", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "copy ...", marks=pytest.mark.slow),
        (signal.SIGINT, 130, "upgrade 0006"),
        pytest.param(signal.SIGINT, 130, "compare ...", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "verify ...", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "upgrade 0008", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "verify ...", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_leaves_nothing_and_says_so(empty, place, number, code, moment):
    empty.script(APPLICATION)
    before = dumped(empty)
    with started(empty.url, "--keep") as process:
        until(process, moment)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(60) == code, said + process.stdout.read()
    assert "The copy is removed; the source was only read." in said
    assert left(place) == []
    assert servers(place) == []
    assert dumped(empty) == before


@pytest.mark.slow
def test_what_a_kill_leaves_goes_with_the_next_rehearsal(empty, place):
    with started(empty.url) as process:
        until(process, "upgrade 0006")
        process.kill()
        process.wait(60)
    assert len(left(place)) == 2
    assert rehearse(empty.url).findings == []
    assert left(place) == []
    assert servers(place) == []


@pytest.mark.slow
def test_two_at_once_do_not_disturb_each_other(empty, place):
    with started(empty.url) as one, started(empty.url) as other:
        assert one.communicate(timeout=120)[0].splitlines()[-1] == "rehearsal: would go well"
        assert other.communicate(timeout=120)[0].splitlines()[-1] == "rehearsal: would go well"
    assert left(place) == []


@pytest.mark.slow
def test_a_kept_copy_can_be_looked_at_and_removed_as_it_says(empty, place):
    empty.script(APPLICATION)
    done = profiles_schema(None, "rehearse", "--source", empty.url, "--keep")
    assert done.returncode == 0, done.stderr
    url = re.search(r"psql '(.*)'", done.stdout)[1]
    kept = Database(empty.server, "rehearsal")
    kept.url = url
    assert kept.value("select count(*) from public.posts") == 300
    assert kept.value("select version_num from profiles_internal.alembic_version") is not None
    kept.engine.dispose()
    removal = re.search(r"(PROFILES_LOCAL_DIR=.*)", done.stdout)[1]
    command = removal.replace("profiles-schema", f"{sys.executable} -m profiles_schema")
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=60)
    assert left(place) == []
    assert servers(place) == []


PERSON = "quillfeather"
FORMER = """
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade, username text not null, full_name text, bio text not null,
  birthday text, avatar_url text
);
"""


def fill_with(database, mark):
    """A user of a migrated database whose texts all hold the mark."""
    user = database.sign_up(f"{mark}@example.org", phone="+49123456", raw_user_meta_data={"full_name": f"{mark} Name"})
    database.run(
        "update public.user_profiles set bio = :mark, username = :mark, first_name = :mark, referral_code = :mark,"
        " preferences = jsonb_build_object('of', :mark), key_metrics = jsonb_build_array(:mark),"
        " personality_traits = jsonb_build_object('is', :mark), metadata = jsonb_build_object('is', :mark) where user_id = :id",
        mark=mark,
        id=user,
    )
    database.run(
        "insert into public.export_history (user_id, export_type, export_format, filters)"
        " values (:id, 'profile', 'json', jsonb_build_object('of', :mark))",
        mark=mark,
        id=user,
    )
    database.run("select profiles_internal.award_points(:id, 5, :mark, :mark)", mark=mark, id=user)
    return user


def kept_copy(database, result):
    copied = Database(database.server, "rehearsal")
    copied.url = result.kept["url"].replace("postgresql+psycopg2", "postgresql")
    return copied


def texts(database):
    """Everything in the tables, as text."""
    tables = database.run(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'auth', 'profiles_internal')"
    )
    return {name: str(database.run(f"select t::text from {name} as t")) for (name,) in tables}


@pytest.mark.slow
def test_a_masked_copy_holds_nothing_personal_in_what_we_know(database, place):
    database.script("create table public.notes (owner uuid references auth.users (id), content text, word text)")
    user = fill_with(database, PERSON)
    database.run("insert into public.notes values (:id, :mark, 'kept')", id=user, mark=PERSON)
    database.script("create table auth.identities (id uuid, identity_data jsonb not null)")
    database.run("insert into auth.identities values (:id, jsonb_build_object('email', :mark))", id=user, mark=PERSON)
    database.script(
        "create table auth.mfa_factors (id uuid, friendly_name text, secret text, phone text unique);"
        "create table auth.mfa_challenges (id uuid, ip_address inet not null);"
        "insert into auth.mfa_challenges values (gen_random_uuid(), '198.51.100.7');"
        "create table auth.one_time_tokens (id uuid, token_hash text not null, relates_to text not null)"
    )
    database.run("insert into auth.mfa_factors values (:id, :mark, :mark, '+49123456')", id=user, mark=PERSON)
    database.run("insert into auth.one_time_tokens values (:id, :mark, :mark)", id=user, mark=PERSON)
    done = profiles_schema(
        database.url,
        "users",
        "register",
        "notes",
        "--user-column",
        "owner",
        "--export",
        "content",
        "--on-erase",
        "delete",
    )
    assert done.returncode == 0
    before = dumped(database)
    result = rehearse(database.url, mask=True, keep=True)
    assert messages(result) == []
    assert dumped(database) == before
    copied = kept_copy(database, result)
    found = texts(copied)
    assert len(found) > 15
    assert [name for name, said in found.items() if PERSON in said or "+49123456" in said] == []
    assert "198.51.100.7" not in found["auth.mfa_challenges"]
    assert "kept" in found["public.notes"]
    email, username = copied.run(
        "select u.email, p.username from auth.users as u join public.user_profiles as p on p.user_id = u.id"
    )[0]
    assert re.fullmatch("[0-9a-f]{20}@masked.invalid", email)
    assert re.fullmatch("[0-9a-f]{20}", username)
    copied.engine.dispose()


@pytest.mark.slow
def test_a_masked_table_that_is_to_be_adopted_says_which_columns_it_left(empty):
    empty.script("create schema auth; create table auth.users (id uuid primary key, email text)")
    empty.script(FORMER)
    for n in range(3):
        user = empty.value(
            "insert into auth.users values (gen_random_uuid(), :mail) returning id", mail=f"{PERSON}{n}@example.org"
        )
        empty.run(
            "insert into public.profiles values (:id, :mark || :n, :mark, :mark, :mark, 'https://a.example/' || :mark)",
            id=user,
            mark=PERSON,
            n=str(n),
        )
    result = rehearse(empty.url, mask=True, x=["adopt-table=profiles"])
    (note,) = [note for note in result.notes if "masked" in note]
    assert "public.profiles.birthday" in note
    for column in ("username", "full_name", "bio", "avatar_url"):
        assert f"public.profiles.{column}" not in note
    assert step(result, "before").data["users"] == 3
