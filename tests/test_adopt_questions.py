"""Questions of the plan: what stops for them, how they are answered, which answers are refused."""

import pytest
from support import answers_file, profiles_schema, snapshot

from profiles_schema.errors import MigrationFailed, UsageError
from profiles_schema.migrations import options
from profiles_schema.operations import adopt

LOCK = "lock:public.user_api_keys"


@pytest.fixture
def large(hosted_open):
    """A table that is locked for long: a question, and nothing else."""
    hosted_open.script(
        "create table public.user_api_keys (id uuid primary key default gen_random_uuid(), user_id uuid)"
    )
    hosted_open.administrator.script(
        "set local session_replication_role = replica;"
        "insert into public.user_api_keys (user_id) select gen_random_uuid() from generate_series(1, 50001)"
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
    assert f'Answer "{LOCK}" with "accept"' in message
    assert "profiles-schema adopt --dry-run --write-answers adopt.toml" in message
    assert refusal(large, answers={LOCK: ""})  # left empty: not answered


def test_an_answer_outside_the_possible_ones_is_refused(large):
    assert '"perhaps" is no answer to it' in refusal(large, answers={LOCK: "perhaps"})


def test_an_answer_that_no_question_needs_is_refused(large):
    message = refusal(large, answers={LOCK: "accept", "lock:public.user_progress": "accept"})
    assert 'answer "lock:public.user_progress": accept' in message
    assert "No question needs it" in message
    assert LOCK not in message


def test_answers_are_kept_for_an_upgrade_that_goes_on_and_forgotten_by_its_downgrade(large):
    large.upgrade("0002_create_internal_tables", answers={LOCK: "accept"})
    kept = "select object_name, data #>> '{}' from profiles_internal.adopted where object_type = 'answer'"
    assert large.run(kept) == [(LOCK, "accept")]
    large.upgrade("0005_create_user_api_keys")
    large.upgrade(answers={LOCK: "accept"})  # needed before, so no error now
    large.upgrade(answers={LOCK: "accept"})  # a deployment that runs again
    assert large.run(kept) == [(LOCK, "accept")]
    large.downgrade("base", allow_data_loss="yes")
    assert LOCK in refusal(large)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"a" = "b"\n"a" = "c"\n', "is no TOML: Cannot overwrite a value (at line 2, column 10)."),
        (b'\n"lock:x" = accept\n', "(at line 2, column 12)."),
        (b'# no\n\n"lock:x" = 1\n', 'holds no answer in line 3. Write the id in quotes: "ID" = "ANSWER".'),
        (b'# no\nlock.x = "accept"\n', "holds no answer in line 2."),
        (b'# \xff\n"lock:x" = "accept"\n', "is not in UTF-8 (line 1)."),
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
        assert list(question.answers) == ["accept"]
        path = answers_file(tmp_path / "adopt.toml", {LOCK: "accept"})
        answered = adopt.plan(connection, x=[f"answers={path}"])
    assert (answered.questions, answered.stoppers) == ([], [])
    assert [(step.id, step.wanted) for step in answered.steps if step.action == "answered"] == [(LOCK, "accept")]
