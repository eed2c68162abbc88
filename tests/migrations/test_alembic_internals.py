"""What the runner uses of Alembic beyond its promises is still there. A failure here says what a new Alembic has moved."""

import pytest
from alembic import command
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import paths, runner
from support import REPOSITORY, alembic


def moved(function, what):
    return f"This Alembic has moved {what}: mend profiles_schema.migrations.alembic_internals.{function.__name__}."


@pytest.fixture
def seen(monkeypatch):
    """Runs a command of Alembic, without a database, up to the point where it runs env.py; the environment there."""
    environments = []

    def run(verb, *arguments, **options):
        config = paths.config()
        monkeypatch.setattr(runner, "run", lambda context: environments.append(internals.environment_of(context)))
        getattr(command, verb)(config, *arguments, **options)
        return environments[-1]

    return run


COMMANDS = {
    "upgrade": ("upgrade", ("head",), {"sql": True}),
    "downgrade": ("downgrade", ("head:base",), {"sql": True}),
    "stamp": ("stamp", ("head",), {"sql": True}),
    "ensure_version": ("ensure_version", (), {"sql": True}),
    "current": ("current", (), {}),
    "check": ("check", (), {}),
}


def test_the_environment_is_behind_the_module(seen):
    environment = seen("current")
    assert isinstance(environment, EnvironmentContext), moved(
        internals.environment_of, "the proxy alembic.context._proxy"
    )


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_says_what_it_is(seen, verb):
    name, arguments, options = COMMANDS[verb]
    environment = seen(name, *arguments, **options)
    plan = internals.step_finder(environment)
    assert callable(plan), moved(internals.step_finder, 'context_opts["fn"]')
    for function, subject, verbs, what in (
        (internals.has_destination, environment, {"upgrade", "downgrade", "stamp"}, 'context_opts["destination_rev"]'),
        (internals.compares, environment, {"check"}, 'context_opts["revision_context"]'),
        (internals.ensures_version, plan, {"ensure_version"}, "the function do_ensure_version"),
        (internals.stamps, plan, {"stamp"}, "the function do_stamp"),
        (internals.is_downgrade, plan, {"downgrade"}, "the function downgrade"),
    ):
        assert function(subject) == (verb in verbs), moved(function, what)


def test_a_comparison_keeps_what_it_found(seen):
    operations = internals.proposed_operations(seen("check"))
    assert [each.as_diffs() for each in operations] == [[]], moved(internals.proposed_operations, "generated_revisions")


def test_a_comparison_keeps_the_revision_id_that_was_asked_for(seen):
    environment = seen("check")
    context = MigrationContext.configure(dialect_name="postgresql", environment_context=environment)
    what = "the argument rev_id of a revision context"
    assert "rev_id" in environment.context_opts["revision_context"].command_args, moved(
        internals.asked_revision_id, what
    )
    assert internals.asked_revision_id(context) is None
    environment.context_opts["revision_context"].command_args["rev_id"] = "0099_mine"
    assert internals.asked_revision_id(context) == "0099_mine", moved(internals.asked_revision_id, what)


def test_the_program_says_which_command_it_runs(monkeypatch):
    names = []
    monkeypatch.setattr(
        runner, "run", lambda context: names.append(internals.command_name(internals.environment_of(context).config))
    )
    assert alembic("postgresql://localhost/nowhere", "history", "-i").returncode == 0
    assert names == ["history"], moved(internals.command_name, "the option cmd of its command line")
    assert internals.command_name(paths.config()) is None


def test_a_script_directory_knows_what_is_newest():
    script = ScriptDirectory.from_config(paths.config())
    head = script.get_current_head()
    before = script.get_revision(head).down_revision
    found = [internals.is_newest(script, [revision]) for revision in (head, before)]
    assert found == [True, False], moved(internals.is_newest, "ScriptDirectory._upgrade_revs")


def test_a_script_directory_knows_where_revisions_are():
    script = ScriptDirectory.from_config(paths.config())
    found = internals.version_locations(script)
    assert found == [str(REPOSITORY / "alembic" / "versions")], moved(
        internals.version_locations, "ScriptDirectory._version_locations"
    )


def test_a_migration_can_start_again_after_a_failure_in_an_autocommit_block(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"transaction_per_migration": True})
        assert "_transaction" in vars(context), moved(internals.start_again, "MigrationContext._transaction")
        with (
            pytest.raises(ZeroDivisionError),
            context.begin_transaction(_per_migration=True),
            context.autocommit_block(),
        ):
            raise ZeroDivisionError
        connection.rollback()
        internals.start_again(context, connection)
        with context.begin_transaction(_per_migration=True):
            assert connection.exec_driver_sql("select 1").scalar() == 1, moved(
                internals.start_again, "the transaction of a migration"
            )
