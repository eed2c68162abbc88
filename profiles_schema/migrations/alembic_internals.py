"""What the runner uses of Alembic that Alembic does not promise to keep, each behind one of our names.

Nothing else in this package touches it. tests/migrations/test_alembic_internals.py has a test for each function here, which says in
a sentence what a new Alembic has moved.
"""

# ruff: noqa: SLF001
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

StepFinder = Callable[..., Iterable[Any]]


def environment_of(context: Any) -> EnvironmentContext:
    """The ``EnvironmentContext`` behind the module ``alembic.context``."""
    found: EnvironmentContext = getattr(context, "_proxy", context)
    return found


def step_finder(environment: EnvironmentContext) -> StepFinder:
    """The function by which the command says what is to be done; until ``configure`` puts another one into its place."""
    found: StepFinder = environment.context_opts["fn"]
    return found


def has_destination(environment: EnvironmentContext) -> bool:
    """Whether the command goes to a revision: upgrade, downgrade, stamp."""
    return "destination_rev" in environment.context_opts


def ensures_version(finder: StepFinder) -> bool:
    """Whether the command is ``ensure_version``."""
    return getattr(finder, "__name__", "") == "do_ensure_version"


def stamps(finder: StepFinder) -> bool:
    """Whether the command is ``stamp``."""
    return getattr(finder, "__name__", "") == "do_stamp"


def is_downgrade(finder: StepFinder) -> bool:
    """Whether the command is ``downgrade``, also where no step is left to do."""
    return getattr(finder, "__name__", "") == "downgrade"


def compares(environment: EnvironmentContext) -> bool:
    """Whether the command compares with models: check, revision."""
    return "revision_context" in environment.context_opts


def proposed_operations(environment: EnvironmentContext) -> list[UpgradeOps]:
    """What the comparison has found."""
    found: list[UpgradeOps] = environment.context_opts["revision_context"].generated_revisions[-1].upgrade_ops_list
    return found


def asked_revision_id(context: MigrationContext) -> str | None:
    """The ``--rev-id`` of the command ``revision``."""
    asked = getattr(context.environment_context, "context_opts", {}).get("revision_context")
    found: str | None = asked.command_args.get("rev_id") if asked is not None else None
    return found


def command_name(config: Config) -> str | None:
    """The command that the plain ``alembic`` program runs; None in any other program."""
    command = getattr(config.cmd_opts, "cmd", None)
    return command[0].__name__ if command else None


def is_newest(script: ScriptDirectory, heads: Iterable[str]) -> bool:
    """Whether nothing is left to upgrade. No comparison of names: a revision that others depend on has no row of its own."""
    return not script._upgrade_revs("heads", tuple(heads))  # type: ignore[arg-type]


def version_locations(script: ScriptDirectory) -> list[str]:
    """The directories that revisions come from."""
    return [str(place) for place in script._version_locations]


def start_again(context: MigrationContext, connection: Connection) -> None:
    """Forget the transaction that a failure inside ``autocommit_block`` left behind."""
    context._transaction = None
    context.connection = context.impl.connection = connection
