"""Questions of the plan: what stops for them, how they are answered, which answers are refused."""

import json
import tomllib
from dataclasses import replace

import pytest
from alembic import command
from support import alembic_config, answers_file, profiles_schema, snapshot

from profiles_schema.errors import MigrationFailed, UsageError
from profiles_schema.migrations import answers, options
from profiles_schema.operations import adopt

LOCK = "quarantine:public.user_api_keys"


@pytest.fixture
def large(hosted_open):
    """A table of rows that cannot stay: a question, and nothing else."""
    hosted_open.script(
        "create table public.user_api_keys (id uuid primary key default gen_random_uuid(), user_id uuid);"
        "alter table public.user_api_keys enable row level security"
    )
    hosted_open.administrator.script(
        "set local session_replication_role = replica;"
        "insert into public.user_api_keys (user_id) select gen_random_uuid() from generate_series(1, 51)"
    )
    hosted_open.found = snapshot(hosted_open)
    return hosted_open


def refusal(database, **given):
    with pytest.raises(MigrationFailed) as refused:
        database.upgrade(**given)
    assert snapshot(database) == database.found
    return str(refused.value)


def test_an_unanswered_question_stops_before_the_first_change(large):
    message = refusal(large)
    assert f'Answer "{LOCK}" with "quarantine"' in message
    assert "profiles-schema adopt --dry-run --write-answers adopt.toml" in message
    assert refusal(large, answers={LOCK: ""})  # left empty: not answered


def test_an_answer_outside_the_possible_ones_is_refused(large):
    assert '"perhaps" is no answer to it' in refusal(large, answers={LOCK: "perhaps"})


def test_an_answer_that_no_question_needs_is_refused(large):
    message = refusal(large, answers={LOCK: "quarantine", "lock:public.user_progress": "quarantine"})
    assert 'answer "lock:public.user_progress": quarantine' in message
    assert "No question needs it" in message
    assert LOCK not in message


def test_answers_are_kept_for_an_upgrade_that_goes_on_and_forgotten_by_its_downgrade(large):
    large.upgrade("0002_create_internal_tables", answers={LOCK: "quarantine"})
    kept = "select object_name, data #>> '{}' from profiles_internal.adopted where object_type = 'answer'"
    assert large.run(kept) == [(LOCK, "quarantine")]
    large.upgrade("0005_create_user_api_keys")
    large.upgrade(answers={LOCK: "quarantine"})  # needed before, so no error now
    large.upgrade(answers={LOCK: "quarantine"})  # a deployment that runs again
    assert large.run(kept) == [(LOCK, "quarantine")]
    large.downgrade("base", allow_data_loss="yes")
    assert LOCK in refusal(large)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"a" = "b"\n"a" = "c"\n', "is no TOML: Cannot overwrite a value (at line 2, column 10)."),
        (b'\n"lock:x" = accept\n', "(at line 2, column 12)."),
        (b'# no\n\n"lock:x" = 1\n', 'holds no answer in line 3. Write the id in quotes: "ID" = "ANSWER".'),
        (b'# no\nlock.x = "quarantine"\n', "holds no answer in line 2."),
        (b'# \xff\n"lock:x" = "quarantine"\n', "is not in UTF-8 (line 1)."),
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


def test_the_plan_shows_a_question_until_it_is_answered(large, tmp_path):
    with large.engine.connect() as connection:
        plan = adopt.plan(connection)
        (question,) = plan.questions
        assert (question.id, question.object, question.revision) == (
            LOCK, "public.user_api_keys", "0005_create_user_api_keys",
        )  # fmt: skip
        assert list(question.answers) == ["quarantine"]
        path = answers_file(tmp_path / "adopt.toml", {LOCK: "quarantine"})
        answered = adopt.plan(connection, x=[f"answers={path}"])
    assert (answered.questions, answered.stoppers) == ([], [])
    assert [(step.id, step.wanted) for step in answered.answered] == [(LOCK, "quarantine")]


def dry_run(database, *arguments):
    return profiles_schema(database.url, "adopt", "--dry-run", *arguments)


def test_the_file_of_questions_is_written_answered_and_given_to_the_upgrade(large, tmp_path):
    path = tmp_path / "adopt.toml"
    done = dry_run(large, "--write-answers", str(path))
    assert done.returncode == 1
    assert f"{path}: 1 question, 1 open" in done.stderr
    text = path.read_text(encoding="utf-8")
    assert f"profiles-schema upgrade -x answers={path}" in text
    assert "# public.user_api_keys: 51 of 51 rows" in text
    assert '#   "quarantine": these rows are moved to profiles_internal.quarantine' in text
    assert text.splitlines()[-1] == f'"{LOCK}" = ""'
    assert done.stdout.splitlines()[-1] == f"Answer this question: {LOCK}."

    open_ = dry_run(large, "-x", f"answers={path}")  # as written: nothing is answered yet
    assert (open_.returncode, open_.stdout.splitlines()[-1]) == (1, f"Answer this question: {LOCK}.")
    path.write_text(text.replace(f'"{LOCK}" = ""', f'"{LOCK}" = "quarantine"'))
    answered = dry_run(large, "-x", f"answers={path}")
    assert answered.returncode == 0
    assert answered.stdout.splitlines()[-1] == "Nothing changes meaning beyond what the answers say."
    with large.engine.connect() as connection:
        command.upgrade(alembic_config(connection, {"answers": str(path)}), "head")


def test_a_file_that_is_there_is_written_over_only_with_force_and_keeps_its_valid_answers(large, tmp_path):
    path = tmp_path / "adopt.toml"
    answers_file(path, {LOCK: "quarantine", "lock:public.gone": "quarantine"})
    before = path.read_text()
    refused = dry_run(large, "--write-answers", str(path))
    assert refused.returncode == 2
    assert "With --force it is written anew" in refused.stderr
    assert path.read_text() == before

    done = dry_run(large, "--write-answers", str(path), "--force")
    assert done.returncode == 0
    assert "left out, since no question needs it: lock:public.gone" in done.stderr
    assert path.read_text().splitlines()[-1] == f'"{LOCK}" = "quarantine"'
    first = path.read_text()
    dry_run(large, "--write-answers", str(path), "--force")
    assert path.read_text() == first

    answers_file(path, {LOCK: "perhaps"})
    dry_run(large, "--write-answers", str(path), "--force")
    assert path.read_text().splitlines()[-1] == f'"{LOCK}" = ""'


def test_what_the_file_holds_of_the_application_is_quoted():
    nasty = adopt.Step(**dict.fromkeys(adopt.Step.__dataclass_fields__))
    nasty = replace(
        nasty,
        id='policy:public."a\\b":say "no"\n\x7f',
        object="x\ny",
        found="\x00\x1b[31m",
        answers={"keep": "a\nb"},
    )
    text = answers.written([nasty], {nasty.id: "keep"}, name="adopt.toml")
    assert tomllib.loads(text) == {nasty.id: "keep"}


def test_the_dry_run_ends_in_one_of_three_sentences(large, hosted):
    assert dry_run(hosted).stdout.splitlines()[-1] == "Nothing changes meaning."
    assert dry_run(large).stdout.splitlines()[-1] == f"Answer this question: {LOCK}."
    large.script("create view public.user_progress as select 1 as user_id")
    refused = dry_run(large, "--json")
    verdict = "Cannot be taken over, because public.user_progress: no ordinary table."
    assert json.loads(refused.stdout)["verdict"] == verdict
    assert LOCK in {question["id"] for question in json.loads(refused.stdout)["questions"]}


PEOPLE = """
create table public.user_profiles (id uuid primary key, username text, bio text);
alter table public.user_profiles enable row level security;
insert into auth.users (id, email) select md5(g::text)::uuid, 'a' || g || '@example.org' from generate_series(1, {users}) as g;
insert into public.user_profiles select md5(g::text)::uuid, 'name' || g, 'secret' from generate_series(1, {users} + {strangers}) as g;
"""
QUARANTINE = "quarantine:public.user_profiles"


def people(database, users, strangers):
    database.administrator.script(
        PEOPLE.format(users=users, strangers=strangers) + "alter table public.user_profiles owner to project_owner"
    )
    with database.engine.connect() as connection:
        return {question.id: question for question in adopt.plan(connection).questions}


@pytest.mark.parametrize(("users", "strangers"), [(100, 2), (1500, 11)])
def test_many_rows_for_quarantine_are_a_question_with_number_reason_and_keys(hosted_open, users, strangers):
    question = people(hosted_open, users, strangers)[QUARANTINE]
    assert question.rows == strangers
    assert question.found.startswith(
        f"{strangers} of {users + strangers} rows cannot stay: no user in auth.users ({strangers}); for example id "
    )
    assert "secret" not in question.found
    assert list(question.answers) == ["quarantine"]
    with pytest.raises(MigrationFailed, match=QUARANTINE):
        hosted_open.upgrade()
    hosted_open.answering = ("replace",)
    hosted_open.upgrade()
    assert hosted_open.value("select count(*) from profiles_internal.quarantine") == strangers


def test_few_rows_for_quarantine_are_none(hosted_open):
    assert QUARANTINE not in people(hosted_open, 1000, 10)


def test_an_answer_about_a_lock_stays_valid_when_the_forecast_is_short(hosted_open):
    assert "lock:public.user_profiles" not in people(hosted_open, 2000, 0)
    with hosted_open.engine.connect() as connection:
        assert adopt.plan(connection).locked_seconds["public.user_profiles"] > 0.01
    hosted_open.upgrade(answers={"lock:public.user_profiles": "accept"})
