"""Questions of the plan: what stops for them, how they are answered, which answers are refused."""

import json
import re
import shutil
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine

from profiles_schema import local
from profiles_schema.errors import MigrationFailed, UsageError
from profiles_schema.migrations import answers, options
from profiles_schema.operations import adopt
from support import alembic_config, answers_file, profiles_schema, snapshot

BOARD = "policy:public.user_progress:Board"


@pytest.fixture
def asking(hosted_open):
    """A table about which there is one question, and nothing else."""
    hosted_open.script(
        "create table public.user_progress (id uuid primary key default gen_random_uuid(), user_id uuid);"
        "alter table public.user_progress enable row level security;"
        'create policy "Board" on public.user_progress for select using (true)'
    )
    hosted_open.found = snapshot(hosted_open)
    return hosted_open


def refusal(database, **given):
    with pytest.raises(MigrationFailed) as refused:
        database.upgrade(**given)
    assert snapshot(database) == database.found
    return str(refused.value)


def test_an_unanswered_question_stops_before_the_first_change(asking):
    message = refusal(asking)
    assert f'Answer "{BOARD}" with "keep" (it stays' in message
    assert "profiles-schema adopt --dry-run --write-answers adopt.toml" in message
    assert refusal(asking, answers={BOARD: ""})  # left empty: not answered


def test_an_answer_outside_the_possible_ones_is_refused(asking):
    message = refusal(asking, answers={BOARD: "perhaps"})
    assert f'rows: true. "perhaps" is no answer to it. Answer "{BOARD}" with "keep"' in message


def test_an_answer_that_no_question_needs_is_refused(asking):
    message = refusal(asking, answers={BOARD: "keep", "quarantine:public.user_progress": "quarantine"})
    assert 'answer "quarantine:public.user_progress": quarantine' in message
    assert "No question needs it" in message
    assert BOARD not in message


def test_consent_to_a_lock_that_turns_out_short_is_no_error(asking):
    given = {BOARD: "keep", "lock:public.user_progress": "accept"}
    with asking.engine.connect() as connection, TemporaryDirectory() as directory:
        path = answers_file(Path(directory) / "answers.toml", given)
        plan = adopt.plan(connection, x=[f"answers={path}"])
    assert ([step.id for step in plan.answered], plan.questions, plan.stoppers) == ([BOARD], [], [])
    # Of a table that is not taken over it is one.
    assert "No question needs it" in refusal(asking, answers={BOARD: "keep", "lock:public.user_profiles": "accept"})
    asking.upgrade(answers=given)


def test_an_upgrade_that_stops_between_the_triggers_says_so(hosted_open, caplog):
    hosted_open.script(
        "create table public.user_profiles (id uuid primary key references auth.users, name text);"
        "alter table public.user_profiles enable row level security;"
        "create function public.welcome() returns trigger language plpgsql security definer as"
        " $$ begin insert into public.user_profiles (id) values (new.id); return new; end $$"
    )
    hosted_open.administrator.script(
        "create trigger welcome after insert on auth.users for each row execute function public.welcome()"
    )
    hosted_open.upgrade("0005_create_sign_up_functions")
    hosted_open.script("alter table public.user_profiles add created_by uuid not null default gen_random_uuid()")
    hosted_open.script("alter table public.user_profiles alter created_by set default null")
    with pytest.raises(MigrationFailed):
        hosted_open.upgrade()
    assert "sign-ups get no profile" in caplog.text
    hosted_open.downgrade("base", allow_data_loss="yes")
    hosted_open.script("alter table public.user_profiles drop created_by")
    user = hosted_open.administrator.sign_up("ada@example.org")
    assert hosted_open.value("select count(*) from public.user_profiles where id = :id", id=user) == 1


@pytest.mark.slow
def test_an_answer_other_than_the_one_an_upgrade_began_with_is_refused(asking):
    asking.upgrade("0006_create_user_profiles", answers={BOARD: "replace"})
    with pytest.raises(MigrationFailed, match='The upgrade began with the answer "replace"'):
        asking.upgrade(answers={BOARD: "keep"})
    asking.upgrade(answers={BOARD: "replace"})


@pytest.mark.slow
def test_answers_are_kept_for_an_upgrade_that_goes_on_and_forgotten_by_its_downgrade(asking):
    asking.upgrade("0005_create_sign_up_functions", answers={BOARD: "keep"})
    kept = "select object_name, data #>> '{}' from profiles_internal.adopted where object_type = 'answer'"
    assert asking.run(kept) == [(BOARD, "keep")]
    asking.upgrade("0008_create_user_api_keys")
    asking.upgrade(answers={BOARD: "keep"})  # needed before, so no error now
    asking.upgrade(answers={BOARD: "keep"})  # a deployment that runs again
    assert asking.run(kept) == [(BOARD, "keep")]
    asking.downgrade("base", allow_data_loss="yes")
    assert BOARD in refusal(asking)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"a" = "b"\n"a" = "c"\n', "is no TOML: Cannot overwrite a value (at line 2, column 10)."),
        (b'\n"lock:x" = keep\n', "(at line 2, column 12)."),
        (b'# no\n\n"lock:x" = 1\n', 'holds no answer in line 3. Write the id in quotes: "ID" = "ANSWER".'),
        (b'# no\nlock.x = "keep"\n', "holds no answer in line 2."),
        (b"a = " + b"[" * 5000, "is no TOML: maximum recursion depth exceeded"),
        (b"a = " + b"9" * 5000, "is no TOML: Exceeds the limit"),
        (b'# \xff\n"lock:x" = "keep"\n', "is not in UTF-8 (line 1)."),
    ],
)
def test_a_malformed_file_is_one_error_with_its_line(tmp_path, text, message):
    path = tmp_path / "adopt.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match="The file of answers") as refused:
        options.parse([f"answers={path}"])
    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_a_usage_error():
    refused = profiles_schema("postgresql://nobody@127.0.0.1:1/none", "upgrade", "-x", "answers=none.toml")
    assert refused.returncode == 2
    assert "The file of answers none.toml cannot be read: No such file or directory." in refused.stderr


def test_the_plan_shows_a_question_until_it_is_answered(asking, tmp_path):
    with asking.engine.connect() as connection:
        plan = adopt.plan(connection)
        (question,) = plan.questions
        assert (question.id, question.object, question.revision) == (
            BOARD, "public.user_progress", "0012_create_policies",
        )  # fmt: skip
        assert set(question.answers) == {"keep", "replace"}
        path = answers_file(tmp_path / "adopt.toml", {BOARD: "keep"})
        answered = adopt.plan(connection, x=[f"answers={path}"])
    assert (answered.questions, answered.stoppers) == ([], [])
    assert [(step.id, step.wanted) for step in answered.answered] == [(BOARD, "keep")]


def dry_run(database, *arguments):
    return profiles_schema(database.url, "adopt", "--dry-run", *arguments)


@pytest.mark.slow
def test_the_file_of_questions_is_written_answered_and_given_to_the_upgrade(asking, tmp_path):
    path = tmp_path / "adopt.toml"
    done = dry_run(asking, "--write-answers", str(path))
    assert done.returncode == 1
    assert f"{path}: 1 question, 1 open" in done.stderr
    text = path.read_text(encoding="utf-8")
    assert f"profiles-schema upgrade -x answers={path}" in text
    assert '# public.user_progress: policy "Board" lets everybody read rows: true' in text
    assert '#   "keep": it stays; ' in text
    assert f'"{BOARD}" = ""' in text.splitlines()
    assert done.stdout.splitlines()[-1] == f"Answer this question: {BOARD}."

    open_ = dry_run(asking, "-x", f"answers={path}")  # as written: nothing is answered yet
    assert (open_.returncode, open_.stdout.splitlines()[-1]) == (1, f"Answer this question: {BOARD}.")
    path.write_text(text.replace(f'"{BOARD}" = ""', f'"{BOARD}" = "keep"'))
    answered = dry_run(asking, "-x", f"answers={path}")
    assert answered.returncode == 0
    assert re.search(
        r'Can be taken over, by your answers; this changes statements of yours \(\d under "Worth knowing"\)\.$',
        " ".join(answered.stdout.splitlines()[-2:]),
    )
    with asking.engine.connect() as connection:
        command.upgrade(alembic_config(connection, {"answers": str(path)}), "head")


def test_a_file_that_is_there_is_written_over_only_with_force_and_keeps_its_valid_answers(asking, tmp_path):
    path = tmp_path / "adopt.toml"
    answers_file(path, {BOARD: "keep", "lock:public.gone": "keep"})
    before = path.read_text()
    refused = dry_run(asking, "--write-answers", str(path))
    assert refused.returncode == 2
    assert "--force writes it again" in refused.stderr
    assert path.read_text() == before

    done = dry_run(asking, "--write-answers", str(path), "--force")
    assert done.returncode == 0
    assert "left out, since no question needs it: lock:public.gone" in done.stderr
    assert f'"{BOARD}" = "keep"' in path.read_text().splitlines()
    first = path.read_text()
    dry_run(asking, "--write-answers", str(path), "--force")
    assert path.read_text() == first

    answers_file(path, {BOARD: "perhaps"})
    dry_run(asking, "--write-answers", str(path), "--force")
    assert f'"{BOARD}" = ""' in path.read_text().splitlines()


def test_what_the_file_holds_of_the_application_is_quoted():
    nasty = adopt.PlanStep(**dict.fromkeys(adopt.PlanStep.__dataclass_fields__))
    nasty = replace(
        nasty,
        id='policy:public."a\\b":say "no"\n\x7f',
        object="x\ny",
        found="\x00\x1b[31m",
        answers={"keep": "a\nb"},
    )
    text = answers.render([nasty], {nasty.id: "keep"}, name="adopt.toml")
    assert tomllib.loads(text) == {nasty.id: "keep"}


def test_a_name_with_a_space_is_quoted_in_the_commands_of_the_file():
    text = answers.render([], {}, name="my answers.toml")
    assert "adopt --dry-run --write-answers 'my answers.toml'\n" in text
    assert "upgrade -x 'answers=my answers.toml'\n" in text


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "adopt.toml"
    path.write_bytes(b'\xef\xbb\xbf"lock:x" = "accept"\r\n')
    assert answers.read(str(path)) == {"lock:x": "accept"}


def test_an_id_with_a_line_end_stays_on_one_line(hosted_open):
    hosted_open.script(
        "create table public.user_progress (id uuid primary key default gen_random_uuid(), user_id uuid);"
        "alter table public.user_progress enable row level security;"
        'create policy "Board\nof all " on public.user_progress for select using (true)'
    )
    shown = '"policy:public.user_progress:Board\\nof all "'
    done = dry_run(hosted_open)
    assert f"    id: {shown}\n" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Answer this question: {shown}."


def test_after_the_file_is_written_the_next_command_reads_it(asking, tmp_path):
    path = tmp_path / "my answers.toml"
    done = dry_run(asking, "--write-answers", str(path))
    command_ = f"profiles-schema adopt --dry-run --write-answers '{path}' --force"
    assert f"next: write the answers into '{path}', then {command_}" in done.stdout.splitlines()
    path.write_text(path.read_text(encoding="utf-8").replace('" = ""', '" = "keep"'), encoding="utf-8")
    answered = dry_run(asking, "--write-answers", str(path), "--force")
    assert answered.returncode == 0
    assert f"next: profiles-schema upgrade -x 'answers={path}'" in answered.stdout.splitlines()


def test_the_file_holds_the_answers_that_an_interrupted_upgrade_remembers(asking, tmp_path):
    asking.upgrade("0006_create_user_profiles", answers={BOARD: "replace"})
    path = tmp_path / "adopt.toml"
    assert dry_run(asking, "--write-answers", str(path)).returncode == 0
    assert answers.read(str(path)) == {BOARD: "replace"}


@pytest.mark.slow
def test_the_dry_run_ends_in_one_of_three_sentences(asking, hosted):
    assert dry_run(hosted).stdout.splitlines()[-1] == "Nothing changes meaning."
    # A table on which no statement means anything else afterwards.
    hosted.script(
        "create table public.user_progress (id uuid primary key default gen_random_uuid(),"
        " user_id uuid not null references auth.users (id) on delete cascade);"
        "alter table public.user_progress enable row level security;"
    )
    assert dry_run(hosted).stdout.splitlines()[-1] == "Nothing changes meaning."
    # Where one does, the sentence is another, whether a note says so or a value changes.
    hosted.script("grant select, delete on public.user_progress to authenticated")
    refused = dry_run(hosted).stdout
    assert "A DELETE by users fails (42501)" in refused
    assert refused.splitlines()[-1] == 'Can be taken over; this changes statements of yours (1 under "Worth knowing").'
    hosted.script(
        "revoke delete on public.user_progress from authenticated; alter table public.user_progress add new_words_count int;"
        "grant update on public.user_progress to authenticated;"
        "create policy own on public.user_progress for update to authenticated using (auth.uid() = user_id)"
    )
    hosted.administrator.run("insert into auth.users (id) values (gen_random_uuid())")
    hosted.script("insert into public.user_progress (user_id, new_words_count) select id, -1 from auth.users")
    said = " ".join(dry_run(hosted).stdout.split())
    assert re.search(r"Can be taken over; this changes .*values that break a rule [(]1[)][.]$", said)

    assert dry_run(asking).stdout.splitlines()[-1] == f"Answer this question: {BOARD}."
    asking.script("create view public.user_api_keys as select 1 as user_id")
    refused = dry_run(asking, "--json")
    verdict = "Cannot be taken over, because public.user_api_keys: no ordinary table."
    assert json.loads(refused.stdout)["verdict"] == verdict
    assert [question["id"] for question in json.loads(refused.stdout)["questions"]] == [BOARD]


def test_a_delete_that_a_policy_of_its_own_allows_users_is_a_question(asking):
    asking.script(
        'create policy "Away" on public.user_progress for delete to authenticated using (auth.uid() = user_id)'
    )
    asking.found = snapshot(asking)
    message = refusal(asking, answers={BOARD: "keep"})
    assert 'policy "Away" lets users delete rows. Answer "delete:public.user_progress" with "refuse"' in message
    asking.upgrade(answers={BOARD: "keep", "delete:public.user_progress": "refuse"})
    assert not asking.value("select has_table_privilege('authenticated', 'public.user_progress', 'delete')")
    asking.downgrade("base", allow_data_loss="yes")
    assert snapshot(asking) == asking.found


def written_file(database, path, given):
    """A file of answers as --write-answers writes it, answered."""
    with database.engine.connect() as connection:
        plan = adopt.plan(connection, answers=given)
    path.write_text(answers.render([*plan.questions, *plan.answered], given, name=path.name), encoding="utf-8")
    return answers.read(str(path)), f"answers={path}"


def test_an_answer_is_to_the_policy_as_it_was_when_it_was_asked_about(asking, tmp_path):
    asking.script('alter policy "Board" on public.user_progress using (auth.uid() = user_id or id is null)')
    given, x = written_file(asking, tmp_path / "adopt.toml", {BOARD: "keep"})
    assert given == {BOARD: "keep"}
    with asking.engine.connect() as connection:
        assert adopt.plan(connection, x=[x]).questions == []
    asking.script('alter policy "Board" on public.user_progress using (true)')
    with asking.engine.connect() as connection:
        (question,) = adopt.plan(connection, x=[x]).questions
    assert question.id == BOARD
    assert question.remedy.startswith('What is asked about has changed since "keep" was written. Answer ')
    with pytest.raises(MigrationFailed) as refused:
        command.upgrade(alembic_config(asking.engine.connect(), {"answers": str(tmp_path / "adopt.toml")}), "head")
    assert 'policy "Board" lets everybody read rows: true. What is asked about has changed since "keep"' in str(
        refused.value
    )
    assert asking.value("select to_regclass('profiles_internal.adopted') is null")


def test_an_answer_to_something_else_is_not_kept_in_a_new_file(asking, tmp_path):
    path = tmp_path / "adopt.toml"
    written_file(asking, path, {BOARD: "keep"})
    asking.script('alter policy "Board" on public.user_progress using (user_id is not null)')
    done = profiles_schema(asking.url, "adopt", "--dry-run", "--write-answers", str(path), "--force")
    assert done.returncode == 1
    assert answers.read(str(path)) == {}
    assert f'"{BOARD}" = ""' in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_policy_made_anew_while_an_upgrade_is_interrupted_is_asked_about_again(asking, tmp_path):
    path = tmp_path / "adopt.toml"
    asking.script('alter policy "Board" on public.user_progress using (user_id is not null)')
    written_file(asking, path, {BOARD: "keep"})
    with asking.engine.connect() as connection:
        command.upgrade(alembic_config(connection, {"answers": str(path)}), "0010_create_audit_logs")
    asking.script('alter policy "Board" on public.user_progress using (true)')
    for given in ({"answers": str(path)}, {}):
        with asking.engine.connect() as connection, pytest.raises(MigrationFailed) as refused:
            command.upgrade(alembic_config(connection, given), "head")
        assert 'has changed since "keep" was written' in str(refused.value)
    written_file(asking, path, {BOARD: "keep"})
    with asking.engine.connect() as connection:
        command.upgrade(alembic_config(connection, {"answers": str(path)}), "head")
    assert asking.value("select count(*) from pg_policy where polname = 'Board'") == 1


def test_fingerprints_that_are_none_are_refused_and_no_answers(tmp_path):
    path = tmp_path / "adopt.toml"
    path.write_text('"a:b" = "keep"\n[asked]\n"a:b" = "0123"\n')
    assert answers.read(str(path)) == {"a:b": "keep"}
    assert answers.read_asked(str(path)) == {"a:b": "0123"}
    path.write_text('"a:b" = "keep"\n[asked]\n"a:b" = 3\n')
    with pytest.raises(UsageError, match="holds no answer in line"):
        answers.read(str(path))


@pytest.mark.slow
def test_a_policy_that_reads_otherwise_after_our_renames_is_the_one_that_was_asked_about(hosted_open, tmp_path):
    hosted_open.script(
        "create table public.profiles (id uuid primary key references auth.users on delete cascade, full_name text);"
        "alter table public.profiles enable row level security;"
        "create policy \"Named\" on public.profiles for select using (full_name like 'A%');"
        "create table public.user_progress (id uuid primary key default gen_random_uuid(), user_id uuid);"
        "alter table public.user_progress enable row level security;"
        'create policy "Board" on public.user_progress for select'
        " using (exists (select from public.profiles as p where p.id = user_id and p.full_name like 'A%'))"
    )
    path = tmp_path / "adopt.toml"
    with hosted_open.engine.connect() as connection:
        asked = adopt.plan(connection, x=["adopt-table=profiles"]).questions
    given = {each.id: next(iter(each.answers)) for each in asked}
    path.write_text(answers.render(asked, given, name=path.name), encoding="utf-8")
    assert answers.read_asked(str(path))
    with hosted_open.engine.connect() as connection:
        command.upgrade(alembic_config(connection, {"answers": str(path), "adopt-table": "profiles"}), "head")


@pytest.mark.slow
def test_the_plan_asks_what_the_upgrade_asks_on_a_server_without_the_roles_of_the_api(tmp_path, monkeypatch):
    base = Path(tempfile.mkdtemp(prefix="profiles-adopt-"))
    base.chmod(0o755)  # the account that serves root has to get through
    monkeypatch.setenv(local.DIRECTORY_VARIABLE, str(base))
    with local.temporary("adopt-roles") as server:
        url = server.server.url()
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://", 1), poolclass=NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "create table public.user_profiles (id uuid primary key, username text, bio text, shoe_size integer);"
                "alter table public.user_profiles enable row level security;"
                'create policy "everybody reads" on public.user_profiles for select using (true)'
            )
        answers = tmp_path / "adopt.toml"
        planned = profiles_schema(url, "adopt", "--dry-run", "--write-answers", str(answers))
        asked = set(tomllib.loads(answers.read_text())) - {"asked"}
        assert asked, planned.stdout + planned.stderr
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select to_regrole('anon') is null").scalar()
        answers_file(answers, {each: "keep" if each.startswith("policy:") else "accept" for each in asked})
        done = profiles_schema(url, "upgrade", "-x", f"answers={answers}")
        assert done.returncode == 0, done.stderr
    shutil.rmtree(base)
