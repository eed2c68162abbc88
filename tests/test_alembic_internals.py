"""The private parts of Alembic on which the runner leans are where profiles_schema/migrations/alembic_internals.py says.

Without a database: a command of alembic is run up to its ``env.py``, which is looked over instead.
"""

import inspect

import pytest
from alembic import command, context
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_mock_engine

from profiles_schema.migrations import alembic_internals

FIRST, SECOND = "0001_first", "0002_second"


@pytest.fixture
def config(tmp_path):
    """A history of two revisions."""
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    (tmp_path / "versions").mkdir()
    for revision, before in ((FIRST, None), (SECOND, FIRST)):
        text = f"revision = {revision!r}\ndown_revision = {before!r}\ndef upgrade(): pass\ndef downgrade(): pass\n"
        (tmp_path / "versions" / f"{revision}.py").write_text(text, "utf-8")
    return config


@pytest.fixture
def seen(monkeypatch):
    """What an ``env.py`` sees, for each command that comes to run it."""
    seen = []

    def look(_script):
        environment = alembic_internals.environment_behind(context)
        assert isinstance(environment, EnvironmentContext), (
            "alembic.context no longer has its environment in _proxy: mend environment_behind()."
        )
        seen.append(alembic_internals.asked(environment))

    monkeypatch.setattr(ScriptDirectory, "run_env", look)
    return seen


@pytest.mark.parametrize(
    ("run", "name", "keys"),
    [
        (lambda c: command.upgrade(c, "head"), "upgrade", {"destination_rev"}),
        (lambda c: command.downgrade(c, "base"), "downgrade", {"destination_rev"}),
        (lambda c: command.stamp(c, "head"), "do_stamp", {"destination_rev"}),
        (command.ensure_version, "do_ensure_version", set()),
        (command.current, "display_version", set()),
    ],
    ids=["upgrade", "downgrade", "stamp", "ensure_version", "current"],
)
def test_a_command_is_known_by_its_inner_function_and_its_options(config, seen, run, name, keys):
    run(config)
    (options,) = seen
    assert alembic_internals.is_command(options.get("fn"), name), (
        f"alembic runs {options.get('fn')} where it ran {name}(): mend asked() or the names that runner.py asks for."
    )
    found = options.keys() & {"destination_rev", "revision_context"}
    assert found == keys, f"alembic puts {found} into context_opts for this command, no longer {keys}: mend runner.py."


def test_a_comparison_is_known_by_its_options(config, seen):
    command.check(config)
    assert "revision_context" in seen[0], "alembic check puts no revision_context into context_opts: mend runner.py."


def test_a_command_that_is_none_of_these_is_told_apart():
    assert not alembic_internals.is_command(None, "do_stamp")
    assert not alembic_internals.is_command(lambda: None, "do_stamp")
    assert alembic_internals.asked(None) == {}


def test_an_environment_stands_for_itself(config):
    environment = EnvironmentContext(config, ScriptDirectory.from_config(config))
    assert alembic_internals.environment_behind(environment) is environment


def test_a_transaction_that_is_no_more_is_forgotten():
    connection = create_mock_engine("postgresql://", lambda *_, **__: None)
    migration = MigrationContext.configure(dialect=connection.dialect, opts={"as_sql": True})
    moved = (
        "alembic keeps the transaction of autocommit_block() elsewhere than in _transaction: mend forget_transaction()."
    )
    assert vars(migration).get("_transaction", moved) is None, moved
    assert "self._transaction" in inspect.getsource(MigrationContext.autocommit_block), moved
    migration._transaction = object()
    alembic_internals.forget_transaction(migration)
    assert migration._transaction is None


def test_what_is_newer_than_a_revision(config):
    script = ScriptDirectory.from_config(config)
    sentence = "ScriptDirectory._upgrade_revs() no longer lists the steps to a revision: mend has_newer()."
    assert alembic_internals.has_newer(script, (FIRST,)) is True, sentence
    assert alembic_internals.has_newer(script, (SECOND,)) is False, sentence


def test_where_revisions_are(config, tmp_path):
    found = alembic_internals.version_locations(ScriptDirectory.from_config(config))
    assert found == [tmp_path / "versions"], (
        "ScriptDirectory._version_locations is no longer the list of directories: mend version_locations()."
    )
